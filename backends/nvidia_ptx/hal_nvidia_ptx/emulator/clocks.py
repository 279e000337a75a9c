"""Who knows of whose actions: vector clocks of the warps of a batch of CTAs, and of what they set going.

Time is one counter that every access and every synchronisation advances, so a time names one instruction execution.
`know[plane, warp, actor]` is the time up to which the warp knows the actor's accesses: an access of that actor with a
later stamp is not ordered before what the warp does now. Actors are counted within a cluster of CTAs (beyond it nothing
but global memory is shared, see `far`): its warps; then the asynchronous units, each with a clock of its own because
their work ends at a wait and not where it is written: cp.async of a warp, bulk copies of a warp, wgmma of a warp
group, and the bytes that complete on each mbarrier.

Planes are views that differ in what a fence has made visible: `GENERIC` to the warp's own loads and stores, `PROXY` to
the asynchronous proxy (after fence.proxy.async), `DEVICE` to the rest of the GPU (after membar.gl or stronger), which
is what a relaxed atomic passes on. Barriers carry all planes, so a fence may stand anywhere on the way.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Times = NDArray[np.int32]
Mask = NDArray[np.bool_]

FOREVER = np.iinfo(np.int32).max
GENERIC, PROXY, DEVICE = 0, 1, 2
PLANES = 3
THREAD, BULK, WGMMA, CP, BYTES = 0, 1, 2, 3, 4  # kinds of actors; BYTES: what completes on an mbarrier
GROUPS = 64  # groups in flight that a warp may have; older ones are complete or waited for


class Clocks:
    """Vector clocks of `ctas` CTAs of `warps` warps in clusters of `cluster` CTAs.

    asynchronous: whether the kernel has any asynchronous instruction; without, there are columns for warps alone.
    grid: number of clusters in the whole grid, first: that of this batch's first cluster.
    """

    def __init__(self, ctas: int, warps: int, cluster: int, asynchronous: bool, grid: int = 1, first: int = 0) -> None:
        self.ctas, self.warps = ctas, warps
        self.actors = cluster * warps
        self.cluster = cluster
        self.total = ctas * warps
        self.now = 1  # what happens next is stamped with it
        self.version = 0  # changes with every change of `know`
        base = [self.actors, self.actors, -(-self.actors // 4), self.actors]
        self.base = dict(zip(range(5), np.cumsum([0, *base]).tolist(), strict=True))
        self.readers = self.base[CP] if asynchronous else self.actors  # columns that read shared memory
        self.columns = self.base[BYTES] if asynchronous else self.actors
        self.know: Times = np.zeros((PLANES, self.total, self.columns), np.int32)
        self.own = np.arange(self.total) % self.actors
        self.know[GENERIC, np.arange(self.total), self.own] = FOREVER
        self.synced = np.zeros(self.total, np.int32)  # the last time at which a warp's lanes were in step
        self.copied = np.zeros(self.total, np.int32)  # what a warp knew of its cp.async by then
        self.commits = {kind: _Commits(self.total) for kind in (CP, BULK, WGMMA)} if asynchronous else {}
        self.grid, self.first = grid, first
        self.far: Times | None = None  # [warps, clusters of the grid, far_columns]: what is known of other clusters
        self.far_columns = self.columns

    # ---- time and messages

    def tick(self) -> int:
        """Advance time; the time that just ended, which stamps what happened in it."""
        self.now += 1
        return self.now - 1

    def messages(self) -> Times:
        """What each warp would pass on now: [planes, warps, columns]."""
        sent = self.know.copy()
        sent[GENERIC, np.arange(self.total), self.own] = self.now - 1
        return sent

    def joined(self, chosen: Mask | None, width: int) -> Times:
        """The messages of the chosen warps, joined over groups of `width` warps: [planes, groups, columns]."""
        sent = self.messages()
        if chosen is not None:
            sent[:, ~chosen] = 0
        told: Times = sent.reshape(PLANES, -1, width, self.columns).max(axis=2)
        return told

    def learn(self, chosen: Mask | None, told: Times, width: int) -> None:
        """Every chosen warp takes over what its group of `width` warps is told."""
        self.version += 1
        if chosen is None:
            known = self.know.reshape(PLANES, -1, width, self.columns)
            np.maximum(known, told[:, :, None], out=known)
            return
        who = np.flatnonzero(chosen)
        self.know[:, who] = np.maximum(self.know[:, who], told[:, who // width])

    def in_step(self, chosen: Mask | None) -> None:
        """The lanes of these warps have met: what each did is known to the others."""
        which = slice(None) if chosen is None else chosen
        self.synced[which] = self.now - 1
        if self.commits:
            column = self.base[CP] + self.own[which]
            warps = np.arange(self.total)[which]
            self.copied[which] = self.know[GENERIC, warps, column]
        self.version += 1

    def fence(self, chosen: Mask | None, plane: int) -> None:
        """Make all that these warps know visible in another plane too."""
        who = np.arange(self.total) if chosen is None else np.flatnonzero(chosen)
        known = self.know[GENERIC, who]
        known[np.arange(len(who)), self.own[who]] = self.now - 1
        self.know[plane, who] = np.maximum(self.know[plane, who], known)
        self.version += 1

    # ---- beyond the cluster, by atomics alone

    def reach(self) -> Times:
        """`far`, made when something is first passed on through global memory."""
        if self.far is None:
            self.far = np.zeros((self.total, self.grid, self.far_columns), np.int32)
        return self.far

    def parcel(self, warp: int, plane: int) -> Times:
        """What a release by this warp passes on: [clusters of the grid, far_columns]."""
        sent: Times = self.reach()[warp].copy()
        mine = self.know[plane, warp, : self.far_columns].copy()
        if plane == GENERIC:
            mine[self.own[warp]] = self.now - 1
        home = self.first + warp // self.actors
        sent[home] = np.maximum(sent[home], mine)
        return sent

    def accept(self, warp: int, parcel: Times, lanes: bool) -> None:
        """An acquire by this warp; lanes: by others than the lane that released, who see what theirs have done."""
        home = self.first + warp // self.actors
        far = self.reach()
        np.maximum(far[warp], parcel, out=far[warp])
        for plane in (GENERIC, DEVICE):
            known = self.know[plane, warp, : self.far_columns]
            np.maximum(known, parcel[home], out=known)
        if lanes:
            self.synced[warp] = max(self.synced[warp], parcel[home, self.own[warp]])
        self.version += 1

    def joined_far(self, chosen: Mask | None, width: int) -> Times | None:
        """What groups of `width` warps know of other clusters: [groups, clusters, far_columns]; None: nothing."""
        if self.far is None:
            return None
        known = self.far if chosen is None else np.where(chosen[:, None, None], self.far, 0)
        told: Times = known.reshape(-1, width, *self.far.shape[1:]).max(axis=1)
        return told

    def learn_far(self, chosen: Mask | None, told: Times | None, width: int) -> None:
        if told is not None:
            who = np.arange(self.total) if chosen is None else np.flatnonzero(chosen)
            far = self.reach()
            far[who] = np.maximum(far[who], told[who // width])

    # ---- what is known

    def known(self, planes: Ints, warps: Ints, others: Ints, columns: Ints) -> Times:
        """How far each warp knows the actor in `columns` of the cluster of each of `others`, warps of the grid."""
        home = self.first + warps // self.actors
        cluster = others // self.actors
        near: Times = self.know[planes, warps, columns]
        if (home == cluster).all():
            return near
        if self.far is None:
            return np.where(home == cluster, near, 0)
        far = self.far[warps, cluster, np.minimum(columns, self.far_columns - 1)]
        return np.where(home == cluster, near, far)

    # ---- asynchronous groups

    def column(self, kind: int, warps: Ints) -> Ints:
        """The column of the actor of this kind that belongs to each warp (numbered in the batch)."""
        own = warps % self.actors
        column: Ints = self.base[kind] + (own // 4 if kind == WGMMA else own)
        return column

    def commit(self, kind: int, chosen: Mask | None) -> None:
        """What was issued so far and is in no group becomes the youngest group."""
        self.commits[kind].add(chosen, self.now - 1)

    def wait(self, kind: int, chosen: Mask | None, pending: int | None, planes: Iterable[int]) -> None:
        """All but the youngest `pending` groups are complete; None: everything that was issued is."""
        who = np.arange(self.total) if chosen is None else np.flatnonzero(chosen)
        until = np.full(len(who), self.now - 1) if pending is None else self.commits[kind].time(who, pending)
        column = self.column(kind, who)
        for plane in planes:
            self.know[plane, who, column] = np.maximum(self.know[plane, who, column], until)
        self.version += 1

    def add_columns(self, count: int) -> int:
        """Room for more actors; the first new column."""
        first = self.columns
        more = np.zeros((PLANES, self.total, count), np.int32)
        self.know = np.concatenate([self.know, more], axis=2)
        self.columns += count
        return first


class _Commits:
    """When each warp committed its groups: a ring of times."""

    def __init__(self, warps: int) -> None:
        self.count = np.zeros(warps, np.int64)
        self.times = np.zeros((warps, GROUPS), np.int32)

    def add(self, chosen: Mask | None, now: int) -> None:
        who = np.arange(len(self.count)) if chosen is None else np.flatnonzero(chosen)
        self.times[who, self.count[who] % GROUPS] = now
        self.count[who] += 1

    def time(self, who: Ints, pending: int) -> Times:
        """When the youngest group was committed that is complete while `pending` younger ones are in flight."""
        index = self.count[who] - 1 - pending
        return np.where(index >= 0, self.times[who, index % GROUPS], 0)
