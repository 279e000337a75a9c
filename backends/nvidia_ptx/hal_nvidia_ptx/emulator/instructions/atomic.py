"""atom and red: lanes that meet at one address take turns in the order of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from hal_nvidia_ptx.emulator import half, numerics
from hal_nvidia_ptx.emulator.access import Segment
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.syntax import DTYPE, Instruction, Sink

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program

# (old, b, c) -> new; c is there for cas alone.
Combine: TypeAlias = "Callable[[Array, Array, Array], Array]"

_SPACES = ("global", "shared", "shared::cta", "shared::cluster")
_OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
TYPES = {
    "add": "u32 s32 u64 f32 f64 f16 f16x2 bf16 bf16x2",
    "min": "u32 s32 u64 s64 f16 f16x2 bf16 bf16x2",
    "max": "u32 s32 u64 s64 f16 f16x2 bf16 bf16x2",
    "exch": "b32 b64",
    "cas": "b16 b32 b64",
    "inc": "u32",
    "dec": "u32",
} | dict.fromkeys(("and", "or", "xor"), "b32 b64")
_HALVES = {"f16": "f16", "f16x2": "f16", "bf16": "bf16", "bf16x2": "bf16"}


@instruction("atom")
def _atom(ins: Instruction, program: Program) -> Op:
    return _build(ins, program, writes=1)


@instruction("red", writes=0)
def _red(ins: Instruction, program: Program) -> Op:
    return _build(ins, program, writes=0)


def _build(ins: Instruction, program: Program, writes: int) -> Op:
    operation = next((part for part in ins.parts if part in _OPERATIONS), "")
    kind = ins.parts[-1]
    if not operation or kind == "b128":
        raise ins.error("the emulator does not know this atomic operation")
    if kind not in TYPES[operation].split() or (operation in ("exch", "cas") and not writes):
        raise ins.error(f"{ins.parts[0]} has no .{operation} of type .{kind}")
    if not writes and ins.has("acquire", "acq_rel"):
        raise ins.error("red reads nothing that it could acquire: .relaxed or .release")
    inputs = 2 if operation == "cas" else 1
    program.count(ins, writes + 1 + inputs + ins.has("L2::cache_hint"))
    width = next((int(part[1:]) for part in ins.parts if part in ("v2", "v4", "v8")), 1)
    space = next((part for part in ins.parts if part in _SPACES), "")
    address = program.address(ins, writes)
    operands = [program.sources(ins, writes + 1 + i, kind, width) for i in range(inputs)]
    results: list[int] = []
    if writes and not isinstance(program.operand(ins, 0), Sink):
        results = program.dests(ins, 0, kind, width)
    combine = _combination(operation, kind, flushes=kind == "f32" and not space.startswith("shared"))
    dtype = DTYPE[kind]

    def run_atomic(run: Run, lanes: Lanes) -> None:
        values = [np.stack([lanes.read(slot) for slot in slots], axis=1) for slots in operands]
        old = np.zeros((lanes.count, width), dtype)
        for part in run.touch(ins, space, lanes, address.get(lanes), dtype.itemsize * width, "atomic"):
            chosen = slice(None) if part.where is None else part.where
            old[chosen] = _take_turns(part, combine, values[0][chosen], values[-1][chosen])
        for i, slot in enumerate(results):
            lanes.put(slot, old[:, i])

    return run_atomic


def _take_turns(part: Segment, combine: Combine, b: Array, c: Array) -> Array:
    """Do the operation lane after lane for each address; what each lane found there, [count, width]."""
    offsets, width = part.offsets, b.shape[1]
    order = np.argsort(offsets, kind="stable")
    ordered = offsets[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(first)
    turn = np.arange(len(order)) - starts[np.cumsum(first) - 1]
    found = np.empty_like(b)
    for now in range(int(turn.max()) + 1):
        at = order if len(starts) == len(order) else order[turn == now]
        found[at] = part.space.load(offsets[at], b.dtype, width).reshape(-1, width)
        fresh = combine(found[at], b[at], c[at])
        part.space.store(offsets[at], fresh if width > 1 else fresh[:, 0])
    return found


def _combination(operation: str, kind: str, flushes: bool) -> Combine:
    if kind in _HALVES:
        return _half_combination(operation, cast(half.Half, _HALVES[kind]))
    if flushes and operation == "add":  # in global memory .f32 sums flush subnormals, in shared memory they do not
        return lambda old, b, c: numerics.flush(numerics.flush(old) + numerics.flush(b))
    return _COMBINATIONS[operation]


def _half_combination(operation: str, kind: half.Half) -> Combine:
    def combine(old: Array, b: Array, c: Array) -> Array:
        first, second = (np.ascontiguousarray(x).view(np.uint16) for x in (old, b))
        if operation == "add":
            bits = half.arithmetic("add", kind, first, second)
        elif operation == "min" or operation == "max":
            bits = half.extremum("min" if operation == "min" else "max", kind, first, second)
        else:
            raise ValueError(f"{operation} of {kind}")
        return bits.view(old.dtype)

    combine(np.zeros((1, 1), np.uint32), np.zeros((1, 1), np.uint32), np.zeros((1, 1), np.uint32))
    return combine


_COMBINATIONS: dict[str, Combine] = {
    "add": lambda old, b, c: old + b,
    "min": lambda old, b, c: np.minimum(old, b),
    "max": lambda old, b, c: np.maximum(old, b),
    "and": lambda old, b, c: old & b,
    "or": lambda old, b, c: old | b,
    "xor": lambda old, b, c: old ^ b,
    "exch": lambda old, b, c: b,
    "cas": lambda old, b, c: np.where(old == b, c, old),
    "inc": lambda old, b, c: np.where(old >= b, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, b, c: np.where((old == 0) | (old > b), b, old - old.dtype.type(1)),
}
