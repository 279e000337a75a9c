"""Which registers an instruction reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hal_nvidia_ptx.emulator.instructions import Handler
from hal_nvidia_ptx.emulator.syntax import Addr, Group, Instruction, Not, Operand, Pair, Reg, Vector


@dataclass(frozen=True, slots=True)
class Effect:
    """Names of the registers that an instruction reads (its predicate excluded) and writes."""

    reads: Sequence[str]
    writes: Sequence[str]


def effect(ins: Instruction, handler: Handler) -> Effect:
    """The leading `handler.writes` operands are results, where they are registers and no addresses."""
    reads: list[str] = []
    writes: list[str] = []
    results = handler.writes
    for number, operand in enumerate(ins.operands):
        into = writes if number < results else reads
        if type(operand) is Reg:
            into.append(operand.name)
        else:
            _collect(operand, into, reads)
    return Effect(reads, writes)


def _collect(operand: Operand, into: list[str], reads: list[str]) -> None:
    if isinstance(operand, Reg):
        into.append(operand.name)
    elif isinstance(operand, Addr):
        _collect(operand.base, reads, reads)
        if operand.coordinates is not None:
            _collect(operand.coordinates, reads, reads)
    elif isinstance(operand, (Vector, Group)):
        for item in operand.items:
            _collect(item, into, reads)
    elif isinstance(operand, Not):
        reads.append(operand.operand.name)
    elif isinstance(operand, Pair):
        _collect(operand.first, into, reads)
        _collect(operand.second, into, reads)
