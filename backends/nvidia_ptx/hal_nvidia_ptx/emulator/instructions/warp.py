"""Instructions in which the lanes of a warp agree on something: vote, match, redux, elect, bar.warp.sync.

The machine brings the lanes that a member mask names together before any of these runs (see guards.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hal_nvidia_ptx.emulator import numerics
from hal_nvidia_ptx.emulator.guards import FULL
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.syntax import Instruction, Not, Operand, Pair, Sink

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program

LANE = np.arange(WARP, dtype=np.int64)
BIT = np.uint32(1) << np.arange(WARP, dtype=np.uint32)


def members(run: Run, ins: Instruction, lanes: Lanes, mask: int) -> Array | None:
    """uint32 [warps, 32]: the member mask that each lane gives, 0 for absent lanes; None if all are there and named.

    Records lanes whose masks name each other but differ.
    """
    given = lanes.regs[mask]
    if len(given) == 1 and lanes.present is None and int(given[0]) == FULL:
        return None
    masks = lanes.spread(lanes.read(mask), 0)
    if len(given) > 1:
        here = masks != 0
        others = ((masks[:, :, None] & BIT) != 0) & here[:, None, :]
        wrong = (others & (masks[:, :, None] != masks[:, None, :])).any(2)
        if wrong.any():
            run.find(
                "wrong member mask",
                f"{ins.opcode}: lanes of a warp name each other in member masks that differ",
                ins,
                lanes.where(lanes.flat(wrong)),
                expected="the same mask in every lane that it names",
            )
    return masks


def bits_of(rows: Array) -> Array:
    """uint32 [warps] from bool [warps, 32]."""
    return np.ascontiguousarray(np.packbits(rows, axis=1, bitorder="little")).view(np.uint32)[:, 0]


def _there(lanes: Lanes) -> Array:
    """uint32 [warps, 1]: the lanes that take part, as bits."""
    present = lanes.present
    return np.full((len(lanes.warps), 1), FULL, np.uint32) if present is None else bits_of(present)[:, None]


def predicate(ins: Instruction, program: Program, index: int) -> tuple[int, bool]:
    """The slot of a predicate operand, and whether it is negated."""
    operand = program.operand(ins, index)
    negated = isinstance(operand, Not)
    return program.source(ins, operand.operand if isinstance(operand, Not) else operand, "pred"), negated


def pair(ins: Instruction, program: Program) -> tuple[Operand, Operand]:
    """The two parts of the result `d|p`; a plain `d` has none to take p."""
    operand = program.operand(ins, 0)
    return (operand.first, operand.second) if isinstance(operand, Pair) else (operand, Sink())


@instruction("vote.sync", mask=-1)
def _vote(ins: Instruction, program: Program) -> Op:
    program.count(ins, 3)
    mode = ins.parts[2]
    source, negated = predicate(ins, program, 1)
    result = program.dest(ins, 0, "b32" if mode == "ballot" else "pred")
    mask = program.source(ins, 2, "u32")
    decide = _VOTES[mode]

    def run_vote(run: Run, lanes: Lanes) -> None:
        masks = members(run, ins, lanes, mask)
        holds = bits_of(lanes.by_warp(source) ^ negated)[:, None]
        named: Array = _there(lanes) if masks is None else masks & _there(lanes)
        decided = decide(holds & named, named)
        lanes.put_by_warp(result, np.broadcast_to(decided, (len(holds), WARP)))

    return run_vote


# From the lanes for which the predicate holds and those that vote, both as bits.
_VOTES: dict[str, Callable[[Array, Array], Array]] = {
    "ballot": lambda holds, voters: holds,
    "all": lambda holds, voters: holds == voters,
    "any": lambda holds, voters: holds != 0,
    "uni": lambda holds, voters: (holds == 0) | (holds == voters),
}


@instruction("activemask.b32")
def _activemask(ins: Instruction, program: Program) -> Op:
    result = program.dest(ins, 0, "b32")

    def run_activemask(run: Run, lanes: Lanes) -> None:
        there = _there(lanes)
        lanes.put_by_warp(result, np.broadcast_to(there, (len(there), WARP)))

    return run_activemask


@instruction("match.any.sync", "match.all.sync", mask=-1)
def _match(ins: Instruction, program: Program) -> Op:
    program.count(ins, 3)
    first, second = pair(ins, program)
    everyone = ins.parts[1] == "all"
    value, mask = program.source(ins, 1, ins.parts[3]), program.source(ins, 2, "u32")
    result = program.dest(ins, first, "u32")
    agreed = None if isinstance(second, Sink) else program.dest(ins, second, "pred")

    def run_match(run: Run, lanes: Lanes) -> None:
        masks = members(run, ins, lanes, mask)
        values = lanes.by_warp(value)
        equal = (values[:, :, None] == values[:, None, :]).reshape(-1, WARP)
        matching = bits_of(equal).reshape(-1, WARP)
        if masks is not None:
            named = masks & _there(lanes)
            matching = matching & named
        else:
            named = np.full(matching.shape, FULL, np.uint32)
        same = matching == named
        lanes.put_by_warp(result, np.where(same, named, np.uint32(0)) if everyone else matching)
        if agreed is not None:
            lanes.put_by_warp(agreed, same)

    return run_match


@instruction("redux.sync", mask=-1)
def _redux(ins: Instruction, program: Program) -> Op:
    program.count(ins, 3)
    op, kind = ins.parts[2], ins.parts[-1]
    register = "u32" if kind == "b32" else kind
    value, result = program.source(ins, 1, register), program.dest(ins, 0, register)
    mask = program.source(ins, 2, "u32")
    absolute, keep_nan = ins.has("abs"), ins.has("NaN")
    reduce, neutral = _reduction(op, kind, keep_nan)

    def run_redux(run: Run, lanes: Lanes) -> None:
        masks = members(run, ins, lanes, mask)
        values = lanes.by_warp(value)
        if absolute:
            values = np.abs(values)
        if masks is None:
            lanes.put_by_warp(result, np.broadcast_to(reduce(values)[:, None], values.shape))
            return
        totals = np.zeros(values.shape, values.dtype)
        there = masks != 0
        for named in np.unique(masks[there]):
            chosen = there & ((named & BIT) != 0)
            totals = np.where(masks == named, reduce(np.where(chosen, values, neutral))[:, None], totals)
        lanes.put_by_warp(result, totals)

    return run_redux


def _reduction(op: str, kind: str, keep_nan: bool) -> tuple[Callable[[Array], Array], int | float]:
    """A function from [warps, 32] to [warps], and a value that changes nothing in it."""
    if kind == "f32":
        step = {"min": numerics.minimum, "max": numerics.maximum}[op]
        return lambda rows: _fold(rows, lambda a, b: step(a, b, keep_nan)), np.inf if op == "min" else -np.inf
    info = np.iinfo(np.int32 if kind == "s32" else np.uint32)
    ufunc, neutral = {
        "add": (np.add, 0),
        "min": (np.minimum, info.max),
        "max": (np.maximum, info.min),
        "and": (np.bitwise_and, FULL),
        "or": (np.bitwise_or, 0),
        "xor": (np.bitwise_xor, 0),
    }[op]
    return lambda rows: ufunc.reduce(rows, axis=1, dtype=rows.dtype), neutral


def _fold(rows: Array, step: Callable[[Array, Array], Array]) -> Array:
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = step(rows[:, :half], rows[:, half:])
    return rows[:, 0]


@instruction("elect.sync", mask=-1)
def _elect(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    first, second = pair(ins, program)
    result, elected, mask = (
        program.dest(ins, first, "u32"),
        program.dest(ins, second, "pred"),
        program.source(ins, 1, "u32"),
    )

    def run_elect(run: Run, lanes: Lanes) -> None:
        masks = members(run, ins, lanes, mask)
        shape = (len(lanes.warps), WARP)
        if masks is None:
            leader = np.zeros(shape, np.int64)
        else:
            there = ((masks[:, :, None] & BIT) != 0) & (masks != 0)[:, None, :]
            leader = there.argmax(axis=2)
        lanes.put_by_warp(result, leader)
        lanes.put_by_warp(elected, leader == LANE)

    return run_elect


@instruction("bar.warp.sync", writes=0, mask=0)
def _bar_warp(ins: Instruction, program: Program) -> Op:
    program.count(ins, 1)
    mask = program.source(ins, 0, "u32")

    def run_bar_warp(run: Run, lanes: Lanes) -> None:
        members(run, ins, lanes, mask)
        if run.hazards is not None:
            run.hazards.warp(ins, lanes)

    return run_bar_warp
