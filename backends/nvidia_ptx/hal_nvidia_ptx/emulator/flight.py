"""What asynchronous instructions have begun and not finished, in one batch of CTAs.

Mode "late" puts every effect off to the last moment that the program's waits allow; in the other modes everything
happens at issue. What completes when something is waited for (groups) is kept by groups.py; this file has the mbarriers
and what completes on them, which happens when no thread can go on otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.inflight import InFlight, Stores
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.mbarrier import NBYTES, Mbarrier, MbarrierFault
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]
POLLS = 4  # times that a wait at one line may fail while nothing happens to any mbarrier


@dataclass(slots=True, eq=False)
class Transfer:
    """A copy that completes `nbytes` on the mbarrier at `barrier` (an offset in shared memory) when it has landed.

    land: moves the data; finish: what happens on the barrier, its complete_tx or an arrival.
    """

    ins: Instruction
    lanes: Lanes
    barrier: int
    land: Callable[[], None]
    finish: Callable[[], None]


class Flight(InFlight):
    """The state of asynchronous instructions in one batch; `flight(run)` gives it.

    barriers: the mbarriers that are initialised, by offset in shared memory; progress: counts whatever happens to them;
    counters: those of the launch, which do not look for faults.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.barriers: dict[int, Mbarrier] = {}
        self.progress = 0
        self.transfers: list[Transfer] = []
        self._given_up: dict[int, tuple[int, int]] = {}
        self.counters = run.counters
        if self.late:
            run.counters = Stores(self, run.counters)
        run.on_idle(self._deliver_one)
        run.at_exit(self._at_exit)

    def check_free(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int, verb: str) -> None:
        """Find writes to bytes in flight and to mbarriers."""
        super().check_free(ins, lanes, offsets, nbytes, verb)
        if self.barriers:
            self._check_barriers(ins, lanes, offsets, nbytes, verb)

    def _check_barriers(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int, verb: str) -> None:
        places = np.fromiter(self.barriers, np.int64, len(self.barriers))
        low = int(offsets.min()), int(offsets.max()) + nbytes
        near = places[(places + NBYTES > low[0]) & (places < low[1])]
        for place in near.tolist():
            if ((offsets < place + NBYTES) & (place < offsets + nbytes)).any():
                made = self.barriers[place].made
                notes = [("it was initialised here", made)] if made is not None else []
                expected = "mbarrier.inval before its memory is used for anything else"
                self.run.find(
                    "write to an mbarrier", f"{verb} an mbarrier", ins, lanes, self.address(place), expected, notes
                )
                return

    # mbarriers.

    def barrier(self, ins: Instruction, lanes: Lanes, offset: int) -> Mbarrier | None:
        """The mbarrier there; None, and a finding, where there is none."""
        found = self.barriers.get(offset)
        if found is None:
            message = f"{ins.opcode} where no mbarrier is: none was initialised there, or it was made invalid"
            expected = "mbarrier.init before, and a barrier after it for other threads"
            self.run.find("uninitialised mbarrier", message, ins, lanes, self.address(offset), expected)
        return found

    def retire(self, offset: int) -> None:
        """mbarrier.inval."""
        self._unbalanced(offset, self.barriers.pop(offset))
        self.progress += 1

    def change(self, ins: Instruction, lanes: Lanes, offset: int, action: Callable[[Mbarrier], None]) -> None:
        """Something happens to an mbarrier; whoever waits for it may go on."""
        found = self.barrier(ins, lanes, offset)
        if found is None:
            return
        phase = found.phase
        try:
            action(found)
        except MbarrierFault as fault:
            self.run.find("mbarrier", str(fault), ins, lanes, self.address(offset), fault.expected)
        self.progress += 1
        if found.phase != phase:
            watch = hazards(self.run)
            if watch is not None:
                watch.mbarrier_complete(ins, np.array([offset]))
            self.run.poke()

    # Transfers.

    def send(self, transfer: Transfer) -> None:
        """Begin a transfer: at once, or when somebody cannot go on without it."""
        if self.late:
            self.transfers.append(transfer)
        else:
            transfer.land()
            transfer.finish()

    def deliver(self, transfer: Transfer) -> None:
        self.transfers.remove(transfer)
        transfer.land()
        transfer.finish()
        self.progress += 1

    def _deliver_one(self) -> bool:
        """The oldest transfer that somebody waits for, else the oldest of all, else a wait that may be given up."""
        if not self.transfers:
            return self._give_up_one()
        awaited = self._awaited()
        chosen = next((t for t in self.transfers if t.barrier in awaited), self.transfers[0])
        self.deliver(chosen)
        return True

    def _give_up_one(self) -> bool:
        """A test or try of an mbarrier says no, though not again and again while nothing happens."""
        for parked in self.run.parked:
            give_up = getattr(parked.ready, "give_up", None)
            if give_up is None:
                continue
            since, times = self._given_up.get(parked.ins.pc, (-1, 0))
            times = times + 1 if since == self.progress else 1
            if times <= POLLS:
                self._given_up[parked.ins.pc] = self.progress, times
                give_up(parked)
                self.run.unpark(parked)
                return True
        for offset in sorted(self._awaited()):
            if offset in self.barriers:
                self._unbalanced(offset, self.barriers[offset])
        return False

    def _awaited(self) -> set[int]:
        """The mbarriers that parked lanes wait for."""
        awaited: set[int] = set()
        for parked in self.run.parked:
            awaited.update(getattr(parked.ready, "awaited", ()))
        return awaited

    def _at_exit(self) -> None:
        self.run.counters = self.counters
        for transfer in self.transfers:
            self.run.find(
                "copy in flight at the end",
                "the kernel ended before this asynchronous copy was waited for",
                transfer.ins,
                transfer.lanes,
                expected="a wait on the mbarrier for every copy before the end",
            )
        for offset, barrier in self.barriers.items():
            self._unbalanced(offset, barrier)

    def _unbalanced(self, offset: int, barrier: Mbarrier) -> None:
        missing = barrier.transactions
        if missing and barrier.user is not None and not self.transfers:
            what = "were expected that no copy brought" if missing > 0 else "arrived that nobody expected"
            expected = "expect_tx of exactly the bytes that the copies bring"
            message = f"phase {barrier.phase}: {abs(missing)} bytes {what}; {barrier.bytes_missing()}"
            self.run.find("mbarrier bytes", message, barrier.user, None, self.address(offset), expected)


def flight(run: Run) -> Flight:
    """The batch's Flight, made at the first use."""
    found = run.state.get("flight")
    if found is None:
        found = run.state["flight"] = Flight(run)
    return cast("Flight", found)
