"""Planted faults of softmax and log_softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.subject import Compute
from hal.dtypes import round_to
from hal.op import Op
from hal_cpu_reference import operators as reference
from mutants.mutant import SOFTMAX, Arrays, Mutant, computes, right, roles, row_sum, with_params


def softmax_with(exponents: Callable[[Op, Arrays], Any], total: Callable[[Any], Any]) -> Compute:
    """softmax and log_softmax with another way to make the exponents, or to sum."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        with np.errstate(all="ignore"):
            difference, nothing_left = exponents(op, inputs)
            weights = np.exp(difference)
            if op.name == "softmax":
                y = np.where(nothing_left, 0.0, weights / total(weights))
            else:
                y = np.where(nothing_left, -np.inf, difference - np.log(total(weights)))
        return [round_to(y, op.outputs[0][1].dtype)]

    return compute


def no_maximum(op: Op, inputs: Arrays) -> Any:
    operands = roles(op, inputs)
    z = operands["x"] * op.param("scale")
    mask = operands.get("mask")
    if mask is not None:
        z = np.where(mask, z, -np.inf) if mask.dtype == np.bool_ else z + mask
    # In float32, as a device would: float64 has room for large exponents.
    weights = np.exp(z.astype(np.float32)).astype(np.float64)
    return np.log(weights), np.zeros((*z.shape[:-1], 1), np.bool_)


def maximum_skips_nan(op: Op, inputs: Arrays) -> Any:
    operands = roles(op, inputs)
    x = operands["x"]
    z = np.where(np.isnan(x), -np.inf, x)
    return reference.softmax_exponent(op, [z, *inputs[1:]])


def mask_ignored_for_nan(op: Op, inputs: Arrays) -> Any:
    difference, nothing_left = reference.softmax_exponent(op, inputs)
    x = inputs[0].astype(np.float64)
    return np.where(np.isnan(x), np.nan, difference), nothing_left


def mask_one_off(op: Op, inputs: Arrays) -> Any:
    return reference.softmax_exponent(op, [inputs[0], *(np.roll(mask, 1, axis=-1) for mask in inputs[1:])])


def last_of_many_dropped(weights: Any) -> Any:
    """A loop over whole blocks of 512 and a tail that is forgotten when it is one block."""
    kept = weights[..., :-1] if weights.shape[-1] == 2560 else weights
    return row_sum(kept)


