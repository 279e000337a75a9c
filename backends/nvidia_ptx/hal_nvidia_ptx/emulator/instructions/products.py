"""The matrix products of wgmma: what one execution is, and its arithmetic on registers and shared memory.

Products of elements are exact, their sums float32 (whole numbers: exact): hardware adds in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.descriptors import ROWS, a_matrix, d_matrix, d_registers, packed, unpacked
from hal_nvidia_ptx.emulator.formats import widen
from hal_nvidia_ptx.emulator.inflight import Piece
from hal_nvidia_ptx.emulator.instructions.warpgroup import GROUP, LANES
from hal_nvidia_ptx.emulator.lanes import WARP
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.syntax import DTYPE, Instruction

Array: TypeAlias = NDArray[Any]
BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1, "s8": 1, "u8": 1}  # of an element
COLUMNS = 32  # of one piece of a matrix product: 64 x 32 x 128 at most, which OpenBLAS gives to one thread


@dataclass(frozen=True, slots=True)
class Form:
    """One wgmma.mma_async as the text has it.

    names: of all its registers; d, a, b: element types; sign: of the product; a_registers: () if A is in shared memory;
    transposed: whether A, B are MN-major.
    """

    ins: Instruction
    names: frozenset[str]
    n: int
    d: str
    a: str
    b: str
    accumulators: tuple[int, ...]
    a_registers: tuple[int, ...]
    a_descriptor: int
    b_descriptor: int
    scale_d: int
    sign: int
    transposed: tuple[bool, bool]
    satfinite: bool

    @property
    def integer(self) -> bool:
        return self.d == "s32"


@dataclass(slots=True, eq=False)
class Product:
    """One execution: by warpgroups `groups` (numbers of their first warps), all with the same form.

    keeps: whether the sums start from the accumulators (scale-d), for each group; where_a, where_b: the operands'
    chunks in all shared memory, [groups, …], where_a None for A from registers; pieces: the same, as what is held in
    memory.
    """

    form: Form
    groups: Array
    keeps: Array
    where_a: Array | None
    where_b: Array
    pieces: list[list[Piece]]

    def part(self, mask: Array) -> Product:
        """The product of some of its warpgroups; mask: of their warps."""
        mask = np.asarray(mask.reshape(-1, GROUP).any(1))
        where_a = None if self.where_a is None else self.where_a[mask]
        pieces = [own for own, chosen in zip(self.pieces, mask, strict=True) if chosen]
        return Product(self.form, self.groups[mask], self.keeps[mask], where_a, self.where_b[mask], pieces)

    def follows(self, other: Product) -> bool:
        """Whether it adds to what `other` sums up, so that both may be one matrix product."""
        mine, yours = self.form, other.form
        same = mine.accumulators == yours.accumulators and (mine.a, mine.b, mine.sign) == (yours.a, yours.b, yours.sign)
        return same and bool(np.all(self.keeps)) and np.array_equal(self.groups, other.groups)


def warps_of(groups: Array) -> Array:
    warps: Array = (groups[:, None] + np.arange(GROUP)).reshape(-1)
    return warps


def _gather(run: Run, slots: Sequence[int], groups: Array, dtype: Any) -> Array:
    """Registers as [registers, groups, 128]."""
    warps = warps_of(groups)
    out = np.empty((len(slots), len(warps), WARP), dtype)
    for register, slot in enumerate(slots):
        out[register] = run.regs[slot].reshape(-1, WARP)[warps]
    return out.reshape(len(slots), -1, LANES)


def _scatter(run: Run, slots: Sequence[int], groups: Array, values: Array) -> None:
    warps = warps_of(groups)
    rows = values.reshape(len(slots), -1, WARP)
    for register, slot in enumerate(slots):
        run.regs[slot].reshape(-1, WARP)[warps] = rows[register]


def added(run: Run, batch: Sequence[Product], start: Array | None) -> Array:
    """The sums after products that follow one another, [groups, 64, n]; start: those before, if the first keeps any."""
    form, keeps = batch[0].form, batch[0].keeps
    a = np.concatenate([_a(run, each) for each in batch], axis=2)
    b = np.concatenate([_b(run, each) for each in batch], axis=2)
    total = _matmul(a, b)
    if form.sign < 0:
        np.negative(total, out=total)
    if start is not None and keeps.any():
        kept = start if keeps.all() else np.where(keeps[:, None, None], start, 0)
        total = total.astype(np.int64) + kept if form.integer else total + kept
    if not form.integer:
        return total
    if form.satfinite:
        total = np.clip(total, -(1 << 31), (1 << 31) - 1)
    return total.astype(np.int64).astype(np.int32)


def _matmul(a: Array, b: Array) -> Array:
    """a b^T for [groups, 64, k] and [groups, n, k], in pieces of n that a BLAS does without threads of its own.

    The machine's other cores have other work, and waiting for a thread of theirs takes longer than the product.
    """
    groups, n, k = b.shape
    if n % COLUMNS or n == COLUMNS:
        whole: Array = np.matmul(a, b.transpose(0, 2, 1))
        return whole
    parts = np.matmul(a[:, None], b.reshape(groups, -1, COLUMNS, k).transpose(0, 1, 3, 2))
    total: Array = parts.transpose(0, 2, 1, 3).reshape(groups, ROWS, n)
    return total


def _b(run: Run, product: Product) -> Array:
    form = product.form
    return _values(_shared(run, product.where_b, form.transposed[1], BYTES[form.b]), form.b)


def _a(run: Run, product: Product) -> Array:
    form = product.form
    size = BYTES[form.a]
    if product.where_a is None:
        return _values(a_matrix(_gather(run, form.a_registers, product.groups, np.uint32), size), form.a)
    return _values(_shared(run, product.where_a, form.transposed[0], size), form.a)


def _shared(run: Run, where: Array, transposed: bool, size: int) -> Array:
    """[groups, rows, 32 / size] unsigned integers."""
    taken = run.shared.view(np.dtype(np.complex128))[where].view(f"u{size}")
    return np.asarray(taken.transpose(0, 2, 1) if transposed else taken)


def _values(bits: Array, kind: str) -> Array:
    """float32 of operand elements; all are exact."""
    if kind == "s8":
        return bits.view(np.int8).astype(np.float32)
    if kind == "u8":
        return bits.astype(np.float32)
    return widen(np.ascontiguousarray(bits), kind)  # type: ignore[arg-type]


def accumulated(run: Run, form: Form, groups: Array) -> Array:
    """The accumulators as matrices [groups, 64, n]."""
    dtype = DTYPE["b32" if form.d == "f16" else form.d]
    registers = _gather(run, form.accumulators, groups, dtype)
    return unpacked(registers).astype(np.float32) if form.d == "f16" else d_matrix(registers)


def put_accumulated(run: Run, form: Form, groups: Array, total: Array) -> None:
    if form.d == "f16":
        _scatter(run, form.accumulators, groups, packed(total.astype(np.float16)))
    else:
        _scatter(run, form.accumulators, groups, d_registers(total))
