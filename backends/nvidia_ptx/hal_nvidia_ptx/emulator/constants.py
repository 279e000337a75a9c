"""Registers that are constants: written once, by a `mov` of an immediate. Their readers get the immediate instead.

Compilers put nearly every constant into a register; knowing it again saves work on arrays, and lets an instruction see
that its member mask or shift amount is one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Handler
from hal_nvidia_ptx.emulator.syntax import DTYPE, RAW, Imm, Instruction, Operand, Reg, Vector

_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def propagated(
    instructions: Sequence[Instruction],
    handlers: Sequence[Handler],
    writers: Sequence[Sequence[str]],
    unassigned: Collection[str],
) -> list[Instruction]:
    """The instructions with constants in place of such registers. writers: the registers that each writes."""
    count: dict[str, int] = {}
    for names in writers:
        for name in names:
            count[name] = count.get(name, 0) + 1
    values = {}
    for ins in instructions:
        if ins.opcode.startswith("mov.") and ins.guard is None and len(ins.operands) == 2:
            target, source = ins.operands
            if isinstance(source, Imm) and isinstance(target, Reg) and count.get(target.name) == 1:
                value = _bits(source, ins.parts[-1])
                if value is not None and target.name not in unassigned:
                    values[target.name] = value
    if not values:
        return list(instructions)
    return [_replaced(ins, handler.writes, values) for ins, handler in zip(instructions, handlers, strict=True)]


def _bits(number: Imm, kind: str) -> Imm | None:
    """The constant as the bits of a register, None for predicates and what is wider than 64 bits."""
    from hal_nvidia_ptx.emulator.program import constant

    dtype = DTYPE.get(kind)
    unsigned = None if dtype is None or dtype.kind == "b" else _UNSIGNED.get(dtype.itemsize)
    if dtype is None or unsigned is None:
        return None
    return Imm(int(constant(number, dtype).view(unsigned)[0]), RAW)


def _replaced(ins: Instruction, writes: int, values: dict[str, Imm]) -> Instruction:
    changed = tuple(each if i < writes else _operand(each, values) for i, each in enumerate(ins.operands))
    return ins if changed == ins.operands else replace(ins, operands=changed)


def _operand(operand: Operand, values: dict[str, Imm]) -> Operand:
    if isinstance(operand, Reg):
        return values.get(operand.name, operand)
    if isinstance(operand, Vector):
        return Vector(tuple(_operand(item, values) for item in operand.items))
    return operand
