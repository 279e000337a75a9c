"""Arithmetic that has integer and floating-point forms, and what is floating-point only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np

from hal_nvidia_ptx.emulator import approximate, formats, half, numerics
from hal_nvidia_ptx.emulator.exact import Mode
from hal_nvidia_ptx.emulator.instructions import Op, instruction, integer
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, build, simple
from hal_nvidia_ptx.emulator.lanes import Array
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Instruction

Parts = tuple[str, ...]
Function = Callable[..., Any]
HALVES = {"f16": "f16", "bf16": "bf16", "f16x2": "f16", "bf16x2": "bf16"}
PACKED = frozenset(("f16x2", "bf16x2"))
MODES = frozenset(("rn", "rz", "rm", "rp"))

_NEAREST32: dict[str, Function] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": numerics.fma32}


def mode_of(parts: Parts) -> Mode:
    return cast(Mode, next((part for part in parts if part in MODES), "rn"))


def halves(function: Function, kind: str) -> Function:
    """A function of uint16 arrays as one of registers: packed pairs are taken as twice as many halves."""
    if kind not in PACKED:
        return lambda *args: np.copyto(args[-1], function(*args[:-1]))

    def run(*args: Array) -> None:
        *sources, out = args
        length = max(len(out), 1)
        wide = [
            np.ascontiguousarray(s if len(s) == length else np.broadcast_to(s, length)).view(np.uint16) for s in sources
        ]
        np.copyto(out, np.ascontiguousarray(function(*wide)).view(np.uint32))

    return run


def _half(op: str, parts: Parts, count: int) -> Simple:
    kind = parts[-1]
    ftz, sat, relu, mode = "ftz" in parts, "sat" in parts, "relu" in parts, mode_of(parts)
    name = cast(half.Half, HALVES[kind])
    function = halves(lambda *a: half.arithmetic(op, name, *a, mode=mode, ftz=ftz, sat=sat, relu=relu), kind)
    return Simple(function, parts[-1], (parts[-1],) * count)


def _finish(function: Callable[..., Array], parts: Parts) -> Function:
    """Flush inputs and outputs, saturate."""
    ftz, sat = "ftz" in parts, "sat" in parts

    def run(*args: Array) -> None:
        *sources, out = args
        result = function(*[numerics.flush(s) for s in sources]) if ftz else function(*sources)
        if ftz:
            result = numerics.flush(result)
        np.copyto(out, numerics.saturate(result) if sat else result)

    return run


def rounded(op: str, parts: Parts, count: int, quick: Function | None) -> Simple:
    """An exactly rounded operation on f32 or f64; `quick` writes its result where nothing has to be done besides."""
    kind, mode = parts[-1], mode_of(parts)
    if kind not in ("f32", "f64"):
        raise ValueError(f"type .{kind}")
    if quick is not None and mode == "rn" and "ftz" not in parts and "sat" not in parts:
        return Simple(quick, kind, (kind,) * count)
    if quick is not None and mode == "rn":
        function: Callable[..., Array] = _NEAREST32[op] if kind == "f32" else partial(numerics.rounded64, op, mode)
    elif kind == "f32":
        function = partial(numerics.rounded32, op, mode)
    else:
        function = partial(numerics.rounded64, op, mode)
    return Simple(_finish(function, parts), kind, (kind,) * count)


def _pair(op: str, parts: Parts, count: int) -> Simple:
    """f32x2: two floats in a 64-bit register."""
    mode = mode_of(parts)

    def run(*args: Array) -> None:
        *sources, out = args
        wide = [np.ascontiguousarray(np.broadcast_to(s, out.shape)).view(np.float32) for s in sources]
        if "ftz" in parts:
            wide = [numerics.flush(each) for each in wide]
        result = numerics.rounded32(op, mode, *wide)
        np.copyto(out, np.ascontiguousarray(numerics.flush(result) if "ftz" in parts else result).view(np.uint64))

    return Simple(run, parts[-1], (parts[-1],) * count)


def _arithmetic(op: str, parts: Parts, quick: Function, count: int = 2) -> Simple:
    kind = parts[-1]
    if kind in HALVES:
        if parts[-2] == "f32":
            return _mixed(op, parts, count)
        return _half(op, parts, count)
    if kind == "f32x2":
        return _pair(op, parts, count)
    return rounded(op, parts, count, quick)


def _mixed(op: str, parts: Parts, count: int) -> Simple:
    """add.f32.bf16 and the like: the first operands are halves, the last and the result float32."""
    narrow = HALVES[parts[-1]]
    mode = mode_of(parts)

    def run(*args: Array) -> None:
        *sources, last, out = args
        wide = [formats.widen(s, cast(formats.Narrow, narrow)) for s in sources]
        np.copyto(out, numerics.rounded32(op, mode, *wide, last))

    return Simple(run, "f32", (parts[-1],) * (count - 1) + ("f32",))


@simple("add")
def _add(parts: Parts) -> Simple:
    if parts[-1] in integer.INTEGERS:
        function: Function = integer.saturated(np.add) if "sat" in parts else np.add
        return integer.binary(function, parts[-1])
    if parts[-1] in ("u16x2", "s16x2"):
        return _integer_pair(np.add, parts[-1])
    return _arithmetic("add", parts, np.add)


def _integer_pair(function: Function, kind: str) -> Simple:
    dtype = np.dtype("u2" if kind[0] == "u" else "i2")

    def run(a: Array, b: Array, out: Array) -> None:
        x, y = (np.ascontiguousarray(np.broadcast_to(s, out.shape)).view(dtype) for s in (a, b))
        np.copyto(out, function(x, y).view(np.uint32))

    return Simple(run, "b32", ("b32", "b32"))


@simple("sub")
def _sub(parts: Parts) -> Simple:
    if parts[-1] in integer.INTEGERS:
        function: Function = integer.saturated(np.subtract) if "sat" in parts else np.subtract
        return integer.binary(function, parts[-1])
    return _arithmetic("sub", parts, np.subtract)


@simple("mul")
def _mul(parts: Parts) -> Simple:
    if parts[-1] in integer.INTEGERS:
        return integer.multiply(parts)
    return _arithmetic("mul", parts, np.multiply)


@simple("fma")
def _fma(parts: Parts) -> Simple:
    kind = parts[-1]
    if kind == "f32":
        return _arithmetic("fma", parts, lambda a, b, c, out: numerics.fma32(a, b, c, out), 3)
    return _arithmetic("fma", parts, lambda a, b, c, out: np.copyto(out, numerics.fma64(a, b, c)), 3)


@simple("mad")
def _mad(parts: Parts) -> Simple:
    if parts[-1] in integer.INTEGERS:
        return integer.multiply_add(parts)
    return _fma(("fma", *parts[1:]))


def divide(parts: Parts) -> Simple:
    """div.rn and the other modes; div.approx and div.full"""
    kind, ftz = parts[-1], "ftz" in parts
    if "approx" in parts or "full" in parts:
        return Simple(
            lambda a, b, out: np.copyto(out, approximate.divide(a, b, ftz)), kind, (kind,) * 2, faith="approximate"
        )
    return rounded("div", parts, 2, np.divide if kind == "f64" and mode_of(parts) == "rn" else None)


def _flushing(function: Callable[[Array], Array], parts: Parts) -> Callable[[Array], Array]:
    """A function of halves that takes subnormals for zeros, if the opcode says .ftz."""
    kind = cast(half.Half, HALVES[parts[-1]])
    return (lambda a: function(half.flushed(a, kind))) if "ftz" in parts else function


@simple("abs")
def _abs(parts: Parts) -> Simple:
    kind = parts[-1]
    if kind in HALVES:
        mask = np.uint16(0x7FFF)
        return Simple(halves(_flushing(lambda a: a & mask, parts), kind), kind, (kind,))
    if "ftz" in parts:
        return Simple(_finish(np.abs, parts), kind, (kind,))
    return Simple(np.abs, kind, (kind,))


@simple("neg")
def _neg(parts: Parts) -> Simple:
    kind = parts[-1]
    if kind in HALVES:
        mask = np.uint16(0x8000)
        return Simple(halves(_flushing(lambda a: a ^ mask, parts), kind), kind, (kind,))
    if "ftz" in parts:
        return Simple(_finish(np.negative, parts), kind, (kind,))
    return Simple(np.negative, kind, (kind,))


@simple("copysign")
def _copysign(parts: Parts) -> Simple:
    """The sign of the first, the value of the second."""
    kind = parts[-1]
    return Simple(lambda a, b, out: np.copysign(b, a, out), kind, (kind,) * 2)


def _extremum(parts: Parts) -> Function:
    """min or max of two arrays of the instruction's type."""
    name, kind = parts[0], parts[-1]
    nan, xorsign, magnitude, ftz = "NaN" in parts, "xorsign" in parts, "abs" in parts, "ftz" in parts
    if kind in HALVES:
        return _extremum_of_halves(parts)
    best = numerics.minimum if name == "min" else numerics.maximum

    def run(a: Array, b: Array) -> Array:
        if ftz:
            a, b = numerics.flush(a), numerics.flush(b)
        if magnitude:
            a, b, signs = np.abs(a), np.abs(b), np.signbit(a) != np.signbit(b)
        result = best(a, b, nan)
        if not xorsign:
            return result
        signed: Array = np.copysign(result, np.where(signs, -1.0, 1.0).astype(a.dtype))
        return signed

    return run


