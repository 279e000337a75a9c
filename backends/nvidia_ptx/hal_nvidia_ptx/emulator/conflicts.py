"""Whether an access is ordered after the earlier ones to the same place, and what it is called if not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.clocks import BULK, BYTES, CP, GENERIC, PROXY, THREAD, WGMMA, Clocks, Ints, Mask
from hal_nvidia_ptx.emulator.shadow import (
    KIND,
    LANE,
    LOW,
    TIME,
    WHO,
    Stamps,
    apart,
)

YOUNGEST = (1 << 27) - 1  # largest time that fits beside a lane's number in 32 bits
LANES, COPY, FENCE, RACE = 1, 2, 3, 4  # verdicts, the most special first; 0: ordered

KIND_NAMES = {
    LANES: "missing bar.warp.sync",
    COPY: "missing wait",
    FENCE: "missing proxy fence",
    RACE: "race",
}
EXPECTED = {
    LANES: "bar.warp.sync (or a barrier) between two lanes of a warp that meet in memory",
    COPY: "a wait for the asynchronous copy, and a barrier after it for other threads",
    FENCE: "fence.proxy.async between an ordinary access and one by the asynchronous proxy",
    RACE: "a barrier, an mbarrier, or a release and an acquire between the two",
}

# found(kind, instruction, lanes, message, space, places, expected, other instruction): places: byte offsets per lane
Found = Callable[[str, Any, Ints, str, str, Ints, str, Any], None]
Name = Callable[[int, int], str]  # kind of actor and who, in words


class Group:
    """Lanes that execute an instruction (or issued a piece of an asynchronous one); arrays have an element for each.

    who: the lanes' numbers in the batch; warp: their warps' numbers in the batch; own: those within their cluster of
    `actors` warps; lane: the lanes' numbers in their warps; total: lanes of the batch.
    """

    def __init__(self, who: Ints, total: int, actors: int) -> None:
        self.who = who
        self.warp = who >> LANE
        self.own = self.warp % actors
        self.lane = (who & 31).astype(np.uint32)
        self.everyone = len(who) == total
        self._version = -1
        self._floors: tuple[Ints, NDArray[np.uint32]] = (self.who, np.zeros(0, np.uint32))

    def mask(self, warps: int) -> Mask | None:
        """Which of the batch's warps these lanes belong to; None: all."""
        if self.everyone:
            return None
        mask = np.zeros(warps, np.bool_)
        mask[self.warp] = True
        return mask

    def floors(self, version: int, floors: Callable[[], tuple[Ints, NDArray[np.uint32]]]) -> tuple[Ints, Any]:
        """For each lane: what its warp knows of every other writer, as a stamp, and of every reader."""
        if self._version != version:
            self._version = version
            writes, reads = floors()
            self._floors = writes[self.warp], reads[self.warp]
        return self._floors


