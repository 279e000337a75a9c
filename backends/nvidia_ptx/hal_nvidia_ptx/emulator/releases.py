"""What warps tell each other through atomics, volatile accesses and fences, between CTAs as well."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from hal_nvidia_ptx.emulator.clocks import DEVICE, GENERIC, Clocks, Ints, Mask, Times
from hal_nvidia_ptx.emulator.conflicts import Group
from hal_nvidia_ptx.emulator.syntax import Instruction

# What lies at an address for whoever acquires there: what is known, and the one CTA that may take it, -1 for all.
Parcels: TypeAlias = "dict[int, tuple[Times, int]]"


class Releases:
    """Passes on what a release knew to the acquires that see its value.

    A relaxed access gives what its warp has fenced off, and keeps what it takes until the warp's next fence. memory:
    parcels by offset in global memory, which outlive the batch.
    """

    def __init__(self, clocks: Clocks, memory: Parcels) -> None:
        self.clocks = clocks
        self._parcels: dict[str, Parcels] = {"global": memory, "shared": {}}
        self._fenced = False
        self._owed: dict[int, Times] = {}  # per warp: what relaxed reads saw

    def access(self, ins: Instruction, space: str, group: Group, offsets: Ints, kind: str) -> None:
        """A strong access, in order of lanes: a read takes, a write gives, an atomic does both."""
        acquires, releases = ins.has("acquire", "acq_rel"), ins.has("release", "acq_rel")
        parcels = self._parcels[space]
        if not (acquires or releases or self._fenced or parcels):
            return
        within = ins.has("cta") and not ins.has("gpu", "sys", "cluster")
        for lane in np.sort(np.unique(group.warp << 40 | offsets, return_index=True)[1]):
            place, warp = int(offsets[lane]), int(group.warp[lane])
            cta = warp // self.clocks.warps
            parcel, only = parcels.get(place, (None, -1))
            taken = parcel if kind != "write" and only in (-1, cta) else None
            if taken is not None:
                self._take(warp, taken, acquires)
            if kind != "read":
                given = self.clocks.parcel(warp, GENERIC if releases else DEVICE)
                parcels[place] = given if taken is None else np.maximum(given, taken), cta if within else -1

    def _take(self, warp: int, parcel: Times, acquires: bool) -> None:
        if acquires:
            self.clocks.accept(warp, parcel)
        else:
            self._owed[warp] = np.maximum(self._owed.get(warp, parcel), parcel)

    def fence(self, group: Group) -> None:
        """A fence of these lanes makes what their relaxed reads saw known."""
        self._fenced = True
        warps = set(group.warp.tolist()) if self._owed else set()
        for warp in [warp for warp in self._owed if warp in warps]:
            self.clocks.accept(warp, self._owed.pop(warp))

    def share(self, chosen: Mask | None) -> None:
        """The chosen warps meet at barriers of their CTAs: what one has read with a relaxed access is there for all."""
        width = self.clocks.warps
        for warp, parcel in list(self._owed.items()):
            first = warp // width * width
            for other in range(first, first + width):
                if chosen is None or chosen[other]:
                    self._owed[other] = np.maximum(self._owed.get(other, parcel), parcel)
