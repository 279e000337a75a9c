"""What warps tell each other through atomics, volatile accesses and fences, between CTAs as well."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from hal_nvidia_ptx.emulator.clocks import DEVICE, GENERIC, Clocks, Ints, Mask, Times
from hal_nvidia_ptx.emulator.conflicts import Group
from hal_nvidia_ptx.emulator.syntax import Instruction

MANY = -1


class Parcel(NamedTuple):
    """What lies at an address for whoever acquires there: what is known, the one CTA that may take it (-1: all may),
    and the thread of the batch that put it there (-1: several did)."""

    known: Times
    cta: int
    giver: int


Parcels: TypeAlias = "dict[int, Parcel]"


class Releases:
    """Passes on what a release knew to the acquires that see its value.

    A relaxed access gives what its warp has fenced off, and keeps what it takes until the warp's next fence. memory:
    parcels by offset in global memory, which outlive the batch.
    """

    def __init__(self, clocks: Clocks, memory: Parcels) -> None:
        self.clocks = clocks
        self._parcels: dict[str, Parcels] = {"global": memory, "shared": {}}
        self._fenced = False
        self._owed: dict[int, tuple[Times, bool]] = {}  # per warp: what relaxed reads saw, and `accept`'s `lanes`

    def access(self, ins: Instruction, space: str, group: Group, offsets: Ints, kind: str) -> None:
        """A strong access, in order of lanes: a read takes, a write gives, an atomic does both."""
        acquires, releases = ins.has("acquire", "acq_rel"), ins.has("release", "acq_rel")
        parcels = self._parcels[space]
        if not (acquires or releases or self._fenced or parcels):
            return
        within = ins.has("cta") and not ins.has("gpu", "sys", "cluster")
        _, first, count = np.unique(group.warp << 40 | offsets, return_index=True, return_counts=True)
        for at in np.argsort(first):
            lane, lanes = first[at], int(count[at])
            place, warp, who = int(offsets[lane]), int(group.warp[lane]), int(group.who[lane])
            cta = warp // self.clocks.warps
            old = parcels.get(place)
            taken = old if old is not None and kind != "write" and old.cta in (MANY, cta) else None
            if taken is not None:
                self._take(warp, taken.known, acquires, lanes > 1 or taken.giver != who)
            if kind != "read":
                given = self.clocks.parcel(warp, GENERIC if releases else DEVICE)
                giver = who if lanes == 1 and (taken is None or taken.giver == who) else MANY
                known = given if taken is None else np.maximum(given, taken.known)
                parcels[place] = Parcel(known, cta if within else MANY, giver)

    def _take(self, warp: int, known: Times, acquires: bool, lanes: bool) -> None:
        if acquires:
            self.clocks.accept(warp, known, lanes)
        else:
            self._owe(warp, known, lanes)

    def _owe(self, warp: int, known: Times, lanes: bool) -> None:
        old, before = self._owed.get(warp, (known, False))
        self._owed[warp] = np.maximum(old, known), lanes or before

    def fence(self, group: Group) -> None:
        """A fence of these lanes makes what their relaxed reads saw known."""
        self._fenced = True
        warps = set(group.warp.tolist()) if self._owed else set()
        for warp in [warp for warp in self._owed if warp in warps]:
            self.clocks.accept(warp, *self._owed.pop(warp))

    def share(self, chosen: Mask | None) -> None:
        """The chosen warps meet at barriers of their CTAs: what one has read with a relaxed access is there for all."""
        width = self.clocks.warps
        for warp, (known, _) in list(self._owed.items()):
            first = warp // width * width
            for other in range(first, first + width):
                if chosen is None or chosen[other]:
                    self._owe(other, known, False)
