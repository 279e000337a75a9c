"""Copies that one thread begins: into shared memory, complete on an mbarrier, or out of it, complete in bulk groups.

A copy into shared memory completes its bytes on an mbarrier. One into global memory belongs to its thread's bulk group:
`wait_group.read` waits until its source has been read, `wait_group` until it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import Flight, Transfer, flight
from hal_nvidia_ptx.emulator.groups import Groups
from hal_nvidia_ptx.emulator.inflight import Piece
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.mbarrier import Mbarrier
from hal_nvidia_ptx.emulator.memory import WRITTEN
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]


# ---- global memory, checked


def allowed(run: Run, ins: Instruction, lanes: Lanes, low: int, high: int, writes: bool) -> bool:
    """Whether the global addresses [low, high) are one allocation's; a finding where not. lanes: one lane."""
    block = run.arena.covering(low, high)
    kind = "write" if writes else "read"
    if block is not None and run.arena.allows(low, high - low, kind):
        return True
    for end in (low, high - 1):
        if not run.touch(ins, "global", lanes, np.array([end]), 1, "write" if writes else "read"):
            return False
    expected = "an access inside one allocation"
    run.find("out of bounds", f"{high - low} bytes over several allocations", ins, lanes, low, expected)
    return False


def check_read(run: Run, ins: Instruction, lanes: Lanes, states: Array, address: int) -> None:
    """Find reads of global bytes that nobody wrote. states: of the bytes that are read."""
    if int(states.min(initial=WRITTEN)) != WRITTEN:
        message = "global memory is read that nothing was written to"
        run.find("uninitialised read", message, ins, lanes, address, "a write to all of it before")


# ---- copies into shared memory


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A copy of one thread into shared memory: nbytes at offset `target`, complete on the mbarrier at `barrier`.

    span: bytes of shared memory that it covers.
    """

    ins: Instruction
    lanes: Lanes
    target: int
    span: int
    barrier: int
    nbytes: int


def bring(run: Run, arrival: Arrival, move: Callable[[], None]) -> None:
    """Begin a copy into shared memory that `move` does."""
    state, watch = flight(run), hazards(run)
    ins, lanes, where = arrival.ins, arrival.lanes, np.array([arrival.target])
    barriers = np.array([arrival.barrier])
    piece = state.take_off(ins, lanes, where, arrival.span)
    if watch is not None:
        watch.mbarrier_use(ins, lanes, barriers, asynchronous=True)
        watch.async_access(ins, "mbar", run.shared, lanes.index, where, arrival.span, "write", barriers)
    state.barrier(ins, lanes, arrival.barrier)

    def land() -> None:
        move()
        state.landed(piece)

    def finish() -> None:
        state.change(ins, lanes, arrival.barrier, complete)

    def complete(barrier: Mbarrier) -> None:
        barrier.user = barrier.user or ins
        barrier.land(arrival.nbytes)

    state.send(Transfer(ins, lanes, arrival.barrier, land, finish))


def targets(run: Run, offset: int, mask: int | None) -> list[int]:
    """The same place in every CTA of a multicast's mask; itself without a mask."""
    if mask is None:
        return [offset]
    stride, size = run.shared.stride, run.shape.cluster_size
    first, inner = offset // stride // size * size, offset % stride
    return [(first + rank) * stride + inner for rank in range(size) if mask >> rank & 1]


# ---- copies out of shared memory


@dataclass(slots=True, eq=False)
class Store:
    """A copy of one thread out of shared memory. read: takes the source; write: puts that into global memory.

    data: what was read, None before. piece: the source while it is not read.
    """

    ins: Instruction
    lanes: Lanes
    piece: Piece
    read: Callable[[], Any]
    write: Callable[[Any], None]
    data: Any = None

    def take(self, state: Flight) -> None:
        """Read the source, unless that is done."""
        if self.data is None:
            self.data = self.read()
            state.let_go(self.piece)


def stores(run: Run) -> Groups[Store]:
    """The batch's bulk stores in flight."""
    found: Groups[Store] | None = run.state.get("cp.async.bulk")
    if found is None:
        found = run.state["cp.async.bulk"] = Groups(run.total, lambda store, mask: store)
        run.at_exit(lambda: _end(run))
    return found


def put(run: Run, store: Store) -> None:
    """Begin a store."""
    groups = stores(run)
    groups.add(store.lanes.index, store)
    if run.mode != "late":
        store.take(flight(run))
        store.write(store.data)


def _end(run: Run) -> None:
    """The kernel has ended: what was read is written; what was not is at fault."""
    groups, everyone = stores(run), np.arange(run.total)
    open_ = set(map(id, groups.open()))
    for store in groups.drain(everyone):
        if run.mode != "late" and id(store) not in open_:
            continue
        if store.data is None or id(store) in open_:
            lacks = "cp.async.bulk.commit_group" if id(store) in open_ else "cp.async.bulk.wait_group"
            run.find(
                "copy in flight at the end",
                f"the thread ended while this copy was reading shared memory: {lacks} is missing",
                store.ins,
                store.lanes,
                expected="cp.async.bulk.commit_group and cp.async.bulk.wait_group(.read) before the end",
            )
        if run.mode == "late":
            store.take(flight(run))
            store.write(store.data)


@instruction("cp.async.bulk.commit_group", writes=0)
def _commit(ins: Instruction, program: Program) -> Op:
    def run_commit(run: Run, lanes: Lanes) -> None:
        watch = hazards(run)
        if watch is not None:
            watch.async_commit(ins, "bulk", lanes)
        stores(run).commit(lanes.index)

    return run_commit


@instruction("cp.async.bulk.wait_group", writes=0)
def _wait(ins: Instruction, program: Program) -> Op:
    program.count(ins, 1)
    pending, reads = program.constant(ins, 0), ins.has("read")

    def run_wait(run: Run, lanes: Lanes) -> None:
        watch, groups = hazards(run), stores(run)
        if watch is not None:
            watch.async_wait(ins, "bulk", lanes, pending)
        if reads:
            for store in groups.covered(lanes.index, pending):
                store.take(flight(run))
            return
        for store in groups.wait(lanes.index, pending):
            if run.mode == "late":
                store.take(flight(run))
                store.write(store.data)

    return run_wait
