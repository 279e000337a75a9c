"""Groups of asynchronous operations: what was committed together, and which of it a wait for `pending` groups covers.

Threads (cp.async, bulk copies) or warps (wgmma) count their groups each for itself; one instruction run by many of them
is one entry, with the group's number for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Work = TypeVar("Work")
EVERYTHING = np.iinfo(np.int64).max


@dataclass(slots=True, eq=False)
class Entry(Generic[Work]):
    """work: done by the actors `who` in their groups number `group`; number: in order of issue."""

    work: Work
    who: Array
    group: Array
    number: int


class Groups(Generic[Work]):
    """The operations of one kind in flight, oldest first. part: gives the part of a work for a mask of its actors."""

    def __init__(self, actors: int, part: Callable[[Work, Array], Work]) -> None:
        self.entries: list[Entry[Work]] = []
        self._committed = np.zeros(actors, np.int64)
        self._part = part
        self.issued = 0

    def add(self, who: Array, work: Work) -> None:
        """An operation in the groups that the actors have not committed yet."""
        self.issued += 1
        self.entries.append(Entry(work, who, self._committed[who], self.issued))

    def commit(self, who: Array) -> None:
        self._committed[who] += 1

    def wait(self, who: Array, pending: int) -> list[Work]:
        """Take what is in all but the youngest `pending` groups of these actors."""
        if not self.entries:
            return []
        limit = np.full(len(self._committed), -1)
        limit[who] = self._committed[who] - pending
        return self._take(limit, EVERYTHING)

    def covered(self, who: Array, pending: int) -> list[Work]:
        """As `wait`, but everything stays."""
        limit = np.full(len(self._committed), -1)
        limit[who] = self._committed[who] - pending
        return [entry.work for entry in self.entries if bool((entry.group < limit[entry.who]).any())]

    def drain(self, who: Array, until: int = EVERYTHING) -> list[Work]:
        """Take everything that these actors issued, committed or not, up to operation number `until`."""
        limit = np.full(len(self._committed), -1)
        limit[who] = EVERYTHING
        return self._take(limit, until)

    def open(self) -> list[Work]:
        """What is in flight and in no group yet."""
        return [e.work for e in self.entries if bool((e.group == self._committed[e.who]).any())]

    def _take(self, limit: Array, until: int) -> list[Work]:
        taken: list[Work] = []
        rest: list[Entry[Work]] = []
        for entry in self.entries:
            due = entry.group < limit[entry.who]
            if entry.number > until or not due.any():
                rest.append(entry)
            elif due.all():
                taken.append(entry.work)
            else:
                taken.append(self._part(entry.work, due))
                left = ~due
                rest.append(Entry(self._part(entry.work, left), entry.who[left], entry.group[left], entry.number))
        self.entries = rest
        return taken
