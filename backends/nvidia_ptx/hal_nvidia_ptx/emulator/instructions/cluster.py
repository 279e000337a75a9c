"""Clusters of CTAs: addresses in each other's shared memory, their barrier, stores that complete on a peer's mbarrier.

Registers that warps hand over by setmaxnreg are counted here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import flight
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.transfers import Arrival, bring
from hal_nvidia_ptx.emulator.instructions.warpgroup import together
from hal_nvidia_ptx.emulator.lanes import WARP, Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.mbarrier import NBYTES
from hal_nvidia_ptx.emulator.memory import CLUSTER_SHIFT, SHARED_WINDOW
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, Instruction

Array: TypeAlias = NDArray[Any]
_LOW = (1 << CLUSTER_SHIFT) - 1


@instruction("mapa")
def _mapa(ins: Instruction, program: Program) -> Op:
    """The address of the same variable in the CTA of a rank."""
    program.count(ins, 3)
    kind = ins.parts[-1]
    generic = not ins.has("shared::cluster")
    result, rank = program.dest(ins, 0, kind), program.source(ins, 2, "u32")
    address = program.address(ins, 1)

    def run_mapa(run: Run, lanes: Lanes) -> None:
        ranks = lanes.read(rank).astype(np.int64)
        size = run.shape.cluster_size
        wrong = ranks >= size
        if wrong.any():
            message = f"rank {int(ranks[wrong][0])} in a cluster of {size}"
            run.find("wrong rank", message, ins, lanes.where(wrong), expected=f"0 to {size - 1}")
            ranks = ranks % size
        inner = address.get(lanes) & _LOW
        lanes.put(result, (inner | (ranks + 1) << CLUSTER_SHIFT) + (SHARED_WINDOW if generic else 0))

    return run_mapa


@instruction("getctarank")
def _getctarank(ins: Instruction, program: Program) -> Op:
    """The rank of the CTA that an address of shared memory belongs to."""
    program.count(ins, 2)
    result, address = program.dest(ins, 0, "u32"), program.address(ins, 1)

    def run_rank(run: Run, lanes: Lanes) -> None:
        rank = ((address.get(lanes) & 0xFFFFFFFF) >> CLUSTER_SHIFT) - 1
        lanes.put(result, np.where(rank < 0, lanes.cta % run.shape.cluster_size, rank))

    return run_rank


# ---- the cluster's barrier


@dataclass(slots=True)
class Barrier:
    """barrier.cluster of all clusters of a batch.

    arrived: threads that arrived in this phase, per cluster; phase: completed phases, per cluster; own: the phase that
    each lane waits for, -1 before its arrival.
    """

    run: Run
    arrived: Array = field(init=False)
    phase: Array = field(init=False)
    own: Array = field(init=False)

    def __post_init__(self) -> None:
        clusters = self.run.ctas // self.run.shape.cluster_size
        self.arrived, self.phase = np.zeros(clusters, np.int64), np.zeros(clusters, np.int64)
        self.own = np.full(self.run.total, -1)

    def clusters(self, lanes: Lanes) -> Array:
        return lanes.cta // self.run.shape.cluster_size

    def settle(self) -> None:
        """Complete the phases that all living threads have arrived at."""
        alive = self.run.alive_mask.reshape(len(self.phase), -1)
        waiting = (self.own >= 0).reshape(alive.shape)
        absent = (alive & ~(waiting & (self.own.reshape(alive.shape) == self.phase[:, None]))).any(1)
        done = (self.arrived > 0) & ~absent
        self.phase[done] += 1
        self.arrived[done] = 0


def _barrier(run: Run) -> Barrier:
    found: Barrier | None = run.state.get("barrier.cluster")
    if found is None:
        found = run.state["barrier.cluster"] = Barrier(run)
    return found


def _aligned(ins: Instruction) -> bool:
    return ins.has("aligned")


@instruction("barrier.cluster.arrive", writes=0, aligned=_aligned)
def _arrive(ins: Instruction, program: Program) -> Op:
    def run_arrive(run: Run, lanes: Lanes) -> None:
        barrier, watch = _barrier(run), hazards(run)
        again = barrier.own[lanes.index] >= 0
        if again.any():
            message = "barrier.cluster.arrive twice without barrier.cluster.wait"
            run.find("barrier count", message, ins, lanes.where(again), expected="a wait between two arrivals")
        if watch is not None:
            watch.cluster_arrive(ins, lanes)
        clusters = barrier.clusters(lanes)
        barrier.own[lanes.index] = barrier.phase[clusters]
        barrier.arrived += np.bincount(clusters, minlength=len(barrier.arrived))
        barrier.settle()
        run.poke()

    return run_arrive


@instruction("barrier.cluster.wait", writes=0, aligned=_aligned)
def _wait(ins: Instruction, program: Program) -> Op:
    def run_wait(run: Run, lanes: Lanes) -> bool | None:
        barrier = _barrier(run)
        missing = barrier.own[lanes.index] < 0
        if missing.any():
            message = "barrier.cluster.wait without barrier.cluster.arrive"
            run.find("barrier count", message, ins, lanes.where(missing), expected="an arrival before the wait")
            barrier.own[lanes.index[missing]] = barrier.phase[barrier.clusters(lanes)[missing]] - 1
        waiting = _Waiting(run, ins, lanes)
        done = waiting.done()
        if done.all():
            waiting.leave(lanes)
            return None
        if done.any():
            waiting.leave(lanes.where(done))
            run.go(ins.pc + 1, lanes.where(done))
            waiting.lanes = lanes.where(~done)
        run.park(ins, waiting.lanes, "at the cluster's barrier", waiting)
        return True

    return run_wait


@dataclass(slots=True)
class _Waiting:
    """Lanes at barrier.cluster.wait; polled."""

    run: Run
    ins: Instruction
    lanes: Lanes

    def done(self) -> Array:
        barrier = _barrier(self.run)
        barrier.settle()
        done: Array = barrier.own[self.lanes.index] < barrier.phase[barrier.clusters(self.lanes)]
        return done

    def leave(self, lanes: Lanes) -> None:
        watch = hazards(self.run)
        if watch is not None:
            watch.cluster_leave(self.ins, lanes)
        _barrier(self.run).own[lanes.index] = -1

    def __call__(self) -> Any:
        done = self.done()
        if done.any():
            self.leave(self.lanes.where(done))
        if not done.all():
            self.lanes = self.lanes.where(~done)
        return done


# ---- stores that complete on an mbarrier


@instruction("st.async", writes=0)
def _store(ins: Instruction, program: Program) -> Op:
    program.count(ins, 3)
    if not ins.has("mbarrier::complete_tx::bytes"):
        raise ins.error("st.async completes on an mbarrier")
    kind = DTYPE[ins.parts[-1]]
    target, barrier = program.address(ins, 0), program.address(ins, 2)
    values = program.sources(ins, 1, kind)
    space = "shared::cluster" if ins.has("shared::cluster") else ""
    nbytes = kind.itemsize * len(values)

    def run_store(run: Run, lanes: Lanes) -> None:
        state = flight(run)
        where = state.offsets(ins, space, lanes, target.get(lanes), nbytes, nbytes)
        bars = state.offsets(ins, space, lanes, barrier.get(lanes), NBYTES, NBYTES)
        data = np.stack([lanes.read(slot) for slot in values], axis=1)
        for lane in range(lanes.count):
            one = run.lanes(lanes.index[lane : lane + 1])
            arrival = Arrival(ins, one, int(where[lane]), nbytes, int(bars[lane]), nbytes)
            _bring(run, arrival, np.ascontiguousarray(data[lane]).view(np.uint8))

    return run_store


def _bring(run: Run, arrival: Arrival, data: Array) -> None:
    def move() -> None:
        run.shared.bytes[arrival.target : arrival.target + arrival.nbytes] = data

    bring(run, arrival, move)


# ---- registers


@instruction("setmaxnreg", writes=0, aligned=True)
def _setmaxnreg(ins: Instruction, program: Program) -> Op:
    """Warps of a warpgroup change how many registers they may use; the CTA's registers stay as many as at launch."""
    program.count(ins, 1)
    count = program.constant(ins, 0)
    if not 24 <= count <= 256 or count % 8:
        raise ins.error("setmaxnreg takes 24 to 256 registers, a multiple of 8")

    def run_setmaxnreg(run: Run, lanes: Lanes, groups: Array) -> None:
        held = _held(run)
        held[lanes.warps] = count
        _check_pool(run, ins, lanes, held)

    return together(ins, run_setmaxnreg)


def _held(run: Run) -> Array:
    """Registers of a thread of each warp, 0 where nothing was said."""
    found: Array | None = run.state.get("setmaxnreg")
    if found is None:
        found = run.state["setmaxnreg"] = np.zeros(run.total // WARP, np.int64)
    return found


def _check_pool(run: Run, ins: Instruction, lanes: Lanes, held: Array) -> None:
    """All that warps have asked for by now must fit into the registers of an SM, which one CTA can have at most."""
    rows: Sequence[int] = (held.reshape(run.ctas, -1).sum(1) * WARP).tolist()
    pool = 65536
    if max(rows) > pool:
        message = f"{max(rows)} registers are asked for by the warps of a CTA"
        run.find("registers", message, ins, lanes, expected=f"at most {pool} in a CTA")
