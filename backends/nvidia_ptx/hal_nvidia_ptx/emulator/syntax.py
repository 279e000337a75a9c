"""What PTX text is made of: modules, entries, variables, instructions and their operands, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from hal.errors import CompileError, HalError


class PtxError(CompileError):
    """PTX that does not parse, or that this emulator does not know. `line` counts from 1; 0 where there is none."""

    def __init__(self, message: str, line: int = 0, text: str = "") -> None:
        where = f"line {line}: " if line else ""
        HalError.__init__(self, where + message)  # CompileError's own adds the source, which the reader has at hand
        self.line, self.log, self.source = line, f"{where}{text.strip()}" if text else "", ""


@dataclass(frozen=True, slots=True)
class Reg:
    """A virtual register by its unique name, or a special register such as %tid.x."""

    name: str

    def __str__(self) -> str:
        return self.name


RAW = 1


@dataclass(frozen=True, slots=True)
class Imm:
    """A constant: integers as int, floating-point ones as float with `bits` for the width they are written in."""

    value: int | float
    bits: int = 0  # 32 for 0f…, 64 for 0d… and decimals with a point, 0 for integers, RAW for a register's bits
    kind: str = ""  # the type of the register that it stands for

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable's address, a label or a function's name, plus `offset` bytes."""

    name: str
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.name}+{self.offset}" if self.offset else self.name


@dataclass(frozen=True, slots=True)
class Vector:
    """{a, b, …}"""

    items: tuple[Operand, ...]

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.items)) + "}"


@dataclass(frozen=True, slots=True)
class Addr:
    """[base + offset], or [base + offset, {c0, c1}] of a tensor: `coordinates` are None where there are none."""

    base: Reg | Symbol | Imm
    offset: int = 0
    coordinates: Vector | None = None

    def __str__(self) -> str:
        return f"[{self.base}{self.offset:+d}]" if self.offset else f"[{self.base}]"


@dataclass(frozen=True, slots=True)
class Sink:
    """_"""

    def __str__(self) -> str:
        return "_"


@dataclass(frozen=True, slots=True)
class Not:
    """!p"""

    operand: Reg

    def __str__(self) -> str:
        return f"!{self.operand}"


@dataclass(frozen=True, slots=True)
class Pair:
    """d|p"""

    first: Reg | Sink
    second: Reg | Sink

    def __str__(self) -> str:
        return f"{self.first}|{self.second}"


@dataclass(frozen=True, slots=True)
class Group:
    """(a, b): the arguments or results of a call."""

    items: tuple[Operand, ...]

    def __str__(self) -> str:
        return "(" + ", ".join(map(str, self.items)) + ")"


Operand: TypeAlias = "Reg | Imm | Symbol | Vector | Addr | Sink | Not | Pair | Group"


_PARTS: dict[str, tuple[str, ...]] = {}


@dataclass(slots=True)
class Instruction:
    """One instruction.

    opcode: as written, "ld.global.v4.f32"; parts: split at the dots; guard: predicate register of `@p`, negated if
    `guard_not`; pc: its index in the function, set when the text is parsed; `text` as written, for messages.
    """

    opcode: str
    operands: tuple[Operand, ...]
    line: int
    text: str
    guard: Reg | None = None
    guard_not: bool = False
    pc: int = -1
    parts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        known = _PARTS.get(self.opcode)
        if known is None:
            known = _PARTS[self.opcode] = tuple(self.opcode.split("."))
        self.parts = known

    def has(self, *modifiers: str) -> bool:
        """Whether one of the modifiers (without dot) is in the opcode."""
        return any(m in self.parts[1:] for m in modifiers)

    def error(self, message: str) -> PtxError:
        """An exception that points here."""
        return PtxError(f"{message}: {' '.join(self.text.split())}", self.line, self.text)


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared variable.

    kind: the type name ("b8", "f32"); count: elements, 0 for `name[]` whose size the launch gives;
    initial: bytes, or None where nothing is written; relocations: (byte offset, symbol) of addresses in it.
    """

    name: str
    space: str  # global const shared local param
    kind: str
    count: int
    align: int
    line: int
    array: bool = False
    initial: bytes | None = None
    relocations: tuple[tuple[int, Symbol], ...] = ()

    @property
    def nbytes(self) -> int:
        return self.count * WIDTH[self.kind]


@dataclass(slots=True)
class Function:
    """An .entry or a .func: parameters in order, registers (name -> type), variables, instructions, labels -> pc.

    results: of a .func.
    """

    name: str
    line: int
    entry: bool = True
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # .branchtargets
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)  # maxntid, reqntid, reqnctapercluster, …


@dataclass(slots=True, eq=False)
class Module:
    """One PTX text."""

    version: tuple[int, int]
    target: str
    lines: list[str]
    entries: dict[str, Function] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)


# Bytes of one element in memory.
WIDTH = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "e4m3x2": 2, "e5m2x2": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "tf32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8,
    "f32x2": 8, "b128": 16,
}  # fmt: skip

# The NumPy dtype in which a register or value of a PTX type is kept. Halves and packed types are kept as their bits.
DTYPE: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
        "s16": np.int16, "f16": np.uint16, "bf16": np.uint16, "e4m3x2": np.uint16, "e5m2x2": np.uint16,
        "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "f16x2": np.uint32,
        "bf16x2": np.uint32, "tf32": np.uint32, "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64,
        "f32x2": np.uint64,
    }.items()
}  # fmt: skip
DTYPE["b128"] = np.dtype([("low", np.uint64), ("high", np.uint64)])
