"""cp.async.bulk: copies of ranges of bytes; see transfers.py for how they complete."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import boxes
from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import flight
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.transfers import Arrival, Store, allowed, bring, check_read, put, targets
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.mbarrier import NBYTES
from hal_nvidia_ptx.emulator.memory import GLOBAL_BASE, WRITTEN
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.swizzle import CHUNK
from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]
Bytes: TypeAlias = "NDArray[np.uint8]"


@instruction("cp.async.bulk.prefetch", writes=0, faith="unmodelled")
def _prefetch(ins: Instruction, program: Program) -> Op:
    def run_prefetch(run: Run, lanes: Lanes) -> None:
        """Caches are not modelled."""

    return run_prefetch


@instruction("cp.async.bulk", "cp.reduce.async.bulk", writes=0)
def _copy(ins: Instruction, program: Program) -> Op:
    to, source = _spaces(ins)
    if to == "global":
        return _outward(ins, program)
    if ins.parts[1] == "reduce" or not ins.has("mbarrier::complete_tx::bytes"):
        raise ins.error("copies to shared memory complete on an mbarrier; reductions there are not emulated")
    multicast, hint = ins.has("multicast::cluster"), ins.has("L2::cache_hint")
    program.count(ins, 4 + multicast + hint)
    target, start, barrier = (program.address(ins, index) for index in (0, 1, 3))
    size = program.source(ins, 2, "u32")
    mask = program.source(ins, 4, "u16") if multicast else None

    def run_copy(run: Run, lanes: Lanes) -> None:
        state = flight(run)
        sizes = lanes.read(size).astype(np.int64)
        where = state.offsets(ins, to, lanes, target.get(lanes), int(sizes.max()), CHUNK)
        bars = state.offsets(ins, to, lanes, barrier.get(lanes), NBYTES, NBYTES)
        starts = start.get(lanes)
        masks = None if mask is None else lanes.read(mask)
        for lane in range(lanes.count):
            one, nbytes = lanes.run.lanes(lanes.index[lane : lane + 1]), int(sizes[lane])
            _check_size(run, ins, one, nbytes)
            chosen = None if masks is None else int(masks[lane])
            ways = zip(targets(run, int(where[lane]), chosen), targets(run, int(bars[lane]), chosen), strict=True)
            for place, bar in ways:
                arrival = Arrival(ins, one, place, nbytes, bar, nbytes)
                if source == "global":
                    _from_global(run, arrival, int(starts[lane]))
                else:
                    _from_shared(run, arrival, int(starts[lane]))

    return run_copy


def _spaces(ins: Instruction) -> tuple[str, str]:
    """(destination, source): "global", "shared::cta" or "shared::cluster"."""
    spaces = [part for part in ins.parts if part.split("::")[0] in ("global", "shared")]
    if len(spaces) != 2:
        raise ins.error("a bulk copy names two state spaces")
    return spaces[0], spaces[1]


def _check_size(run: Run, ins: Instruction, lanes: Lanes, nbytes: int) -> None:
    if nbytes % CHUNK:
        run.find("misaligned", f"a bulk copy of {nbytes} bytes", ins, lanes, None, f"a multiple of {CHUNK} bytes")


def _from_global(run: Run, arrival: Arrival, address: int) -> None:
    ins, lanes, nbytes = arrival.ins, arrival.lanes, arrival.nbytes
    if address % CHUNK:
        run.find("misaligned", "the source of a bulk copy", ins, lanes, address, f"a multiple of {CHUNK}")
    if not nbytes or not allowed(run, ins, lanes, address, address + nbytes, writes=False):
        return
    first = address - GLOBAL_BASE
    check_read(run, ins, lanes, run.arena.shadow[first : first + nbytes], address)
    watch = hazards(run)
    if watch is not None:
        watch.async_access(ins, "mbar", run.arena, lanes.index, np.array([first]), nbytes, "read")

    def move() -> None:
        run.shared.bytes[arrival.target : arrival.target + nbytes] = run.arena.bytes[first : first + nbytes]

    bring(run, arrival, move)


def _from_shared(run: Run, arrival: Arrival, address: int) -> None:
    state, ins, lanes, nbytes = flight(run), arrival.ins, arrival.lanes, arrival.nbytes
    where = state.offsets(ins, "shared::cta", lanes, np.array([address]), nbytes, CHUNK)
    first = int(where[0])
    piece = state.hold(ins, lanes, where, nbytes)
    watch = hazards(run)
    if watch is not None:
        watch.async_access(ins, "mbar", run.shared, lanes.index, where, nbytes, "read")

    def move() -> None:
        run.shared.bytes[arrival.target : arrival.target + nbytes] = run.shared.bytes[first : first + nbytes]
        state.let_go(piece)

    bring(run, arrival, move)


def _outward(ins: Instruction, program: Program) -> Op:
    """Shared to global memory, copied or reduced."""
    if not ins.has("bulk_group"):
        raise ins.error("copies to global memory complete in a .bulk_group")
    program.count(ins, 3 + ins.has("L2::cache_hint"))
    target, start, size = program.address(ins, 0), program.address(ins, 1), program.source(ins, 2, "u32")
    operation = ins.parts[ins.parts.index("bulk_group") + 1] if ins.parts[1] == "reduce" else ""
    kind = ins.parts[-1]
    if operation:
        element = np.zeros(CHUNK, np.uint8)
        boxes.combine(operation, kind, element, element)

    def run_copy(run: Run, lanes: Lanes) -> None:
        state = flight(run)
        sizes = lanes.read(size).astype(np.int64)
        where = state.offsets(ins, "shared::cta", lanes, start.get(lanes), int(sizes.max()), CHUNK)
        for lane, address in enumerate(target.get(lanes).tolist()):
            one, nbytes = run.lanes(lanes.index[lane : lane + 1]), int(sizes[lane])
            _check_size(run, ins, one, nbytes)
            if address % CHUNK:
                run.find("misaligned", "the destination of a bulk copy", ins, one, address, f"a multiple of {CHUNK}")
            if nbytes and allowed(run, ins, one, address, address + nbytes, writes=True):
                _put_range(run, ins, one, where[lane : lane + 1], address - GLOBAL_BASE, nbytes, operation, kind)

    return run_copy


def _put_range(
    run: Run, ins: Instruction, lanes: Lanes, where: Array, first: int, nbytes: int, operation: str, kind: str
) -> None:
    state, watch, place = flight(run), hazards(run), int(where[0])
    piece = state.hold(ins, lanes, where, nbytes)
    if watch is not None:
        watch.async_access(ins, "bulk", run.shared, lanes.index, where, nbytes, "read")
        watch.async_access(ins, "bulk", run.arena, lanes.index, np.array([first]), nbytes, "write")
    memory = run.arena.bytes[first : first + nbytes]

    def read() -> Bytes:
        return run.shared.bytes[place : place + nbytes].copy()

    def write(data: Bytes) -> None:
        if operation:
            check_read(run, ins, lanes, run.arena.shadow[first : first + nbytes], first + GLOBAL_BASE)
            data = boxes.combine(operation, kind, memory, data)
        memory[:] = data
        run.arena.shadow[first : first + nbytes] = WRITTEN

    put(run, Store(ins, lanes, piece, read, write))
