"""What happened last to each piece of memory: stamps of the last write, and of the reads since.

Memory is watched in granules: the smallest access of the kernel to that space, so that two neighbours which different
warps write are never one. Every access is aligned to its size, hence covers whole granules, and arrays of stamps can be
viewed in rows as long as the access.

A stamp is an int64: the time (31 bits), the kind of actor (3), strong (1: an atomic, volatile, relaxed or stronger
access), who (28: the thread's number in the grid, warps padded to 32 lanes; for `BYTES` the mbarrier's). Stamps compare
as their times do; 0 is never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.clocks import Ints

TIME, KIND, STRONG = 32, 29, 28
WHO = (1 << STRONG) - 1
LOW = (1 << TIME) - 1
WIDEST = 32  # bytes of the widest access; shadows are padded to it
LANE = 5  # bits of a lane's number within its warp
MIXED = LOW  # readers of more than one CTA


def stamp(time: int, kind: int, strong: bool, who: Ints) -> Ints:
    """The stamp of each access of one instruction."""
    return who + ((time << TIME) | (kind << KIND) | (int(strong) << STRONG))


@dataclass(frozen=True, slots=True)
class Stamps:
    """Stamps taken apart; all of one shape."""

    time: Ints
    kind: Ints
    strong: NDArray[np.bool_]
    who: Ints


def apart(stamps: Ints) -> Stamps:
    return Stamps(stamps >> TIME, (stamps >> KIND) & 7, (stamps >> STRONG) & 1 != 0, stamps & WHO)


class Shadow:
    """Stamps of writes for `nbytes` of memory in granules of `granule` bytes (a power of two up to 16)."""

    name: Literal["shared", "global"]

    def __init__(self, nbytes: int, granule: int) -> None:
        self.granule = granule
        self.nbytes = -(-max(nbytes, 1) // WIDEST) * WIDEST
        self.count = self.nbytes // granule
        self.written: Ints = np.zeros(self.count, np.int64)

    def index(self, where: Ints, size: int) -> tuple[Ints, int]:
        """Rows, and how many granules each has, that accesses of `size` bytes at byte offsets `where` cover.

        Ranges that are longer than an access of one thread, or not aligned to their size, become rows [n, granules].
        """
        length = max(size // self.granule, 1)
        if size <= WIDEST and size & (size - 1) == 0 and not np.any(where & (size - 1)):
            return where // max(size, self.granule), length
        return (where // self.granule)[:, None] + np.arange(length), 1

    def rows(self, array: NDArray[Any], length: int) -> NDArray[Any]:
        """A view in rows of `length` granules; [count] for rows of one."""
        return array if length == 1 else array.reshape(array.shape[0] // length, length, *array.shape[1:])


class SharedShadow(Shadow):
    """Shared memory of all CTAs, one behind the other; reads exactly, by each of `readers` actors.

    read[granule, actor]: the time of the actor's last read and, below, the lane's number in its warp (uint32).
    """

    name: Literal["shared", "global"] = "shared"

    def __init__(self, nbytes: int, granule: int, readers: int) -> None:
        super().__init__(nbytes, granule)
        self.readers = readers
        self.read = np.zeros((self.count, readers), np.uint32)


class GlobalShadow(Shadow):
    """The arena of global memory. Reads: the stamp of the last, and where unordered ones met, of which CTAs and when.

    many[granule]: time of the last such meeting, and the one CTA of all readers plus 1, or MIXED.
    """

    name: Literal["shared", "global"] = "global"

    def __init__(self, nbytes: int, granule: int) -> None:
        super().__init__(nbytes, granule)
        self.read: Ints = np.zeros(self.count, np.int64)
        self.many: Ints = np.zeros(self.count, np.int64)
        self.released: dict[int, Any] = {}  # what atomics pass on, by offset: see releases.py
