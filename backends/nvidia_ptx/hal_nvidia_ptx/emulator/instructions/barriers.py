"""mbarrier.*: making, arriving at, and waiting for the barriers that live in shared memory; rules in mbarrier.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import flight
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Parked, Run
from hal_nvidia_ptx.emulator.mbarrier import NBYTES, Mbarrier, MbarrierFault, pending_count
from hal_nvidia_ptx.emulator.memory import UNWRITTEN, WRITTEN
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Instruction, Sink

Array: TypeAlias = NDArray[Any]


def _space(ins: Instruction) -> str:
    """The state space in an opcode, "" for generic addresses."""
    return next((part for part in ins.parts if part.startswith("shared")), "")


def _places(where: Array) -> Iterator[tuple[int, Any]]:
    """(offset, which lanes name it) for each barrier."""
    if bool((where == where[0]).all()):
        yield int(where[0]), slice(None)
        return
    for barrier in np.unique(where).tolist():
        yield barrier, where == barrier


def _by_barrier(lanes: Lanes, where: Array) -> Iterator[tuple[int, Lanes, Any]]:
    """(offset, the lanes that name it, which they are) for each barrier."""
    for barrier, chosen in _places(where):
        yield barrier, lanes if isinstance(chosen, slice) else lanes.where(chosen), chosen


@instruction("mbarrier.init", writes=0)
def _init(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    address, count, space = program.address(ins, 0), program.source(ins, 1, "u32"), _space(ins)

    def run_init(run: Run, lanes: Lanes) -> None:
        state, watch = flight(run), hazards(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), NBYTES, NBYTES)
        state.check_free(ins, lanes, where, NBYTES, "makes an mbarrier of")
        counts = lanes.read(count)
        for lane, barrier in enumerate(where.tolist()):
            if barrier in where[:lane]:
                some = lanes.where(where == barrier)
                message, expected = "several threads initialise one mbarrier", "one thread that does"
                run.find("mbarrier", message, ins, some, state.address(barrier), expected)
            try:
                state.barriers[barrier] = Mbarrier.init(int(counts[lane]), ins)
            except MbarrierFault as fault:
                run.find("mbarrier", str(fault), ins, lanes, state.address(barrier), fault.expected)
        run.shared.mark(where, NBYTES, WRITTEN)
        if watch is not None:
            watch.mbarrier_init(ins, lanes, where)

    return run_init


@instruction("mbarrier.inval", writes=0)
def _inval(ins: Instruction, program: Program) -> Op:
    program.count(ins, 1)
    address, space = program.address(ins, 0), _space(ins)

    def run_inval(run: Run, lanes: Lanes) -> None:
        state, watch = flight(run), hazards(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), NBYTES, NBYTES)
        if watch is not None:
            watch.mbarrier_use(ins, lanes, where)
        for barrier, some, _ in _by_barrier(lanes, where):
            if state.barrier(ins, some, barrier) is not None:
                state.retire(barrier)
        run.shared.mark(where, NBYTES, UNWRITTEN)

    return run_inval


@instruction("mbarrier.expect_tx", "mbarrier.complete_tx", writes=0)
def _transactions(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    address, nbytes, space = program.address(ins, 0), program.source(ins, 1, "u32"), _space(ins)
    expects = ins.has("expect_tx")

    def run_transactions(run: Run, lanes: Lanes) -> None:
        state = flight(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), NBYTES, NBYTES)
        _used(run, ins, lanes, where)
        amounts = lanes.read(nbytes)
        for barrier, some, chosen in _by_barrier(lanes, where):
            total = int(amounts[chosen].sum())
            change = _expect(ins, total) if expects else _land(ins, total)
            state.change(ins, some, barrier, change)

    return run_transactions


def _used(run: Run, ins: Instruction, lanes: Lanes, where: Array) -> None:
    watch = hazards(run)
    if watch is not None:
        watch.mbarrier_use(ins, lanes, where)


def _expect(ins: Instruction, nbytes: int) -> Callable[[Mbarrier], None]:
    def expect(barrier: Mbarrier) -> None:
        barrier.user = ins
        barrier.expect(nbytes)

    return expect


def _land(ins: Instruction, nbytes: int) -> Callable[[Mbarrier], None]:
    def land(barrier: Mbarrier) -> None:
        barrier.user = barrier.user or ins
        barrier.land(nbytes)

    return land


@instruction("mbarrier.arrive", "mbarrier.arrive_drop")
def _arrive(ins: Instruction, program: Program) -> Op:
    expects = ins.has("expect_tx")
    program.count(ins, 2 + expects, 3)
    keeps = not isinstance(ins.operands[0], Sink)
    token = program.dest(ins, 0, "u64") if keeps else -1
    address, space = program.address(ins, 1), _space(ins)
    amount = program.source(ins, 2, "u32") if len(ins.operands) == 3 else None
    drop, holds = ins.has("arrive_drop"), ins.has("noComplete")

    def act(barrier: Mbarrier, values: Array | None, lanes: int) -> None:
        if expects and values is not None:
            barrier.user = ins
            barrier.expect(int(values.sum()))
        arrivals = lanes if expects or values is None else int(values.sum())
        if holds and arrivals >= barrier.pending:
            raise MbarrierFault("an arrival with .noComplete completes the phase", "an arrival that is not the last")
        barrier.arrive(arrivals, drop)

    def run_arrive(run: Run, lanes: Lanes) -> None:
        state, watch = flight(run), hazards(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), NBYTES, NBYTES)
        values = None if amount is None else lanes.read(amount).astype(np.int64)
        if watch is not None:
            watch.mbarrier_use(ins, lanes, where)
            watch.mbarrier_arrive(ins, lanes, where)
        if keeps:
            tokens = np.zeros(lanes.count, np.uint64)
            for lane, barrier in enumerate(where.tolist()):
                own = slice(lane, lane + 1)
                found = state.barriers.get(barrier)
                tokens[lane] = 0 if found is None else found.token()
                one = None if values is None else values[own]
                state.change(ins, lanes, barrier, lambda b, v=one: act(b, v, 1))  # type: ignore[misc]
            lanes.put(token, tokens)
            return
        for barrier, some, chosen in _by_barrier(lanes, where):
            part = None if values is None else values[chosen]
            state.change(ins, some, barrier, lambda b, v=part, n=some.count: act(b, v, n))  # type: ignore[misc]

    return run_arrive


@instruction("mbarrier.pending_count", faith="exact")
def _pending_count(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    result, token = program.dest(ins, 0, "u32"), program.source(ins, 1, "u64")

    def run_count(run: Run, lanes: Lanes) -> None:
        lanes.put(result, [pending_count(int(each)) for each in lanes.read(token)])

    return run_count


class Waiting:
    """Lanes that wait for phases; the machine polls it. wanted: a parity or token for each lane that still waits."""

    def __init__(self, run: Run, ins: Instruction, lanes: Lanes, where: Array, wanted: Array, result: int) -> None:
        self.run, self.ins, self.lanes = run, ins, lanes
        self.where, self.wanted, self.result = where, wanted, result
        self._test = Mbarrier.parity_done if ins.has("parity") else Mbarrier.done

    @property
    def awaited(self) -> set[int]:
        """The barriers, as offsets in shared memory."""
        return set(np.unique(self.where).tolist())

    def done(self) -> Array:
        """bool per lane: whether its phase is complete. Lanes at a place without a barrier do not wait."""
        barriers = flight(self.run).barriers
        done = np.zeros(len(self.where), np.bool_)
        for barrier, chosen in _places(self.where):
            found = barriers.get(barrier)
            wanted = self.wanted[chosen]
            for value in np.unique(wanted):
                passed = found is None or self._test(found, int(value))
                done[chosen] |= (wanted == value) & passed
        return done

    def passed(self, lanes: Lanes, where: Array) -> None:
        """These lanes go on with the predicate set."""
        lanes.put(self.result, True)
        watch = hazards(self.run)
        if watch is not None:
            watch.mbarrier_wait(self.ins, lanes, where)

    def __call__(self) -> Any:
        done = self.done()
        if done.any():
            self.passed(self.lanes.where(done), self.where[done])
        if not done.all():
            left = ~done
            self.where, self.wanted, self.lanes = self.where[left], self.wanted[left], self.lanes.where(left)
            for parked in self.run.parked:
                if parked.ready is self:
                    parked.what = str(self)
        return done

    def give_up(self, parked: Parked) -> None:
        """The wait ends without success, as it may at any time."""
        parked.lanes.put(self.result, False)

    def __str__(self) -> str:
        state = flight(self.run)
        place = int(self.where[0])
        return f"for the mbarrier at {state.address(place):#x} ({state.barriers.get(place)})"


def _refused(run: Run, ins: Instruction, lanes: Lanes, done: Array) -> bool:
    """Whether to say no at once: the first time of each wait, so that a program which ignores the answer is found."""
    told: dict[int, Array] = run.state.setdefault("waits that were refused", {})
    refused = told.setdefault(ins.pc, np.zeros(run.total, np.bool_))
    waiting = lanes.index[~done]
    first = not refused[waiting].any()
    refused[waiting] = first
    return first


@instruction("mbarrier.test_wait", "mbarrier.try_wait")
def _wait(ins: Instruction, program: Program) -> Op:
    """Both wait here for as long as something can still happen, which PTX allows for try_wait; then they give false.

    In modes "late" and "races" they give false once before they wait.
    """
    program.count(ins, 3, 4)
    result, address, space = program.dest(ins, 0, "pred"), program.address(ins, 1), _space(ins)
    wanted = program.source(ins, 2, "u32" if ins.has("parity") else "u64")

    def run_wait(run: Run, lanes: Lanes) -> bool | None:
        state = flight(run)
        where = state.offsets(ins, space, lanes, address.get(lanes), NBYTES, NBYTES)
        _used(run, ins, lanes, where)
        for barrier, some, _ in _by_barrier(lanes, where):
            state.barrier(ins, some, barrier)
        waiting = Waiting(run, ins, lanes, where, lanes.read(wanted).copy(), result)
        done = waiting.done()
        if done.all():
            waiting.passed(lanes, where)
            return None
        if run.mode != "early" and run.options.trips is None and _refused(run, ins, lanes, done):
            lanes.put(result, False)
            if done.any():
                waiting.passed(lanes.where(done), where[done])
            return None
        if done.any():
            some = lanes.where(done)
            waiting.passed(some, where[done])
            run.go(ins.pc + 1, some)
            left = ~done
            waiting = Waiting(run, ins, lanes.where(left), where[left], waiting.wanted[left], result)
        run.park(ins, waiting.lanes, str(waiting), waiting)
        return True

    return run_wait
