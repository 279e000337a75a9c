"""Planted faults of layernorm and rmsnorm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.subject import Compute
from hal.op import Op
from hal_cpu_reference import operators as reference
from mutants.mutant import NORMS, Arrays, Mutant, computes, right, roles, row_sum, with_params


def norm_with(
    variance: Callable[[Op, Any, Any], Any] | None = None,
    rstd: Callable[[Op, Any], Any] | None = None,
    rounded: bool = True,
) -> Compute:
    """layernorm and rmsnorm with another variance, another 1/sqrt, or a sum with the residual that is not rounded."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        operands = roles(op, inputs)
        with np.errstate(all="ignore"):
            x = reference.with_residual(op, dict(zip((r for r, _ in op.inputs), inputs, strict=True)))
            if not rounded and "residual" in operands:
                x = (operands["x"] + operands["residual"]).reshape(x.shape)
            n = x.shape[-1]
            centred = op.name == "layernorm"
            first = x[:, :1]
            mean = first + row_sum(x - first) / n if centred else np.zeros((len(x), 1))
            d = x - mean
            v = variance(op, x, mean) if variance else row_sum(d * d) / n
            r = rstd(op, v) if rstd else 1.0 / np.sqrt(v + op.param("eps"))
            y = d * r
            if "weight" in operands:
                y = y * operands["weight"].reshape(n)
            if "bias" in operands:
                y = y + operands["bias"].reshape(n)
        return reference.in_order(op, {"out": y, "sum": x, "mean": mean, "rstd": r})

    return compute


def unbiased(op: Op, x: Any, mean: Any) -> Any:
    return row_sum((x - mean) ** 2) / max(x.shape[-1] - 1, 1)


def one_pass(op: Op, x: Any, mean: Any) -> Any:
    x32 = x.astype(np.float32)
    n = np.float32(x.shape[-1])
    square, m = row_sum(x32 * x32) / n, row_sum(x32) / n
    return (square - m * m if op.name == "layernorm" else square).astype(np.float64)


