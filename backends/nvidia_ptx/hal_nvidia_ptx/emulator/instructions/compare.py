"""Comparisons and selections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from hal_nvidia_ptx.emulator import formats, half, numerics
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.floating import HALVES, PACKED, halves
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, plain, predicated, several, simple
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, Instruction, Not, Operand, Pair, Reg, Sink

Function = Callable[..., Any]

_ORDERED: dict[str, Function] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_TYPES = frozenset(("f16", "f16x2", "bf16", "bf16x2", "f32", "f64"))
_TYPES |= {f"{sign}{bits}" for sign in "bus" for bits in (16, 32, 64)}
_COMBINE: dict[str, Function] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, kind: str) -> Function:
    """function(a, b, out): a bool for each pair. Of floats, `ne` and the orders are false on NaN, `…u` true."""
    floating = kind[0] == "f"
    if not floating:
        return _ORDERED[name]
    if name == "num":
        return lambda a, b, out=None: np.invert(np.isnan(a) | np.isnan(b), out)
    if name == "nan":
        return lambda a, b, out=None: np.logical_or(np.isnan(a), np.isnan(b), out)
    if name == "neu":
        return np.not_equal
    if name == "ne":
        return lambda a, b, out=None: np.logical_and(a != b, ~(np.isnan(a) | np.isnan(b)), out)
    if name in ("equ", "ltu", "leu", "gtu", "geu"):
        ordered = _ORDERED[name[:2]]
        return lambda a, b, out=None: np.logical_or(ordered(a, b), np.isnan(a) | np.isnan(b), out)
    return _ORDERED[name]


def _compare(parts: tuple[str, ...]) -> tuple[Function, str]:
    """(function, type of the operands' slots)"""
    kind = parts[-1]
    if kind not in _TYPES:
        raise ValueError(f"type .{kind}")
    if kind[0] == "b" and kind not in HALVES and parts[1] not in ("eq", "ne"):
        raise ValueError(f".{kind} has no order: .eq or .ne")
    if kind in HALVES and kind not in PACKED:
        return _of_halves(comparison(parts[1], "f32"), HALVES[kind], "ftz" in parts), kind
    name = parts[1]
    if name in ("lo", "ls", "hi", "hs") and kind[0] != "u" and kind[0] != "b":
        raise ValueError(f".{name} is for unsigned integers")
    function = comparison(name, kind)
    if "ftz" in parts:
        return lambda a, b, out=None: function(numerics.flush(a), numerics.flush(b), out), kind
    return function, kind


def _of_halves(function: Function, kind: str, ftz: bool) -> Function:
    narrow = cast(half.Half, kind)

    def compare(a: Array, b: Array, out: Array | None = None) -> Any:
        if ftz:
            a, b = half.flushed(a, narrow), half.flushed(b, narrow)
        return function(formats.widen(a, narrow), formats.widen(b, narrow), out)

    return compare


@instruction("setp", guarded=True)
def _setp(ins: Instruction, program: Program) -> Op:
    parts = ins.parts
    if parts[-1] in PACKED:
        return _setp_packed(ins, program)
    function, kind = _compare(parts)
    combine = next((_COMBINE[part] for part in parts[2:-1] if part in _COMBINE), None)
    program.count(ins, 3 if combine is None else 4)
    sources = [program.source(ins, 1, kind), program.source(ins, 2, kind)]
    target = program.operand(ins, 0)
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    results = [program.dest(ins, first, "pred")]
    if combine is None and second is None:
        if ins.guard is None:
            return plain(function, sources, results[0])
        return predicated(function, sources, results, program.source(ins, ins.guard, "pred"), ins.guard_not)
    if second is not None and not isinstance(second, Sink):
        results.append(program.dest(ins, second, "pred"))
    negated = False
    if combine is not None:
        operand = program.operand(ins, 3)
        negated = isinstance(operand, Not)
        sources.append(program.source(ins, operand.operand if isinstance(operand, Not) else operand, "pred"))
    whole = _both(function, combine, negated)
    if ins.guard is None:
        return several(whole, sources, results)
    return predicated(whole, sources, results, program.source(ins, ins.guard, "pred"), ins.guard_not)


def _both(function: Function, combine: Function | None, negated: bool) -> Function:
    """p = comparison op c, and if there is a second result q = !comparison op c."""

    def run(a: Array, b: Array, *rest: Array) -> None:
        holds = np.asarray(function(a, b))
        opposite = ~holds
        results = rest
        if combine is not None:
            c = ~rest[0] if negated else rest[0]
            results = rest[1:]
            holds, opposite = combine(holds, c), combine(opposite, c)
        np.copyto(results[0], holds)
        if len(results) > 1:
            np.copyto(results[1], opposite)

    return run


def _setp_packed(ins: Instruction, program: Program) -> Op:
    """Of f16x2: p for the low, q for the high half."""
    function = _of_halves(comparison(ins.parts[1], "f32"), HALVES[ins.parts[-1]], ins.has("ftz"))
    program.count(ins, 3)
    target = program.operand(ins, 0)
    if not isinstance(target, Pair):
        raise ins.error("two predicates p|q are needed")
    a, b = program.source(ins, 1, ins.parts[-1]), program.source(ins, 2, ins.parts[-1])
    p, q = program.dest(ins, target.first, "pred"), program.dest(ins, target.second, "pred")

    def run(run: object, lanes: Lanes) -> None:
        x, y = (np.ascontiguousarray(lanes.read(slot)).view(np.uint16) for slot in (a, b))
        holds = function(x, y)
        lanes.put(p, holds[0::2])
        lanes.put(q, holds[1::2])

    return run if ins.guard is None else _guard(run, ins, program)


def _guard(op: Op, ins: Instruction, program: Program) -> Op:
    from hal_nvidia_ptx.emulator.guards import guarded

    assert ins.guard is not None
    return guarded(op, ins, program.source(ins, ins.guard, "pred"))


# What `set` gives where the comparison holds, by the type of the result; packed results have it in each half.
_TRUE = {"f32": 0x3F800000, "u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f16": 0x3C00, "bf16": 0x3F80, "u16": 0xFFFF}
_TRUE |= {"s16": 0xFFFF, "f16x2": 0x3C00, "bf16x2": 0x3F80}


@simple("set")
def _set(parts: tuple[str, ...]) -> Simple:
    result, kind = parts[-2], parts[-1]
    bits = 8 * DTYPE[result].itemsize
    if kind in PACKED:
        one = np.uint16(_TRUE[result] & 0xFFFF)
        narrow = _of_halves(comparison(parts[1], "f32"), HALVES[kind], "ftz" in parts)
        return Simple(halves(lambda a, b: narrow(a, b) * one, kind), result, (kind, kind))
    function, source = _compare(parts)
    yes = DTYPE[f"u{bits}"].type(_TRUE[result])
    return Simple(lambda a, b, out: np.copyto(out.view(yes.dtype), function(a, b) * yes), result, (source, source))


@instruction("selp", guarded=True)
def _selp(ins: Instruction, program: Program) -> Op:
    program.count(ins, 4)
    kind = ins.parts[-1]
    operand = program.operand(ins, 3)
    negated = isinstance(operand, Not)
    picked: Operand = operand.operand if isinstance(operand, Not) else operand
    if not isinstance(picked, Reg):
        raise ins.error("a predicate selects")
    a, b = (2, 1) if negated else (1, 2)
    sources = [program.source(ins, a, kind), program.source(ins, b, kind), program.source(ins, picked, "pred")]
    result = program.dest(ins, 0, kind)
    if ins.guard is None:
        return plain(_select, sources, result)
    return predicated(_select, sources, [result], program.source(ins, ins.guard, "pred"), ins.guard_not)


def _select(a: Array, b: Array, p: Array, out: Array) -> None:
    np.copyto(out, np.where(p, a, b))


@simple("slct")
def _slct(parts: tuple[str, ...]) -> Simple:
    kind, by = parts[-2], parts[-1]
    if by not in ("s32", "f32"):
        raise ValueError(f"selects by .{by}")
    flush = "ftz" in parts
    return Simple(
        lambda a, b, c, out: np.copyto(out, np.where((numerics.flush(c) if flush else c) >= 0, a, b)),
        kind,
        (kind, kind, by),
    )


@instruction("testp")
def _testp(ins: Instruction, program: Program) -> Op:
    kind, what = ins.parts[-1], ins.parts[1]
    source, result = program.source(ins, 1, kind), program.dest(ins, 0, "pred")
    tiny = np.finfo(DTYPE[kind]).smallest_normal
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & ((np.abs(a) >= tiny) | (a == 0)),
        "subnormal": lambda a: (np.abs(a) < tiny) & (a != 0),
    }
    test = tests[what]
    return several(lambda a, out: np.copyto(out, test(a)), [source], [result])
