"""Registers that are constants: written once, by a `mov` of an immediate. Their readers get the immediate instead.

Compilers put nearly every constant into a register; knowing it again saves work on arrays, and lets an instruction see
that its member mask or shift amount is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hal_nvidia_ptx.emulator.effects import Effect
from hal_nvidia_ptx.emulator.slots import constant
from hal_nvidia_ptx.emulator.syntax import DTYPE, RAW, Imm, Instruction, Operand, Reg, Vector

_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def propagated(
    instructions: Sequence[Instruction],
    effects: Sequence[Effect],
    unassigned: Collection[str],
    registers: Mapping[str, str],
) -> list[Instruction]:
    """The instructions with constants in place of such registers; registers: their types by name."""
    count = Counter(name for effect in effects for name in effect.writes)
    values = {}
    for ins in instructions:
        if ins.parts[0] == "mov" and ins.guard is None and len(ins.operands) == 2:
            target, source = ins.operands
            if isinstance(source, Imm) and isinstance(target, Reg) and count[target.name] == 1:
                value = _bits(source, ins.parts[-1])
                if value is not None and target.name not in unassigned:
                    values[target.name] = replace(value, kind=registers.get(target.name, ""))
    if not values:
        return list(instructions)
    return [
        ins
        if values.keys().isdisjoint(effect.reads)
        else replace(ins, operands=tuple(_operand(each, values) for each in ins.operands))
        for ins, effect in zip(instructions, effects, strict=True)
    ]


def _bits(number: Imm, kind: str) -> Imm | None:
    """The constant as the bits of a register, None for predicates and what is wider than 64 bits."""
    dtype = DTYPE.get(kind)
    unsigned = None if dtype is None or dtype.kind == "b" else _UNSIGNED.get(dtype.itemsize)
    if dtype is None or unsigned is None:
        return None
    return Imm(int(constant(number, dtype).view(unsigned)[0]), RAW)


def _operand(operand: Operand, values: dict[str, Imm]) -> Operand:
    if isinstance(operand, Reg):
        return values.get(operand.name, operand)
    if isinstance(operand, Vector):
        return Vector(tuple(_operand(item, values) for item in operand.items))
    return operand
