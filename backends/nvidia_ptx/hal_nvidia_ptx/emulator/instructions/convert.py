"""cvt and cvt.pack: every pair of types by way of an exact wider one, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from hal_nvidia_ptx.emulator import formats, numerics
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.scalar import plain, predicated
from hal_nvidia_ptx.emulator.lanes import Array
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, WIDTH, Instruction

INTEGERS = frozenset(f"{sign}{bits}" for sign in "su" for bits in (8, 16, 32, 64))
NARROW = frozenset(("f16", "bf16", "tf32"))
PAIRS = {"f16x2": "f16", "bf16x2": "bf16", "e4m3x2": "e4m3", "e5m2x2": "e5m2"}
ROUNDINGS = ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")
Convert = Callable[[Array], Array]


@instruction("cvt", guarded=True)
def _cvt(ins: Instruction, program: Program) -> Op:
    parts = ins.parts
    target, source = parts[-2], parts[-1]
    function: Callable[..., Any]
    if target in PAIRS and source == "f32":
        program.count(ins, 3)
        function = _pack(parts, target)
        kinds = ["f32", "f32"]
    elif target in PAIRS or source in PAIRS:
        program.count(ins, 2)
        function, kinds = _unpack(target, source, parts), [source]
    else:
        program.count(ins, 2)
        convert = _convert(parts, target, source)
        kinds = [source]
        function = lambda a, out: np.copyto(out, convert(a), casting="unsafe")  # noqa: E731
    sources = [program.source(ins, 1 + i, kind, wider=True) for i, kind in enumerate(kinds)]
    result = program.dest(ins, 0, target, wider=True)
    if ins.guard is None:
        return plain(function, sources, result)
    return predicated(function, sources, [result], program.source(ins, ins.guard, "pred"), ins.guard_not)


def _rounding(parts: tuple[str, ...]) -> str:
    return next((part for part in parts if part in ROUNDINGS), "")


def _pack(parts: tuple[str, ...], target: str) -> Callable[..., None]:
    """Two float32: the first operand becomes the upper half."""
    name, mode = cast(formats.Narrow, PAIRS[target]), cast(Any, _rounding(parts) or "rn")
    relu, finite = "relu" in parts, "satfinite" in parts
    if mode not in ("rn", "rz"):
        raise ValueError(f"rounding .{mode}")

    def run(high: Array, low: Array, out: Array) -> None:
        upper, lower = (formats.narrow(x, name, mode, finite, relu).astype(out.dtype) for x in (high, low))
        np.copyto(out, upper << out.dtype.type(4 * out.dtype.itemsize) | lower)

    return run


def _unpack(target: str, source: str, parts: tuple[str, ...]) -> Callable[..., None]:
    """cvt.rn.f16x2.e4m3x2, cvt.rn.satfinite.e4m3x2.f16x2"""
    if target not in PAIRS or source not in PAIRS:
        raise ValueError(f".{source} to .{target}")
    into, come = cast(formats.Narrow, PAIRS[target]), cast(formats.Narrow, PAIRS[source])
    small, large = formats.BITS[come], formats.BITS[into]
    relu = "relu" in parts

    def run(a: Array, out: Array) -> None:
        halves = formats.widen(np.ascontiguousarray(a).view(small), come)
        narrow = formats.narrow(halves, into, satfinite="satfinite" in parts, relu=relu)
        np.copyto(out, np.ascontiguousarray(narrow.astype(large)).view(out.dtype))

    return run


def _check_rounding(rounding: str, target: str, source: str) -> None:
    """A conversion that may lose bits says how it rounds, and no other does."""
    whole, exact = rounding.endswith("i"), target in INTEGERS and source in INTEGERS
    if source in INTEGERS or target in INTEGERS:
        good = not rounding if exact else bool(rounding) and whole == (target in INTEGERS)
    elif target == source:
        good = whole or not rounding
    elif WIDTH[target] > WIDTH[source]:
        good = not rounding
    else:
        good = (bool(rounding) and not whole) or {target, source} == {"f16", "bf16"}
    if not good:
        raise ValueError(f"rounding .{rounding} from .{source} to .{target}" if rounding else "a rounding is needed")


def _convert(parts: tuple[str, ...], target: str, source: str) -> Convert:
    sat, rounding = "sat" in parts, _rounding(parts)
    _check_rounding(rounding, target, source)
    if target in INTEGERS and source in INTEGERS:
        return _integers(target, sat)
    if target in INTEGERS:
        return _float_to_integer(parts, target, source, rounding)
    if source in INTEGERS:
        return _integer_to_float(target, rounding, sat)
    return _floats(parts, target, source, rounding)


def _integers(target: str, sat: bool) -> Convert:
    dtype = DTYPE[target]
    if not sat:
        return lambda a: a.astype(dtype)
    info = np.iinfo(dtype)

    def clamp(a: Array) -> Array:
        own = np.iinfo(a.dtype)
        return np.clip(a, max(info.min, own.min), min(info.max, own.max)).astype(dtype)

    return clamp


def _wide(source: str, ftz: bool) -> Convert:
    """Register contents to float32 or float64 values."""
    if source in NARROW:
        name = cast(formats.Narrow, source)
        return lambda a: formats.widen(a, name)
    if source not in ("f32", "f64"):
        raise ValueError(f"type .{source}")
    return numerics.flush if ftz and source == "f32" else lambda a: a


def _float_to_integer(parts: tuple[str, ...], target: str, source: str, rounding: str) -> Convert:
    mode = cast(Any, rounding[:2])
    wide = _wide(source, "ftz" in parts)
    dtype = cast(Any, DTYPE[target].type)
    return lambda a: formats.to_integer(wide(a), dtype, mode)


def _integer_to_float(target: str, rounding: str, sat: bool) -> Convert:
    mode = cast(Any, rounding or "rn")
    if mode not in ("rn", "rz", "rm", "rp") or target not in ("f16", "bf16", "f32", "f64"):
        raise ValueError(f"rounding .{mode} to .{target}")
    name = cast(Any, target)

    def convert(a: Array) -> Array:
        result = formats.from_integer(a, name, mode)
        if sat:
            result = numerics.saturate(result)
        return result.view(np.uint16) if target == "f16" else result

    return convert


def _floats(parts: tuple[str, ...], target: str, source: str, rounding: str) -> Convert:
    ftz, sat, relu, finite = "ftz" in parts, "sat" in parts, "relu" in parts, "satfinite" in parts
    wide = _wide(source, ftz)
    if target in NARROW:
        name, mode = (
            cast(formats.Narrow, target),
            cast(Any, rounding[:2] if rounding.endswith("i") else rounding or "rn"),
        )
        whole = rounding.endswith("i")

        def narrow(a: Array) -> Array:
            value = wide(a)
            if whole:
                value = formats.integral(value, mode)
            if sat:
                value = numerics.saturate(value)
            return formats.narrow(value, name, "rn" if whole else mode, finite, relu)

        return narrow
    if target not in ("f32", "f64"):
        raise ValueError(f"type .{target}")
    dtype = cast(Any, DTYPE[target].type)

    def convert(a: Array) -> Array:
        value = wide(a)
        if rounding in ("rni", "rzi", "rmi", "rpi"):
            value = formats.integral(value, cast(Any, rounding[:2]))
        if value.dtype == np.float64 and target == "f32":
            value = numerics.cast(value, np.float32, cast(Any, rounding if rounding in ("rz", "rm", "rp") else "rn"))
        result = value.astype(dtype)
        if ftz and target == "f32":
            result = numerics.flush(result)
        if relu:
            result = np.maximum(result, dtype(0))
        return numerics.saturate(result) if sat else result

    return convert


@instruction("cvt.pack")
def _cvt_pack(ins: Instruction, program: Program) -> Op:
    """cvt.pack.sat.TYPE.s32.b32 d, a, b, c: both saturated and packed, c shifted above them (for 8 bits and less)."""
    target = next(part for part in ins.parts[2:] if part in ("s8", "u8", "s16", "u16"))
    bits = int(target[1:])
    with_c = len(ins.operands) == 4
    program.count(ins, 3, 4)
    a, b = program.source(ins, 1, "s32"), program.source(ins, 2, "s32")
    sources = [a, b] + ([program.source(ins, 3, "b32")] if with_c else [])
    result = program.dest(ins, 0, "b32")
    info = np.iinfo(DTYPE[target])
    mask = np.uint32((1 << bits) - 1)

    def pack(a: Array, b: Array, *rest: Array) -> None:
        *c, out = rest
        high, low = (np.clip(x, info.min, info.max).view(np.uint32) & mask for x in (a, b))
        packed = high << np.uint32(bits) | low
        np.copyto(out, packed | (c[0] << np.uint32(2 * bits)) if c else packed)

    return plain(pack, sources, result)
