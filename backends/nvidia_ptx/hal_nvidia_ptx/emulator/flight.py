"""What asynchronous instructions have begun and not finished, in one batch of CTAs.

Mode "late" puts every effect off to the last moment that the program's waits allow. Until then the destination's bytes
have the state IN_FLIGHT, so that reading them is found, and the source's are counted here, so that writing over them
is. In the other modes everything happens at issue and nothing is ever in flight.

What completes when something is waited for (groups) is kept by groups.py; this file has what completes on mbarriers,
which happens when no thread can go on otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.hooks import Hazards
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.mbarrier import NBYTES, Mbarrier, MbarrierFault
from hal_nvidia_ptx.emulator.memory import CLUSTER_SHIFT, IN_FLIGHT, SHARED_WINDOW, WRITTEN, Space, pattern
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]
Actor: TypeAlias = Literal["cp", "bulk", "wgmma", "mbar"]
CHUNK = 16  # bytes; the unit in which sources are counted
POLLS = 4  # times that a wait at one line may fail while nothing happens to any mbarrier


class AsyncHazards(Hazards, Protocol):
    """What the race detector is told of asynchronous instructions, besides hooks.Hazards; see races.py."""

    def async_access(
        self,
        ins: Instruction,
        actor: Actor,
        space: Space,
        issuers: Array,
        offsets: Array,
        nbytes: int,
        kind: Literal["read", "write"],
        mbarriers: Array | None = None,
    ) -> None: ...

    def async_commit(self, ins: Instruction, actor: Actor, lanes: Lanes) -> None: ...

    def async_wait(self, ins: Instruction, actor: Actor, lanes: Lanes, pending: int | None) -> None: ...

    def mbarrier_init(self, ins: Instruction, lanes: Lanes, offsets: Array) -> None: ...

    def mbarrier_use(self, ins: Instruction, lanes: Lanes, offsets: Array, asynchronous: bool = False) -> None: ...

    def mbarrier_arrive(self, ins: Instruction, lanes: Lanes, offsets: Array, copies: bool = False) -> None: ...

    def mbarrier_complete(self, ins: Instruction, offsets: Array) -> None: ...

    def mbarrier_wait(self, ins: Instruction, lanes: Lanes, offsets: Array) -> None: ...

    def cluster_arrive(self, ins: Instruction, lanes: Lanes) -> None: ...

    def cluster_leave(self, ins: Instruction, lanes: Lanes) -> None: ...


def hazards(run: Run) -> AsyncHazards | None:
    """The race detector, None unless it is on."""
    return cast("AsyncHazards | None", run.hazards)


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes of shared memory that belong to an instruction in flight: nbytes at each of the offsets."""

    ins: Instruction
    offsets: Array
    nbytes: int

    def has(self, offset: int) -> bool:
        return bool(((self.offsets <= offset) & (offset < self.offsets + self.nbytes)).any())


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


