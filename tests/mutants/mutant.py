"""What mutants are made of: a fault, the operators that have it, and cases that catch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.subject import Compute, Subject
from hal.op import Op
from hal_cpu_reference import operators as reference

Arrays = Sequence[NDArray[Any]]


def right(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """The reference."""
    return reference.COMPUTE[op.name](op, inputs)


def roles(op: Op, inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {
        role: x.astype(np.float64) if x.dtype.kind in "fV" else x
        for (role, _), x in zip(op.inputs, inputs, strict=True)
    }


def with_params(op: Op, **changed: Any) -> Op:
    return replace(op, params=tuple((key, changed.get(key, value)) for key, value in op.params))


@dataclass(frozen=True)
class Mutant:
    """A fault, the operators that have it, and cases that catch it."""

    device: Callable[[], Subject]
    operators: tuple[str, ...]
    caught_by: tuple[str, ...]


def computes(compute: Compute) -> Callable[[], Subject]:
    return lambda: Subject(compute)


SOFTMAX, NORMS = ("softmax", "log_softmax"), ("layernorm", "rmsnorm")


def row_sum(x: Any) -> Any:
    return np.sum(x, axis=-1, keepdims=True)
