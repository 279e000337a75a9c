"""Who runs next, and what to do when nobody can.

Lanes with the same next instruction are one group. The group whose next instruction comes first in the text runs, up to
the next instruction at which another group waits, where they merge; so lanes that diverged come together again where
their paths do. A group that goes round a loop for long while others could run gives way to them for a while, so that
spinning on what another lane will write makes progress.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator.assigned import ends_block
from hal_nvidia_ptx.emulator.barrier import Barriers
from hal_nvidia_ptx.emulator.instructions import Op
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.shape import Options
from hal_nvidia_ptx.emulator.syntax import Instruction

TRIPS = 200_000  # of one loop, by one group of lanes, before it is called endless
DIVERGENT = "{} is not reached by all lanes of the warp that it needs"
TOGETHER = "all lanes of the warp (or of its mask) run this instruction together"
PATIENCE = 128  # trips of a loop while other groups could run, before they do


class Stop(Exception):
    """The run cannot go on; a finding says why."""


@dataclass(slots=True, eq=False)
class Parked:
    """Lanes that wait. ready: None if somebody releases them, else polled: bool, or bool [count] for some of them."""

    ins: Instruction
    lanes: Lanes
    what: str
    ready: Callable[[], Any] | None


class Scheduler(ABC):
    """Groups of lanes, lanes that wait, and work that was put off. The part of `Run` that knows control flow.

    Attributes that `Run` sets: program, options, total, alive, alive_mask, barriers, parked, clock (instructions so
    far), executed (int64 [instructions], times that a warp ran each), cut (lines of loops that were ended early).
    """

    program: Program
    options: Options
    total: int
    alive: int
    alive_mask: Array
    barriers: Barriers
    executed: Array
    cut: set[int]

    @abstractmethod
    def run_ops(self, ops: Sequence[Op], lanes: Lanes) -> bool:
        """Run the Ops one after the other; True as soon as one has placed the lanes itself."""

    @abstractmethod
    def lanes(self, index: Array) -> Lanes:
        """Lanes from sorted indices."""

    @abstractmethod
    def find(
        self,
        kind: str,
        message: str,
        ins: Instruction,
        lanes: Lanes | None = None,
        address: int | None = None,
        expected: str = "",
        notes: Sequence[tuple[str, Instruction]] = (),
    ) -> None:
        """Record a finding."""

    def restart(self) -> None:
        """Forget everything: a new batch."""
        self._groups: dict[int, Lanes] = {}
        self._converging: dict[int, tuple[Instruction, Lanes]] = {}
        self.parked: list[Parked] = []
        self._idle: list[Callable[[], bool]] = []
        self._exit: list[Callable[[], None]] = []
        self._trips: dict[int, int] = {}
        self._poll = False
        self._spins, self._floor, self._away = 0, -1, 0
        self._forced = -1
        self._ended = False
        self.clock = 0

    # What Ops call to place lanes.

    def go(self, pc: int, lanes: Lanes) -> None:
        """These lanes run instruction pc next."""
        other = self._groups.get(pc)
        self._groups[pc] = lanes if other is None else self.union(other, lanes)

    def union(self, one: Lanes, two: Lanes) -> Lanes:
        """The lanes of both."""
        mask = np.zeros(self.total, np.bool_)
        mask[one.index] = True
        mask[two.index] = True
        return self.lanes(np.flatnonzero(mask))

    def park(self, ins: Instruction, lanes: Lanes, what: str, ready: Callable[[], Any] | None = None) -> Parked:
        """These lanes wait and then run the instruction behind `ins`.

        ready: polled when nothing else can run, and after `poke`; gives True, or bool [count] of the lanes that may
        go on. None: `unpark` releases them. what: for the deadlock's report, as "for the mbarrier at 0x400".
        The Op that parks its lanes returns True and has to `go` on with the others itself.
        """
        parked = Parked(ins, lanes, what, ready)
        self.parked.append(parked)
        return parked

    def unpark(self, parked: Parked, mask: Array | bool = True) -> None:
        """Release lanes of a Parked: all, or those of bool [count]."""
        self.parked.remove(parked)
        chosen = np.broadcast_to(np.asarray(mask, np.bool_), parked.lanes.count)
        if chosen.all():
            self.go(parked.ins.pc + 1, parked.lanes)
            return
        if chosen.any():
            self.go(parked.ins.pc + 1, parked.lanes.where(chosen))
        self.parked.append(Parked(parked.ins, parked.lanes.where(~chosen), parked.what, parked.ready))

    def poke(self) -> None:
        """Something changed that parked lanes may wait for."""
        self._poll = True

    def on_idle(self, work: Callable[[], bool]) -> None:
        """Call `work` when no lane can run; it does one thing that was put off (a late copy), or says False."""
        self._idle.append(work)

    def at_exit(self, work: Callable[[], None]) -> None:
        """Call `work` when all lanes of the batch have ended."""
        self._exit.append(work)

    def end(self, lanes: Lanes) -> None:
        """These lanes have ended."""
        self.alive_mask[lanes.index] = False
        self.alive -= lanes.count
        self._ended = True
        self.barriers.ended()

    def converge(self, ins: Instruction, lanes: Lanes, named: Array | None = None) -> Lanes | None:
        """Lanes of the warps that are complete: all living lanes (of `named`, bool [warps, 32]) have arrived at `ins`.

        Lanes of other warps wait at `ins` for the rest of theirs; if those never come, that is a finding, and the
        instruction runs with the lanes that there are. Gives the same object if all may go, None if none may.
        """
        if self._forced == ins.pc:
            self._forced = -1
            return lanes
        rows = self.alive_mask.reshape(-1, WARP)[lanes.warps]
        wanted = rows if named is None else rows & named
        if lanes.present is None:
            return lanes
        missing: Array = np.any(wanted & ~lanes.present, axis=1)
        if not missing.any():
            return lanes
        waits = lanes.flat(np.broadcast_to(missing[:, None], wanted.shape))
        waiting = lanes.where(waits)
        old = self._converging.get(ins.pc)
        self._converging[ins.pc] = (ins, waiting if old is None else self.union(old[1], waiting))
        return None if waiting.count == lanes.count else lanes.where(~waits)

    def force(self, ins: Instruction) -> None:
        """The next `converge` at this instruction lets all lanes go that are there."""
        self._forced = ins.pc

    def trip(self, ins: Instruction, target: int) -> bool:
        """Count one trip of a loop by its backward branch; False where the loop is to be left (`trips`).

        Loops inside it start to count anew.
        """
        pc, counts = ins.pc, self._trips
        trips = counts.get(pc, 0) + 1
        if len(counts) > 1:
            for other in [other for other in counts if target <= other < pc]:
                del counts[other]
        counts[pc] = trips
        if self._groups:
            self._spins += 1
            if self._spins >= PATIENCE:
                self._spins, self._floor, self._away = 0, pc, 4 * PATIENCE
        limit = self.options.trips
        if limit is not None and trips >= limit:
            self.cut.add(ins.line)
            return False
        if trips > TRIPS:
            self.find("endless loop", f"the loop that ends here was run {TRIPS:,} times", ins, expected="the loop ends")
            raise Stop
        return True

    # Running.

    def run_batch(self) -> None:
        """Until all lanes have ended. Raises Stop."""
        groups, converging, program = self._groups, self._converging, self.program
        ops, tails = program.ops, program.tails
        while True:
            if self._poll and self.parked:
                self._release()
            if not groups:
                if not self._wake():
                    return
                continue
            if len(groups) == 1 and not converging:
                pc, lanes = groups.popitem()
                stop = len(ops)
            else:
                pc, lanes, stop = self._choose()
            tail = tails.get(pc)
            if tail is None:
                tail = tails[pc] = ops[pc : _straight(program, pc)]
            if stop < pc + len(tail):
                tail = tail[: stop - pc]
            if self.options.count:
                self._count(pc, len(tail), lanes)
            self.clock += len(tail)
            if self.run_ops(tail, lanes):
                continue
            if pc + len(tail) >= len(ops):
                self.end(lanes)
            else:
                self.go(pc + len(tail), lanes)

    def _count(self, pc: int, length: int, lanes: Lanes) -> None:
        self.executed[pc : pc + length] += len(lanes.warps)

    def _choose(self) -> tuple[int, Lanes, int]:
        """(pc, lanes, where to stop at the latest) of the group that runs next; it leaves the groups."""
        groups = self._groups
        pcs = sorted(groups)
        pc = pcs[0]
        if self._away > 0:
            self._away -= 1
            pc = next((other for other in pcs if other > self._floor), pc)
        lanes = groups.pop(pc)
        waiting = self._converging.pop(pc, None)
        if waiting is not None:
            lanes = self.union(lanes, waiting[1])
        later = [other for other in (*groups, *self._converging) if other > pc]
        return pc, lanes, min(later, default=len(self.program.ops))

    def _release(self) -> None:
        """Poll the parked lanes."""
        self._poll = False
        for parked in list(self.parked):
            if parked.ready is not None:
                mask = parked.ready()
                if np.any(mask):
                    self.unpark(parked, mask)

    def _wake(self) -> bool:
        """Nothing can run: poll, do one thing that was put off, or find out why not. False when all have ended."""
        if self.parked:
            self._release()
            if self._groups:
                return True
        if self.parked or self._converging:
            for work in self._idle:
                if work():
                    self._poll = True
                    return True
        if self._converging:
            if not self._freed():
                self._force()
            return True
        if self.parked:
            self._deadlock()
        for finish in self._exit:
            finish()
        return False

    def _freed(self) -> bool:
        """Lanes have ended: warps that waited for all their living lanes may be complete, and try again.

        A member mask names lanes; one that ends instead of coming is at fault.
        """
        ended, self._ended = self._ended, False
        again = [pc for pc in self._converging if ended and self.program.handlers[pc].mask is None]
        for pc in again:
            self.go(pc, self._converging.pop(pc)[1])
        return bool(again)

    def _force(self) -> None:
        """Some lanes of a warp wait for others that cannot come: report it, and go on with those that are there."""
        pc = min(self._converging)
        ins, lanes = self._converging.pop(pc)
        elsewhere = [(f"other lanes wait here, {p.what}", p.ins) for p in self.parked[:3]]
        elsewhere += [("other lanes wait here", other) for other, _ in list(self._converging.values())[:3]]
        self.find("divergent warp", DIVERGENT.format(ins.opcode), ins, lanes, expected=TOGETHER, notes=elsewhere)
        self._forced = pc
        self.go(pc, lanes)

    def _deadlock(self) -> None:
        first = self.parked[0]
        notes = [(f"{p.lanes.count} lanes wait here, {p.what}", p.ins) for p in self.parked[1:6]]
        message = f"{first.lanes.count} lanes wait here for ever, {first.what}"
        self.find("deadlock", message, first.ins, first.lanes, expected="something lets them go on", notes=notes)
        raise Stop


def _straight(program: Program, pc: int) -> int:
    """Behind the next branch, exit or barrier from pc on: what runs as one piece."""
    instructions = program.instructions
    while pc < len(instructions):
        pc += 1
        if ends_block(instructions[pc - 1]):
            break
    return pc