class Conflicts:
    """Compares stamps of memory with the clocks, and reports through `found`.

    first: number in the grid of the batch's first thread, warps padded. log: the instruction of each time.
    """

    def __init__(self, clocks: Clocks, found: Found, name: Name, first: int, log: Sequence[Any]) -> None:
        self.clocks, self.found, self.name, self.first, self.log = clocks, found, name, first, log
        self.writers = np.zeros(clocks.columns, np.bool_)  # columns of actors that have written
        self.readers = np.zeros(clocks.readers, np.bool_)
        self._cached: tuple[int, tuple[Ints, NDArray[np.uint32]]] = (
            -1,
            (np.zeros(0, np.int64), np.zeros(0, np.uint32)),
        )

    def wrote(self, kind: int) -> None:
        """Actors of this kind write: the floors have to look at them."""
        self._mark(self.writers, kind)

    def reads(self, kind: int) -> None:
        self._mark(self.readers, kind)

    def _mark(self, columns: Mask, kind: int) -> None:
        start = self.clocks.base[kind]
        end = self.clocks.base.get(kind + 1, len(columns))
        if not columns[start]:
            columns[start:end] = True
            self.clocks.version += 1

    def floors(self) -> tuple[Ints, NDArray[np.uint32]]:
        """Per warp: stamps of writes, and of reads of shared memory, up to these are known to it whoever made them."""
        if self._cached[0] != self.clocks.version:
            if len(self.writers) < self.clocks.columns:
                more = np.full(self.clocks.columns - len(self.writers), True)
                self.writers = np.concatenate([self.writers, more])
            know = self.clocks.know[GENERIC]
            past = self.clocks.now - 1
            writes = know[:, self.writers].min(axis=1, initial=past).astype(np.int64) << TIME | LOW
            reads = know[:, : len(self.readers)][:, self.readers].min(axis=1, initial=past)
            self._cached = self.clocks.version, (writes, reads.astype(np.uint32) << LANE | 31)
        return self._cached[1]

    # ---- against earlier writes

    def with_writes(
        self, ins: Any, space: str, group: Group, where: Ints, stamps: Ints, strong: bool, kind: int, verb: str
    ) -> None:
        """Report lanes whose access is not ordered after the writes of `stamps`, [lanes] or [lanes, pieces]."""
        suspects = self._suspects(space, group, stamps, kind)
        if suspects is None:
            return
        if stamps.ndim == 2:
            lanes, pieces = np.nonzero(suspects)
            chosen = stamps[lanes, pieces]
        else:
            lanes = np.flatnonzero(suspects)
            chosen = stamps[lanes]
        verdict = self.verdicts(group, lanes, chosen, strong, kind)
        if verdict.any():
            self._report(ins, space, group, where, lanes, chosen, verdict, verb, "wrote")

    def _suspects(self, space: str, group: Group, stamps: Ints, kind: int) -> Mask | None:
        """Elements that a quick look does not clear."""
        if space == "global" or kind in (BULK, WGMMA, BYTES):
            suspects: Mask = stamps != 0
        else:
            floor = group.floors(self.clocks.version, self.floors)[0]
            suspects = stamps > (floor if stamps.ndim == 1 else floor[:, None])
        return suspects if suspects.any() else None

    def verdicts(self, group: Group, lanes: Ints, stamps: Ints, strong: bool, kind: int) -> Ints:
        """0 or what is wrong with an access by `lanes` of the group after that of `stamps`; kind: who accesses now."""
        clocks, old = self.clocks, apart(stamps)
        warp, who = group.warp[lanes], group.who[lanes]
        other = np.where(old.kind == BYTES, old.who % clocks.ctas * clocks.warps + self.first // 32, old.who >> LANE)
        columns = self._columns(old, other)
        proxy = np.isin(old.kind, (THREAD, CP)) & (kind in (BULK, WGMMA, BYTES))
        near = self._in_batch(other)
        unordered = np.zeros(len(lanes), np.bool_)
        known = clocks.known(np.where(proxy, PROXY, GENERIC), warp, other, columns)
        unordered = known < old.time
        mine = (other - self.first // 32 == warp) & near & (old.kind != BYTES)
        stranger = mine & (old.who - self.first != who) & (kind in (THREAD, CP))
        apart_lanes = stranger & (
            ((old.kind == THREAD) & (old.time > clocks.synced[warp]))
            | ((old.kind == CP) & ~unordered & (old.time > clocks.copied[warp]))
        )
        verdict = np.where(unordered, RACE, 0)
        verdict = np.where(unordered & (old.kind != THREAD), COPY, verdict)
        visible = clocks.known(np.full(len(lanes), GENERIC), warp, other, columns) >= old.time
        verdict = np.where(unordered & proxy & visible, FENCE, verdict)
        verdict = np.where(apart_lanes, LANES, verdict)
        return np.where(old.strong & strong, 0, verdict)

    def _columns(self, old: Stamps, other: Ints) -> Ints:
        clocks = self.clocks
        own = other % clocks.actors
        base = np.array([clocks.base[kind] for kind in range(5)])
        columns = base[old.kind] + np.where(old.kind == WGMMA, own // 4, own)
        slot = old.who // clocks.ctas * clocks.cluster + old.who % clocks.ctas % clocks.cluster
        columns = np.where(old.kind == BYTES, base[BYTES] + slot, columns)
        known: Ints = np.minimum(columns, clocks.columns - 1)
        return known

    def _in_batch(self, other: Ints) -> Mask:
        warp = other - self.first // 32
        return np.asarray((warp >= 0) & (warp < self.clocks.total))

    # ---- against earlier reads

    def with_shared_reads(self, ins: Any, group: Group, where: Ints, rows: NDArray[np.uint32], kind: int) -> None:
        """Report lanes that write what another actor may still read; rows: [lanes, …, readers], times and lanes."""
        rows = rows.reshape(len(rows), -1, rows.shape[-1])
        floor = group.floors(self.clocks.version, self.floors)[1]
        if not (rows > floor[:, None, None]).any():
            return
        lanes = np.flatnonzero((rows > floor[:, None, None]).any(axis=(1, 2)))
        rows = rows[lanes].max(axis=1)  # [lanes, readers]: the last read of any piece
        warp, times = group.warp[lanes], (rows >> LANE).astype(np.int64)
        late = times > self.clocks.know[GENERIC, warp, : rows.shape[1]]
        own = self.clocks.own[warp]
        element = np.arange(len(lanes))
        lane = rows[element, own] & 31
        if kind in (THREAD, CP):
            stranger = (lane != (group.who[lanes] & 31)) & (times[element, own] > self.clocks.synced[warp])
        else:
            stranger = np.zeros(len(lanes), np.bool_)
        overdue: Mask = np.asarray(late.any(axis=1))
        bad = np.flatnonzero(overdue | stranger)
        if len(bad):
            column = np.where(overdue, late.argmax(axis=1), own)[bad]
            stamps, kinds = self._reads(column, warp[bad], rows[bad, column])
            verdict = np.where(overdue[bad], np.where(kinds == THREAD, RACE, COPY), LANES)
            self._report(ins, "shared", group, where, lanes[bad], stamps, verdict, "writes over", "read")

    def _reads(self, columns: Ints, warps: Ints, marks: NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Stamps of the reads that `marks` in these columns tell of, as seen from warps of the same clusters; kinds."""
        base, actors = self.clocks.base, self.clocks.actors
        kinds = np.where(columns < base[BULK], THREAD, np.where(columns < base[WGMMA], BULK, WGMMA))
        local = columns - np.array([base[THREAD], base[BULK], base[WGMMA]])[kinds]
        local = np.where(kinds == WGMMA, local * 4, local)
        who = (warps // actors * actors + local) * 32 + np.where(kinds == THREAD, marks & 31, 0) + self.first
        return ((marks >> LANE).astype(np.int64) << TIME) | (kinds << KIND) | who, kinds

    def with_global_reads(
        self, ins: Any, group: Group, where: Ints, reads: Ints, many: Ints, strong: bool, kind: int
    ) -> None:
        """The same in global memory; reads, many: GlobalShadow's stamps, [lanes] or [lanes, pieces]."""
        if not reads.any():
            return
        reads, many = (array.reshape(len(group.who), -1) for array in (reads, many))
        lanes, pieces = np.nonzero(reads)
        chosen, meetings = reads[lanes, pieces], many[lanes, pieces]
        verdict = self.verdicts(group, lanes, chosen, strong, kind)
        warp = group.warp[lanes]
        cta = warp // self.clocks.warps + self.first // (32 * self.clocks.warps) + 1
        floor = self._everyone_known(warp, (meetings & LOW) == cta)
        unordered = (meetings != 0) & (meetings >> TIME > floor)
        verdict = np.where((verdict == 0) & unordered, RACE, verdict)
        if verdict.any():
            self._report(ins, "global", group, where, lanes, chosen, verdict, "writes over", "read")

    def _everyone_known(self, warps: Ints, home: Mask) -> Ints:
        """How far each warp knows all warps of its CTA (home) or of the grid."""
        clocks = self.clocks
        near = clocks.know[GENERIC, :, : clocks.actors].min(axis=1)[warps]
        if clocks.far is None:
            everyone = near if clocks.grid == 1 else np.zeros(len(warps), np.int32)
        else:
            far = clocks.far[:, :, : clocks.actors].copy()
            rows = np.arange(clocks.total)
            far[rows, clocks.first + rows // clocks.actors] = clocks.know[GENERIC, :, : clocks.actors]
            everyone = far.min(axis=(1, 2))[warps]
        return np.where(home, near, everyone).astype(np.int64)

    # ---- within one instruction

    def with_itself(
        self, ins: Any, space: str, group: Group, where: Ints, after: Ints, mine: Ints, values: NDArray[Any] | None
    ) -> None:
        """Lanes that store to one place in one instruction: a race between warps, and within a warp unless all store
        the same. after: stamps read back; mine: each lane's own.
        """
        lost = after != (mine if after.ndim == 1 else mine[:, None])
        if not lost.any():
            return
        if after.ndim == 2:
            lanes, pieces = np.nonzero(lost)
            winner = after[lanes, pieces]
        else:
            lanes = np.flatnonzero(lost)
            winner = after[lanes]
        other = (winner & WHO) - self.first
        within = other >> LANE == group.warp[lanes]
        position = np.minimum(np.searchsorted(group.who, other), len(group.who) - 1)
        if values is None:
            same = np.zeros(len(lanes), np.bool_)
        else:
            bits = values.view(f"u{values.dtype.itemsize}").reshape(len(values), -1)
            same = (bits[lanes] == bits[position]).all(axis=1)
        races = np.flatnonzero(~within)
        if len(races):
            verdict = np.full(len(races), RACE)
            self._report(ins, space, group, where, lanes[races], winner[races], verdict, "writes over", "wrote")
        differ = np.flatnonzero(within & ~same)
        if len(differ):
            chosen = lanes[differ]
            self.found(
                "conflicting lanes",
                ins,
                group.who[chosen],
                "lanes of a warp store different values to one address in one instruction: which one stays?",
                space,
                where[chosen],
                "one lane that stores, or one value",
                None,
            )

    # ---- words

    def _report(
        self,
        ins: Any,
        space: str,
        group: Group,
        where: Ints,
        lanes: Ints,
        stamps: Ints,
        verdict: Ints,
        verb: str,
        other: str,
    ) -> None:
        """One finding for each verdict and each instruction on the other side."""
        bad = np.flatnonzero(verdict)
        keys = np.unique(verdict[bad] << 32 | stamps[bad] >> TIME).tolist()
        for key in keys:
            code, time = key >> 32, key & LOW
            if code == LANES and RACE << 32 | time in keys:  # what orders the warps orders their lanes too
                continue
            these = bad[(verdict[bad] == code) & (stamps[bad] >> TIME == time)]
            old = apart(stamps[these[:1]])
            culprit = self.name(int(old.kind[0]), int(old.who[0]))
            chosen, first = np.unique(lanes[these], return_index=True)
            self.found(
                KIND_NAMES[code],
                ins,
                group.who[chosen],
                f"{verb} {space} memory that {culprit} {other}, and nothing orders the two",
                space,
                where[lanes[these][first]],
                EXPECTED[code],
                self.log[time],
            )
