"""Branches, ends of threads, barriers of a CTA, fences."""

from __future__ import annotations

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.machine import Run, Stop
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Imm, Instruction, Not, Symbol

BARRIERS = 16  # of a CTA


@instruction("bra", writes=0, guarded=True)
def _bra(ins: Instruction, program: Program) -> Op:
    operand = program.operand(ins, 0)
    if not isinstance(operand, Symbol):
        raise ins.error("the target is no label")
    target, following = program.function.labels[operand.name], ins.pc + 1
    backward = target <= ins.pc
    if ins.guard is None:

        def jump(run: Run, lanes: Lanes) -> bool:
            run.go(target if not backward or run.trip(ins, target) else following, lanes)
            return True

        return jump
    predicate, negated = program.source(ins, ins.guard, "pred"), ins.guard_not

    def branch(run: Run, lanes: Lanes) -> bool:
        taken = lanes.read(predicate)
        count = int(np.count_nonzero(taken))
        if negated:
            count = lanes.count - count
        if count and backward and not run.trip(ins, target):
            count = 0
        if count == lanes.count:
            run.go(target, lanes)
        elif not count:
            run.go(following, lanes)
        else:
            if negated:
                taken = ~taken
            run.go(target, lanes.where(taken))
            run.go(following, lanes.where(~taken))
        return True

    return branch


@instruction("brx.idx", writes=0)
def _brx(ins: Instruction, program: Program) -> Op:
    index, table = program.source(ins, 0, "u32"), program.operand(ins, 1)
    names = program.function.tables.get(table.name) if isinstance(table, Symbol) else None
    if names is None:
        raise ins.error(f"{table} is no list of .branchtargets")
    targets = [program.function.labels[name] for name in names]

    def run_brx(run: Run, lanes: Lanes) -> bool:
        wanted = lanes.read(index)
        for value in np.unique(wanted):
            chosen = lanes.where(wanted == value)
            if value >= len(targets):
                run.find("wild branch", f"index {value} of {len(targets)} targets", ins, chosen)
                raise Stop
            target = targets[int(value)]
            run.go(target if target > ins.pc or run.trip(ins, target) else ins.pc + 1, chosen)
        return True

    return run_brx


@instruction("ret", "exit", writes=0)
def _exit(ins: Instruction, program: Program) -> Op:
    program.count(ins, 0)

    def run_exit(run: Run, lanes: Lanes) -> bool:
        run.end(lanes)
        return True

    return run_exit


@instruction("trap", writes=0)
def _trap(ins: Instruction, program: Program) -> Op:
    def run_trap(run: Run, lanes: Lanes) -> bool:
        run.find("trap", "the kernel stopped itself", ins, lanes, expected="this line is not reached")
        raise Stop

    return run_trap


@instruction("brkpt", "nanosleep", "griddepcontrol", "prefetch", "prefetchu", "discard", "applypriority", writes=0,
             faith="unmodelled")  # fmt: skip
def _nothing(ins: Instruction, program: Program) -> Op:
    return _pass


def _pass(run: Run, lanes: Lanes) -> None:
    return None


@instruction("membar", "fence", writes=0)
def _fence(ins: Instruction, program: Program) -> Op:
    kind = ins.opcode.partition(".")[2]
    if ins.parts[0] == "membar" and kind not in ("cta", "gl", "sys") and not kind.startswith("proxy"):
        raise ins.error("membar is .cta, .gl or .sys")
    scoped = "proxy" in kind or ins.has("cta", "cluster", "gpu", "sys")
    if ins.parts[0] == "fence" and not scoped:
        raise ins.error("fence needs a scope: .cta .cluster .gpu .sys")

    def run_fence(run: Run, lanes: Lanes) -> None:
        if run.hazards is not None:
            run.hazards.fence(ins, lanes, kind)

    return run_fence


def _aligned(ins: Instruction) -> bool:
    return ins.opcode.startswith("bar.") or ins.has("aligned")


def _number(ins: Instruction, program: Program, index: int) -> int:
    operand = program.operand(ins, index)
    if isinstance(operand, Imm) and not 0 <= operand.value < BARRIERS:
        raise ins.error(f"barrier {operand}: a CTA has the barriers 0 to {BARRIERS - 1}")
    return program.source(ins, operand, "u32")


def _threads(ins: Instruction, program: Program, index: int) -> int:
    operand = program.operand(ins, index)
    if isinstance(operand, Imm) and operand.value % WARP:
        raise ins.error(f"{operand} threads: a barrier takes whole warps, multiples of {WARP}")
    return program.source(ins, operand, "u32")


@instruction("bar.sync", "bar.cta.sync", "barrier.sync", "barrier.cta.sync", writes=0, aligned=_aligned)
@instruction("bar.arrive", "bar.cta.arrive", "barrier.arrive", "barrier.cta.arrive", writes=0, aligned=_aligned)
def _barrier(ins: Instruction, program: Program) -> Op:
    program.count(ins, 1, 2)
    waits = "sync" in ins.parts
    if not waits:
        program.count(ins, 2)
    which = _number(ins, program, 0)
    threads = _threads(ins, program, 1) if len(ins.operands) > 1 else None

    def run_barrier(run: Run, lanes: Lanes) -> bool:
        return _arrive(run, ins, lanes, which, threads, waits, None)

    return run_barrier


@instruction("bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red", aligned=_aligned)
def _barrier_red(ins: Instruction, program: Program) -> Op:
    program.count(ins, 3, 4)
    how = next(each for each in ins.parts if each in ("popc", "and", "or"))
    result = program.dest(ins, 0, "u32" if how == "popc" else "pred")
    which = _number(ins, program, 1)
    threads = _threads(ins, program, 2) if len(ins.operands) == 4 else None
    operand = program.operand(ins, -1)
    negated = isinstance(operand, Not)
    predicate = program.source(ins, operand.operand if isinstance(operand, Not) else operand, "pred")

    def finish(lanes: Lanes, arrived: Array) -> None:
        run = lanes.run
        values = np.broadcast_to(run.regs[predicate], run.total)[arrived] != negated
        ctas = run.lane_cta[arrived]
        true, all_ = np.bincount(ctas[values], minlength=run.ctas), np.bincount(ctas, minlength=run.ctas)
        total = true if how == "popc" else (true == all_) if how == "and" else (true > 0)
        lanes.put(result, total[lanes.cta])

    def run_barrier_red(run: Run, lanes: Lanes) -> bool:
        return _arrive(run, ins, lanes, which, threads, True, finish)

    return run_barrier_red


def _arrive(
    run: Run, ins: Instruction, lanes: Lanes, which: int, threads: int | None, waits: bool, done: object
) -> bool:
    """Barrier numbers and counts are mostly constants; lanes that differ in them arrive one kind after the other."""
    numbers = lanes.regs[which]
    counts = None if threads is None else lanes.regs[threads]
    after = done if callable(done) else None
    if len(numbers) == 1 and (counts is None or len(counts) == 1):
        expected = 0 if counts is None else int(counts[0])
        return run.barriers.arrive(ins, lanes, int(numbers[0]), expected, waits, after)
    number = lanes.read(which).astype(np.int64)
    count = np.zeros(lanes.count, np.int64) if threads is None else lanes.read(threads).astype(np.int64)
    kinds = number << 32 | count
    for kind in np.unique(kinds):
        some = lanes.where(kinds == kind)
        if not run.barriers.arrive(ins, some, int(kind >> 32), int(kind & 0xFFFFFFFF), waits, after):
            run.go(ins.pc + 1, some)
    return True
