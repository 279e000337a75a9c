"""The registry of instructions: which function builds what runs for an opcode.

A builder looks at one instruction when the text is loaded and returns what runs, once for all lanes that are there:

    @instruction("clz")
    def clz(ins: Instruction, program: Program) -> Op:
        source, result = program.source(ins, 1, "b32"), program.dest(ins, 0, "u32")
        def run(run: Run, lanes: Lanes) -> None:
            lanes.put(result, ...lanes.read(source)...)
        return run

An Op returns None when all its lanes go on with the next instruction, and True when it has placed every one of them
itself, by run.go and run.park.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program
    from hal_nvidia_ptx.emulator.syntax import Instruction

Op: TypeAlias = "Callable[[Run, Lanes], bool | None]"
Builder: TypeAlias = "Callable[[Instruction, Program], Op]"
Faith: TypeAlias = Literal["exact", "approximate", "unmodelled"]


@dataclass(frozen=True, slots=True)
class Handler:
    """How one family of opcodes is built.

    writes: how many of the leading operands are results; aligned: all live lanes of a warp have to come together;
    mask: which operand (index, negative from the end) names the lanes of the warp that have to come together;
    faith: how close to hardware, or a function of the instruction that says so; guarded: builds its own `@p`.
    """

    build: Builder
    writes: int = 1
    aligned: bool | Callable[[Instruction], bool] = False
    mask: int | None = None
    faith: Faith | Callable[[Instruction], Faith] = "exact"
    guarded: bool = False


_HANDLERS: dict[str, Handler] = {}


def instruction(
    *names: str,
    writes: int = 1,
    aligned: bool | Callable[[Instruction], bool] = False,
    mask: int | None = None,
    faith: Faith | Callable[[Instruction], Faith] = "exact",
    guarded: bool = False,
) -> Callable[[Builder], Builder]:
    """Register a builder for all opcodes that start with one of the names (whole dotted parts); the longest wins."""

    def register(build: Builder) -> Builder:
        for name in names:
            if name in _HANDLERS:
                raise ValueError(f"{name} has two builders")
            _HANDLERS[name] = Handler(build, writes, aligned, mask, faith, guarded)
        return build

    return register


@cache
def load() -> None:
    """Import all files of this folder: each registers its instructions."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


@cache
def find(opcode: str) -> Handler | None:
    """The handler of an opcode, None for unknown ones."""
    load()
    parts = opcode.split(".")
    for length in range(len(parts), 0, -1):
        handler = _HANDLERS.get(".".join(parts[:length]))
        if handler is not None:
            return handler
    return None
