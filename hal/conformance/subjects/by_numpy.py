"""The operators by NumPy, every step in the operands' own dtype: what a plain NumPy program gets.

NumPy has matmul, exp, sums and no more; softmax and the norms are composed of them the way they are usually written
(maximum subtracted, two passes for the variance). In 16 bits each step rounds, so those results leave a bound that
knows one rounding: that is what NumPy in float16 is, and the suite says so. int8 is multiplied as int32. NumPy has no
activations: those cases are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hal.conformance.subjects.functions import Function
from hal.op import Op

Array = Any
DESCRIPTION = f"NumPy {np.__version__}"


def matmul(a: Array, b: Array, *, bias: Array = None, alpha: float = 1.0) -> Array:
    """np.matmul; then alpha and bias in its dtype."""
    if a.dtype == np.int8:
        whole = np.matmul(a.astype(np.int32), b.astype(np.int32))
        return whole if bias is None else whole + bias
    t = np.matmul(a, b)
    t = t if alpha == 1.0 else t.dtype.type(alpha) * t
    return t if bias is None else t + bias


def softmax(x: Array, *, mask: Array = None, scale: float = 1.0) -> Array:
    """exp(z - max z) / sum."""
    shifted, empty = _shifted(x, mask, scale)
    weights = np.exp(shifted)
    return np.where(empty, x.dtype.type(0), weights / np.sum(weights, axis=-1, keepdims=True))


def log_softmax(x: Array, *, mask: Array = None, scale: float = 1.0) -> Array:
    """z - max z - log of the sum."""
    shifted, empty = _shifted(x, mask, scale)
    total = np.sum(np.exp(shifted), axis=-1, keepdims=True)
    return np.where(empty, x.dtype.type(-np.inf), shifted - np.log(total))


def layernorm(
    x: Array, weight: Array = None, bias: Array = None, *, eps: float, axis: Any = -1, residual: Array = None,
    return_stats: bool = False,
) -> Any:  # fmt: skip
    """np.mean, np.var of the deviations, and so on."""
    return _norm(x, weight, bias, eps, axis, residual, return_stats, centred=True)


def rmsnorm(
    x: Array, weight: Array = None, *, eps: float, axis: Any = -1, residual: Array = None, return_stats: bool = False
) -> Any:
    """x / sqrt(mean of squares + eps) * weight."""
    return _norm(x, weight, None, eps, axis, residual, return_stats, centred=False)


OPERATORS: dict[str, Function] = {
    "matmul": matmul,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
}


def why_not(op: Op) -> str:
    """NumPy has no bfloat16, and one dtype a call is what is judged here."""
    if op.dtype == "bfloat16":
        return "NumPy has no bfloat16 of its own"
    odd = {spec.dtype for _, spec in op.inputs} - {op.dtype, "bool", "int32"}
    return f"NumPy would promote a mix of {op.dtype} and {', '.join(sorted(odd))}" if odd else ""


def _shifted(x: Array, mask: Array, scale: float) -> tuple[Array, Array]:
    """(z - max z, the rows of which a mask leaves nothing)."""
    z = x if scale == 1.0 else x.dtype.type(scale) * x
    if mask is not None:
        z = np.where(mask, z, x.dtype.type(-np.inf)) if mask.dtype == np.bool_ else z + mask
    top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
    empty = (top == -np.inf) & (mask is not None)
    return z - np.where(empty, x.dtype.type(0), top), empty


def _norm(
    x: Array, weight: Array, bias: Array, eps: float, axis: Any, residual: Array, return_stats: bool, centred: bool
) -> Any:
    s = x if residual is None else x + residual
    mean = np.mean(s, axis=axis, keepdims=True)
    deviation = s - mean if centred else s
    rstd = x.dtype.type(1) / np.sqrt(np.mean(deviation * deviation, axis=axis, keepdims=True) + x.dtype.type(eps))
    y = deviation * rstd
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    results = [y] if residual is None else [y, s]
    if return_stats:
        kind = x.dtype if x.dtype == np.float64 else np.float32
        results += [each.astype(kind) for each in ((mean, rstd) if centred else (rstd,))]
    return tuple(results)