class Flight:
    """The state of asynchronous instructions in one batch; `flight(run)` gives it.

    barriers: the mbarriers that are initialised, by offset in shared memory; progress: counts whatever happens to them.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.late = run.mode == "late"
        self.barriers: dict[int, Mbarrier] = {}
        self.progress = 0
        self.transfers: list[Transfer] = []
        self._landing: list[Piece] = []
        self._sources: list[Piece] = []
        self._given_up: dict[int, tuple[int, int]] = {}
        self._readers = np.zeros(len(run.shared.bytes) // CHUNK, np.uint8)
        run.on_idle(self._deliver_one)
        run.at_exit(self._at_exit)

    # Addresses of shared memory, of any CTA of the cluster.

    def offsets(self, ins: Instruction, space: str, lanes: Lanes, addresses: Array, nbytes: int, align: int) -> Array:
        """Offsets into run.shared of accesses that may be longer than a thread's own. Stops the run at wild ones.

        space: "shared", "shared::cta", "shared::cluster", or "" for generic addresses.
        """
        run = self.run
        if not space:
            addresses = addresses - SHARED_WINDOW
        rank = (addresses >> CLUSTER_SHIFT) - 1
        inner = (addresses & ((1 << CLUSTER_SHIFT) - 1)) - run.shared.origin
        size = run.shape.cluster_size
        own = lanes.cta
        cta = np.where(rank < 0, own, own // size * size + rank)
        good = (inner >= 0) & (inner + nbytes <= run.shared.size) & (rank < size)
        if not good.all():
            self._wild(ins, lanes, addresses, good, nbytes)
        aligned = (inner + run.shared.origin) % align == 0
        if not aligned.all():
            bad = int(addresses[int(np.argmin(aligned))])
            what = f"{nbytes} bytes of shared memory at {bad:#x}"
            run.find("misaligned", what, ins, lanes.where(~aligned), bad, f"a multiple of {align}")
        result: Array = cta * run.shared.stride + inner
        return result

    def _wild(self, ins: Instruction, lanes: Lanes, addresses: Array, good: Array, nbytes: int) -> None:
        from hal_nvidia_ptx.emulator.machine import Stop

        run, bad = self.run, int(addresses[int(np.argmin(good))])
        expected = f"shared memory from {run.shared.origin:#x} to {run.shared.origin + run.shared.size:#x}"
        run.find("out of bounds", f"{nbytes} bytes at {bad:#x}", ins, lanes.where(~good), bad, expected)
        raise Stop

    def address(self, offset: int) -> int:
        """The shared address of an offset, as its own CTA would write it."""
        return offset % self.run.shared.stride + self.run.shared.origin

    # Bytes in flight.

    def take_off(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int) -> Piece:
        """A copy will write these bytes: nobody else may until it has landed, and nobody may be reading them."""
        self._check_free(ins, lanes, offsets, nbytes, "copies to")
        piece = Piece(ins, offsets, nbytes)
        if self.late:
            self._mark(offsets, nbytes, IN_FLIGHT)
            self._landing.append(piece)
        return piece

    def landed(self, piece: Piece, offsets: Array | None = None) -> None:
        """The copy has written its bytes (or those at some of its offsets)."""
        here = piece.offsets if offsets is None else offsets
        self._mark(here, piece.nbytes, WRITTEN)
        if not self.late:
            return
        if len(here) == len(piece.offsets):
            self._landing.remove(piece)
        else:
            piece.offsets = piece.offsets[~np.isin(piece.offsets, here)]

    def hold(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int) -> Piece:
        """Something asynchronous reads these bytes (whole chunks) until it is let go."""
        self.check_written(ins, lanes, offsets, nbytes)
        piece = Piece(ins, offsets, nbytes)
        if self.late:
            self._count(piece, 1)
            self._sources.append(piece)
        return piece

    def let_go(self, piece: Piece) -> None:
        if self.late:
            self._count(piece, -1)
            self._sources.remove(piece)

    def check_written(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int) -> None:
        """Find reads of bytes that are in flight or that nobody wrote."""
        if self._all(offsets, nbytes, WRITTEN):
            return
        for offset in offsets.tolist():
            states = self.run.shared.shadow[offset : offset + nbytes]
            wrong = np.flatnonzero(states != WRITTEN)
            if len(wrong):
                self._unwritten(ins, lanes, offset + int(wrong[0]), int(states[wrong[0]]))
                return

    def _unwritten(self, ins: Instruction, lanes: Lanes, offset: int, state: int) -> None:
        notes = self.writers(offset)
        if state == IN_FLIGHT:
            kind, message = "read in flight", "shared memory is read that an asynchronous copy has not finished writing"
            expected = "a wait for the copy before the read"
        else:
            kind, message = "uninitialised read", "shared memory is read that nothing was written to"
            expected = "a write to all of it before"
        self.run.find(kind, message, ins, lanes, self.address(offset), expected, notes)

    def writers(self, offset: int) -> list[tuple[str, Instruction]]:
        """Notes that name the copy in flight to a byte."""
        return [("this copy is in flight", piece.ins) for piece in self._landing if piece.has(offset)][:1]

    def written(self, ins: Instruction, space: Space, lanes: Lanes, offsets: Array, nbytes: int) -> None:
        """A thread's own store, looked at before it happens."""
        if space is self.run.shared and (self._landing or self._sources or self.barriers):
            self._check_free(ins, lanes, offsets, nbytes, "writes to")

    def _check_free(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int, verb: str) -> None:
        if self._landing and self._any_landing(offsets, nbytes):
            self._not_free(ins, lanes, offsets, nbytes, self._landing, f"{verb} bytes that a copy in flight writes")
        if self._sources and self._any_read(offsets, nbytes):
            self._not_free(ins, lanes, offsets, nbytes, self._sources, f"{verb} bytes that are still being read")
        if self.barriers:
            self._check_barriers(ins, lanes, offsets, nbytes, verb)

    def _not_free(
        self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int, pieces: Sequence[Piece], message: str
    ) -> None:
        for piece in pieces:
            ends = piece.offsets + piece.nbytes
            for offset in offsets.tolist():
                meets = (piece.offsets < offset + nbytes) & (offset < ends)
                if meets.any():
                    at = max(offset, int(piece.offsets[int(np.argmax(meets))]))
                    notes = [("by this instruction, which was not waited for", piece.ins)]
                    expected = "a wait for the asynchronous operation before its memory is used again"
                    self.run.find("write in flight", message, ins, lanes, self.address(at), expected, notes)
                    return

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

    # Shadows: short pieces at many offsets, or long ones at few.

    def _mark(self, offsets: Array, nbytes: int, state: int) -> None:
        if nbytes <= CHUNK:
            self.run.shared.mark(offsets, nbytes, state)
            return
        for offset in offsets.tolist():
            self.run.shared.shadow[offset : offset + nbytes] = state

    def _all(self, offsets: Array, nbytes: int, state: int) -> bool:
        if nbytes <= CHUNK:
            return bool((self.run.shared.states(nbytes)[offsets // nbytes] == pattern(nbytes, state)).all())
        return all(bool((self.run.shared.shadow[o : o + nbytes] == state).all()) for o in offsets.tolist())

    def _any_landing(self, offsets: Array, nbytes: int) -> bool:
        if nbytes <= CHUNK:
            return bool((self.run.shared.states(nbytes)[offsets // nbytes] & pattern(nbytes, IN_FLIGHT)).any())
        return any(bool((self.run.shared.shadow[o : o + nbytes] == IN_FLIGHT).any()) for o in offsets.tolist())

    def _any_read(self, offsets: Array, nbytes: int) -> bool:
        if nbytes <= CHUNK:
            return bool(self._readers[offsets // CHUNK].any())
        return any(bool(self._readers[o // CHUNK : -(-(o + nbytes) // CHUNK)].any()) for o in offsets.tolist())

    def _count(self, piece: Piece, change: int) -> None:
        step = np.uint8(change & 0xFF)
        if piece.nbytes == CHUNK:
            self._readers[piece.offsets // CHUNK] += step
            return
        for offset in piece.offsets.tolist():
            self._readers[offset // CHUNK : -(-(offset + piece.nbytes) // CHUNK)] += step

    # mbarriers.

    def barrier(self, ins: Instruction, lanes: Lanes, offset: int) -> Mbarrier | None:
        """The mbarrier there; None, and a finding, where there is none."""
        found = self.barriers.get(offset)
        if found is None:
            message = f"{ins.opcode} where no mbarrier is: none was initialised there, or it was made invalid"
            expected = "mbarrier.init before, and a barrier after it for other threads"
            self.run.find("uninitialised mbarrier", message, ins, lanes, self.address(offset), expected)
        return found

    def check_unused(self, ins: Instruction, lanes: Lanes, offsets: Array) -> None:
        """New mbarriers must not lie where something asynchronous reads or writes."""
        for pieces in (self._landing, self._sources):
            if pieces:
                self._not_free(ins, lanes, offsets, NBYTES, pieces, "an mbarrier is made where a copy is in flight")

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


def in_flight_notes(run: Run, space: Space, offset: int) -> list[tuple[str, Instruction]]:
    """For a finding about a byte in flight: notes that name the copy."""
    return flight(run).writers(offset) if space is run.shared else []
