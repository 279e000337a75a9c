"""The operators by torch's own functions, on tensors of any torch device.

A call that torch has a function for is that function's: torch.matmul, torch.addmm, softmax, log_softmax, layer_norm,
rms_norm, native_layer_norm for statistics. What torch has no fused form of (activation, scale, mask, residual, a
result in another dtype) is composed of its functions; 16-bit operands are then widened to float32 first and the result
is rounded once, so that a composition adds no rounding that its author would not have: such a case judges torch's
float32 functions and its conversion. Nothing that a torch function returns is mended.
"""

from __future__ import annotations

from typing import Any

from hal.conformance.subjects.functions import Function
from hal.dtypes import accumulator
from hal.op import Op

Tensor = Any
INF = float("inf")


def torch_module() -> Any:
    """torch, which is imported when the first subject is opened."""
    import torch

    return torch


def matmul(
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor = None,
    activation: str | None = None,
    alpha: float = 1.0,
    out_dtype: Any = None,
) -> Tensor:
    """torch.matmul, torch.addmm for a bias of the operands' dtype; the rest composed."""
    torch = torch_module()
    if a.dtype == torch.int8:  # torch.matmul of int8 wraps to int8; of int32 it is the operator asked for
        whole = torch.matmul(a.to(torch.int32), b.to(torch.int32))
        return whole if bias is None else whole + bias
    if activation is None and out_dtype is None:
        if bias is None and alpha == 1.0:
            return torch.matmul(a, b)
        if bias is not None and a.ndim == 2 and bias.dtype == a.dtype:
            return torch.addmm(bias, a, b, alpha=alpha)
    wide = _wide(a)
    t = torch.matmul(a.to(wide), b.to(wide))
    t = t if alpha == 1.0 else alpha * t
    t = t if bias is None else t + bias.to(wide)
    return _activate(activation, t).to(_dtype(out_dtype, a))


def softmax(x: Tensor, *, mask: Tensor = None, scale: float = 1.0, out_dtype: Any = None) -> Tensor:
    """torch.softmax; scale and mask composed, and rows of which a mask leaves nothing are zeros."""
    return _softmax(torch_module().softmax, 0.0, x, mask, scale, out_dtype)


def log_softmax(x: Tensor, *, mask: Tensor = None, scale: float = 1.0, out_dtype: Any = None) -> Tensor:
    """torch.log_softmax; alike, with -inf."""
    return _softmax(torch_module().log_softmax, -INF, x, mask, scale, out_dtype)


def layernorm(
    x: Tensor, weight: Tensor = None, bias: Tensor = None, *, eps: float, axis: Any = -1, residual: Tensor = None,
    return_stats: bool = False, out_dtype: Any = None,
) -> Any:  # fmt: skip
    """torch.nn.functional.layer_norm, torch.native_layer_norm where statistics are asked for."""
    torch = torch_module()
    s = x if residual is None else x + residual
    row = _row(x, axis)
    if not return_stats:
        y = _norm(torch.nn.functional.layer_norm, s, (weight, bias), row, eps, out_dtype)
        return y if residual is None else (y, s)
    y, mean, rstd = torch.native_layer_norm(s, list(row), weight, bias, eps)
    shape = (*x.shape[: x.ndim - len(row)], *(1,) * len(row))
    statistics = [each.reshape(shape).to(_wide(x)) for each in (mean, rstd)]
    return (y.to(_dtype(out_dtype, x)), *([] if residual is None else [s]), *statistics)


def rmsnorm(
    x: Tensor, weight: Tensor = None, *, eps: float, axis: Any = -1, residual: Tensor = None, out_dtype: Any = None
) -> Any:
    """torch.nn.functional.rms_norm (torch 2.4); before that the usual composition in float32."""
    functional = torch_module().nn.functional
    s = x if residual is None else x + residual
    y = _norm(getattr(functional, "rms_norm", _composed_rms_norm), s, (weight,), _row(x, axis), eps, out_dtype)
    return y if residual is None else (y, s)


OPERATORS: dict[str, Function] = {
    "matmul": matmul,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
}


def why_not(op: Op) -> str:
    """What torch's functions do not promise, and hal's operators do."""
    if op.name == "layernorm" and op.output("rstd") and accumulator(op.dtype) != op.dtype:
        return "torch's layer_norm keeps its statistics in the operand's dtype or wider as it likes"
    if op.name in ("layernorm", "rmsnorm") and op.inputs[0][1].size == 0 and op.output("rstd"):
        return "torch has the statistics of rows without elements as 0"
    return ""


def _softmax(function: Any, of_nothing: float, x: Tensor, mask: Tensor, scale: float, out_dtype: Any) -> Tensor:
    dtype = _dtype(out_dtype, x)
    if mask is None and scale == 1.0:
        return function(x, dim=-1, dtype=dtype if out_dtype is not None else None)
    z = x.to(_wide(x)) * scale
    if mask is None:
        return function(z, dim=-1).to(dtype)
    z = z.masked_fill(~mask, -INF) if mask.dtype == torch_module().bool else z + mask
    empty = (z == -INF).all(dim=-1, keepdim=True)
    return function(z, dim=-1).masked_fill(empty, of_nothing).to(dtype)


def _norm(
    function: Any, s: Tensor, parameters: tuple[Tensor, ...], row: tuple[int, ...], eps: float, out: Any
) -> Tensor:
    """A norm of torch's. Parameters of another dtype than s, where it refuses them, and another result: in float32."""
    wide = _wide(s)
    if out is None and all(p is None or p.dtype == s.dtype for p in parameters):
        return function(s, row, *parameters, eps=eps)
    widened = [p if p is None else p.to(wide) for p in parameters]
    return function(s.to(wide), row, *widened, eps=eps).to(_dtype(out, s))


def _composed_rms_norm(x: Tensor, row: tuple[int, ...], weight: Tensor, *, eps: float) -> Tensor:
    wide = x.to(_wide(x))
    rstd = (wide * wide).mean(dim=tuple(range(-len(row), 0)), keepdim=True).add(eps).rsqrt()
    y = wide * rstd
    return (y if weight is None else y * weight).to(x.dtype)


def _activate(activation: str | None, t: Tensor) -> Tensor:
    functional = torch_module().nn.functional
    if activation in ("gelu", "gelu_tanh"):
        return functional.gelu(t, approximate="tanh" if activation == "gelu_tanh" else "none")
    return t if activation is None else getattr(functional, activation)(t)


def _row(x: Tensor, axis: Any) -> tuple[int, ...]:
    depth = len(axis) if isinstance(axis, tuple) else 1
    return tuple(x.shape[x.ndim - depth :])


def _wide(x: Tensor) -> Any:
    torch = torch_module()
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _dtype(asked: Any, x: Tensor) -> Any:
    return x.dtype if asked is None else getattr(torch_module(), asked)
