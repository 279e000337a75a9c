"""Arithmetic on f16 and bf16, and on pairs of them in 32-bit registers; 8-bit dot products.

Operands and results are bits in uint16 arrays. A packed register needs no function of its own: a contiguous uint32
array viewed as uint16 is its halves in order, low first. Runs under `numerics.quiet`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from hal_nvidia_ptx.emulator import formats, numerics
from hal_nvidia_ptx.emulator.exact import Array, Mode

Half: TypeAlias = Literal["f16", "bf16"]


def arithmetic(
    op: str, kind: Half, *args: Array, mode: Mode = "rn", ftz: bool = False, sat: bool = False, relu: bool = False
) -> Array:
    """ "add", "sub", "mul" or "fma" of halves, rounded once. ftz: f16 subnormals are zeros, before and after."""
    values = [formats.widen(flushed(a, kind) if ftz else a, kind).astype(np.float64) for a in args]
    if op == "mul":
        exact = values[0] * values[1]
    elif op == "fma":
        exact = numerics.odd_sum(values[0] * values[1], values[2])
    else:
        exact = numerics.odd_sum(values[0], values[1] if op == "add" else -values[1])
    bits = formats.narrow(numerics.saturate(exact) if sat else exact, kind, mode, relu=relu)
    return flushed(bits, kind) if ftz else bits


def flushed(bits: Array, kind: Half) -> Array:
    exponent = np.uint16(0x7C00 if kind == "f16" else 0x7F80)
    return np.where(bits & exponent, bits, bits & np.uint16(0x8000))


def extremum(op: Literal["min", "max"], kind: Half, a: Array, b: Array, nan: bool = False) -> Array:
    """min or max of halves: a NaN loses unless `nan`; -0 is less than +0. Exact."""
    function = numerics.minimum if op == "min" else numerics.maximum
    return formats.narrow(function(formats.widen(a, kind), formats.widen(b, kind), nan), kind)


def dot4(a: Array, b: Array, c: Array, a_signed: bool, b_signed: bool) -> Array:
    """dp4a: c + the products of the four bytes of a and b (32-bit registers), wrapping; uint32 bits."""
    products = _lanes(a, 1, a_signed) * _lanes(b, 1, b_signed)
    return _wrapped(products.sum(axis=-1, dtype=np.int64), c)


def dot2(a: Array, b: Array, c: Array, a_signed: bool, b_signed: bool, high: bool) -> Array:
    """dp2a: c + the products of a's two 16-bit halves with the low or high two bytes of b, wrapping; uint32 bits."""
    bytes_of_b = _lanes(b, 1, b_signed)[:, 2:] if high else _lanes(b, 1, b_signed)[:, :2]
    return _wrapped((_lanes(a, 2, a_signed) * bytes_of_b).sum(axis=-1, dtype=np.int64), c)


def _lanes(x: Array, size: int, signed: bool) -> Array:
    """[L] registers of 32 bits as [L, 4 / size] integers of `size` bytes, in int32."""
    dtype = np.dtype(f"{'i' if signed else 'u'}{size}")
    lanes: Array = np.ascontiguousarray(x).view(dtype).reshape(-1, 4 // size).astype(np.int32)
    return lanes


def _wrapped(total: Array, c: Array) -> Array:
    low: Array = (total + c).astype(np.int64) & np.int64(0xFFFFFFFF)
    return low.astype(np.uint32)


def multiply_high(a: Array, b: Array) -> Array:
    """mul.hi of 64-bit integers, signed or unsigned as the arrays' dtype says; the same dtype."""
    x, y = a.view(np.uint64), b.view(np.uint64)
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & mask, x >> shift, y & mask, y >> shift
    cross = x_high * y_low + ((x_low * y_low) >> shift)
    middle = x_low * y_high + (cross & mask)
    high = x_high * y_high + (cross >> shift) + (middle >> shift)
    if a.dtype == np.int64:
        zero = np.uint64(0)
        high = high - np.where(a < 0, y, zero) - np.where(b < 0, x, zero)
    result: Array = high.view(a.dtype)
    return result
