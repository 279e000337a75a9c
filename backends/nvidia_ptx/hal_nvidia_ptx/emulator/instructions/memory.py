"""Loads and stores of every space, width and cache hint."""

from __future__ import annotations

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.moves import copy
from hal_nvidia_ptx.emulator.instructions.scalar import plain
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.slots import ParameterSlot
from hal_nvidia_ptx.emulator.syntax import DTYPE, Addr, Imm, Instruction, Operand, Reg, Symbol

SPACES = frozenset(("global", "shared", "shared::cta", "shared::cluster", "local", "const", "param"))
VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def space_of(ins: Instruction, program: Program, operand: Operand) -> str:
    """The space of the opcode; "" is generic. A .param variable of a body is local memory here."""
    space = next((part for part in ins.parts if part.partition("(")[0] in SPACES), "")
    space = {"param::entry": "param", "param::func": "param"}.get(space, space)
    if any(part.startswith("param::") for part in ins.parts):
        space = "param"
    if space == "param" and isinstance(operand, Addr) and isinstance(operand.base, Symbol):
        variable = program.variable(operand.base.name)
        if variable is None:
            raise ins.error(f"{operand.base.name} is not declared")
        if operand.base.name not in program.parameters:
            return "local"
    if not space and isinstance(operand, Addr) and isinstance(operand.base, Symbol):
        variable = program.variable(operand.base.name)
        space = "" if variable is None else variable.space
    return space


def _checked_space(ins: Instruction, program: Program, operand: Operand) -> str:
    """`space_of`; raises PtxError for what is no address, and for a variable of another space."""
    if not isinstance(operand, Addr):
        raise ins.error(f"{operand} is no address: write [{operand}]")
    space = space_of(ins, program, operand)
    variable = program.variable(operand.base.name) if isinstance(operand.base, Symbol) else None
    own = "" if variable is None else variable.space
    if own not in ("", "param") and space.partition("::")[0] != own:
        raise ins.error(f"{operand.base} is in .{own} memory")
    return space


# What stands between the name and the type, beside spaces, vectors and hints for caches.
_SCOPES = ("cta", "cluster", "gpu", "sys")
_ORDERS = {"ld": ("relaxed", "acquire"), "st": ("relaxed", "release")}
_MODIFIERS = {
    "ld": frozenset(("weak", "volatile", "mmio", "ca", "cg", "cs", "lu", "cv", "nc", *_ORDERS["ld"], *_SCOPES)),
    "st": frozenset(("weak", "volatile", "mmio", "wb", "cg", "cs", "wt", *_ORDERS["st"], *_SCOPES)),
    "ldu": frozenset[str](),
}


def _check_modifiers(ins: Instruction) -> None:
    name, *modifiers, _ = ins.parts
    for each in modifiers:
        known = each in _MODIFIERS[name] or each in VECTORS or each.startswith(("L1::", "L2::", "param::"))
        if not known and each.partition("(")[0] not in SPACES:
            raise ins.error(f"{name} has no modifier .{each}")
    if ins.has(*_ORDERS.get(name, ())) and not ins.has(*_SCOPES):
        raise ins.error(f"{name} with an order needs a scope: .{' .'.join(_SCOPES)}")
    if ins.has("nc") and not ins.has("global"):
        raise ins.error(f"{name}.nc is for .global memory")


def _form(ins: Instruction) -> tuple[str, int]:
    """(element type, elements)"""
    _check_modifiers(ins)
    kind = ins.parts[-1]
    if kind in ("f16", "bf16"):
        raise ins.error(f"{ins.parts[0]} has no type .{kind}: use .b16")
    if kind not in DTYPE or kind == "pred":
        raise ValueError(f"type .{kind}")
    count = next((VECTORS[part] for part in ins.parts if part in VECTORS), 1)
    if DTYPE[kind].itemsize * count > 32:
        raise ValueError(f"{DTYPE[kind].itemsize * count} bytes at once")
    return kind, count


@instruction("ld", "ldu")
def _ld(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2 + ins.has("L2::cache_hint"))  # the third is a cache policy
    kind, count = _form(ins)
    operand = program.operand(ins, 1)
    space = _checked_space(ins, program, operand)
    dtype = DTYPE[kind]
    if space == "param" and isinstance(operand, Addr) and isinstance(operand.base, Symbol):
        return _parameter(ins, program, operand, dtype, count)
    results = [_dest(ins, program, item, kind) for item in program.items(ins, 0, count)]
    address = program.address(ins, operand)
    if count == 1:
        result = results[0]

        def load(run: Run, lanes: Lanes) -> None:
            lanes.put(result, run.load(ins, space, lanes, address.get(lanes), dtype))

        return load

    def load_vector(run: Run, lanes: Lanes) -> None:
        values = run.load(ins, space, lanes, address.get(lanes), dtype, count)
        for number, slot in enumerate(results):
            lanes.put(slot, values[:, number])

    return load_vector


def _dest(ins: Instruction, program: Program, item: Operand, kind: str) -> int:
    """Loads may go to registers wider than the type: floats and bits are put in the low part."""
    if isinstance(item, Reg):
        program.check_result(ins, item, kind, wider=True)
        if kind[0] in "fb" and DTYPE[program.kind(item)].itemsize > DTYPE[kind].itemsize:
            return program.dest(ins, item, DTYPE[f"u{8 * DTYPE[kind].itemsize}"])
    return program.dest(ins, item, kind, wider=True)


def _parameter(ins: Instruction, program: Program, operand: Addr, dtype: np.dtype[np.generic], count: int) -> Op:
    """ld.param from a constant address: the same for all lanes."""
    assert isinstance(operand.base, Symbol)
    start = program.parameters[operand.base.name] + operand.base.offset + operand.offset
    size = dtype.itemsize
    if not 0 <= start <= program.parameter_bytes - size * count or start % size:
        raise ins.error(f"{size * count} bytes at {start} of {program.parameter_bytes} bytes of parameters")
    items = program.items(ins, 0, count)
    results = [_dest(ins, program, item, ins.parts[-1]) for item in items]
    slots = [program.add(ParameterSlot(start + size * number, dtype)) for number in range(count)]
    ops = [plain(copy, [slot], result) for slot, result in zip(slots, results, strict=True)]
    if len(ops) == 1:
        return ops[0]

    def load_all(run: Run, lanes: Lanes) -> None:
        for op in ops:
            op(run, lanes)

    return load_all


@instruction("st", writes=0)
def _st(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2 + ins.has("L2::cache_hint"))
    kind, count = _form(ins)
    operand = program.operand(ins, 0)
    space = _checked_space(ins, program, operand)
    if space in ("const", "param"):
        raise ins.error(f"a store to .{space}")
    sources = [_source(ins, program, item, kind) for item in program.items(ins, 1, count)]
    address = program.address(ins, operand)
    dtype = DTYPE[kind]
    if count == 1:
        source = sources[0]

        def store(run: Run, lanes: Lanes) -> None:
            run.store(ins, space, lanes, address.get(lanes), lanes.read(source))

        return store

    def store_vector(run: Run, lanes: Lanes) -> None:
        values: Array = np.empty((lanes.count, count), dtype)
        for number, slot in enumerate(sources):
            values[:, number] = lanes.read(slot)
        run.store(ins, space, lanes, address.get(lanes), values)

    return store_vector


def _source(ins: Instruction, program: Program, item: Operand, kind: str) -> int:
    """Stores may take registers wider than the type: their low part."""
    if isinstance(item, (Reg, Imm, Symbol)):
        return program.source(ins, item, kind, wider=True)
    raise ins.error(f"{item} cannot be stored")
