"""A writer of PTX text: typed, named registers; comments that carry the algorithm; loops and branches with structure.

It knows no operator. A kernel generator makes one Entry, calls it once an instruction, and takes `module(entry)`:

    k = Entry("scale", [("x", "u64"), ("n", "s32")], threads=256, doc="x[i] *= 2 for i < n.")
    x, n = k.param("x"), k.param("n")
    block, thread = k.let("s32", "block", "mov.u32", "%ctaid.x"), k.let("s32", "thread", "mov.u32", "%tid.x")
    i = k.let("s32", "i", "mad.lo.s32", block, 256, thread)
    inside = k.let("pred", "inside", "setp.lt.s32", i, n, note="the last block is not full")
    with k.when(inside, "element"):
        address = k.let("s64", "address", "mad.wide.s32", i, 4, x)
        value = k.let("f32", "value", "ld.global.f32", at(address))
        k("add.f32", value, value, value)
        k("st.global.f32", at(address), value)
    print(module(k))

The text depends on nothing but the calls. `.version` and `.target` are the lowest that have all instructions used.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from hal_nvidia_ptx.requirements import requirement
from hal_nvidia_ptx.target import TARGETS

Operand: TypeAlias = "Register | Address | str | int | float | Sequence[Register | str | int | float]"

WIDTHS = {"pred": 1, "b8": 8, "b16": 16, "b32": 32, "b64": 64, "f16": 16, "f32": 32, "f64": 64} | {
    f"{kind}{bits}": bits for kind in "su" for bits in (16, 32, 64)
}
FLOATS = ("f32", "f64")
COMMENT_COLUMN = 68

# Opcodes all of whose register operands have the instruction's type: an .f32 addition of a .b32 register would be
# accepted by the assembler, and mean something else.
_UNIFORM = re.compile(r"(add|sub|mul|mad|fma|div|rem|min|max|neg|abs|ex2|lg2|rcp|rsqrt|sqrt|tanh)\.(?!wide|hi)")


@dataclass(frozen=True, slots=True)
class Register:
    """A virtual register. There is no limit to their number; the assembler maps them to the machine's."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """A memory operand: [base + offset], offset in bytes."""

    base: Register | str
    offset: int = 0

    def __str__(self) -> str:
        return f"[{self.base}+{self.offset}]" if self.offset else f"[{self.base}]"


def at(base: Register | str, offset: int = 0) -> Address:
    """The memory at `base`, a register or the name of a variable, plus a constant number of bytes."""
    return Address(base, offset)


def f32(value: float) -> str:
    """A float32 literal, bit for bit."""
    return f"0f{struct.unpack('<I', struct.pack('<f', value))[0]:08X}"


def f64(value: float) -> str:
    """A float64 literal, bit for bit."""
    return f"0d{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


class Loop:
    """An open loop; `Entry.loop` makes it."""

    def __init__(self, entry: Entry, label: str) -> None:
        self._entry, self._label, self._repeats = entry, label, False

    def leave(self, when: Register | None = None, unless: Register | None = None, note: str = "") -> None:
        """Go on behind the loop."""
        self._entry("bra", f"{self._label}_end", when=when, unless=unless, note=note)

    def repeat(self, when: Register | None = None, unless: Register | None = None, note: str = "") -> None:
        """The end of the body: once more, if the condition holds. Without it the loop repeats until `leave`."""
        self._entry("bra", self._label, when=when, unless=unless, note=note)
        self._repeats = True

    def close(self) -> None:
        """The end of the `with` block."""
        if not self._repeats:
            self._entry("bra", self._label)
        self._entry.label(f"{self._label}_end")


