"""One launch: batches of CTAs, groups of lanes, who runs next, and what to do when nobody can.

Lanes with the same next instruction are one group. The group whose next instruction comes first in the text runs, up to
the next instruction at which another group waits, where they merge; so lanes that diverged come together again where
their paths do. A group that goes round a loop for long while others could run gives way to them for a while, so that
spinning on what another lane will write makes progress. Batches run one after the other, in order of CTAs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.errors import HalError
from hal_nvidia_ptx.emulator.access import Access, Segment, touch
from hal_nvidia_ptx.emulator.barrier import Barriers
from hal_nvidia_ptx.emulator.hooks import Counters, Hazards
from hal_nvidia_ptx.emulator.lanes import WARP, Lanes, Registers, Views
from hal_nvidia_ptx.emulator.memory import Arena, Space
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.report import SHOWN, Finding, Findings, Note, Ran, Thread, place_of
from hal_nvidia_ptx.emulator.special import special
from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]
Triple: TypeAlias = tuple[int, int, int]
Mode: TypeAlias = Literal["late", "early", "races"]

TRIPS = 200_000  # of one loop, by one group of lanes, before it is called endless
PATIENCE = 128  # trips of a loop while other groups could run, before they do
BATCH = 16384  # lanes that run together, about
BATCH_BYTES = 1 << 28  # and what their registers may take


class Stop(Exception):
    """The run cannot go on; a finding says why."""


class LaunchError(HalError, ValueError):
    """A launch that no device of the target would take."""


@dataclass(slots=True, eq=False)
class Parked:
    """Lanes that wait. ready: None if somebody releases them, else polled: bool, or bool [count] for some of them."""

    ins: Instruction
    lanes: Lanes
    what: str
    ready: Callable[[], Any] | None


@dataclass(frozen=True, slots=True)
class Shape:
    """A launch: CTAs of the grid, threads of a CTA, CTAs of a cluster, bytes of dynamic shared memory."""

    grid: Triple
    block: Triple
    cluster: Triple = (1, 1, 1)
    shared: int = 0

    @property
    def ctas(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def cluster_size(self) -> int:
        return self.cluster[0] * self.cluster[1] * self.cluster[2]


@dataclass(slots=True)
class Options:
    """How to run: see `machine.launch`."""

    mode: Mode = "late"
    hazards: Hazards | None = None
    counters: Counters | None = None
    count: bool = False  # count executed instructions
    ctas: Sequence[int] | None = None
    trips: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a launch did. executed: per instruction, how often a warp ran it; only if counted."""

    findings: Findings
    ran: Ran
    executed: Array = field(default_factory=lambda: np.zeros(0, np.int64))


