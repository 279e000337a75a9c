"""Bytes of shared memory that asynchronous instructions in flight will write, or still have to read.

A copy's destination has the state IN_FLIGHT until the copy lands, so that every read of it is found. Sources are
counted in chunks of 16 bytes, so that writing over them is found. Threads' own stores are seen through the machine's
counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.hooks import Access, Counters
from hal_nvidia_ptx.emulator.memory import CLUSTER_SHIFT, IN_FLIGHT, SHARED_WINDOW, WRITTEN, Space, pattern
from hal_nvidia_ptx.emulator.swizzle import CHUNK

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes of shared memory that belong to an instruction in flight: nbytes at each of the offsets."""

    ins: Instruction
    offsets: Array
    nbytes: int

    def has(self, offset: int) -> bool:
        return bool(((self.offsets <= offset) & (offset < self.offsets + self.nbytes)).any())


class InFlight:
    """The bytes in flight of one batch. late: whether anything ever is; else effects come at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.late = run.mode == "late"
        self._landing: list[Piece] = []
        self._sources: list[Piece] = []
        self._readers = np.zeros(len(run.shared.bytes) // CHUNK, np.uint8)

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
        self.check_free(ins, lanes, offsets, nbytes, "copies to")
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

    def check_free(self, ins: Instruction, lanes: Lanes, offsets: Array, nbytes: int, verb: str) -> None:
        """Find writes to bytes that something in flight writes or reads."""
        if self._landing and self._any_landing(offsets, nbytes):
            self._not_free(ins, lanes, offsets, nbytes, self._landing, f"{verb} bytes that a copy in flight writes")
        if self._sources and self._any_read(offsets, nbytes):
            self._not_free(ins, lanes, offsets, nbytes, self._sources, f"{verb} bytes that are still being read")

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


class Stores:
    """Looks at every store of a thread before it happens, and passes on what the counters are to see."""

    def __init__(self, flight: InFlight, counters: Counters | None) -> None:
        self._flight, self.counters = flight, counters

    def access(
        self,
        ins: Instruction,
        space: Space,
        lanes: Lanes,
        offsets: Array,
        nbytes: int,
        kind: Access,
        values: Array | None = None,
    ) -> None:
        if kind != "read" and space is self._flight.run.shared:
            self._flight.check_free(ins, lanes, offsets, nbytes, "writes to")
        if self.counters is not None:
            self.counters.access(ins, space, lanes, offsets, nbytes, kind, values)

    def barrier(self, ins: Instruction, arrived: Array, waiting: Array, barrier: int) -> None:
        if self.counters is not None:
            self.counters.barrier(ins, arrived, waiting, barrier)
