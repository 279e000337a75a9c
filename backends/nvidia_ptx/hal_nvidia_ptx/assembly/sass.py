"""Machine code as data: the text of `nvdisasm -c -hex` parsed into functions of instructions with their control bits.

An instruction has 16 bytes. Bits 41 and up of the second 8 tell the hardware's scheduler how to issue it: how long the
warp waits before its next instruction, which of six scoreboards the result or the reading of the operands releases, and
which scoreboards must be free before it starts. The layout is public knowledge from Volta on (it was found by taking
machine code apart); the same one holds to sm_120.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hal.errors import CompileError
from hal_nvidia_ptx.assembly.assembler import tool

NO_SCOREBOARD = 7  # what a scoreboard field says when it names none
BYTES = 16  # of an instruction

GROUP_MMA = ("HGMMA", "IGMMA", "QGMMA")  # of four warps together
MMA = ("HMMA", "IMMA", "DMMA", "QMMA", "OMMA", *GROUP_MMA)
FMA = ("FFMA", "FFMA2", "DFMA")
LOCAL = ("LDL", "STL")

_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction. `target` is the address that a branch goes to; scoreboards are 0-5 or NO_SCOREBOARD."""

    address: int
    predicate: str  # "", "@P0", "@!UP1"
    opcode: str  # with its modifiers: "LDG.E.128"
    operands: str
    stall: int  # clocks until the warp's next instruction
    write: int  # scoreboard that the result releases
    read: int  # scoreboard that the reading of the operands releases
    wait: int  # mask of scoreboards that must be free before it starts
    target: int | None = None

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def idle(self) -> bool:
        """Does nothing: padding, and what is predicated away for good."""
        return self.name == "NOP" or self.predicate in ("@!PT", "@!UPT")

    @property
    def width(self) -> int:
        """Bytes that one thread moves, of a load or store."""
        return next((_WIDTHS[part] for part in self.opcode.split(".")[1:] if part in _WIDTHS), 4)


@dataclass(frozen=True, slots=True)
class Function:
    """The code of one entry, in order of addresses."""

    name: str
    instructions: tuple[Instruction, ...]

    @property
    def code_bytes(self) -> int:
        """Bytes of instructions, without the padding behind them."""
        return BYTES * sum(not instruction.idle for instruction in self.instructions)

    def count(self, *names: str) -> int:
        """How many instructions have one of these opcodes, whatever their modifiers."""
        return sum(instruction.name in names for instruction in self.instructions)


def disassemble(cubin: bytes) -> dict[str, Function]:
    """The functions of a cubin by name.

    Raises BackendUnavailable where nvdisasm is missing, CompileError where it does not read the cubin.
    """
    program = tool("nvdisasm")
    with tempfile.TemporaryDirectory(prefix="hal-sass-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        done = subprocess.run(
            [program, "-c", "-hex", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    if done.returncode:
        raise CompileError("nvdisasm does not read this cubin", log=done.stderr)
    return parse(done.stdout)


_SECTION = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
_LINE = re.compile(
    r"^(?P<label>\.L\w+):\s*$"
    r"|^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<text>.*?)\s*;?\s*/\* 0x[0-9a-f]{16} \*/"
    r"\s+/\* 0x(?P<high>[0-9a-f]{16}) \*/",
    re.MULTILINE,
)
_TEXT = re.compile(r"(?:\{ *)?(?:(@!?\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;?\s*\}?$")
_GOAL = re.compile(r"`\((\.L\w+)\)")


def parse(text: str) -> dict[str, Function]:
    """The functions in the text of `nvdisasm -c -hex`, by name."""
    parts = _SECTION.split(text)
    return {name: Function(name, _instructions(body)) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _instructions(body: str) -> tuple[Instruction, ...]:
    labels: dict[str, int] = {}
    found: list[tuple[int, str, int]] = []
    waiting: list[str] = []  # labels of the next instruction
    for match in _LINE.finditer(body):
        if match["label"]:
            waiting.append(match["label"])
            continue
        address = int(match["address"], 16)
        labels.update(dict.fromkeys(waiting, address))
        waiting.clear()
        found.append((address, match["text"], int(match["high"], 16)))
    return tuple(_instruction(address, text, high, labels) for address, text, high in found)


def _instruction(address: int, text: str, high: int, labels: dict[str, int]) -> Instruction:
    match = _TEXT.match(text)
    if match is None:
        raise ValueError(f"not the text of an instruction: {text!r}")
    predicate, opcode, operands = match.groups()
    goal = _GOAL.search(operands)
    control = high >> 41
    return Instruction(
        address=address,
        predicate=predicate or "",
        opcode=opcode,
        operands=operands,
        stall=control & 15,
        write=control >> 5 & 7,
        read=control >> 8 & 7,
        wait=control >> 11 & 63,
        target=labels.get(goal[1]) if goal else None,
    )