class Entry:
    """One kernel under construction.

    parameters: (name, type) in order; addresses are "u64". threads: of a block, at most (.maxntid), which lets the
    assembler use the registers that this leaves. min_blocks: that an SM should hold at least. doc: what the kernel
    computes and how; it becomes the head comment.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[tuple[str, str]],
        *,
        threads: int = 0,
        min_blocks: int = 0,
        doc: str = "",
    ) -> None:
        self.name, self.parameters, self.doc = name, tuple(parameters), doc
        self.threads, self.min_blocks = threads, min_blocks
        self.version, self.sm = (6, 3), 75
        self._names: dict[str, int] = {}
        self._declared: dict[str, list[str]] = {}
        self._numbered: dict[str, list[Register]] = {}  # registers whose name was taken, by that name
        self._variables: list[str] = []
        self._lines: list[str] = []
        self._depth = 1
        self.dynamic_shared = ""

    # ---- registers and memory

    def reg(self, type: str, name: str) -> Register:
        """A new register; a name that is taken gets a number: %sum, %sum_2, …"""
        register = Register(self._unique(name), type)
        self._declared.setdefault(type, []).append(str(register))
        if register.name != name:
            self._numbered.setdefault(name, []).append(register)
        return register

    def regs(self, type: str, name: str, count: int) -> list[Register]:
        """`count` registers %name0, %name1, … (%name1_0, %name1_1, … where a number comes first)."""
        stem = self._unique(name)
        if stem[-1].isdigit():
            stem += "_"
        self._declared.setdefault(type, []).append(f"%{stem}<{count}>")
        return [Register(f"{stem}{i}", type) for i in range(count)]

    def param(self, name: str) -> Register:
        """A kernel parameter in a register of its name. Addresses are taken to be global."""
        type = dict(self.parameters)[name]
        register = self.let(type, name, f"ld.param.{type}", at(name))
        if type == "u64":
            self("cvta.to.global.u64", register, register)
        return register

    def shared(self, name: str, nbytes: int, align: int = 16, note: str = "") -> str:
        """Static shared memory (48 KiB in all at most); its name stands for its address in `mov` and in `at`."""
        name = self._unique(name)
        self._variables.append(_commented(f"    .shared .align {align} .b8 {name}[{nbytes}];", note))
        return name

    def shared_dynamic(self, name: str, align: int = 16) -> str:
        """The shared memory whose size the launch says."""
        self.dynamic_shared = f".extern .shared .align {align} .b8 {name}[];"
        return name

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else self._unique(f"{name}_{count}")

    # ---- instructions

    def __call__(
        self,
        opcode: str,
        *operands: Operand,
        when: Register | None = None,
        unless: Register | None = None,
        note: str = "",
    ) -> None:
        """One instruction, for the threads in which the predicate `when` is true (`unless`: false).

        Python numbers become literals of the opcode's last type; a sequence becomes a vector operand.
        """
        self._require(opcode, len(operands))
        if _UNIFORM.match(opcode):
            self._check_types(opcode, operands)
        kind = opcode.rpartition(".")[2]
        guard = f"@{when} " if when else f"@!{unless} " if unless else ""
        words = ", ".join(_operand(operand, kind) for operand in operands)
        # ".b32|p" destinations and the like are written by the caller as one string.
        self._line(f"{guard}{opcode:<{max(24 - len(guard), 0)}} {words};" if words else f"{guard}{opcode};", note)

    def let(
        self,
        type: str,
        name: str,
        opcode: str,
        *operands: Operand,
        when: Register | None = None,
        unless: Register | None = None,
        note: str = "",
    ) -> Register:
        """A new register and the instruction that gives it its value."""
        register = self.reg(type, name)
        self(opcode, register, *operands, when=when, unless=unless, note=note)
        return register

    def _require(self, opcode: str, operands: int) -> None:
        needs = requirement(opcode, operands)
        self.version, self.sm = max(self.version, needs.version), max(self.sm, needs.sm)

    def _check_types(self, opcode: str, operands: Sequence[Operand]) -> None:
        kind = opcode.rpartition(".")[2]
        if kind not in WIDTHS:
            return  # packed types live in .b32
        for operand in operands:
            if not isinstance(operand, Register):
                continue
            same = operand.type == kind if kind in FLOATS or operand.type in FLOATS else True
            if not same or WIDTHS[operand.type] != WIDTHS[kind]:
                raise TypeError(
                    f"{self.name}: {opcode} on {operand}, which is .{operand.type}: the types have to agree"
                )

    # ---- structure

    def section(self, text: str) -> None:
        """A comment on lines of its own, before a part of the algorithm."""
        self._lines.append("")
        for line in text.splitlines():
            self._line(f"// {line}".rstrip())

    def label(self, name: str) -> None:
        """A place to branch to."""
        self._lines.append(f"{'  ' * (2 * self._depth - 2)}{name}:")

    @contextmanager
    def loop(self, name: str, note: str = "") -> Iterator[Loop]:
        """A loop labelled `name`. In it: `leave` and, last, `repeat`."""
        label = self._unique(name)
        loop = Loop(self, label)
        self._lines.append(_commented(f"{'  ' * (2 * self._depth - 2)}{label}:", note))
        self._depth += 1
        yield loop
        self._depth -= 1
        loop.close()

    @contextmanager
    def when(self, condition: Register, name: str, note: str = "") -> Iterator[None]:
        """A block for the threads in which the predicate holds; the others jump to the label `name`_end."""
        label = f"{self._unique(name)}_end"
        self("bra", label, unless=condition, note=note)
        self._depth += 1
        yield
        self._depth -= 1
        self.label(label)

    @contextmanager
    def unless(self, condition: Register, name: str, note: str = "") -> Iterator[None]:
        """A block for the threads in which the predicate does not hold."""
        label = f"{self._unique(name)}_end"
        self("bra", label, when=condition, note=note)
        self._depth += 1
        yield
        self._depth -= 1
        self.label(label)

    def _declarations(self) -> dict[str, list[str]]:
        """Registers by type; those numbered %sum_2, %sum_3, … as one range, where they are of one type."""
        ranges: dict[str, str] = {}
        for stem, registers in self._numbered.items():
            highest = 1 + max(int(register.name.rpartition("_")[2]) for register in registers)
            plain = all(register.name.rpartition("_")[0] == stem for register in registers)
            taken = any(f"{stem}_{i}" in self._names for i in range(2))
            if len(registers) > 2 and len({register.type for register in registers}) == 1 and plain and not taken:
                ranges |= dict.fromkeys(map(str, registers), f"%{stem}_<{highest}>")
        return {
            type: list(dict.fromkeys(ranges.get(name, name) for name in names))
            for type, names in self._declared.items()
        }

    def _line(self, text: str, note: str = "") -> None:
        self._lines.append(_commented("    " * self._depth + text, note))

    # ---- text

    def body(self) -> str:
        """The entry, without the module's head."""
        head = [f"// {line}".rstrip() for line in self.doc.splitlines()]
        parameters = ",\n".join(f"    .param .{type} {name}" for name, type in self.parameters)
        bounds = [f".maxntid {self.threads}, 1, 1"] if self.threads else []
        bounds += [f".minnctapersm {self.min_blocks}"] if self.min_blocks else []
        registers = [
            line for type, names in self._declarations().items() for line in _wrapped(f"    .reg .{type:<4} ", names)
        ]
        lines = [*head, f".visible .entry {self.name}(", parameters, ")", *bounds, "{", *registers, *self._variables]
        return "\n".join([*lines, *self._lines, "    ret;", "}"])


