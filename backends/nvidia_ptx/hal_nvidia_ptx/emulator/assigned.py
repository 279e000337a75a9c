"""Definite assignment: which registers may be read on some path before anything was written to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hal_nvidia_ptx.emulator.effects import Effect
from hal_nvidia_ptx.emulator.syntax import Function, Instruction, Symbol


@dataclass(slots=True)
class _Block:
    """A straight-line piece: instructions first to last - 1; names read before, and names surely written, in it."""

    first: int
    last: int
    exposed: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


def unassigned(function: Function, effects: Sequence[Effect]) -> frozenset[str]:
    """Names of the registers that need a look at run time."""
    blocks = [_block(function, effects, first, last) for first, last in _pieces(function)]
    candidates = sorted(set().union(*(block.exposed for block in blocks)) & function.registers.keys())
    bit = {name: 1 << number for number, name in enumerate(candidates)}
    before = _reaching(function, blocks, bit)
    unsafe = 0
    for block, have in zip(blocks, before, strict=True):
        unsafe |= _bits(block.exposed, bit) & ~have
    return frozenset(name for name, mask in bit.items() if mask & unsafe)


def _block(function: Function, effects: Sequence[Effect], first: int, last: int) -> _Block:
    block = _Block(first, last)
    exposed, written = block.exposed, block.written
    for pc in range(first, last):
        ins, effect = function.instructions[pc], effects[pc]
        for name in effect.reads:
            if name not in written:
                exposed.add(name)
        if ins.guard is None:
            written.update(effect.writes)
        elif ins.guard.name not in written:
            exposed.add(ins.guard.name)
    return block


def _bits(names: Iterable[str], bit: dict[str, int]) -> int:
    total = 0
    for name in names:
        total |= bit.get(name, 0)
    return total


def _reaching(function: Function, blocks: list[_Block], bit: dict[str, int]) -> list[int]:
    """For each block the registers that are written on every path to it; sets are integers, a bit each."""
    starts = {block.first: number for number, block in enumerate(blocks)}
    successors = [_successors(function, block, starts) for block in blocks]
    gained = [_bits(block.written, bit) for block in blocks]
    before = [0] + [(1 << len(bit)) - 1] * (len(blocks) - 1) if blocks else []
    work = list(range(len(blocks)))[::-1]
    while work:
        number = work.pop()
        after = before[number] | gained[number]
        for follower in successors[number]:
            if before[follower] & after != before[follower]:
                before[follower] &= after
                work.append(follower)
    return before


def _pieces(function: Function) -> Iterable[tuple[int, int]]:
    """(first, behind the last) of straight-line pieces."""
    count = len(function.instructions)
    cuts = {0, count} | {pc for pc in function.labels.values() if pc < count}
    cuts |= {ins.pc + 1 for ins in function.instructions if ends_block(ins)}
    return itertools.pairwise(sorted(cuts))


def ends_block(ins: Instruction) -> bool:
    return ins.parts[0] in ("bra", "brx", "ret", "exit", "trap")


def _successors(function: Function, block: _Block, starts: dict[int, int]) -> list[int]:
    last = function.instructions[block.last - 1]
    name = last.parts[0]
    targets: list[int] = []
    if name == "bra" and isinstance(last.operands[0], Symbol):
        targets.append(function.labels[last.operands[0].name])
    elif name == "brx" and isinstance(last.operands[1], Symbol):
        targets += [function.labels[label] for label in function.tables.get(last.operands[1].name, ())]
    if not ends_block(last) or last.guard is not None:
        targets.append(block.last)
    return [starts[target] for target in targets if target in starts]
