"""Definite assignment: which registers may be read on some path before anything was written to them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hal_nvidia_ptx.emulator.guards import reads_of
from hal_nvidia_ptx.emulator.instructions import Handler
from hal_nvidia_ptx.emulator.syntax import Function, Instruction, Symbol


def unassigned(function: Function, handlers: Sequence[Handler]) -> frozenset[str]:
    """Names of the registers that need a look at run time; sets of registers are Python integers, a bit each."""
    bit = {name: 1 << number for number, name in enumerate(function.registers)}
    uses, defines = _facts(function.instructions, handlers, bit)
    blocks = _blocks(function)
    starts = {block[0]: number for number, block in enumerate(blocks)}
    successors = [_successors(function, block, starts) for block in blocks]
    gained = [_union(defines[first:last]) for first, last in blocks]
    everything = (1 << len(bit)) - 1
    before = [0] + [everything] * (len(blocks) - 1) if blocks else []
    work = list(range(len(blocks)))[::-1]
    queued = set(work)
    while work:
        number = work.pop()
        queued.discard(number)
        after = before[number] | gained[number]
        for follower in successors[number]:
            if before[follower] & after != before[follower]:
                before[follower] &= after
                if follower not in queued:
                    queued.add(follower)
                    work.append(follower)
    unsafe = _unsafe(blocks, before, uses, defines)
    return frozenset(name for name, mask in bit.items() if mask & unsafe)


def _unsafe(blocks: list[tuple[int, int]], before: list[int], uses: list[int], defines: list[int]) -> int:
    unsafe = 0
    for (first, last), have in zip(blocks, before, strict=True):
        for pc in range(first, last):
            unsafe |= uses[pc] & ~have
            have |= defines[pc]
    return unsafe


def _union(sets: list[int]) -> int:
    total = 0
    for each in sets:
        total |= each
    return total


def _facts(
    instructions: Sequence[Instruction], handlers: Sequence[Handler], bit: dict[str, int]
) -> tuple[list[int], list[int]]:
    """Per instruction: registers read, registers surely written."""
    from hal_nvidia_ptx.emulator.program import results

    uses, defines = [], []
    for ins, handler in zip(instructions, handlers, strict=True):
        read = _union([bit.get(name, 0) for name in reads_of(ins, handler)])
        written = _union([bit.get(name, 0) for name in results(ins, handler)])
        if ins.guard is not None:
            read |= bit.get(ins.guard.name, 0)
            written = 0
        uses.append(read)
        defines.append(written)
    return uses, defines


def _blocks(function: Function) -> list[tuple[int, int]]:
    """(first, behind the last) of straight-line pieces."""
    count = len(function.instructions)
    cuts = {0, count} | {pc for pc in function.labels.values() if pc < count}
    cuts |= {ins.pc + 1 for ins in function.instructions if ends_block(ins)}
    ordered = sorted(cuts)
    return list(itertools.pairwise(ordered))


def ends_block(ins: Instruction) -> bool:
    return ins.opcode.split(".", 1)[0] in ("bra", "brx", "ret", "exit", "trap")


def _successors(function: Function, block: tuple[int, int], starts: dict[int, int]) -> list[int]:
    last = function.instructions[block[1] - 1]
    name = last.opcode.split(".", 1)[0]
    targets: list[int] = []
    if name == "bra" and isinstance(last.operands[0], Symbol):
        targets.append(function.labels[last.operands[0].name])
    elif name == "brx" and isinstance(last.operands[1], Symbol):
        targets += [function.labels[label] for label in function.tables.get(last.operands[1].name, ())]
    if not ends_block(last) or last.guard is not None:
        targets.append(block[1])
    return [starts[target] for target in targets if target in starts]