def module(*entries: Entry, target: str = "") -> str:
    """The text of a module. target: an architecture-specific one if its instructions are used ("sm_90a").

    Raises ValueError where a name or a comment is not ASCII.
    """
    sm = max(entry.sm for entry in entries)
    name = target or f"sm_{sm}"
    version = max([TARGETS[name].ptx, *(entry.version for entry in entries)])
    head = [f".version {version[0]}.{version[1]}", f".target {name}", ".address_size 64", ""]
    shared = sorted({entry.dynamic_shared for entry in entries if entry.dynamic_shared})
    text = "\n".join([*head, *shared, *([""] if shared else []), "\n\n".join(entry.body() for entry in entries), ""])
    if not text.isascii():  # drivers' compilers (580 among them) refuse such a character in a comment too
        line = next(line for line in text.splitlines() if not line.isascii())
        raise ValueError(f"PTX is ASCII, comments included; write this line otherwise: {line.strip()!r}")
    return text


def _operand(operand: Operand, kind: str) -> str:
    if isinstance(operand, (Register, Address, str)):
        return str(operand)
    if isinstance(operand, float):
        return f64(operand) if kind == "f64" else f32(operand)
    if isinstance(operand, int):
        return str(operand)
    return f"{{{', '.join(_operand(part, kind) for part in operand)}}}"


def _commented(text: str, note: str) -> str:
    return f"{text:<{COMMENT_COLUMN}} // {note}" if note else text


def _wrapped(head: str, names: Sequence[str], width: int = 110) -> Iterator[str]:
    """Declarations of registers, as many on a line as fit."""
    line: list[str] = []
    for name in names:
        if line and len(head) + len(", ".join([*line, name])) > width:
            yield f"{head}{', '.join(line)};"
            line = []
        line.append(name)
    if line:
        yield f"{head}{', '.join(line)};"
