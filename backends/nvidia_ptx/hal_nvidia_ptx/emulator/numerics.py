"""Arithmetic of PTX on NumPy arrays: every result of a rounding instruction is the exactly rounded one.

float32 work is done in float64, where products of two float32 are exact and only additions round. An addition's
rounding matters in the end only if it lands on a midpoint of the narrower format: those few elements are "rounded to
odd" (moved one step to the side on which the exact sum lies), after which a second rounding to float32, float16 or
bfloat16 is the rounding of the exact value, in any mode.

Functions take arrays (at least one; others may be scalars), allocate their result, and expect to run where NumPy's
floating-point warnings are off (`quiet`). The bits of a NaN result are NumPy's, unless a function says otherwise:
hardware gives 0x7fffffff, and no sound kernel reads those bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator import exact
from hal_nvidia_ptx.emulator.exact import Array, Mode

_LOW = np.int64((1 << 28) - 1)  # float64's bits below every bit of float32 and of its midpoints
_SPLIT = 134217729.0  # 2^27 + 1: splits a float64 into halves whose products are exact
_TINY = 2.0**-900  # the rounding error of a product of this size is itself a float64
_HUGE = 2.0**990  # below it nothing overflows on the way, _SPLIT times a factor included


def quiet() -> np.errstate:
    """Where the functions here run: infinities and NaN are results, not news."""
    return np.errstate(all="ignore")


def two_sum_error(a: Array, b: Array, total: Array) -> Array:
    """The exact a + b - total, where total is their rounded float64 sum; NaN if that is not finite."""
    part = total - a
    error: Array = (a - (total - part)) + (b - part)
    return error


def odd_sum(a: Array, b: Array) -> Array:
    """float64 of a + b, rounded to odd where a later rounding to a narrower format could go wrong.

    a: float64, b: float32 or float64. Repaired are inexact sums whose 28 low bits are zero, which includes all that lie
    on a value or midpoint of float32, float16 or bfloat16, subnormals included.
    """
    total: Array = np.add(a, b, dtype=np.float64)
    risky = (total.view(np.int64) & _LOW) == 0
    if risky.any():
        error = two_sum_error(a, np.asarray(b, np.float64), total)
        inexact = risky & (error != 0)
        if inexact.any():
            _nudge(total, error, inexact)
    return total


def _nudge(x: Array, error: Array, where: Array) -> None:
    """Move x (float64) one step to the side on which the exact value, x + error, lies."""
    bits = x.view(np.int64)
    outwards = (error > 0) == (x > 0)
    step = np.where(outwards, np.int64(1), np.int64(-1))
    np.add(bits, step, out=bits, where=where & np.isfinite(error))


def fma32(a: Array, b: Array, c: Array, out: Array | None = None) -> Array:
    """fma.rn.f32: a*b + c rounded once."""
    total = odd_sum(np.multiply(a, b, dtype=np.float64), c)
    if out is None:
        return total.astype(np.float32)
    np.copyto(out, total, casting="same_kind")
    return out


def fma64(a: Array, b: Array, c: Array) -> Array:
    """fma.rn.f64: a*b + c rounded once, by error-free transforms; elements out of their range through rationals."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product = a * b
    low = _two_product_error(a, b, product)
    low_sum = c + low
    high = product + low_sum
    middle, bottom = two_sum_error(product, low_sum, high), two_sum_error(c, low, low_sum)
    tail = middle + bottom
    error = two_sum_error(middle, bottom, tail)
    inexact = (error != 0) & ((tail.view(np.int64) & 1) == 0)
    if inexact.any():
        _nudge(tail, error, inexact)
    result: Array = high + tail
    size = np.abs(product)
    unsafe = ~((size >= _TINY) & (size <= _HUGE) & (np.abs(a) <= _HUGE) & (np.abs(b) <= _HUGE) & (np.abs(c) <= _HUGE))
    if unsafe.any():
        _repair_fma64(result, unsafe, a, b, c)
    return result


def _two_product_error(a: Array, b: Array, product: Array) -> Array:
    """The exact a*b - product, for factors below 2^990 and products above 2^-900."""
    a_high = a * _SPLIT
    a_high -= a_high - a
    b_high = b * _SPLIT
    b_high -= b_high - b
    a_low, b_low = a - a_high, b - b_high
    error: Array = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    return error


