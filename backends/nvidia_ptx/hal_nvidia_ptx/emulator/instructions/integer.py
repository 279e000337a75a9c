"""Integer arithmetic, logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator import half
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, simple
from hal_nvidia_ptx.emulator.lanes import Array
from hal_nvidia_ptx.emulator.syntax import DTYPE

Parts = tuple[str, ...]
INTEGERS = frozenset(("u16", "s16", "u32", "s32", "u64", "s64"))
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def binary(function: Callable[..., Any], kind: str) -> Simple:
    return Simple(function, kind, (kind, kind))


def last(parts: Parts, allowed: frozenset[str] = INTEGERS) -> str:
    """The instruction's type, which is its last part. Raises ValueError for another."""
    if parts[-1] not in allowed:
        raise ValueError(f"type .{parts[-1]}")
    return parts[-1]


def multiply(parts: Parts) -> Simple:
    """mul.lo .hi .wide"""
    kind = last(parts)
    if "wide" in parts:
        return Simple(_wide(WIDER[kind]), WIDER[kind], (kind, kind))
    if "hi" not in parts:
        return binary(np.multiply, kind)
    return binary(lambda a, b, out: np.copyto(out, high(a, b, kind)), kind)


def _wide(kind: str) -> Callable[..., Any]:
    dtype = DTYPE[kind]
    return lambda a, b, out: np.multiply(a, b, out, dtype=dtype)


def high(a: Array, b: Array, kind: str) -> Array:
    """The upper half of the products."""
    if kind not in WIDER:
        return half.multiply_high(*np.broadcast_arrays(a, b))
    wide = np.multiply(a, b, dtype=DTYPE[WIDER[kind]])
    shifted: Array = (wide >> wide.dtype.type(8 * DTYPE[kind].itemsize)).astype(DTYPE[kind])
    return shifted


def multiply_add(parts: Parts) -> Simple:
    """mad.lo .hi .wide, and mad.hi.sat.s32"""
    kind = last(parts)
    if "wide" in parts:
        dtype = DTYPE[WIDER[kind]]

        def wide(a: Array, b: Array, c: Array, out: Array) -> None:
            np.add(np.multiply(a, b, dtype=dtype), c, out)

        return Simple(wide, WIDER[kind], (kind, kind, WIDER[kind]))
    if "hi" in parts:
        add: Callable[..., Any] = saturated(np.add) if "sat" in parts else np.add
        return Simple(lambda a, b, c, out: add(high(a, b, kind), c, out), kind, (kind,) * 3)
    return Simple(lambda a, b, c, out: np.add(a * b, c, out), kind, (kind,) * 3)


def _24(function: Callable[[Array, Array], Array], signed: bool) -> Callable[[Array, Array], Array]:
    def run(a: Array, b: Array) -> Array:
        wide = np.int64 if signed else np.uint64
        shift = wide(40)
        return function((a.astype(wide) << shift) >> shift, (b.astype(wide) << shift) >> shift)

    return run


@simple("mul24")
def _mul24(parts: Parts) -> Simple:
    kind, shift = last(parts), 16 if "hi" in parts else 0
    product = _24(lambda a, b: (a * b) >> a.dtype.type(shift), kind[0] == "s")
    return binary(lambda a, b, out: np.copyto(out, product(a, b), casting="unsafe"), kind)


@simple("mad24")
def _mad24(parts: Parts) -> Simple:
    kind, shift = last(parts), 16 if "hi" in parts else 0
    product = _24(lambda a, b: (a * b) >> a.dtype.type(shift), kind[0] == "s")
    add: Callable[..., Any] = saturated(np.add) if "sat" in parts else np.add
    return Simple(lambda a, b, c, out: add(product(a, b).astype(out.dtype), c, out), kind, (kind,) * 3)


def saturated(function: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    """add.sat.s32 and sub.sat.s32"""
    info = np.iinfo(np.int32)
    return lambda a, b, out: np.copyto(
        out, np.clip(function(a.astype(np.int64), b.astype(np.int64)), info.min, info.max), casting="unsafe"
    )


@simple("div")
def _div(parts: Parts) -> Simple:
    from hal_nvidia_ptx.emulator.instructions.floating import divide

    if parts[-1] not in INTEGERS:
        return divide(parts)
    return binary(lambda a, b, out: np.copyto(out, quotient(a, b)), parts[-1])


def quotient(a: Array, b: Array) -> Array:
    """Towards zero. What hardware gives for a division by zero is not specified; here all bits are ones."""
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    result: Array = a // safe
    if a.dtype.kind == "i":
        result = result + ((result < 0) & (result * safe != a)).astype(a.dtype)
    ones: Array = np.where(zero, ~b.dtype.type(0), result)
    return ones


@simple("rem")
def _rem(parts: Parts) -> Simple:
    kind = last(parts)

    def rem(a: Array, b: Array, out: Array) -> None:
        zero = b == 0
        safe = np.where(zero, b.dtype.type(1), b)
        np.copyto(out, np.where(zero, a, np.fmod(a, safe)))

    return binary(rem, kind)


@simple("sad")
def _sad(parts: Parts) -> Simple:
    kind = last(parts)
    return Simple(lambda a, b, c, out: np.add(np.maximum(a, b) - np.minimum(a, b), c, out), kind, (kind,) * 3)


@simple("dp4a")
def _dp4a(parts: Parts) -> Simple:
    a_kind, b_kind = parts[1], parts[2]
    signed = "s32" if "s32" in (a_kind, b_kind) else "u32"

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        np.copyto(out, half.dot4(a, b, c, a_kind == "s32", b_kind == "s32").view(out.dtype))

    return Simple(run, signed, (a_kind, b_kind, signed))


@simple("dp2a")
def _dp2a(parts: Parts) -> Simple:
    high_half, a_kind, b_kind = parts[1] == "hi", parts[2], parts[3]
    signed = "s32" if "s32" in (a_kind, b_kind) else "u32"

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        np.copyto(out, half.dot2(a, b, c, a_kind == "s32", b_kind == "s32", high_half).view(out.dtype))

    return Simple(run, signed, (a_kind, b_kind, signed))
