"""Registers of wgmma that an instruction must not touch: those of products in flight, and those not fenced.

Where that may happen is found once, on the text: for each instruction the registers that can be in flight on some path,
by the number of groups committed since, and those that were accessed since the last wgmma.fence. Instructions that may
touch a register in flight look at run time whether it is; nothing else costs anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hal_nvidia_ptx.emulator.assigned import ends_block
from hal_nvidia_ptx.emulator.instructions import Op
from hal_nvidia_ptx.emulator.syntax import Function, Instruction, Reg, Symbol, Vector

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program

AGES = 8  # groups committed since; older ones count as this many
NO_FENCE = 1  # the bit for "there was no wgmma.fence at all"


def watch(program: Program) -> None:
    """Put the checks before the instructions that need them. Does nothing for programs without wgmma."""
    if not any(ins.opcode.startswith("wgmma.mma_async") for ins in program.instructions):
        return
    suspects = find(program)
    for pc, names in suspects.touching.items():
        program.ops[pc] = _checked(program.ops[pc], program.instructions[pc], names)
    for pc in suspects.unfenced:
        program.ops[pc] = _without_fence(program.ops[pc], program.instructions[pc])


def registers(ins: Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """(accumulators, A registers) of a wgmma.mma_async."""
    vectors = [
        frozenset(item.name for item in operand.items if isinstance(item, Reg))
        if isinstance(operand, Vector)
        else frozenset()
        for operand in ins.operands[:2]
    ]
    return vectors[0], vectors[1]


@dataclass(slots=True)
class Suspects:
    """touching: instructions that may meet registers in flight, and these; unfenced: wgmma that may lack a fence."""

    touching: dict[int, frozenset[str]]
    unfenced: list[int]


@dataclass(frozen=True, slots=True)
class _State:
    """Sets of registers, as bits. dirty: accessed since the last fence; flying[i]: in flight, i commits ago."""

    dirty: int
    flying: tuple[int, ...]

    def joined(self, other: _State) -> _State:
        return _State(self.dirty | other.dirty, tuple(a | b for a, b in zip(self.flying, other.flying, strict=True)))

    @property
    def all_flying(self) -> int:
        total = 0
        for each in self.flying:
            total |= each
        return total


@dataclass(slots=True)
class _Fact:
    """What an instruction does to these sets."""

    kind: str  # "", "fence", "commit", "wait", "mma"
    touched: int = 0
    pending: int = 0


def find(program: Program) -> Suspects:
    """Where the program may be wrong."""
    bit, facts = _facts(program)
    blocks, successors = _graph(program.function)
    before: list[_State | None] = [None] * len(blocks)
    before[0] = _State(NO_FENCE, (0,) * (AGES + 1))
    work = [0]
    while work:
        number = work.pop()
        state = before[number]
        assert state is not None
        for pc in range(*blocks[number]):
            state = _after(state, facts[pc])
        for follower in successors[number]:
            old = before[follower]
            joined = state if old is None else old.joined(state)
            if joined != old:
                before[follower] = joined
                work.append(follower)
    return _collect(blocks, before, facts, bit)


def _collect(
    blocks: Sequence[tuple[int, int]], before: Sequence[_State | None], facts: Sequence[_Fact], bit: dict[str, int]
) -> Suspects:
    found = Suspects({}, [])
    for block, state in zip(blocks, before, strict=True):
        if state is None:
            continue
        for pc in range(*block):
            fact = facts[pc]
            if fact.kind == "mma" and state.dirty & (fact.touched | NO_FENCE):
                found.unfenced.append(pc)
            meets = fact.touched & state.all_flying if not fact.kind else 0
            if meets:
                found.touching[pc] = frozenset(name for name, mask in bit.items() if mask & meets)
            state = _after(state, fact)
    return found


def _after(state: _State, fact: _Fact) -> _State:
    if not fact.kind:
        return _State(state.dirty | fact.touched, state.flying) if fact.touched & ~state.dirty else state
    flying = state.flying
    if fact.kind == "fence":
        return _State(0, flying)
    if fact.kind == "mma":
        return _State(state.dirty, (flying[0] | fact.touched, *flying[1:]))
    if fact.kind == "commit":
        return _State(state.dirty, (0, *flying[:-2], flying[-2] | flying[-1]))
    kept = tuple(each if age <= fact.pending else 0 for age, each in enumerate(flying))
    return _State(state.dirty, kept)


def _facts(program: Program) -> tuple[dict[str, int], list[_Fact]]:
    bit: dict[str, int] = {}
    for ins in program.instructions:
        if ins.opcode.startswith("wgmma.mma_async"):
            for name in frozenset().union(*registers(ins)):
                bit.setdefault(name, NO_FENCE << (len(bit) + 1))
    facts = []
    for ins, effect in zip(program.instructions, program.effects, strict=True):
        kind = ins.parts[1] if ins.parts[0] == "wgmma" else ""
        if not kind:
            touched = 0
            for name in (*effect.reads, *effect.writes):
                touched |= bit.get(name, 0)
            facts.append(_Fact("", touched))
        elif kind == "mma_async":
            facts.append(_Fact("mma", sum(bit[name] for name in frozenset().union(*registers(ins)))))
        else:
            pending = program.constant(ins, 0) if kind == "wait_group" else 0
            facts.append(_Fact(kind.removesuffix("_group"), 0, pending))
    return bit, facts


def _graph(function: Function) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Straight-line pieces (first, behind the last), and the numbers of those that may follow each."""
    instructions, labels = function.instructions, function.labels
    cuts = {0, len(instructions)} | {pc for pc in labels.values() if pc < len(instructions)}
    cuts |= {ins.pc + 1 for ins in instructions if ends_block(ins)}
    ordered = sorted(cuts)
    blocks = list(pairwise(ordered))
    starts = {first: number for number, (first, _) in enumerate(blocks)}
    successors = []
    for _, end in blocks:
        last = instructions[end - 1]
        names = [operand.name for operand in last.operands if isinstance(operand, Symbol)] if ends_block(last) else []
        targets = [labels[label] for name in names for label in function.tables.get(name, (name,)) if label in labels]
        if not ends_block(last) or last.guard is not None:
            targets.append(end)
        successors.append([starts[target] for target in targets if target in starts])
    return blocks, successors


def _checked(op: Op, ins: Instruction, names: frozenset[str]) -> Op:
    """The Op, after a look at what is in flight in its lanes."""
    from hal_nvidia_ptx.emulator.instructions.wgmma import tensor

    def run_checked(run: Run, lanes: Lanes) -> bool | None:
        for entry in tensor(run).groups.entries:
            form = entry.work.form
            met = names & form.names
            if met and bool(np.isin(lanes.warps, entry.who).any()):
                run.find(
                    "register in flight",
                    f"{', '.join(sorted(met)[:4])} is accessed while a wgmma in flight uses it",
                    ins,
                    lanes,
                    expected="wgmma.wait_group for its group before the access",
                    notes=[("this wgmma was not waited for", form.ins)],
                )
                break
        return op(run, lanes)

    return run_checked


def _without_fence(op: Op, ins: Instruction) -> Op:
    """The Op, after a report: on some path to it its registers are accessed with no wgmma.fence behind that."""

    def run_unfenced(run: Run, lanes: Lanes) -> bool | None:
        run.find(
            "missing wgmma.fence",
            "registers of this wgmma were accessed, or it is the first, and no wgmma.fence follows",
            ins,
            lanes,
            expected="wgmma.fence between other accesses to its registers and the wgmma",
        )
        return op(run, lanes)

    return run_unfenced
