"""The operators by name, and the judgement of a call from Op and data alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.bound import STRICT, Allowance, Verdict, judge_output
from hal.op import Op
from hal.ops.matmul import Matmul
from hal.ops.norms import LayerNorm, RMSNorm
from hal.ops.operator import Operator
from hal.ops.softmax import Softmax

OPERATORS: dict[str, Operator] = {
    operator.name: operator for operator in (Matmul(), Softmax(log=False), Softmax(log=True), LayerNorm(), RMSNorm())
}


def judge(
    op: Op, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], allow: Allowance = STRICT
) -> Verdict:
    """Hold the outputs of one call against the operator's bound.

    Args:
        op: the call. inputs, outputs: canonical arrays, that is of the shapes in `op`.
        allow: what the device's profile declares. If that is flushing, an end of the interval that is subnormal in
            float32 may be 0, and the result may be right for the inputs with their subnormals set to 0.
    """
    verdict = _judge(op, inputs, outputs, allow)
    if allow.flush and not verdict.ok:
        flushed = [_without_subnormals(x) for x in inputs]
        second = _judge(op, flushed, outputs, allow)
        return second if second.ok else verdict
    return verdict


def _judge(op: Op, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], allow: Allowance) -> Verdict:
    exact = OPERATORS[op.name].exact(op, inputs, allow)
    verdicts = [
        judge_output(got, want, flush=allow.flush, role=role)
        for (role, _), got, want in zip(op.outputs, outputs, exact, strict=True)
    ]
    messages = "; ".join(v.message for v in verdicts if v.message)
    return Verdict(
        all(v.ok for v in verdicts),
        max(v.ratio for v in verdicts),
        messages,
        sum(v.wrong for v in verdicts),
        sum(v.size for v in verdicts),
    )


def _without_subnormals(x: NDArray[Any]) -> NDArray[Any]:
    if x.dtype.kind in "bi" or x.dtype == np.float64 or x.dtype == np.float16:
        return x
    return np.where(np.abs(x.astype(np.float64)) < 2.0**-126, x.dtype.type(0), x)