def _repair_fma64(result: Array, unsafe: Array, a: Array, b: Array, c: Array) -> None:
    """Zeros and special values by plain arithmetic, an infinite c unless a*b is special, the rest exactly."""
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b)
    special = ~np.isfinite(c) & ~plain
    np.copyto(result, a * b + c, where=plain)
    np.copyto(result, c, where=special)
    exact.correct(result, np.nonzero(unsafe & ~plain & ~special), "fma", "rn", (a, b, c))


def rounded32(op: str, mode: Mode, *args: Array) -> Array:
    """float32 result of "add", "sub", "mul", "fma", "div", "sqrt" or "rcp" on float32 `args`, in a rounding mode.

    float64 quotients and square roots of float32 need no repair: one that is not itself a float32 or a midpoint is
    2^-49 or more away from it, relative to its size.
    """
    x, *rest = (np.asarray(arg, np.float64) for arg in args)
    if op in ("add", "sub", "fma"):
        first = x * rest[0] if op == "fma" else x
        second = -rest[0] if op == "sub" else rest[-1]
        total = odd_sum(first, second)
        if mode == "rm":  # an exact zero is -0 then, unless both terms are +0
            total[(total == 0) & (np.signbit(first) | np.signbit(second))] = -0.0
        return cast(total, np.float32, mode)
    return cast(_nearest64(op, (x, *rest)), np.float32, mode)


def cast(x: Array, dtype: type[np.floating[Any]], mode: Mode = "rn") -> Array:
    """float64 or float32 to a narrower float of NumPy in a rounding mode."""
    result: Array = x.astype(dtype)
    if mode == "rn":
        return result
    nearest = result.astype(x.dtype)
    if mode == "rz":
        return np.where(np.abs(nearest) > np.abs(x), np.nextafter(result, dtype(0)), result)
    if mode == "rm":
        return np.where(nearest > x, np.nextafter(result, dtype(-np.inf)), result)
    return np.where(nearest < x, np.nextafter(result, dtype(np.inf)), result)


def odd_float32(x: Array) -> Array:
    """float64 to float32 rounded to odd: what may then be rounded once more, to bfloat16 or less."""
    result = cast(x, np.float32, "rz")
    inexact = (result != x) & np.isfinite(x)
    bits: Array = result.view(np.uint32) | inexact
    return bits.view(np.float32)


def rounded64(op: str, mode: Mode, *args: Array) -> Array:
    """float64 result of "add", "sub", "mul", "fma", "div", "sqrt" or "rcp" on float64 `args`, in a rounding mode.

    Only rn is vectorised; the others are rare (see `exact`).
    """
    result = fma64(*args) if op == "fma" else _nearest64(op, args)
    if mode != "rn":
        exact.correct(result, np.nonzero(np.ones(result.shape, np.bool_)), op, mode, np.broadcast_arrays(*args))
    return result


def _nearest64(op: str, args: Sequence[Array]) -> Array:
    if op == "rcp":
        return np.asarray(np.divide(1.0, args[0]))
    functions = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt}
    return np.asarray(functions[op](*args))


def flush(x: Array) -> Array:
    """.ftz: subnormals become zeros of their sign. float32 or float16."""
    flushed: Array = x * (np.abs(x) >= np.finfo(x.dtype).smallest_normal)
    return flushed


def saturate(x: Array) -> Array:
    """.sat: clamp to [0, 1]; NaN and -0 become +0."""
    one, zero = x.dtype.type(1), x.dtype.type(0)
    clamped: Array = np.fmin(np.fmax(x, zero), one) + zero
    return clamped


def minimum(a: Array, b: Array, nan: bool = False) -> Array:
    """min of floats: a NaN loses against a number (with `nan` it wins); -0 is less than +0."""
    return _ordered_zeros((np.minimum if nan else np.fmin)(a, b), a, b, np.bitwise_or)


def maximum(a: Array, b: Array, nan: bool = False) -> Array:
    """max of floats: a NaN loses against a number (with `nan` it wins); +0 is greater than -0."""
    return _ordered_zeros((np.maximum if nan else np.fmax)(a, b), a, b, np.bitwise_and)


def _ordered_zeros(result: Array, a: Array, b: Array, combine: np.ufunc) -> Array:
    """Where both were zeros, the sign is the OR (min) or the AND (max) of theirs, which NumPy leaves open."""
    zero = result == 0
    if zero.any():
        bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[result.dtype.itemsize]
        first, second = np.asarray(a, result.dtype), np.asarray(b, result.dtype)
        np.copyto(result.view(bits), combine(first.view(bits), second.view(bits)), where=zero & (first == second))
    return result