class Run:
    """The state of one launch while it runs; the object that every Op gets.

    Of the launch: program, shape, arena, mode, hazards, counters, findings, parameters (bytes).
    Of the batch: first (index of its first CTA among those that run), ctas (how many), cta_ids int64 [ctas] (linear
    index in the grid), threads (of a CTA, padded to warps), total = ctas * threads lanes, lane_cta int64 [total],
    alive_mask bool [total], alive (how many), shared and local (Space), regs (slot -> array of all lanes),
    state (a dict for instructions' own things, empty at the start of each batch).
    """

    def __init__(
        self,
        program: Program,
        shape: Shape,
        arena: Arena,
        parameters: Array,
        addresses: dict[str, int],
        options: Options,
    ) -> None:
        self.program, self.shape, self.arena = program, shape, arena
        self.parameters, self._addresses = parameters, addresses
        self.mode, self.hazards, self.counters = options.mode, options.hazards, options.counters
        self.options = options
        self.findings = Findings()
        self.threads = -(-shape.threads // WARP) * WARP
        self.cut: set[int] = set()
        self.executed = np.zeros(len(program.ops), np.int64)
        self.stopped = ""

    # The batch.

    def start(self, first: int, cta_ids: Array) -> None:
        """Set up a batch."""
        self.first, self.cta_ids, self.ctas = first, cta_ids, len(cta_ids)
        self.total = self.ctas * self.threads
        self.lane_cta = np.repeat(np.arange(self.ctas), self.threads)
        own = np.arange(self.total) % self.threads
        self.lane_thread = own  # the thread's linear index in its CTA
        self.alive_mask = own < self.shape.threads
        self.alive = self.ctas * self.shape.threads
        self.state: dict[str, Any] = {}
        self._assigned: dict[str, Array] = {}
        self._views: dict[tuple[Any, Any, Any], dict[int, Array]] = {}
        self.regs = Registers(self)
        size = self.program.dynamic_start + self.shape.shared
        size = max(size, self.program.shared_static)
        self.shared = _parts("shared", self.ctas, size)
        self.local = _parts("local", self.total, self.program.local_bytes)
        self.lane_shared = self.lane_cta * self.shared.stride - self.shared.origin  # + address = offset
        self._groups: dict[int, Lanes] = {}
        self._converging: dict[int, tuple[Instruction, Lanes]] = {}
        self.parked: list[Parked] = []
        self.barriers = Barriers(self)
        self._idle: list[Callable[[], bool]] = []
        self._exit: list[Callable[[], None]] = []
        self._trips: dict[int, int] = {}
        self._poll = False
        self._spins, self._floor, self._away = 0, -1, 0
        self._forced = -1
        self.clock = 0
        if self.hazards is not None:
            self.hazards.start(self)
        self.go(0, self.lanes(np.flatnonzero(self.alive_mask)))

    def views(self, span: slice) -> dict[int, Array]:
        """slot -> array over a span of lanes."""
        if span.start == 0 and span.stop == self.total and span.step is None:
            return self.regs
        key = (span.start, span.stop, span.step)
        views = self._views.get(key)
        if views is None:
            views = self._views[key] = Views(self.regs, span)
        return views

    def lanes(self, index: Array) -> Lanes:
        """Lanes from sorted indices, at least one."""
        count = len(index)
        first, end = int(index[0]), int(index[-1]) + 1
        if count == end - first:
            return Lanes(self, slice(first, end), count, None, True, index)
        if self.alive < self.total:
            if count == self.alive:
                return Lanes(self, slice(0, self.total), count, index, True, index)
            if int(np.count_nonzero(self.alive_mask[first:end])) == count:
                return Lanes(self, slice(first, end), count, index - first, True, index)
        if count > 1:
            step = int(index[1]) - first
            if first + step * (count - 1) == end - 1 and (count == 2 or bool((np.diff(index) == step).all())):
                return Lanes(self, slice(first, end, step), count, None, True, index)
        return Lanes(self, slice(first, end), count, index - first, False, index)

    def special(self, name: str) -> Array:
        """The values of a special register, [total] or [1]."""
        return special(self, name)

    def assigned(self, name: str) -> Array:
        """bool [total]: the lanes in which something was written to a register that the program watches."""
        shadow = self._assigned.get(name)
        if shadow is None:
            shadow = self._assigned[name] = np.zeros(self.total, np.bool_)
        return shadow

    def address_of(self, name: str) -> int:
        """The address of a variable in its own space (an offset for shared and local memory)."""
        offset = self.program.offsets.get(name)
        return self._addresses[name] if offset is None else offset

    # Control: what Ops call to place lanes.

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

    def unpark(self, parked: Parked, mask: Any = True) -> None:
        """Release lanes of a Parked: all, or those of bool [count]."""
        self.parked.remove(parked)
        if mask is True or bool(np.all(mask)):
            self.go(parked.ins.pc + 1, parked.lanes)
            return
        if np.any(mask):
            self.go(parked.ins.pc + 1, parked.lanes.where(mask))
        self.parked.append(Parked(parked.ins, parked.lanes.where(~np.asarray(mask)), parked.what, parked.ready))

    def poke(self) -> None:
        """Something changed that parked lanes may wait for."""
        self._poll = True

    def on_idle(self, work: Callable[[], bool]) -> None:
        """Call `work` when no lane can run; it does one thing that was put off (a late copy) and says whether it did."""
        self._idle.append(work)

    def at_exit(self, work: Callable[[], None]) -> None:
        """Call `work` when all lanes of the batch have ended."""
        self._exit.append(work)

    def end(self, lanes: Lanes) -> None:
        """These lanes have ended."""
        self.alive_mask[lanes.index] = False
        self.alive -= lanes.count
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
        missing = False if lanes.present is None else (wanted & ~lanes.present).any(1)
        if not np.any(missing):
            return lanes
        waits = lanes.flat(np.broadcast_to(missing[:, None], wanted.shape))
        waiting = lanes.where(waits)
        old = self._converging.get(ins.pc)
        self._converging[ins.pc] = (ins, waiting if old is None else self.union(old[1], waiting))
        return None if waiting.count == lanes.count else lanes.where(~waits)

    def trip(self, ins: Instruction) -> bool:
        """Count one trip of a loop by its backward branch; False where the loop is to be left (`trips`)."""
        pc = ins.pc
        trips = self._trips[pc] = self._trips.get(pc, 0) + 1
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

    # Findings.

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
        """Record a finding; lanes: the threads that met it, the first few get named."""
        lines = self.program.lines
        extra = tuple(Note(text, place_of(lines, other.line)) for text, other in notes)
        threads = () if lanes is None else tuple(self.thread(int(lane)) for lane in lanes.index[:SHOWN])
        count = 0 if lanes is None else lanes.count
        place = place_of(lines, ins.line)
        self.findings.add(
            Finding(kind, message, self.program.name, place, threads, count, address, expected, extra, self.mode)
        )

    def thread(self, lane: int) -> Thread:
        """The indices of a lane's CTA and thread."""
        cta = int(self.cta_ids[lane // self.threads])
        return Thread(_unravel(cta, self.shape.grid), _unravel(lane % self.threads, self.shape.block))

    # Memory: see access.py.

    def touch(
        self,
        ins: Instruction,
        space: str,
        lanes: Lanes,
        addresses: Array,
        nbytes: int,
        kind: Access,
        values: Any = None,
    ) -> list[Segment]:
        """Check an access of nbytes (aligned) per lane and say where it goes: parts of one window each.

        space: "global", "shared", "shared::cluster", "local", "const", "param", "" (generic); addresses: int64 [count].
        Lanes whose access is at fault are recorded and left out. Race detector and counters are told.
        """
        return touch(self, ins, space, lanes, addresses, nbytes, kind, values)

    def load(
        self, ins: Instruction, space: str, lanes: Lanes, addresses: Array, dtype: np.dtype[Any], n: int = 1
    ) -> Array:
        """Values [count] or [count, n] of dtype at the lanes' addresses; zeros where the access is at fault."""
        nbytes = dtype.itemsize * n
        segments = self.touch(ins, space, lanes, addresses, nbytes, "read")
        if len(segments) == 1 and segments[0].lanes is lanes:
            return segments[0].space.load(segments[0].offsets, dtype, n)
        out = np.zeros(lanes.count if n == 1 else (lanes.count, n), dtype)
        for part in segments:
            out[part.where] = part.space.load(part.offsets, dtype, n)
        return out

    def store(self, ins: Instruction, space: str, lanes: Lanes, addresses: Array, values: Array) -> None:
        """Put values [count] or [count, n] at the lanes' addresses; of lanes with one address the last wins."""
        n = 1 if values.ndim == 1 else values.shape[1]
        for part in self.touch(ins, space, lanes, addresses, values.dtype.itemsize * n, "write", values):
            part.space.store(part.offsets, values if part.where is None else values[part.where])

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
            for op in tail:
                if op(self, lanes):
                    break
            else:
                following = pc + len(tail)
                if following >= len(ops):
                    self.end(lanes)
                else:
                    self.go(following, lanes)

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
                    self.unpark(parked, True if mask is True else mask)

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
            self._force()
            return True
        if self.parked:
            self._deadlock()
        for finish in self._exit:
            finish()
        return False

    def _force(self) -> None:
        """Some lanes of a warp wait for others that cannot come: report it, and go on with those that are there."""
        pc = min(self._converging)
        ins, lanes = self._converging.pop(pc)
        elsewhere = [(f"other lanes wait here, {p.what}", p.ins) for p in self.parked[:3]]
        elsewhere += [("other lanes wait here", other) for other, _ in list(self._converging.values())[:3]]
        self.find(
            "divergent warp",
            f"{ins.opcode} is not reached by all lanes of the warp that it needs",
            ins,
            lanes,
            expected="all lanes of the warp (or of its mask) run this instruction together",
            notes=elsewhere,
        )
        self._forced = pc
        self.go(pc, lanes)

    def _deadlock(self) -> None:
        first = self.parked[0]
        notes = [(f"{p.lanes.count} lanes wait here, {p.what}", p.ins) for p in self.parked[1:6]]
        self.find(
            "deadlock",
            f"{first.lanes.count} lanes wait here for ever, {first.what}",
            first.ins,
            first.lanes,
            expected="something lets them go on",
            notes=notes,
        )
        raise Stop


def _straight(program: Program, pc: int) -> int:
    """Behind the next branch, exit or barrier from pc on: what runs as one piece."""
    instructions = program.instructions
    count = len(instructions)
    while pc < count:
        name = instructions[pc].opcode.split(".", 1)[0]
        pc += 1
        if name in ("bra", "brx", "ret", "exit", "trap"):
            break
    return pc


def _parts(name: str, count: int, size: int) -> Space:
    from hal_nvidia_ptx.emulator.memory import LOCAL_START, SHARED_START, parts

    return parts(name, count if size else 0, size, SHARED_START if name == "shared" else LOCAL_START)


def _unravel(index: int, shape: Triple) -> Triple:
    return index % shape[0], index // shape[0] % shape[1], index // (shape[0] * shape[1])


def launch(
    program: Program,
    arena: Arena,
    shape: Shape,
    arguments: Sequence[int | float | bytes],
    options: Options | None = None,
) -> Outcome:
    """Run a kernel to its end, or to where it cannot go on.

    arguments: one for each parameter: numbers, addresses, or the bytes of an array parameter. options.ctas: linear
    indices of the CTAs that run (whole clusters); options.trips: bound of every loop. Raises LaunchError for launches
    beyond the target's limits, wrong argument counts included.
    """
    from hal_nvidia_ptx.emulator.launching import bind, chosen, check_shape, load_variables

    options = options or Options()
    check_shape(program, shape)
    parameters = bind(program, arguments)
    block = arena.alloc(max(len(parameters), 1), "the kernel's parameters")
    arena.write(block.start, np.concatenate([parameters, np.zeros(1, np.uint8)])[: block.nbytes])
    block.readonly = block.complete = True
    addresses = load_variables(program, arena)
    addresses |= {name: block.start + offset for name, offset in program.parameters.items()}
    run = Run(program, shape, arena, parameters, addresses, options)
    order = chosen(shape, options.ctas)
    begin = time.perf_counter()
    done = 0
    try:
        with np.errstate(all="ignore"):
            step = _batch(program, run.threads, shape.cluster_size)
            for first in range(0, len(order), step):
                ids = order[first : first + step]
                run.start(first, ids)
                run.run_batch()
                if run.hazards is not None:
                    run.hazards.finish(run)
                done += len(ids)
    except Stop:
        run.stopped = next((f.kind for f in reversed(list(run.findings))), "stopped")
        if run.hazards is not None:
            run.hazards.finish(run)
    finally:
        arena.free(block.start)
    arena.settle()
    ran = Ran(options.mode, done, shape.ctas, run.stopped, tuple(sorted(run.cut)), time.perf_counter() - begin)
    return Outcome(run.findings, ran, run.executed)


def _batch(program: Program, threads: int, cluster: int) -> int:
    """CTAs of a batch: whole clusters."""
    registers = 4 * len(program.function.registers) + 1
    lanes = max(min(BATCH, BATCH_BYTES // registers), 1)
    return max(lanes // threads // cluster, 1) * cluster