def last_square_dropped(op: Op, x: Any, mean: Any) -> Any:
    d = x - mean
    return row_sum(d[:, : x.shape[-1] // 4 * 4] ** 2) / x.shape[-1] if x.shape[-1] > 4 else row_sum(d * d) / x.shape[-1]


def eps_of_another_kind(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    eps = op.param("eps")
    return right(with_params(op, eps=1e-6 if eps == float(np.float32(1e-5)) or eps == 1e-5 else eps), inputs)


def eps_outside(op: Op, v: Any) -> Any:
    return 1.0 / (np.sqrt(v) + op.param("eps"))


def bias_left_out_of_few(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """layernorm without its bias where there is no weight."""
    if op.input("bias") is not None and op.input("weight") is None:
        kept = tuple(pair for pair in op.inputs if pair[0] != "bias")
        return right(replace(op, inputs=kept), [x for (r, _), x in zip(op.inputs, inputs, strict=True) if r != "bias"])
    return right(op, inputs)


def eps_left_out(op: Op, v: Any) -> Any:
    return 1.0 / np.sqrt(v)


def coarse_root(op: Op, v: Any) -> Any:
    """A hardware's 1/sqrt with 11 bits and no Newton step."""
    r = 1.0 / np.sqrt(v + op.param("eps"))
    return r * (1.0 + 2.0**-11 * np.sin(1e3 * r))


def over_padded_length(op: Op, x: Any, mean: Any) -> Any:
    return row_sum((x - mean) ** 2) / (-(-x.shape[-1] // 8) * 8 or 1)


def weight_plus_one(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """Another family's rmsnorm: (1 + weight)."""
    changed = [x + np.asarray(1, x.dtype) if r == "weight" else x for (r, _), x in zip(op.inputs, inputs, strict=True)]
    return right(op, changed)


def statistics_swapped(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """The deviation in place of its reciprocal."""
    results = right(op, inputs)
    with np.errstate(all="ignore"):
        return [
            (1.0 / y).astype(y.dtype) if role == "rstd" else y for (role, _), y in zip(op.outputs, results, strict=True)
        ]


def sum_without_residual(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """The sum that goes on in the model is x alone."""
    results = right(op, inputs)
    return [
        np.asarray(inputs[0], y.dtype).reshape(y.shape) if role == "sum" else y
        for (role, _), y in zip(op.outputs, results, strict=True)
    ]


def variance_in_float16(op: Op, x: Any, mean: Any) -> Any:
    return (row_sum(((x - mean).astype(np.float16) ** 2).astype(np.float64)) / max(x.shape[-1], 1)).astype(np.float64)


def squares_overflow(op: Op, x: Any, mean: Any) -> Any:
    """float32 squares of float32 rows without care, in bfloat16 rows too: right where the bound excuses it only."""
    d = (x - mean).astype(np.float16 if op.dtype == "float16" else np.float32)
    return row_sum((d * d).astype(np.float64)) / max(x.shape[-1], 1)


MUTANTS = {
    "variance over n - 1": Mutant(
        computes(norm_with(variance=unbiased)), NORMS,
        ("layernorm/float32/size/5x1000", "layernorm/bfloat16/size/5x17", "rmsnorm/float32/size/5x257"),
    ),
    "one-pass variance in float32": Mutant(
        computes(norm_with(variance=one_pass)), ("layernorm",), ("layernorm/float32/large-mean/257",),
    ),
    "squares of the tail dropped": Mutant(
        computes(norm_with(variance=last_square_dropped)), NORMS,
        ("layernorm/float32/peaks/257", "rmsnorm/bfloat16/peaks/257"),
    ),
    "eps 1e-6 for 1e-5": Mutant(
        computes(eps_of_another_kind), ("layernorm",), ("layernorm/float32/eps/default/variance-near-it",),
    ),
    "eps outside the root": Mutant(
        computes(norm_with(rstd=eps_outside)), NORMS,
        ("layernorm/float32/eps/default/variance-near-it", "rmsnorm/bfloat16/eps/default/variance-near-it"),
    ),
    "sum with the residual not rounded": Mutant(
        computes(norm_with(rounded=False)), NORMS,
        ("layernorm/bfloat16/residual/rounded", "rmsnorm/float16/residual/rounded"),
    ),
    "bias forgotten without weight": Mutant(
        computes(bias_left_out_of_few), ("layernorm",), ("layernorm/float32/only-bias",),
    ),
    "eps left out": Mutant(
        computes(norm_with(rstd=eps_left_out)), NORMS,
        ("layernorm/float32/edge/constant-zero", "rmsnorm/float32/eps/default/variance-near-it"),
    ),
    "root of 11 bits": Mutant(
        computes(norm_with(rstd=coarse_root)), NORMS, ("layernorm/float32/size/5x257", "rmsnorm/float32/size/5x257"),
    ),
    "divided by the padded length": Mutant(
        computes(norm_with(variance=over_padded_length)), NORMS, ("rmsnorm/float32/size/5x7",),
    ),
    "weight plus one": Mutant(computes(weight_plus_one), NORMS, ("rmsnorm/float32/only-weight",)),
    "deviation for its reciprocal": Mutant(
        computes(statistics_swapped), NORMS, ("layernorm/float32/statistics", "rmsnorm/float32/statistics"),
    ),
    "the sum without the residual": Mutant(
        computes(sum_without_residual), NORMS, ("rmsnorm/float32/residual",),
    ),
    "variance in float16": Mutant(
        computes(norm_with(variance=variance_in_float16)), NORMS, ("rmsnorm/float32/size/5x129",),
    ),
    "squares of float16 in float16": Mutant(
        computes(norm_with(variance=squares_overflow)), NORMS, ("rmsnorm/float16/size/5x17",),
    ),
}  # fmt: skip
