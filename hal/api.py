"""The public functions: NumPy arrays, DLPack tensors (torch, JAX, …) or hal.Arrays in, the same kind out.

Arrays are positional, options are named. What each operator means at its edges, and when a result is right, is in
docs/operators.md. All raise, before anything is written: ShapeError, DTypeError, ArgumentError, OptionError for a call
that means nothing; UnsupportedError where the device cannot do it; DeviceMemoryError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from hal import array as _array
from hal import dispatch as _dispatch
from hal import interop as _interop
from hal import registry as _registry
from hal.array import Array
from hal.device import Device
from hal.dtypes import FLOATS, name_of, round_to
from hal.errors import ArgumentError, DTypeError, OptionError
from hal.settings import current

A = TypeVar("A")


def matmul(
    a: A,
    b: A,
    /,
    *,
    bias: A | None = None,
    activation: str | None = None,
    alpha: float = 1.0,
    out: A | None = None,
    out_dtype: Any = None,
    precision: str | None = None,
    device: str | Device | None = None,
) -> A:
    """activation(alpha * (a @ b) + bias), rounded once.

        hal.matmul(x, w.T, bias=b, activation="gelu")     # (…, M, K) @ (K, N) -> (…, M, N)

    Args:
        a, b: (…, M, K) and (…, K, N), float64, float32, float16, bfloat16, or int8 (result int32, modulo 2^32). 1-D
            operands and batch axes as in np.matmul; transposed and broadcast views are not copied on the device.
        bias: broadcasts to the result; the operands' dtype or out_dtype (int8: int32).
        activation: None, "relu", "gelu", "gelu_tanh", "silu".
        alpha: factor of the product.
        out: where to put the result. out_dtype: float32 for 16-bit operands.
        precision: "tf32" permits a device to round float32 operands to 10 bits.
        device: where to compute host arrays.
    """
    return _dispatch.call(  # type: ignore[no-any-return]
        "matmul", (a, b, bias), (activation, alpha, out_dtype, precision), out, device
    )


def softmax(
    x: A,
    /,
    *,
    axis: int = -1,
    mask: Any = None,
    scale: float = 1.0,
    out: A | None = None,
    out_dtype: Any = None,
    device: str | Device | None = None,
) -> A:
    """softmax of scale * x + mask over `axis`.

        hal.softmax(scores, mask=keep, scale=64**-0.5)     # (…, n) -> (…, n)

    Args:
        x: floating. axis: one axis. scale: factor of x.
        mask: broadcasts to x. bool (True keeps; False replaces by -inf), or x's dtype or float32 (added). A row of
            which a mask leaves nothing is zeros.
        out: may be x. out_dtype: float32 for 16-bit x. device: where to compute host arrays.
    """
    return _dispatch.call("softmax", (x, mask), (axis, scale, out_dtype), out, device)  # type: ignore[no-any-return]


def log_softmax(
    x: A,
    /,
    *,
    axis: int = -1,
    mask: Any = None,
    scale: float = 1.0,
    out: A | None = None,
    out_dtype: Any = None,
    device: str | Device | None = None,
) -> A:
    """The logarithm of softmax, without its underflow: (1000, 0) gives (0, -1000). Arguments as for softmax."""
    return _dispatch.call(  # type: ignore[no-any-return]
        "log_softmax", (x, mask), (axis, scale, out_dtype), out, device
    )


def layernorm(
    x: A,
    weight: A | None = None,
    bias: A | None = None,
    /,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    residual: A | None = None,
    return_stats: bool = False,
    out: Any = None,
    out_dtype: Any = None,
    device: str | Device | None = None,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes.

        y = hal.layernorm(x, weight, bias)
        y, s = hal.layernorm(x, weight, bias, residual=r)     # s = x + r, and y is of s

    Args:
        x: floating. weight, bias: of exactly the normalised shape; x's dtype, or float32 for 16-bit x.
        axis: the first normalised axis (-1: the last only), or a tuple of trailing axes. eps: added to the variance.
        residual: of x's shape and dtype. return_stats: also mean and 1/sqrt(var + eps), in the accumulation dtype.
        out: may be x; a tuple where there are several results.

    Returns:
        y, or (y[, s][, mean, rstd]).
    """
    options = (_plain(axis), eps, return_stats, out_dtype)
    return _dispatch.call("layernorm", (x, weight, bias, residual), options, out, device)


def rmsnorm(
    x: A,
    weight: A | None = None,
    /,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float | None = None,
    residual: A | None = None,
    return_stats: bool = False,
    out: Any = None,
    out_dtype: Any = None,
    device: str | Device | None = None,
) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes.

        y, s = hal.rmsnorm(x, weight, residual=r)

    Args:
        eps: None is float32's machine epsilon (float64's for float64). The others as for layernorm.

    Returns:
        y, or (y[, s][, rstd]).
    """
    options = (_plain(axis), eps, return_stats, out_dtype)
    return _dispatch.call("rmsnorm", (x, weight, residual), options, out, device)


def _plain(axis: Any) -> Any:
    """A tuple of axes as integers: (True,) and (1.0,) equal (1,) as keys, and are not as good."""
    return tuple(_array.lengths("axis", axis)) if type(axis) is tuple else axis


def devices() -> list[_registry.DeviceEntry]:
    """Every device that could be used, in order of priority. Opens none."""
    return _registry.devices()


def device(name: str) -> Device:
    """The open device of a device string: "cpu", "opencl:0", "opencl:<unique part of its name>"."""
    return _registry.open_device(name)


def asarray(x: Any, *, device: str | Device | None = None, dtype: Any = None, copy: bool | None = None) -> Array:
    """x as a hal.Array on a device.

    Args:
        x: NumPy array, DLPack tensor in host memory, or hal.Array.
        device: None is where x is, else the device of hal.use, else the default device.
        dtype: a floating dtype to convert to, rounding to nearest even; None keeps x's.
        copy: True always copies; False never does (an error where it has to); None copies where it has to.
    """
    kind = _interop.kind_of(x)
    home, spec = kind.device(x), kind.spec(x)
    name = spec.dtype if dtype is None else name_of(dtype)
    asked = device if device is not None else (home or current().device)
    chosen = _registry.default_device() if asked is None else _registry.open_device(asked)
    if name != spec.dtype and name not in FLOATS:
        raise DTypeError(
            f"asarray: {spec} is not converted to {name}: say how values are to be cut, x.astype(…), first"
        )
    if home is chosen and name == spec.dtype and not copy:
        return x  # type: ignore[no-any-return]
    if copy is False:
        raise OptionError(f"asarray: {spec} cannot become {name} on {chosen.name} without a copy")
    host = kind.host(x)
    if name != spec.dtype:
        host = round_to(host.astype(np.float64), name)
    return _array.from_host(chosen, host, name)


def empty(shape: int | Sequence[int], dtype: Any, *, device: str | Device | None = None) -> Array:
    """A new hal.Array whose elements are whatever was there."""
    lengths = _array.lengths("empty", shape)
    if any(n < 0 for n in lengths):
        raise ArgumentError(f"empty: a shape is lengths >= 0, not {shape!r}")
    asked = device if device is not None else current().device
    chosen = _registry.default_device() if asked is None else _registry.open_device(asked)
    return _array.empty(chosen, name_of(dtype), lengths)


def synchronize(device: str | Device | None = None) -> None:
    """Wait for all work queued on a device, or on every device this process has opened."""
    for opened in [_registry.open_device(device)] if device is not None else _registry.opened():
        if not opened.lost:
            opened.synchronize()
