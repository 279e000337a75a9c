"""wmma: matrices whose spread over a warp's registers PTX leaves open, as nvcc writes for `nvcuda::wmma`.

Here position p of a fragment, lane p % 32 of its (p // 32)th value, has element p of the matrix, row by row, and wraps
round where a fragment has room for each element more than once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hal_nvidia_ptx.emulator import formats
from hal_nvidia_ptx.emulator.instructions import Faith, Op, instruction
from hal_nvidia_ptx.emulator.instructions.memory import SPACES
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.program import Address
from hal_nvidia_ptx.emulator.syntax import Imm, Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program

# Registers of one lane, by matrix, type and rows x columns: the PTX ISA's tables of wmma fragments.
SIZES = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4, "s32": 4, "s8": 1, "u8": 1, "f64": 8}
DUPLICATED = ("a", "b")  # f16 matrices have each element twice


@dataclass(frozen=True, slots=True)
class _Form:
    """One matrix of an instruction: which, its type, and rows and columns."""

    which: str
    kind: str
    rows: int
    columns: int

    @property
    def register(self) -> str:
        return "b64" if self.kind == "f64" else "b32"

    @property
    def packed(self) -> int:
        """Elements of one register."""
        return max(4 // SIZES[self.kind], 1)

    @property
    def registers(self) -> int:
        count = self.rows * self.columns // (WARP * self.packed)
        if self.kind == "f16" and self.which in DUPLICATED:
            return 8  # of every shape
        return count

    def check(self, ins: Instruction, given: int) -> None:
        if given != self.registers:
            raise ins.error(f"matrix {self.which} of .{self.kind} has {self.registers} registers, {given} are given")


def _form(ins: Instruction, which: str, kind: str) -> _Form:
    shape = next(found for part in ins.parts if (found := re.fullmatch(r"m(\d+)n(\d+)k(\d+)", part)))
    m, n, k = (int(number) for number in shape.groups())
    rows, columns = {"a": (m, k), "b": (k, n)}.get(which, (m, n))
    if kind not in SIZES:
        raise ValueError(f"type .{kind}")
    return _Form(which, kind, rows, columns)


def _bits(form: _Form) -> np.dtype[Any]:
    return np.dtype(f"u{SIZES[form.kind]}")


def _gathered(lanes: Lanes, slots: list[int], form: _Form) -> Array:
    """[warps, rows, columns] of the fragments' bits."""
    values = np.stack([np.ascontiguousarray(lanes.by_warp(slot)) for slot in slots], axis=1)
    parts = values.view(_bits(form)).reshape(len(values), len(slots), WARP, form.packed)
    flat = parts.transpose(0, 1, 3, 2).reshape(len(values), -1)
    return flat[:, : form.rows * form.columns].reshape(-1, form.rows, form.columns)


