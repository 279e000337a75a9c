"""Finds accesses that nothing orders: happens-before by vector clocks, at the granularity of warps.

Two accesses to one place, one of them a write, race unless one happens before the other: in program order of a warp, by
a barrier, by an mbarrier's phase, by a release and an acquire, by waiting for an asynchronous copy. Within a warp lanes
see each other's writes after bar.warp.sync or a barrier only. What asynchronous instructions do is done by actors of
their own (clocks.py), and what ordinary instructions wrote is visible to the asynchronous proxy after a proxy fence
only.

The machine and the instructions call the hooks at issue, with an array element per lane. Nothing is done per thread: in
the common case an access costs a gather, a compare and a scatter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.clocks import (
    BULK,
    BYTES,
    CP,
    DEVICE,
    GENERIC,
    PROXY,
    THREAD,
    WGMMA,
    Clocks,
    Ints,
    Mask,
)
from hal_nvidia_ptx.emulator.conflicts import COPY, Conflicts, Group
from hal_nvidia_ptx.emulator.granules import traits
from hal_nvidia_ptx.emulator.phases import CLUSTER, Barriers, Mbarriers
from hal_nvidia_ptx.emulator.releases import Releases
from hal_nvidia_ptx.emulator.report import brief
from hal_nvidia_ptx.emulator.shadow import LANE, LOW, MIXED, TIME, WHO, GlobalShadow, SharedShadow, stamp
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.memory import Space

AnyShadow: TypeAlias = "SharedShadow | GlobalShadow"
Actor = Literal["cp", "bulk", "wgmma", "mbar"]
ACTORS = {"cp": CP, "bulk": BULK, "wgmma": WGMMA, "mbar": BYTES}
STRONG = ("volatile", "relaxed", "acquire", "release", "acq_rel", "mmio")


class Races:
    """The checks of one launch, batch of CTAs after batch; implements hooks.Hazards.

    Shadows of shared memory and clocks are made anew for each batch. The shadow of global memory outlives it, since
    CTAs of different batches may race.
    """

    def __init__(self) -> None:
        self._memory: GlobalShadow | None = None
        self._log: list[Any] = [None]  # the instruction of each time
        self._ctas: list[int] = []  # those that have run or run now, by their index in the grid
        self._of: Lanes | None = None

    def start(self, run: Run) -> None:
        """A new batch."""
        self.run = run
        width, asynchronous = traits(run.program)
        self.memory = self._memory = self._memory or GlobalShadow(used(run), width["global"])
        cluster = run.shape.cluster_size
        clusters = -(-run.shape.ctas // cluster), run.first // cluster
        self.clocks = Clocks(run.ctas, run.threads // 32, cluster, asynchronous, *clusters)
        self.clocks.now = len(self._log)
        self.first = run.first * run.threads
        self._ctas += run.cta_ids.tolist()
        self.conflicts = Conflicts(self.clocks, self._found, self._name, self.first, self._log)
        self._everyone = Group(np.arange(run.total), run.total, self.clocks.actors)
        self._group, self._of = self._everyone, None
        self.shared = SharedShadow(len(run.shared.bytes), width["shared"], self.clocks.readers)
        self._stride = run.shared.stride
        self._barriers = Barriers(self.clocks)
        self._mbarriers = Mbarriers(self.clocks)
        self._releases = Releases(self.clocks, self.memory.released)

    def finish(self, run: Run) -> None:
        """Nothing is left open: what was not waited for at the end of a kernel is no race."""

    # ---- accesses

    def access(
        self,
        ins: Instruction,
        space: Space,
        lanes: Lanes,
        offsets: Ints,
        nbytes: int,
        kind: str,
        values: NDArray[Any] | None = None,
    ) -> None:
        """Each lane touches nbytes at its offset; stores are seen when they are done, loads before."""
        if space.name == "local":
            return
        shadow, group = self._shadow(space), self._lanes(lanes)
        strong = kind == "atomic" or ins.has(*STRONG)
        if strong:
            self._releases.access(ins, space.name, group, offsets, kind)
            self._tick(ins)
        if kind == "read":
            self._read(ins, shadow, group, offsets, nbytes, THREAD, strong)
            return
        marks = self._write(ins, shadow, group, offsets, nbytes, THREAD, strong, group.who + self.first)
        if not strong:
            self._check_itself(ins, shadow, group, offsets, nbytes, marks, values)

    def _check_itself(
        self,
        ins: Instruction,
        shadow: AnyShadow,
        group: Group,
        offsets: Ints,
        nbytes: int,
        marks: Ints,
        values: NDArray[Any] | None,
    ) -> None:
        """Look for lanes that store to one place at once; where addresses rise from lane to lane there are none."""
        if not (offsets[1:] > offsets[:-1]).all():
            index, length = shadow.index(offsets, nbytes)
            after = shadow.rows(shadow.written, length)[index]
            self.conflicts.with_itself(ins, shadow.name, group, offsets, after, marks, values)

    def async_access(
        self,
        ins: Instruction,
        actor: Actor,
        space: Space,
        issuers: Ints,
        offsets: Ints,
        nbytes: int,
        kind: Literal["read", "write"],
        mbarriers: Ints | None = None,
    ) -> None:
        """An asynchronous unit touches nbytes at each offset; issuers: the lanes that issued each of these pieces.

        actor: by what its end is waited for, groups of cp.async, of bulk copies, of wgmma, or the mbarriers at these
        offsets in shared memory.
        """
        shadow, group = self._shadow(space), Group(np.asarray(issuers), 0, self.clocks.actors)
        if kind == "read":
            self._read(ins, shadow, group, offsets, nbytes, ACTORS[actor], False)
            return
        who = group.who + self.first
        if mbarriers is not None:
            cta, slots = self._slots(mbarriers)
            who = slots * self.clocks.ctas + cta
        self._write(ins, shadow, group, offsets, nbytes, ACTORS[actor], False, who)

    def _read(
        self, ins: Instruction, shadow: AnyShadow, group: Group, offsets: Ints, nbytes: int, kind: int, strong: bool
    ) -> None:
        time = self._tick(ins)
        index, length = shadow.index(offsets, nbytes)
        stamps = shadow.rows(shadow.written, length)[index]
        self.conflicts.with_writes(ins, shadow.name, group, offsets, stamps, strong, kind, "reads")
        if ins.has("nc"):
            self._check_constant(ins, group, offsets, stamps)
        if strong:  # polling is no reason to call the write that it waits for a race
            return
        if isinstance(shadow, GlobalShadow):
            self._remember(shadow, group, index, length, stamp(time, kind, False, group.who + self.first))
            return
        kind = BULK if kind == BYTES else kind
        self.conflicts.reads(kind)
        place = index * (length * shadow.readers)
        column = group.own if kind == THREAD else self.clocks.column(kind, group.warp)
        mark = group.lane + np.uint32(time << LANE)
        read = shadow.read.ravel()
        if index.ndim == 2:
            read[place + column[:, None]] = mark[:, None]
            return
        place += column
        for piece in range(length):
            read[place + piece * shadow.readers if piece else place] = mark

    def _check_constant(self, ins: Instruction, group: Group, offsets: Ints, stamps: Ints) -> None:
        """ld.global.nc may use a cache that does not see this launch's writes, whatever orders them."""
        written = np.flatnonzero(stamps.reshape(len(stamps), -1).any(axis=1))
        if len(written):
            first = int(stamps[written[0]].max())
            self._found(
                "read of memory that changes",
                ins,
                group.who[written],
                "reads with .nc what this launch has written",
                "global",
                offsets[written],
                "ld.global without .nc",
                self._log[first >> TIME],
            )

    def _remember(self, shadow: GlobalShadow, group: Group, index: Ints, length: int, marks: Ints) -> None:
        """Mark global memory as read; where another warp that this one does not know has read too, note the meeting."""
        reads = shadow.rows(shadow.read, length)
        before = reads[index]
        if before.ndim == 2:
            marks = marks[:, None]
        if not before.any():
            reads[index] = marks
            return
        met = (before != 0) & ((before ^ marks) & (WHO & ~31) != 0)
        reads[index] = marks
        if not met.any():
            return
        stamps, now = before[met], np.broadcast_to(marks, met.shape)[met]
        here, there = (now & WHO) // self.run.threads, (stamps & WHO) // self.run.threads
        cta = np.where(here == there, here + 1, MIXED)
        unordered = self._unordered(group, np.nonzero(met)[0], stamps, here != there)
        meetings = shadow.rows(shadow.many, length)
        updated = meetings[index]
        old = updated[met]
        cta = np.where((old != 0) & (old & LOW != cta), MIXED, cta)
        updated[met] = np.where(unordered, (now >> TIME << TIME) | cta, old)
        meetings[index] = updated

    def _unordered(self, group: Group, lanes: Ints, stamps: Ints, apart: Mask) -> Mask:
        """Whether reads by other warps are not known to these lanes; apart: those of other CTAs, which rarely are."""
        if self.clocks.far is not None or self.clocks.cluster > 1:
            apart = np.zeros(len(lanes), np.bool_)
        unordered = apart.copy()
        near = np.flatnonzero(~apart)
        if len(near):
            unordered[near] = self.conflicts.verdicts(group, lanes[near], stamps[near], False, THREAD) >= COPY
        return unordered

    def _write(
        self,
        ins: Instruction,
        shadow: AnyShadow,
        group: Group,
        offsets: Ints,
        nbytes: int,
        kind: int,
        strong: bool,
        who: Ints,
    ) -> Ints:
        """Check and mark; each lane's stamp."""
        time = self._tick(ins)
        index, length = shadow.index(offsets, nbytes)
        written = shadow.rows(shadow.written, length)
        before = written[index]
        self.conflicts.with_writes(ins, shadow.name, group, offsets, before, strong, kind, "writes over")
        if isinstance(shadow, GlobalShadow):
            reads, many = shadow.rows(shadow.read, length), shadow.rows(shadow.many, length)
            last = reads[index]
            if last.any():
                self.conflicts.with_global_reads(ins, group, offsets, last, many[index], strong, kind)
                reads[index] = 0
                many[index] = 0
        else:
            self.conflicts.with_shared_reads(ins, group, offsets, shadow.rows(shadow.read, length)[index], kind)
            self.conflicts.wrote(kind)
        marks = stamp(time, kind, strong, who)
        written[index] = marks if before.ndim == 1 else marks[:, None]
        return marks

    # ---- atomics, fences, warps

    def fence(self, ins: Instruction, lanes: Lanes, kind: str) -> None:
        """membar, fence.*; kind: the opcode's modifiers."""
        group = self._lanes(lanes)
        if "proxy.async" in kind or "mbarrier_init" in kind:
            self.clocks.fence(group.mask(self.clocks.total), PROXY)
        elif "proxy" not in kind:
            self._releases.fence(group)
            self.clocks.fence(group.mask(self.clocks.total), DEVICE)
        self._tick(ins)

    def warp(self, ins: Instruction, lanes: Lanes) -> None:
        """bar.warp.sync."""
        self.clocks.in_step(self._lanes(lanes).mask(self.clocks.total))
        self._tick(ins)

    # ---- barriers

    def arrive(self, ins: Instruction, lanes: Lanes, barrier: int) -> None:
        """bar.arrive: what the warps know by now goes to those who wait, though they themselves go on."""
        self._barriers.arrive(self._lanes(lanes).mask(self.clocks.total), barrier)
        self._tick(ins)

    def barrier(self, ins: Instruction, arrived: Ints, waiting: Ints, barrier: int) -> None:
        """A barrier of CTAs is complete: what the lanes `arrived` did is known to those `waiting`.

        Those that came by `arrive` have told what they knew then.
        """
        go = None
        if len(waiting) < self.run.total:
            go = np.zeros(self.clocks.total, np.bool_)
            go[waiting >> LANE] = True
        self._releases.share(go)
        self._barriers.arrive(go, barrier)
        self._tick(ins)
        self._barriers.leave(go, barrier)

    def cluster_arrive(self, ins: Instruction, lanes: Lanes) -> None:
        """barrier.cluster.arrive."""
        self._barriers.arrive(self._lanes(lanes).mask(self.clocks.total), CLUSTER)
        self._tick(ins)

    def cluster_leave(self, ins: Instruction, lanes: Lanes) -> None:
        """barrier.cluster.wait, once it lets these lanes go."""
        self._barriers.leave(self._lanes(lanes).mask(self.clocks.total), CLUSTER)

    # ---- mbarriers

    def mbarrier_init(self, ins: Instruction, lanes: Lanes, offsets: Ints) -> None:
        cta, slots = self._slots(offsets)
        self._mbarriers.init(slots, cta, self._lanes(lanes).warp, self._tick(ins))

    def mbarrier_use(self, ins: Instruction, lanes: Lanes, offsets: Ints, asynchronous: bool = False) -> None:
        """An operation on mbarriers: their initialisation has to be known, to the asynchronous proxy if that counts."""
        group, (cta, slots) = self._lanes(lanes), self._slots(offsets)
        time, warp = self._mbarriers.made(slots, cta)
        columns = warp % self.clocks.actors
        grid_warp = warp + self.first // 32
        heard = self.clocks.known(np.full(len(slots), GENERIC), group.warp, grid_warp, columns) >= time
        plane = np.full(len(slots), PROXY if asynchronous else GENERIC)
        late = np.flatnonzero(self.clocks.known(plane, group.warp, grid_warp, columns) < time)
        if len(late):
            kind = "missing mbarrier_init fence" if heard[late].any() else "race"
            fence = "fence.mbarrier_init or fence.proxy.async, then " if asynchronous else ""
            self._found(
                kind,
                ins,
                group.who[late],
                f"uses an mbarrier whose mbarrier.init by warp {int(warp[late[0]])} is not ordered before it",
                "shared",
                offsets[late],
                f"{fence}a barrier between mbarrier.init and the first use",
                self._log[int(time[late[0]])],
            )

    def mbarrier_arrive(self, ins: Instruction, lanes: Lanes, offsets: Ints, copies: bool = False) -> None:
        """An arrival tells what its warp knows; copies: its cp.async are complete by then (cp.async.mbarrier)."""
        cta, slots = self._slots(offsets)
        self._mbarriers.arrive(slots, cta, self._lanes(lanes).warp, copies)
        self._tick(ins)

    def mbarrier_complete(self, ins: Instruction, offsets: Ints) -> None:
        """The phase of these mbarriers ended: every arrival and all bytes are there."""
        cta, slots = self._slots(offsets)
        self._mbarriers.complete(slots, cta)
        self._tick(ins)

    def mbarrier_wait(self, ins: Instruction, lanes: Lanes, offsets: Ints) -> None:
        """A test_wait or try_wait of these lanes succeeded."""
        cta, slots = self._slots(offsets)
        self._mbarriers.wait(slots, cta, self._lanes(lanes).warp)

    # ---- asynchronous groups

    def async_commit(self, ins: Instruction, actor: Actor, lanes: Lanes) -> None:
        """commit_group."""
        self.clocks.commit(ACTORS[actor], self._lanes(lanes).mask(self.clocks.total))
        self._tick(ins)

    def async_wait(self, ins: Instruction, actor: Actor, lanes: Lanes, pending: int | None) -> None:
        """wait_group that leaves so many groups in flight; None: everything is waited for, in a group or not."""
        planes = (GENERIC,) if actor == "cp" else (GENERIC, PROXY)
        self.clocks.wait(ACTORS[actor], self._lanes(lanes).mask(self.clocks.total), pending, planes)

    # ---- helpers

    def _found(
        self, kind: str, ins: Instruction, lanes: Ints, message: str, space: str, where: Ints, expected: str, other: Any
    ) -> None:
        """Pass a finding on; where: byte offsets of the lanes' accesses."""
        origin = self.run.arena.origin if space == "global" else self.run.shared.origin
        inner = int(where[0]) if space == "global" else int(where[0]) % self._stride
        notes = [] if other is None else [("the other access", other)]
        self.run.find(kind, message, ins, self.run.lanes(np.unique(lanes)), origin + inner, expected, notes)

    def _name(self, kind: int, who: int) -> str:
        """Who stands in a stamp, in words."""
        if kind == BYTES:
            return "a bulk copy that completes on an mbarrier"
        cta, thread = divmod(who, self.run.threads)
        what = {THREAD: "", CP: "cp.async of ", BULK: "a bulk copy of ", WGMMA: "wgmma of "}[kind]
        place = unravel(self._ctas[cta], self.run.shape.grid)
        return (
            f"{what}warp {thread // 32} of CTA {brief(place)}"
            if kind == WGMMA
            else (f"{what}thread {thread} (warp {thread // 32}) of CTA {brief(place)}")
        )

    def _tick(self, ins: Instruction) -> int:
        self._log.append(ins)
        return self.clocks.tick()

    def _lanes(self, lanes: Lanes) -> Group:
        """The group of lanes; that of the last call is remembered, as groups stay the same for long."""
        if lanes is not self._of:
            self._of = lanes
            self._group = (
                self._everyone
                if lanes.count == self.run.total
                else Group(lanes.index, self.run.total, self.clocks.actors)
            )
        return self._group

    def _shadow(self, space: Space) -> AnyShadow:
        return self.memory if space.name == "global" else self.shared

    def _slots(self, offsets: Ints) -> tuple[Ints, Ints]:
        """CTA and slot of mbarriers at offsets in shared memory."""
        return offsets // self._stride, self._mbarriers.slots(offsets % self._stride)


def used(run: Run) -> int:
    """Bytes of the arena up to the end of the last allocation, and a little more."""
    blocks = run.arena.allocations
    return (blocks[-1].end - run.arena.origin if blocks else 0) + 4096


def unravel(index: int, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return index % shape[0], index // shape[0] % shape[1], index // (shape[0] * shape[1])
