"""One launch: batches of CTAs that run one after the other, their lanes, registers and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator.access import Access, Segment, touch
from hal_nvidia_ptx.emulator.barrier import Barriers
from hal_nvidia_ptx.emulator.instructions import Op
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes, Registers, Views
from hal_nvidia_ptx.emulator.launching import bind, check_shape, chosen, load_variables
from hal_nvidia_ptx.emulator.memory import LOCAL_START, PARAM_START, SHARED_START, Arena, parts
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.report import SHOWN, Finding, Findings, Note, Ran, Thread, place_of
from hal_nvidia_ptx.emulator.scheduler import Parked, Scheduler, Stop
from hal_nvidia_ptx.emulator.shape import LaunchError, Mode, Options, Outcome, Shape, Triple
from hal_nvidia_ptx.emulator.special import special
from hal_nvidia_ptx.emulator.syntax import Instruction

__all__ = ["LaunchError", "Mode", "Options", "Outcome", "Parked", "Run", "Shape", "Stop", "launch"]

BATCH = 16384  # lanes that run together, about
BATCH_BYTES = 1 << 28  # and what their registers may take


class Run(Scheduler):
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
        parameter_window: int,
        options: Options,
    ) -> None:
        self.program, self.shape, self.arena = program, shape, arena
        self.parameters, self._addresses = parameters, addresses
        self.parameter_window = parameter_window  # generic address of a parameter - its address in .param space
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
        self.shared = parts("shared", self.ctas if size else 0, size, SHARED_START)
        local = self.program.local_bytes
        self.local = parts("local", self.total if local else 0, local, LOCAL_START)
        self.lane_shared = self.lane_cta * self.shared.stride - self.shared.origin  # + address = offset
        self.barriers = Barriers(self)
        self.restart()
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

    def run_ops(self, ops: Sequence[Op], lanes: Lanes) -> bool:
        for op in ops:  # noqa: SIM110 - any() would cost a generator
            if op(self, lanes):
                return True
        return False

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
    options = options or Options()
    check_shape(program, shape)
    parameters = bind(program, arguments)
    block = arena.alloc(max(len(parameters), 1), "the kernel's parameters")
    arena.write(block.start, np.concatenate([parameters, np.zeros(1, np.uint8)])[: block.nbytes])
    block.readonly = block.complete = True
    addresses = load_variables(program, arena)
    addresses |= {name: PARAM_START + offset for name, offset in program.parameters.items()}
    run = Run(program, shape, arena, parameters, addresses, block.start - PARAM_START, options)
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