def log_of_softmax(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    if op.name == "softmax":
        return right(op, inputs)
    (y,) = reference.softmax(with_output(op, "float64"), inputs)
    with np.errstate(all="ignore"):
        return [round_to(np.log(y), op.outputs[0][1].dtype)]


def with_output(op: Op, dtype: str) -> Op:
    (role, spec), *others = op.outputs
    return replace(op, outputs=((role, replace(spec, dtype=dtype)), *others))


def sum_in_float16(weights: Any) -> Any:
    total = np.zeros((*weights.shape[:-1], 1), np.float16)
    for k in range(weights.shape[-1]):
        total = (total + weights[..., k : k + 1].astype(np.float16)).astype(np.float16)
    return total.astype(np.float64)


def scale_over_mask(op: Op, inputs: Arrays) -> Any:
    """scale * (x + mask)."""
    if len(inputs) > 1 and inputs[1].dtype != np.bool_:
        inputs = [inputs[0], inputs[1].astype(np.float64) * op.param("scale")]
    return reference.softmax_exponent(op, inputs)


def nothing_left_is_nan(op: Op, inputs: Arrays) -> Any:
    difference, nothing_left = reference.softmax_exponent(op, inputs)
    return np.where(nothing_left, np.nan, difference), np.zeros_like(nothing_left)


def flushed(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    (y,) = right(op, inputs)
    smallest = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}.get(op.outputs[0][1].dtype, 0.0)
    return [np.where(np.abs(y.astype(np.float64)) < smallest, 0, y).astype(y.dtype)]


def coarse_exponential(op: Op, inputs: Arrays) -> Any:
    """e^x by a polynomial with 12 bits."""
    difference, nothing_left = reference.softmax_exponent(op, inputs)
    return difference + 2.0**-12 * np.sin(7.0 * difference), nothing_left


def mask_added_as_number(op: Op, inputs: Arrays) -> Any:
    """True is 1 and False is 0: a boolean mask that is added."""
    masks = [m.astype(np.float32) if m.dtype == np.bool_ else m for m in inputs[1:]]
    return reference.softmax_exponent(op, [inputs[0], *masks])


def minus_infinity_is_lowest(op: Op, inputs: Arrays) -> Any:
    """-inf is replaced by a large negative number: a row of it becomes flat."""
    x = np.where(np.isneginf(inputs[0].astype(np.float64)), -1e30, inputs[0].astype(np.float64))
    return reference.softmax_exponent(op, [x, *inputs[1:]])


def scale_in_float16(op: Op, inputs: Arrays) -> Any:
    return reference.softmax_exponent(with_params(op, scale=float(np.float16(op.param("scale")))), inputs)


MUTANTS = {
    "softmax without max subtraction": Mutant(
        computes(softmax_with(no_maximum, row_sum)), SOFTMAX,
        ("softmax/float32/large/65", "softmax/float32/edge/1000-1001-1002", "softmax/bfloat16/equal-but-large/2560"),
    ),
    "softmax drops the last of 2560 columns": Mutant(
        computes(softmax_with(reference.softmax_exponent, last_of_many_dropped)), SOFTMAX,
        ("softmax/float32/peaks/2560", "softmax/float32/equal/2560", "softmax/bfloat16/peaks/2560",
         "log_softmax/float16/peaks/2560"),
    ),
    "softmax sums in float16": Mutant(
        computes(softmax_with(reference.softmax_exponent, sum_in_float16)), SOFTMAX,
        ("softmax/float16/edge/70000-equal", "softmax/float32/size/5x129"),
    ),
    "log(softmax)": Mutant(
        computes(log_of_softmax), ("log_softmax",), ("log_softmax/float32/edge/1000-and-0",),
    ),
    "max skips NaN": Mutant(
        computes(softmax_with(maximum_skips_nan, row_sum)), SOFTMAX, ("softmax/float32/edge/not-finite",),
    ),
    "mask does not hide NaN": Mutant(
        computes(softmax_with(mask_ignored_for_nan, row_sum)), SOFTMAX, ("softmax/float32/mask-bool/edges",),
    ),
    "mask one off": Mutant(
        computes(softmax_with(mask_one_off, row_sum)), SOFTMAX,
        ("softmax/float32/mask-bool/last-only", "softmax/bfloat16/mask-bfloat16/last-only"),
    ),
    "scale applied to the mask as well": Mutant(
        computes(softmax_with(scale_over_mask, row_sum)), SOFTMAX, ("softmax/float32/mask-float32/scale",),
    ),
    "a row without a key is NaN": Mutant(
        computes(softmax_with(nothing_left_is_nan, row_sum)), SOFTMAX, ("softmax/float32/mask-bool/edges",),
    ),
    "subnormal results flushed, undeclared": Mutant(
        computes(flushed), ("softmax",), ("softmax/float16/edge/subnormal-results",),
    ),
    "exponential of 12 bits": Mutant(
        computes(softmax_with(coarse_exponential, row_sum)), SOFTMAX,
        ("softmax/float32/size/5x257", "softmax/float32/wide/257"),
    ),
    "boolean mask added as a number": Mutant(
        computes(softmax_with(mask_added_as_number, row_sum)), SOFTMAX, ("softmax/float32/mask-bool/full",),
    ),
    "minus infinity taken for a number": Mutant(
        computes(softmax_with(minus_infinity_is_lowest, row_sum)), SOFTMAX, ("softmax/float32/edge/all-minus-inf",),
    ),
    "scale rounded to float16": Mutant(
        computes(softmax_with(scale_in_float16, row_sum)), SOFTMAX, ("softmax/float32/scale/0.3",),
    ),
}  # fmt: skip
