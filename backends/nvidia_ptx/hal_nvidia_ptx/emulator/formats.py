"""Conversions between PTX's number formats, on NumPy arrays.

Formats without a NumPy dtype travel as bits: "f16" and "bf16" in uint16, "e4m3" and "e5m2" in uint8, "tf32" in uint32
(a float32 whose 13 low bits are zero). NaN results have the bits that PTX states. Runs under `numerics.quiet`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np

from hal_nvidia_ptx.emulator import numerics
from hal_nvidia_ptx.emulator.exact import Array, Mode

Narrow: TypeAlias = Literal["f16", "bf16", "tf32", "e4m3", "e5m2"]

BITS: dict[str, type[np.unsignedinteger[Any]]] = {
    "f16": np.uint16,
    "bf16": np.uint16,
    "tf32": np.uint32,
    "e4m3": np.uint8,
    "e5m2": np.uint8,
}
NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "tf32": 0x7FFFFFFF, "e4m3": 0x7F, "e5m2": 0x7F}
LARGEST = {"f16": 0x7BFF, "bf16": 0x7F7F, "tf32": 0x7F7FE000, "e4m3": 0x7E, "e5m2": 0x7B}  # bits of the largest finite

_FP8: dict[str, Any] = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
_FP8_VALUES = {name: np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32) for name, dtype in _FP8.items()}
_DROPPED = {"bf16": 16, "tf32": 13}  # low bits of float32 that the format does not have


def widen(bits: Array, source: Narrow) -> Array:
    """float32 values of narrow bits: exact."""
    if source == "f16":
        return bits.view(np.float16).astype(np.float32)
    if source == "bf16":
        shifted: Array = bits.astype(np.uint32) << np.uint32(16)
        return shifted.view(np.float32)
    if source == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)
    values: Array = _FP8_VALUES[source][bits]
    return values


def narrow(
    x: Array, target: Narrow, mode: Mode | Literal["rna"] = "rn", satfinite: bool = False, relu: bool = False
) -> Array:
    """Bits of float32 or float64 values in a narrower format, rounded once.

    "rna" (ties away from zero) is for tf32. e4m3 and e5m2 know rn alone and saturate, as cvt does.
    """
    if target in _FP8:
        bits = _fp8_bits(x, target)
    elif target == "f16":
        bits = numerics.cast(x, np.float16, mode).view(np.uint16)  # type: ignore[arg-type]
    else:
        bits = _truncated(numerics.odd_float32(x) if x.dtype == np.float64 else x, target, mode)
    if satfinite and target not in _FP8:
        largest = LARGEST[target]
        sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
        bits = np.where((bits & ~sign) > largest, (bits & sign) | bits.dtype.type(largest), bits)
    nan = np.isnan(x)
    if nan.any():
        bits[nan] = NAN[target]
    if relu:
        bits[(x < 0) | ((x == 0) & np.signbit(x))] = 0
    return bits


def _fp8_bits(x: Array, target: str) -> Array:
    largest = _FP8_VALUES[target][LARGEST[target]]
    if x.dtype == np.float64:
        x = numerics.odd_float32(x)
    bits: Array = np.clip(x, -largest, largest).astype(_FP8[target]).view(np.uint8)
    return bits


def _truncated(x: Array, target: str, mode: str) -> Array:
    """float32 to a format that is float32 with fewer low bits; a carry out of the mantissa is the next exponent."""
    u = x.view(np.uint32)
    dropped = _DROPPED[target]
    below = (1 << dropped) - 1
    half = np.uint32(1 << (dropped - 1))
    if mode == "rn":
        u = u + (half - np.uint32(1) + ((u >> np.uint32(dropped)) & np.uint32(1)))
    elif mode == "rna":
        u = u + half
    elif mode != "rz":
        upwards = np.signbit(x) == (mode == "rm")
        u = u + np.where(upwards & np.isfinite(x), np.uint32(below), np.uint32(0))
    if target == "bf16":
        return (u >> np.uint32(16)).astype(np.uint16)
    return u & np.uint32(~below & 0xFFFFFFFF)


def integral(x: Array, mode: Mode) -> Array:
    """Floats rounded to integers that stay floats (.rni .rzi .rmi .rpi)."""
    functions = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}
    result: Array = functions[mode](x)
    return result


def to_integer(x: Array, dtype: type[np.integer[Any]], mode: Mode) -> Array:
    """Floats to integers, clamped to the range of `dtype`.

    NaN becomes 0, but the top bit alone where the source is float64 or the target has 64 bits.
    """
    info = np.iinfo(dtype)
    whole = integral(x.astype(np.float64), mode)
    if info.bits < 64:
        result: Array = np.clip(whole, info.min, info.max).astype(dtype)
    else:
        limit = 2.0 ** (64 if info.min == 0 else 63)
        inside = (whole > (-1 if info.min == 0 else -limit)) & (whole < limit)
        result = np.where(inside, whole, 0).astype(dtype)
        result[whole >= limit] = info.max
        result[whole <= (0 if info.min == 0 else -limit)] = info.min
    nan = np.isnan(x)
    if nan.any():
        wide = info.bits == 64 or x.dtype == np.float64
        result[nan] = (info.min if info.min else (info.max >> 1) + 1) if wide else 0
    return result


def from_integer(x: Array, target: Literal["f16", "bf16", "f32", "f64"], mode: Mode = "rn") -> Array:
    """Integers to float16, float32 or float64 values (bf16: to bits), rounded once."""
    if x.dtype.itemsize < 8:
        value = x.astype(np.float64)
    else:
        high = (x >> x.dtype.type(32)).astype(np.float64) * 2.0**32
        low = (x & x.dtype.type(0xFFFFFFFF)).astype(np.float64)
        if target == "f64":
            return numerics.rounded64("add", mode, high, low)
        value = numerics.odd_sum(high, low)
    if target == "f64":
        return value
    if target == "bf16":
        return narrow(value, "bf16", mode)
    return numerics.cast(value, np.float32 if target == "f32" else np.float16, mode)
