"""Elementwise instructions in general: a table from opcode to a function over whole arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Faith, Op, instruction
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program


@dataclass(frozen=True, slots=True)
class Simple:
    """function(*sources, result) puts the result of arrays of the `sources` types into one of type `result`."""

    function: Callable[..., Any]
    result: str
    sources: tuple[str, ...]
    faith: Faith = "exact"


Decode = Callable[[tuple[str, ...]], Simple]


def simple(*names: str) -> Callable[[Decode], Decode]:
    """Register elementwise instructions: the function makes a Simple of an opcode's parts."""

    def register(decode: Decode) -> Decode:
        cached = lru_cache(maxsize=None)(decode)

        def built(ins: Instruction, program: Program) -> Op:
            return build(cached(ins.parts), ins, program)

        instruction(*names, guarded=True, faith=lambda ins: cached(ins.parts).faith)(built)
        return decode

    return register


def build(spec: Simple, ins: Instruction, program: Program) -> Op:
    """The Op of an elementwise instruction with or without predicate."""
    program.count(ins, 1 + len(spec.sources))
    slots = [program.source(ins, 1 + i, kind) for i, kind in enumerate(spec.sources)]
    program.check_result(ins, program.operand(ins, 0), spec.result)
    result = program.dest(ins, 0, spec.result)
    if ins.guard is not None:
        return predicated(spec.function, slots, [result], program.source(ins, ins.guard, "pred"), ins.guard_not)
    return plain(spec.function, slots, result)


def plain(function: Callable[..., Any], sources: Sequence[int], result: int) -> Op:
    """The Op of an elementwise function without predicate; a closure for each number of sources, for speed."""
    if len(sources) == 1:
        (a,) = sources

        def one(run: Run, lanes: Lanes) -> None:
            if lanes.dense:
                regs = lanes.regs
                function(regs[a], regs[result])
            else:
                lanes.apply(function, sources, (result,))

        return one
    if len(sources) == 2:
        a, b = sources

        def two(run: Run, lanes: Lanes) -> None:
            if lanes.dense:
                regs = lanes.regs
                function(regs[a], regs[b], regs[result])
            else:
                lanes.apply(function, sources, (result,))

        return two
    if len(sources) == 3:
        a, b, c = sources

        def three(run: Run, lanes: Lanes) -> None:
            if lanes.dense:
                regs = lanes.regs
                function(regs[a], regs[b], regs[c], regs[result])
            else:
                lanes.apply(function, sources, (result,))

        return three

    def many(run: Run, lanes: Lanes) -> None:
        lanes.apply(function, sources, (result,))

    return many


def several(function: Callable[..., Any], sources: Sequence[int], results: Sequence[int]) -> Op:
    """As `plain`, with any number of results: function(*sources, *results)."""

    def run_several(run: Run, lanes: Lanes) -> None:
        lanes.apply(function, sources, results)

    return run_several


def predicated(
    function: Callable[..., Any], sources: Sequence[int], results: Sequence[int], predicate: int, negated: bool
) -> Op:
    """The Op of an elementwise function under `@p`: computed for all, kept where p holds."""

    def run_predicated(run: Run, lanes: Lanes) -> None:
        if not lanes.dense:
            holds = lanes.read(predicate)
            if negated:
                holds = ~holds
            if holds.any():
                lanes.where(holds).apply(function, sources, results)
            return
        mask = lanes.regs[predicate]
        if negated:
            mask = ~mask
        count = np.count_nonzero(mask)
        if count == len(mask):
            lanes.apply(function, sources, results)
        elif count:
            lanes.apply_where(mask, function, sources, results)

    return run_predicated