def _scatter(lanes: Lanes, slots: list[int], form: _Form, matrices: Array) -> None:
    """Put [warps, rows, columns] of bits into fragments."""
    flat = matrices.reshape(len(matrices), -1)
    room = len(slots) * form.packed * WARP
    flat = np.tile(flat, (1, -(-room // flat.shape[1])))[:, :room]
    parts = flat.reshape(len(flat), len(slots), form.packed, WARP).transpose(0, 1, 3, 2)
    registers = np.ascontiguousarray(parts).view(f"u{SIZES[form.kind] * form.packed}")[..., 0]
    for number, slot in enumerate(slots):
        lanes.put_by_warp(slot, registers[:, number])


def _elements(ins: Instruction, program: Program, form: _Form, stride_at: int) -> tuple[bool, int]:
    """(whether rows are contiguous, slot of the distance of rows or columns)"""
    by_row = "row" in ins.parts
    if len(ins.operands) > stride_at:
        return by_row, program.source(ins, stride_at, "u32")
    return by_row, program.source(ins, Imm(form.columns if by_row else form.rows), "u32")


def _addresses(lanes: Lanes, address: Address, stride: int, form: _Form, by_row: bool, step: int) -> Array:
    """int64 [count]: where the element number `step` of each lane lies."""
    element = (lanes.index % WARP + WARP * step) % (form.rows * form.columns)
    row, column = element // form.columns, element % form.columns
    outer, inner = (row, column) if by_row else (column, row)
    place: Array = address.get(lanes) + (outer * lanes.read(stride).astype(np.int64) + inner) * SIZES[form.kind]
    return place


@instruction("wmma.load", aligned=True)
def _load(ins: Instruction, program: Program) -> Op:
    form = _form(ins, ins.parts[2], ins.parts[-1])
    slots = program.dests(ins, 0, form.register)
    form.check(ins, len(slots))
    address, space = program.address(ins, 1), next((part for part in ins.parts if part in SPACES), "")
    by_row, stride = _elements(ins, program, form, 2)
    steps = form.rows * form.columns // WARP

    def run_load(run: Run, lanes: Lanes) -> None:
        matrix = np.empty((len(lanes.warps), steps, WARP), _bits(form))
        for step in range(steps):
            places = _addresses(lanes, address, stride, form, by_row, step)
            matrix[:, step] = lanes.spread(run.load(ins, space, lanes, places, _bits(form)))
        _scatter(lanes, slots, form, matrix)

    return run_load


@instruction("wmma.store", writes=0, aligned=True)
def _store(ins: Instruction, program: Program) -> Op:
    form = _form(ins, "d", ins.parts[-1])
    slots = program.sources(ins, 1, form.register)
    form.check(ins, len(slots))
    address, space = program.address(ins, 0), next((part for part in ins.parts if part in SPACES), "")
    by_row, stride = _elements(ins, program, form, 2)

    def run_store(run: Run, lanes: Lanes) -> None:
        matrix = _gathered(lanes, slots, form).reshape(len(lanes.warps), -1, WARP)
        for step in range(matrix.shape[1]):
            places = _addresses(lanes, address, stride, form, by_row, step)
            run.store(ins, space, lanes, places, np.ascontiguousarray(lanes.flat(matrix[:, step])))

    return run_store


def _faith(ins: Instruction) -> Faith:
    return "exact" if "s32" in ins.parts else "approximate"


@instruction("wmma.mma", aligned=True, faith=_faith)
def _mma(ins: Instruction, program: Program) -> Op:
    program.count(ins, 4)
    at = next(i for i, part in enumerate(ins.parts) if re.fullmatch(r"m\d+n\d+k\d+", part))
    kinds = [part for part in ins.parts[at + 1 :] if part in SIZES]
    if len(kinds) == 2:  # .dtype.ctype of f16 factors
        kinds = [kinds[0], "f16", "f16", kinds[1]]
    forms = [_form(ins, which, kind) for which, kind in zip("dabc", kinds, strict=True)]
    results = program.dests(ins, 0, forms[0].register)
    sources = [program.sources(ins, i, form.register) for i, form in enumerate(forms) if i]
    for form, slots in zip(forms, (results, *sources), strict=True):
        form.check(ins, len(slots))
    whole = "satfinite" in ins.parts

    def run_mma(run: Run, lanes: Lanes) -> None:
        a, b, c = (
            _values(_gathered(lanes, slots, form), form.kind) for slots, form in zip(sources, forms[1:], strict=True)
        )
        total = a @ b + c
        if whole and forms[0].kind == "s32":
            info = np.iinfo(np.int32)
            total = np.clip(total, info.min, info.max)
        _scatter(lanes, results, forms[0], _narrow(total, forms[0].kind))

    return run_mma


def _values(bits: Array, kind: str) -> Array:
    """float64 or int64 values of bits."""
    if kind in ("f16", "bf16", "tf32"):
        return formats.widen(bits, kind).astype(np.float64)  # type: ignore[arg-type]
    if kind in ("f32", "f64"):
        return bits.view("f4" if kind == "f32" else "f8").astype(np.float64)
    return bits.view({"s8": "i1", "u8": "u1", "s32": "i4"}[kind]).astype(np.int64)


def _narrow(total: Array, kind: str) -> Array:
    if kind == "f16":
        return formats.narrow(total, "f16")
    if kind == "s32":
        return (total & 0xFFFFFFFF).astype(np.uint32)
    return total.astype("f4" if kind == "f32" else "f8").view("u4" if kind == "f32" else "u8")