def _extremum_of_halves(parts: Parts) -> Function:
    name, kind = cast(Any, parts[0]), cast(half.Half, HALVES[parts[-1]])
    sign, magnitude = np.uint16(0x8000), np.uint16(0x7FFF)

    def run(a: Array, b: Array) -> Array:
        if "ftz" in parts:
            a, b = half.flushed(a, kind), half.flushed(b, kind)
        signs = (a ^ b) & sign
        if "abs" in parts:
            a, b = a & magnitude, b & magnitude
        result = half.extremum(name, kind, a, b, "NaN" in parts)
        return (result & magnitude) | signs if "xorsign" in parts else result

    return run


def _min_max(parts: Parts) -> Simple:
    name, kind = parts[0], parts[-1]
    plain: Function = np.minimum if name == "min" else np.maximum
    if kind in integer.INTEGERS:
        if "relu" in parts:
            return integer.binary(lambda a, b, out: np.maximum(plain(a, b), 0, out=out), kind)
        return integer.binary(lambda a, b, out: plain(a, b, out=out), kind)
    if kind in ("u16x2", "s16x2"):
        return _integer_pair(plain, kind)
    function = _extremum(parts)
    register = parts[-1]
    if kind in HALVES:
        return Simple(halves(function, kind), register, (register,) * 2)
    return Simple(lambda a, b, out: np.copyto(out, function(a, b)), kind, (kind,) * 2)


@instruction("min", "max", guarded=True)
def _min(ins: Instruction, program: Program) -> Op:
    """Of two or three."""
    spec = _min_max(ins.parts)
    if len(ins.operands) < 4:
        return build(spec, ins, program)
    two = spec.function

    def three(a: Array, b: Array, c: Array, out: Array) -> None:
        best = np.empty_like(out)
        two(a, b, best)
        two(best, c, out)

    return build(Simple(three, spec.result, (spec.result,) * 3), ins, program)
