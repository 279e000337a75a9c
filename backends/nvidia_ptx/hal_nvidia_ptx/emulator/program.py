"""One entry of a module made ready to run: a list of Ops, one for each instruction, and the layout of its variables."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import accumulators, instructions
from hal_nvidia_ptx.emulator.agreement import CLASSES, agrees, constant_agrees, special_agrees, symbol_agrees
from hal_nvidia_ptx.emulator.assigned import unassigned
from hal_nvidia_ptx.emulator.constants import propagated
from hal_nvidia_ptx.emulator.effects import effect
from hal_nvidia_ptx.emulator.forms import complaint
from hal_nvidia_ptx.emulator.guards import checked, converged, guarded
from hal_nvidia_ptx.emulator.header import check_instruction
from hal_nvidia_ptx.emulator.inline import inline
from hal_nvidia_ptx.emulator.instructions import Handler, Op
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.layout import Layout
from hal_nvidia_ptx.emulator.operands import SPECIAL
from hal_nvidia_ptx.emulator.slots import (
    AddressSlot,
    ConstantSlot,
    RegisterSlot,
    ScratchSlot,
    Slot,
    SpecialSlot,
    constant,
)
from hal_nvidia_ptx.emulator.source import parse
from hal_nvidia_ptx.emulator.syntax import (
    DTYPE,
    Addr,
    Function,
    Imm,
    Instruction,
    Module,
    Operand,
    PtxError,
    Reg,
    Sink,
    Symbol,
    Variable,
    Vector,
)
from hal_nvidia_ptx.target import TARGETS, Target

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = "str | np.dtype[Any]"  # a PTX type, or a dtype


STATIC_SHARED = 48 * 1024  # bytes of a block; more is there at launch only


class Address:
    """The address of an operand [base + offset]; `get` gives int64 [count]."""

    def __init__(self, slot: int, offset: int, wide: bool) -> None:
        self._slot, self._offset, self._wide = slot, offset, wide

    def get(self, lanes: Lanes) -> Array:
        base = lanes.read(self._slot)
        if not self._wide:
            base = base.astype(np.int64)
        return base + self._offset if self._offset else base


class Program:
    """What instructions are compiled into. ops[i] runs instructions[i].

    slots: see slots.py; parameters, parameter_bytes, offsets, local_bytes, shared_static, dynamic_start: see layout.py;
    unassigned: registers that may be read before they are written; cluster: CTAs of a cluster that the text asks for.
    """

    def __init__(self, module: Module, function: Function, target: Target) -> None:
        self.module, self.target = module, target
        self.name = function.name
        self.function = inline(module, function)
        self.instructions = self.function.instructions
        self.lines = module.lines
        self.slots: list[Slot] = []
        self._slots: dict[Any, int] = {}
        layout = Layout(module, self.function, self.instructions)
        self._variables = layout.variables
        self.parameters, self.parameter_bytes = layout.parameters, layout.parameter_bytes
        self.offsets, self.local_bytes = layout.offsets, layout.local_bytes
        self.shared_static, self.dynamic_start = layout.shared_static, layout.dynamic_start
        if self.shared_static > STATIC_SHARED:
            have = f"{self.shared_static} bytes of shared memory that the text declares"
            raise PtxError(f"kernel {self.name} has {have}, {STATIC_SHARED} are the most", function.line)
        self.handlers = [self._handler(ins) for ins in self.instructions]
        self.effects = [effect(ins, handler) for ins, handler in zip(self.instructions, self.handlers, strict=True)]
        self.unassigned = unassigned(self.function, self.effects)
        self.instructions = propagated(self.instructions, self.effects, self.unassigned, self.function.registers)
        self.ops: list[Op] = [self._op(ins) for ins in self.instructions]
        accumulators.watch(self)
        self.tails: dict[int, list[Op]] = {}
        fixed = function.directives.get("reqnctapercluster", ())
        x, y, z = (*fixed, 1, 1, 1)[:3]
        self.cluster = (x, y, z)

    # What builders call.

    def source(self, ins: Instruction, operand: int | Operand, kind: Kind, wider: bool = False) -> int:
        """The slot of an operand (or of the operand of that index) that is read as a type.

        wider: of a wider register it is the low part. A constant is converted; a variable's name is its address. Types
        have to agree (agreement.py) where `kind` is a type of PTX; a dtype is how the machine looks at an operand.
        """
        if isinstance(operand, int):
            operand = self.operand(ins, operand)
        if isinstance(kind, str):
            self._check_type(ins, operand, kind, wider)
        return self._slot(ins, operand, kind)

    def _check_type(self, ins: Instruction, operand: Operand, kind: str, wider: bool) -> None:
        if type(operand) is Reg:
            declared = self.function.registers.get(operand.name)
            if declared is None:
                mov = ins.parts[0] == "mov" or (ins.parts[0] == "cvt" and CLASSES.get(ins.parts[-2]) == "integer")
                copied = mov and special_agrees(operand.name, kind)
                if operand.name in SPECIAL and not copied:
                    raise ins.error(f"{operand} cannot be read here: a special register is read by mov of its size")
            elif not agrees(declared, kind, wider):
                raise ins.error(f"{operand} is .{declared}, .{kind} is wanted")
        elif type(operand) is Symbol and not symbol_agrees(ins.parts[0], kind):
            raise ins.error(f"{operand} cannot be read here: an address is read by mov of its size")
        elif type(operand) is Imm and not constant_agrees(operand, kind, wider):
            given = f"a .{operand.kind} register's value" if operand.kind else f"the constant {operand}"
            raise ins.error(f"{given} cannot stand for .{kind}")

    def _slot(self, ins: Instruction, operand: Operand, kind: Kind) -> int:
        # Constants by their text: 0.0 and -0.0 are equal.
        name = operand.name if type(operand) is Reg else repr(operand) if type(operand) is Imm else operand
        quick = (name, kind)
        slot = self._slots.get(quick)
        if slot is None:
            dtype = DTYPE[kind] if isinstance(kind, str) else kind
            key = (name, dtype)
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = self.add(self._source(ins, operand, dtype))
            self._slots[quick] = slot
        return slot

    def dest(self, ins: Instruction, operand: int | Operand, kind: Kind, wider: bool = False) -> int:
        """The slot of a register that is written. A wider register is written whole: integers get extended."""
        if isinstance(operand, int):
            operand = self.operand(ins, operand)
        if isinstance(operand, Sink):
            return self.scratch(kind)
        if isinstance(kind, str):
            self.check_result(ins, operand, kind, wider)
        own, dtype = DTYPE[self.kind(operand)], DTYPE[kind] if isinstance(kind, str) else kind
        if own.itemsize > dtype.itemsize:
            if dtype.kind == "f":
                raise ins.error(f"{operand} is wider than .{kind}: the emulator does not know this")
            dtype = np.dtype(f"{dtype.kind}{own.itemsize}")
        return self._slot(ins, operand, dtype)

    def check_result(self, ins: Instruction, operand: Operand, kind: str, wider: bool = False) -> None:
        """Raises PtxError for what is no register, or none that a result of this type may go to."""
        declared = self.kind(operand)
        if isinstance(operand, Reg) and not declared and operand.name not in SPECIAL:
            raise ins.error(f"register {operand} is not declared")
        if not declared:
            raise ins.error(f"{operand} is no register that can be written")
        if not agrees(declared, kind, wider):
            raise ins.error(f"{operand} is .{declared}, the result is .{kind}")

    def scratch(self, kind: Kind) -> int:
        """A slot that nobody reads: where `_` goes."""
        dtype = DTYPE[kind] if isinstance(kind, str) else kind
        key = ("scratch", dtype)
        if key not in self._slots:
            self._slots[key] = self.add(ScratchSlot(dtype))
        return self._slots[key]

    def sources(self, ins: Instruction, operand: int | Operand, kind: Kind, count: int | None = None) -> list[int]:
        """The slots of a vector's items (of a single operand: one)."""
        return [self.source(ins, item, kind) for item in self.items(ins, operand, count)]

    def dests(self, ins: Instruction, operand: int | Operand, kind: Kind, count: int | None = None) -> list[int]:
        """As `sources`, for results."""
        return [self.dest(ins, item, kind) for item in self.items(ins, operand, count)]

    def items(self, ins: Instruction, operand: int | Operand, count: int | None = None) -> tuple[Operand, ...]:
        """The items of a vector, checked to be `count`; a single operand is a vector of one."""
        if isinstance(operand, int):
            operand = self.operand(ins, operand)
        items = operand.items if isinstance(operand, Vector) else (operand,)
        if count is not None and len(items) != count:
            raise ins.error(f"{count} registers are needed, {len(items)} given")
        if len(items) > 1:
            self._check_vector(ins, items)
        return items

    def _check_vector(self, ins: Instruction, items: Sequence[Operand]) -> None:
        """Floats and integers do not mix in one vector."""
        classes = {CLASSES.get(kind, "") for kind in map(self.kind, items)} - {""}
        if len(classes) > 1:
            raise ins.error(f"a vector of registers of different types: {' and '.join(sorted(classes))}")

    def address(self, ins: Instruction, operand: int | Operand) -> Address:
        """The address of [base + offset], or of a bare register or variable."""
        if isinstance(operand, int):
            operand = self.operand(ins, operand)
        if isinstance(operand, (Reg, Symbol)):
            operand = Addr(operand)
        if not isinstance(operand, Addr):
            raise ins.error(f"{operand} is no address")
        base = operand.base
        narrow = isinstance(base, Reg) and DTYPE[self.function.registers.get(base.name, "u32")].itemsize == 4
        return Address(self.source(ins, base, "u32" if narrow else "s64"), operand.offset, not narrow)

    def operand(self, ins: Instruction, index: int) -> Operand:
        """Raises PtxError where the instruction has too few operands."""
        if not -len(ins.operands) <= index < len(ins.operands):
            raise ins.error(f"operand {index + 1 if index >= 0 else index} is missing")
        return ins.operands[index]

    def count(self, ins: Instruction, low: int, high: int | None = None) -> None:
        """Check the number of operands."""
        if not low <= len(ins.operands) <= (low if high is None else high):
            raise ins.error(
                f"{low if high is None else f'{low} to {high}'} operands are needed, {len(ins.operands)} given"
            )

    def constant(self, ins: Instruction, operand: int | Operand) -> int:
        """The value of an operand that has to be an integer constant."""
        if isinstance(operand, int):
            operand = self.operand(ins, operand)
        if not isinstance(operand, Imm) or not isinstance(operand.value, int):
            raise ins.error(f"{operand} has to be a constant")
        return operand.value

    def variable(self, name: str) -> Variable | None:
        """A variable of this kernel or of the module; a kernel parameter too."""
        return self._variables.get(name)

    def kind(self, operand: Operand) -> str:
        """The declared type of a register ("" for anything else)."""
        return self.function.registers.get(operand.name, "") if isinstance(operand, Reg) else ""

    # Building.

    def _handler(self, ins: Instruction) -> Handler:
        handler = instructions.find(ins.opcode)
        if handler is None:
            raise ins.error(f"the emulator does not know the instruction {ins.opcode}")
        wrong = complaint(ins.parts)
        if wrong:
            raise ins.error(wrong)
        check_instruction(self.module, ins)
        return handler

    def _op(self, ins: Instruction) -> Op:
        handler = self.handlers[ins.pc]
        try:
            op = handler.build(ins, self)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            if isinstance(error, PtxError):
                raise
            raise ins.error(f"not a form that the emulator knows ({error})") from error
        aligned = handler.aligned(ins) if callable(handler.aligned) else handler.aligned
        if aligned or handler.mask is not None:
            mask = None if handler.mask is None else self.source(ins, handler.mask, "u32")
            op = converged(op, ins, mask)
        predicate = None if ins.guard is None else self.source(ins, ins.guard, "pred")
        if self.unassigned:
            own = predicate if handler.guarded else None
            op = checked(op, ins, self.effects[ins.pc], self.unassigned, own)
        if predicate is not None and not handler.guarded:
            op = guarded(op, ins, predicate, bool(aligned))
        return op

    def _source(self, ins: Instruction, operand: Operand, dtype: np.dtype[Any]) -> Slot:
        if isinstance(operand, Reg):
            return self._register(ins, operand.name, dtype)
        if isinstance(operand, Imm):
            return ConstantSlot(constant(operand, dtype))
        if isinstance(operand, Symbol) and operand.name in self._variables:
            return AddressSlot(operand, dtype)
        raise ins.error(f"{operand} cannot be read here")

    def _register(self, ins: Instruction, name: str, dtype: np.dtype[Any]) -> Slot:
        kind = self.function.registers.get(name)
        if kind is None:
            if name not in SPECIAL:
                raise ins.error(f"register {name} is not declared, and is no special register that is known")
            return SpecialSlot(name, dtype)
        own = DTYPE[kind]
        if own.itemsize < dtype.itemsize or (own.kind == "b") != (dtype.kind == "b"):
            raise ins.error(f"{name} is .{kind}, too narrow or of another kind than {dtype}")
        return RegisterSlot(name, kind, dtype)

    def add(self, slot: Slot) -> int:
        """The number of a new slot."""
        self.slots.append(slot)
        return len(self.slots) - 1


def load(text: str, entry: str | None, target: str) -> Program:
    """Parse, choose the entry (None: the only one), build. Raises PtxError; ValueError for an unknown target."""
    with uncollected():
        return build(parse(text), entry, target)


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is not collected meanwhile: thousands of small objects are made that all stay, which doubles the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def build(module: Module, entry: str | None, target: str) -> Program:
    """As `load`, from a parsed module."""
    known = TARGETS.get(target)
    if known is None:
        raise ValueError(f"target {target!r}: known are {', '.join(TARGETS)}")
    wanted = TARGETS.get(module.target)
    if wanted is not None and not known.runs(wanted):
        raise PtxError(f"the text is for .target {module.target}, the device is {target}", _line_of(module, ".target"))
    if entry is None and len(module.entries) != 1:
        raise PtxError(f"name one of the entries: {', '.join(module.entries) or 'there is none'}")
    function = module.entries.get(entry) if entry is not None else next(iter(module.entries.values()))
    if function is None:
        raise PtxError(f"the text has no entry {entry}; it has {', '.join(module.entries) or 'none'}")
    return Program(module, function, known)


def _line_of(module: Module, word: str) -> int:
    return next((number for number, line in enumerate(module.lines, 1) if word in line), 0)
