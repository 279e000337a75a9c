"""cp.async: copies of 4, 8 or 16 bytes by each thread, and the groups that they are waited for in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import Transfer, flight
from hal_nvidia_ptx.emulator.groups import Groups
from hal_nvidia_ptx.emulator.inflight import Piece
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]
_WORD: dict[int, np.dtype[Any]] = {
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
    16: np.dtype(np.complex128),
}  # moved whole


@dataclass(slots=True, eq=False)
class Copies:
    """What one cp.async has to do: nbytes for each lane, from offsets in global to offsets in shared memory.

    piece: the destination; have: how many of the bytes come from memory, the others are zero (None: all).
    """

    ins: Instruction
    nbytes: int
    source: Array
    piece: Piece
    have: Array | None = None

    def part(self, mask: Array) -> Copies:
        have = None if self.have is None else self.have[mask]
        return replace(self, source=self.source[mask], piece=self.piece, have=have)


def copies(run: Run) -> Groups[Any]:
    """The batch's cp.async operations; each entry's work is (Copies, offsets in shared memory)."""
    found: Groups[Any] | None = run.state.get("cp.async")
    if found is None:
        found = run.state["cp.async"] = Groups(run.total, _part)
    return found


Work: TypeAlias = "tuple[Copies, Array]"


def _part(work: Work, mask: Array) -> Work:
    return work[0].part(mask), work[1][mask]


def _land(run: Run, works: Sequence[Work]) -> None:
    for copy, target in works:
        word = _WORD[copy.nbytes]
        values = run.arena.load(copy.source, word)
        if copy.have is not None:
            rows = np.ascontiguousarray(values).view(np.uint8).reshape(-1, copy.nbytes)
            values = np.where(np.arange(copy.nbytes) < copy.have[:, None], rows, np.uint8(0)).view(word)[:, 0]
        run.shared.view(word)[target // copy.nbytes] = values
        flight(run).landed(copy.piece, target)


@instruction("cp.async.ca", "cp.async.cg", writes=0)
def _copy(ins: Instruction, program: Program) -> Op:
    hint = ins.has("L2::cache_hint")
    program.count(ins, 3 + hint, 4 + hint)
    target, source = program.address(ins, 0), program.address(ins, 1)
    nbytes = program.constant(ins, 2)
    if nbytes not in ((16,) if ins.has("cg") else (4, 8, 16)):
        raise ins.error(f"cp.async copies 4, 8 or 16 bytes (.cg: 16), not {nbytes}")
    fourth = ins.operands[3] if len(ins.operands) == 4 + hint else None
    ignores = fourth is not None and program.kind(fourth) == "pred"
    size = None if fourth is None else program.source(ins, fourth, "pred" if ignores else "u32")

    def run_copy(run: Run, lanes: Lanes) -> None:
        state, watch = flight(run), hazards(run)
        where = state.offsets(ins, "shared", lanes, target.get(lanes), nbytes, nbytes)
        have = None
        if size is not None:
            have = lanes.read(size)
            have = np.where(have, 0, nbytes) if ignores else np.minimum(have, nbytes).astype(np.int64)
        start, have = _sources(run, ins, lanes, source.get(lanes), nbytes, have)
        piece = state.take_off(ins, lanes, where, nbytes)
        if watch is not None:
            watch.async_access(ins, "cp", run.shared, lanes.index, where, nbytes, "write")
        if state.counters is not None:
            state.counters.access(ins, run.shared, lanes, where, nbytes, "write")
        work = Copies(ins, nbytes, start, piece, have), where
        if state.late:
            copies(run).add(lanes.index, work)
        else:
            _land(run, [work])

    return run_copy


def _sources(
    run: Run, ins: Instruction, lanes: Lanes, addresses: Array, nbytes: int, have: Array | None
) -> tuple[Array, Array | None]:
    """Offsets into the arena, checked, and how many bytes each lane gets from there (None: all)."""
    if have is None or bool((have == nbytes).all()):
        segments = run.touch(ins, "global", lanes, addresses, nbytes, "read")
        if len(segments) == 1 and segments[0].lanes is lanes:
            return segments[0].offsets, None
        have = np.zeros(lanes.count, np.int64)
        offsets = np.zeros(lanes.count, np.int64)
        for part in segments:
            offsets[part.where], have[part.where] = part.offsets, nbytes
        return offsets, have
    offsets, got = np.zeros(lanes.count, np.int64), np.zeros(lanes.count, np.int64)
    for amount in np.unique(have[have > 0]).tolist():
        chosen = np.flatnonzero(have == amount)
        some = lanes.where(have == amount)
        ends = (0,) if amount == nbytes else (0, amount - 1)
        for end in ends:
            unit = nbytes if amount == nbytes else 1
            for part in run.touch(ins, "global", some, addresses[chosen] + end, unit, "read"):
                place = chosen if part.where is None else chosen[part.where]
                offsets[place], got[place] = part.offsets - end, amount
    return offsets, got


@instruction("cp.async.commit_group", writes=0)
def _commit(ins: Instruction, program: Program) -> Op:
    def run_commit(run: Run, lanes: Lanes) -> None:
        watch = hazards(run)
        if watch is not None:
            watch.async_commit(ins, "cp", lanes)
        if run.mode == "late":
            copies(run).commit(lanes.index)

    return run_commit


@instruction("cp.async.wait_group", "cp.async.wait_all", writes=0)
def _wait(ins: Instruction, program: Program) -> Op:
    pending = None if ins.has("wait_all") else program.constant(ins, 0)

    def run_wait(run: Run, lanes: Lanes) -> None:
        watch = hazards(run)
        if watch is not None:
            watch.async_wait(ins, "cp", lanes, pending)
        if run.mode == "late":
            groups = copies(run)
            _land(run, groups.drain(lanes.index) if pending is None else groups.wait(lanes.index, pending))

    return run_wait


@instruction("cp.async.mbarrier.arrive", writes=0)
def _arrive(ins: Instruction, program: Program) -> Op:
    """The arrival of each lane, once its copies so far have landed; without .noinc it is counted as one more."""
    address = program.address(ins, 0)
    space = "shared" if any(part.startswith("shared") for part in ins.parts) else ""
    counted = ins.has("noinc")

    def run_arrive(run: Run, lanes: Lanes) -> None:
        state, watch = flight(run), hazards(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), 8, 8)
        if watch is not None:
            watch.mbarrier_use(ins, lanes, where)
            watch.mbarrier_arrive(ins, lanes, where, copies=True)
        groups = copies(run)
        for barrier in np.unique(where).tolist():
            some = lanes.where(where == barrier)
            if not counted:
                state.change(ins, some, barrier, lambda b, n=some.count: b.grow(n))  # type: ignore[misc]
            _promise(run, ins, some, barrier, groups)

    return run_arrive


def _promise(run: Run, ins: Instruction, lanes: Lanes, barrier: int, groups: Groups[Any]) -> None:
    state, until = flight(run), groups.issued

    def land() -> None:
        _land(run, groups.drain(lanes.index, until))

    def finish() -> None:
        state.change(ins, lanes, barrier, lambda b: b.arrive(lanes.count))

    state.send(Transfer(ins, lanes, barrier, land, finish))
