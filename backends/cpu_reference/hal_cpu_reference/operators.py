"""The definition of each operator: float64 inside (float32 inputs too), rounded once at the end.

Each function takes a canonical Op and arrays of the shapes in it, and returns the results, rounded, in the Op's order.
Written to be read; docs/operators.md has the same in words. Rows are made contiguous before they are summed, so that
the order of additions depends on the row's length alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.dtypes import round_to
from hal.op import Op
from hal.ops.matmul import once_each

Float64: TypeAlias = NDArray[np.float64]
Arrays: TypeAlias = Sequence[NDArray[Any]]


def matmul(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """activation(alpha * (a @ b) + bias)."""
    operands = by_role(op, inputs)
    operands["b"] = once_each(operands["b"])  # weights that a batch shares are widened once
    if op.dtype == "int8":
        return [matmul_int8(operands["a"], operands["b"], operands.get("bias"))]
    with np.errstate(all="ignore"):
        product = multiply(operands["a"], operands["b"], rows_alone=op.param("deterministic") != "run")
        t = op.param("alpha") * product
        if "bias" in operands:
            t = t + operands["bias"].astype(np.float64)
        return [round_to(ACTIVATIONS[op.param("activation")](t), op.outputs[0][1].dtype)]


def multiply(a: NDArray[Any], b: NDArray[Any], rows_alone: bool) -> Float64:
    """a @ b in float64. `rows_alone`: each row by itself, since BLAS orders additions by the number of rows as well."""
    wide_a, wide_b = np.ascontiguousarray(a).astype(np.float64), np.ascontiguousarray(b).astype(np.float64)
    if not rows_alone:
        return np.asarray(np.matmul(wide_a, wide_b))
    return np.asarray(np.matmul(wide_a[..., :, None, :], wide_b[..., None, :, :])[..., 0, :])


def matmul_int8(a: NDArray[Any], b: NDArray[Any], bias: NDArray[Any] | None) -> NDArray[Any]:
    """int8 -> int32; sums wrap modulo 2^32. Products of int8 sum exactly in float64 (K < 2^39), which BLAS has."""
    total = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    if bias is not None:
        total = total + bias
    return np.asarray(total.astype(np.uint64).astype(np.uint32).view(np.int32))


def relu(t: Float64) -> Float64:
    """max(t, 0); NaN stays NaN."""
    return np.maximum(t, 0.0)


def gelu(t: Float64) -> Float64:
    """t times the normal distribution function of t; 0 at -inf."""
    erfc: Callable[[Float64], Any] = np.frompyfunc(math.erfc, 1, 1)  # NumPy has no erf
    # erfc(-x) instead of 1 + erf(x): no cancellation where t is very negative.
    distribution = np.asarray(erfc(-t * math.sqrt(0.5)), np.float64) / 2.0
    return np.where(t == -np.inf, 0.0, t * distribution)


def gelu_tanh(t: Float64) -> Float64:
    """The tanh form of gelu: t/2 (1 + tanh(sqrt(2/pi) (t + 0.044715 t^3)))."""
    inner = math.sqrt(2.0 / math.pi) * (t + 0.044715 * t**3)
    # (1 + tanh x) / 2 = 1 / (1 + e^-2x): no cancellation where t is very negative.
    return np.where(t == -np.inf, 0.0, t / (1.0 + np.exp(-2.0 * inner)))


def silu(t: Float64) -> Float64:
    """t / (1 + e^-t); 0 at -inf."""
    return np.where(t == -np.inf, 0.0, t / (1.0 + np.exp(-t)))


ACTIVATIONS: dict[str | None, Callable[[Float64], Float64]] = {
    None: lambda t: t,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


def softmax(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """e^(z - max z) / sum of the same."""
    difference, nothing_left = softmax_exponent(op, inputs)
    with np.errstate(all="ignore"):
        weights = np.exp(difference)
        y = weights / np.sum(weights, axis=-1, keepdims=True)
    return [round_to(np.where(nothing_left, 0.0, y), op.outputs[0][1].dtype)]


def log_softmax(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """z - max z - log of the sum of e^(z - max z)."""
    difference, nothing_left = softmax_exponent(op, inputs)
    with np.errstate(all="ignore"):
        y = difference - np.log(np.sum(np.exp(difference), axis=-1, keepdims=True))
    return [round_to(np.where(nothing_left, -np.inf, y), op.outputs[0][1].dtype)]


def softmax_exponent(op: Op, inputs: Arrays) -> tuple[Float64, NDArray[np.bool_]]:
    """z - max z for z = scale * x + mask, and which rows a mask leaves nothing of."""
    operands = by_role(op, inputs)
    mask = operands.get("mask")
    with np.errstate(all="ignore"):
        z = np.ascontiguousarray(operands["x"]).astype(np.float64) * op.param("scale")
        if mask is not None and mask.dtype == np.bool_:
            z = np.where(mask, z, -np.inf)  # replaces: what stands there, NaN included, does not count
        elif mask is not None:
            z = z + mask.astype(np.float64)
        top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
        # Without a mask a row of -inf is NaN, which -inf - -inf gives.
        nothing_left = (top == -np.inf) & (mask is not None)
        return z - np.where(nothing_left, 0.0, top), nothing_left


def layernorm(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """(x - mean) / sqrt(var + eps) * weight + bias, and what else the Op asks for."""
    operands = by_role(op, inputs)
    x = with_residual(op, operands)
    n = x.shape[-1]
    with np.errstate(all="ignore"):
        # About the first element: constant rows have exactly this mean, and large means lose no digits. Then about
        # that mean, in case it is the first element that is large.
        first = x[:, :1] if n else 0.0
        mean = first + np.sum(x - first, axis=-1, keepdims=True) / n
        mean = mean + np.sum(x - mean, axis=-1, keepdims=True) / n
        d = x - mean
        rstd = 1.0 / np.sqrt(np.sum(d * d, axis=-1, keepdims=True) / n + op.param("eps"))
        y = d * rstd
        if "weight" in operands:
            y = y * operands["weight"].astype(np.float64).reshape(n)
        if "bias" in operands:
            y = y + operands["bias"].astype(np.float64).reshape(n)
    return in_order(op, {"out": y, "sum": x, "mean": mean, "rstd": rstd})


def rmsnorm(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """x / sqrt(mean(x^2) + eps) * weight, and what else the Op asks for."""
    operands = by_role(op, inputs)
    x = with_residual(op, operands)
    n = x.shape[-1]
    with np.errstate(all="ignore"):
        rstd = 1.0 / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) / n + op.param("eps"))
        y = x * rstd
        if "weight" in operands:
            y = y * operands["weight"].astype(np.float64).reshape(n)
    return in_order(op, {"out": y, "sum": x, "rstd": rstd})


def with_residual(op: Op, operands: dict[str, NDArray[Any]]) -> Float64:
    """What is normalised, as (rows, n): x, or x + residual rounded to x's dtype."""
    x = np.ascontiguousarray(operands["x"]).astype(np.float64)
    if "residual" in operands:
        with np.errstate(all="ignore"):
            x = round_to(x + operands["residual"].astype(np.float64), op.dtype).astype(np.float64)
    split = x.ndim - op.param("row_ndim")
    return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))


def by_role(op: Op, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The operands of a call by name."""
    return {role: array for (role, _), array in zip(op.inputs, inputs, strict=True)}


def in_order(op: Op, results: dict[str, Float64]) -> list[NDArray[Any]]:
    """The results that the Op asks for, rounded, in its shapes."""
    return [round_to(results[role], spec.dtype).reshape(spec.shape) for role, spec in op.outputs]


COMPUTE: dict[str, Callable[[Op, Arrays], list[NDArray[Any]]]] = {
    "matmul": matmul,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
}
