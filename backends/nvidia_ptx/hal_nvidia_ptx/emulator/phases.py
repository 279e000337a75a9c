"""What warps tell each other through barriers and mbarriers: the arrivals of a phase happen before its waits."""

from __future__ import annotations

import numpy as np

from hal_nvidia_ptx.emulator.clocks import BYTES, CP, GENERIC, PLANES, PROXY, Clocks, Ints, Mask, Times
from hal_nvidia_ptx.emulator.shadow import LOW

CLUSTER = -1  # number of the cluster's barrier


class Barriers:
    """What passes through the barriers of CTAs, by number, and through the cluster's."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self._told: dict[int, tuple[Times, Times | None]] = {}

    def arrive(self, chosen: Mask | None, barrier: int) -> None:
        """The chosen warps (None: all) tell what they know."""
        width = self._width(barrier)
        near, far = self.clocks.joined(chosen, width), self.clocks.joined_far(chosen, width)
        if barrier in self._told:
            old_near, old_far = self._told[barrier]
            near = np.maximum(old_near, near)
            far = far if old_far is None or far is None else np.maximum(old_far, far)
        self._told[barrier] = near, far

    def leave(self, chosen: Mask | None, barrier: int) -> None:
        """The barrier lets the chosen warps go; a CTA's barrier begins its next round then."""
        width = self._width(barrier)
        near, far = self._told[barrier]
        self.clocks.learn(chosen, near, width)
        self.clocks.learn_far(chosen, far, width)
        self.clocks.in_step(chosen)
        if barrier == CLUSTER:  # others may leave later; what was told by then is kept
            return
        done = slice(None) if chosen is None else np.unique(np.flatnonzero(chosen) // width)
        near[:, done] = 0
        if far is not None:
            far[done] = 0

    def _width(self, barrier: int) -> int:
        return self.clocks.actors if barrier == CLUSTER else self.clocks.warps


class Mbarriers:
    """What passes through mbarriers.

    A slot is an offset in shared memory, where each CTA has an mbarrier of its own; slots and CTAs come as arrays with
    an element per lane or mbarrier.
    """

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self._slot: dict[int, int] = {}
        self.time: Ints = np.zeros((0, clocks.ctas), np.int64)  # of mbarrier.init, and the warp that did it
        self.warp: Ints = np.zeros((0, clocks.ctas), np.int64)
        self._pending: list[Times] = []  # per slot [planes, CTAs, columns]
        self._done: list[Times] = []

    def slots(self, where: Ints) -> Ints:
        """The slot of each offset."""
        offsets, inverse = np.unique(where, return_inverse=True)
        return np.array([self._slot_of(int(offset)) for offset in offsets])[inverse.reshape(-1)]

    def _slot_of(self, offset: int) -> int:
        if offset not in self._slot:
            self._slot[offset] = len(self._slot)
            self.clocks.add_columns(self.clocks.cluster)
            for array in (self._pending, self._done):
                array.append(np.zeros((PLANES, self.clocks.ctas, self.clocks.columns), np.int32))
            self.time, self.warp = (
                np.vstack([old, np.zeros((1, self.clocks.ctas), np.int64)]) for old in (self.time, self.warp)
            )
        return self._slot[offset]

    def init(self, slots: Ints, cta: Ints, warp: Ints, time: int) -> None:
        self.time[slots, cta] = time
        self.warp[slots, cta] = warp

    def made(self, slots: Ints, cta: Ints) -> tuple[Ints, Ints]:
        """Time of the mbarrier.init (0: none was seen) and the warp that did it."""
        return self.time[slots, cta], self.warp[slots, cta]

    def arrive(self, slots: Ints, cta: Ints, warp: Ints, copies: bool) -> None:
        sent = self.clocks.messages()
        if copies:
            who = np.unique(warp)
            sent[GENERIC, who, self.clocks.column(CP, who)] = self.clocks.now - 1
        for slot, home, who in self._pairs(slots, cta, warp):
            pending = self._widened(self._pending, slot)
            order = np.argsort(home, kind="stable")
            starts = np.flatnonzero(np.diff(home[order], prepend=-1))
            told = np.maximum.reduceat(sent[:, who[order]], starts, axis=1)
            ctas = home[order][starts]
            pending[:, ctas] = np.maximum(pending[:, ctas], told)

    def complete(self, slots: Ints, cta: Ints) -> None:
        for slot in np.unique(slots):
            ctas = np.unique(cta[slots == slot])
            pending, done = self._widened(self._pending, slot), self._widened(self._done, slot)
            done[:, ctas] = np.maximum(done[:, ctas], pending[:, ctas])
            column = self.clocks.base[BYTES] + slot * self.clocks.cluster + ctas % self.clocks.cluster
            for plane in (GENERIC, PROXY):
                done[plane, ctas, column] = self.clocks.now - 1
            pending[:, ctas] = 0

    def wait(self, slots: Ints, cta: Ints, warp: Ints) -> None:
        know = self.clocks.know
        for slot, home, who in self._pairs(slots, cta, warp):
            know[:, who] = np.maximum(know[:, who], self._widened(self._done, slot)[:, home])
        self.clocks.version += 1

    def _pairs(self, slots: Ints, cta: Ints, warp: Ints) -> list[tuple[int, Ints, Ints]]:
        """For each slot the CTAs and warps that meet there, each pair once."""
        pairs = []
        for slot in np.unique(slots):
            here = slots == slot
            keys = np.unique(cta[here].astype(np.int64) << 32 | warp[here])
            pairs.append((int(slot), keys >> 32, keys & LOW))
        return pairs

    def _widened(self, arrays: list[Times], slot: int) -> Times:
        """The slot's array with all columns there are by now."""
        array = arrays[slot]
        missing = self.clocks.columns - array.shape[2]
        if missing:
            arrays[slot] = array = np.pad(array, ((0, 0), (0, 0), (0, missing)))
        return array
