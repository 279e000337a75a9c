"""How a warp's registers hold the matrices of mma.sync, ldmatrix, stmatrix and movmatrix, and the products themselves.

One rule covers the operands of every shape here: lane 4g + t holds row g, and of a register's E elements element e is
column E*t + e; so a register of all lanes is a block of 8 rows and 4E columns. Blocks follow each other down the rows
first. A is M x K; B is kept transposed, N x K, and obeys the same rule; C and D do too, with two columns per lane.
Runs under `numerics.quiet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from hal_nvidia_ptx.emulator import formats
from hal_nvidia_ptx.emulator.exact import Array

# Elements of a type in one register.
_ELEMENTS = {"f16": 2, "bf16": 2, "tf32": 1, "e4m3": 4, "e5m2": 4, "s8": 4, "u8": 4, "f64": 1}
_INTEGERS = ("s8", "u8")

# (m, n, k) that PTX has for A and B of a type.
SHAPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "f16": ((16, 8, 8), (16, 8, 16)),
    "bf16": ((16, 8, 8), (16, 8, 16)),
    "tf32": ((16, 8, 4), (16, 8, 8)),
    "e4m3": ((16, 8, 16), (16, 8, 32)),
    "e5m2": ((16, 8, 16), (16, 8, 32)),
    "s8": ((8, 8, 16), (16, 8, 16), (16, 8, 32)),
    "u8": ((8, 8, 16), (16, 8, 16), (16, 8, 32)),
    "f64": ((8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)),
}


@dataclass(frozen=True, slots=True)
class Product:
    """D = A B + C of one mma.sync: its shape and the types of D, A, B and C as PTX writes them."""

    m: int
    n: int
    k: int
    d: str
    a: str
    b: str
    c: str
    satfinite: bool = False

    @property
    def registers(self) -> tuple[int, int, int, int]:
        """How many registers D, A, B and C take per lane."""
        of_operand = 32 * _ELEMENTS[self.a]
        results = self.m * self.n // 32
        halves = [results // 2 if kind == "f16" else results for kind in (self.d, self.c)]
        return halves[0], self.m * self.k // of_operand, self.n * self.k // of_operand, halves[1]

    def __call__(self, a: Sequence[Array], b: Sequence[Array], c: Sequence[Array]) -> list[Array]:
        """D's registers from those of A, B and C: arrays [W, 32], W warps.

        A, B: uint32 (f64: float64); C, D: float32, float64, uint32 pairs of f16, or uint32 of s32. Products are exact
        but those of f64. Floating sums are taken in float64 and rounded once: hardware's order and width of summation
        are unspecified, so this is one of the results to expect, not hardware's bits. Sums of bytes are exact in
        float64 too; s32 results wrap, or clamp with .satfinite.
        """
        left = _matrix(a, self.m, self.k, self.a)
        right = _matrix(b, self.n, self.k, self.b)
        product = np.matmul(left, right.transpose(0, 2, 1))
        return self._results(product, c)

    def _results(self, product: Array, c: Sequence[Array]) -> list[Array]:
        """Add C to the product, [W, m, n] in float64, in the layout of the registers, and round to D's type."""
        warps = len(product)
        parts = product.reshape(warps, self.m // 8, 8, 4, 2).transpose(1, 4, 0, 2, 3)
        values = list(np.ascontiguousarray(parts).reshape(-1, warps, 32))
        if self.d == "f64" or self.d == "f32":
            dtype = np.float64 if self.d == "f64" else np.float32
            return [(value + term).astype(dtype) for value, term in zip(values, _terms(c, self.c), strict=True)]
        if self.d == "s32":
            return [self._integers(value + term.view(np.int32)) for value, term in zip(values, c, strict=True)]
        sums = [(value + term).astype(np.float16) for value, term in zip(values, _terms(c, self.c), strict=True)]
        return [_packed(sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]

    def _integers(self, total: Array) -> Array:
        if self.satfinite:
            total = np.clip(total, -(2**31), 2**31 - 1)
        return total.astype(np.int64).astype(np.uint32)


def product(shape: str, types: Sequence[str], satfinite: bool = False) -> Product | None:
    """The product for "m16n8k16" and the types of D, A, B, C; None where PTX has no such mma, or this module not."""
    m, n, k = (int(part) for part in shape[1:].replace("n", " ").replace("k", " ").split())
    d, a, b, c = types
    same = a == b or {a, b} <= set(_INTEGERS) or {a, b} <= {"e4m3", "e5m2"}
    results = {"f64": ("f64",), "s8": ("s32",), "u8": ("s32",), "bf16": ("f32",), "tf32": ("f32",)}.get(
        a, ("f32", "f16")
    )
    if (m, n, k) not in SHAPES.get(a, ()) or not same or d not in results or c not in results:
        return None
    return Product(m, n, k, d, a, b, c, satfinite)


def _matrix(registers: Sequence[Array], rows: int, columns: int, kind: str) -> Array:
    """[W, rows, columns] in float64 of an operand's registers."""
    elements = _ELEMENTS[kind]
    down = rows // 8
    if len(registers) == 1:
        words = registers[0].reshape(-1, 8, 4)
    else:
        words = np.empty((len(registers[0]), down, 8, len(registers) // down, 4), registers[0].dtype)
        for i, register in enumerate(registers):
            words[:, i % down, :, i // down] = register.reshape(-1, 8, 4)
    return _values(words, kind).reshape(-1, rows, 4 * elements * (len(registers) // down))


def _values(words: Array, kind: str) -> Array:
    """float64 of the elements in contiguous registers: E for each, along the last axis."""
    if kind == "f64":
        return words
    if kind in _INTEGERS:
        return words.view(np.int8 if kind == "s8" else np.uint8).astype(np.float64)
    narrow = cast(formats.Narrow, kind)
    return formats.widen(words.view(formats.BITS[narrow]), narrow).astype(np.float64)


def _terms(c: Sequence[Array], kind: str) -> list[Array]:
    """C in the order of its elements, one array [W, 32] each."""
    if kind != "f16":
        return list(c)
    halves = [np.ascontiguousarray(register).view(np.float16).reshape(-1, 32, 2) for register in c]
    return [half[:, :, i] for half in halves for i in (0, 1)]


def _packed(low: Array, high: Array) -> Array:
    """uint32 registers of two float16 each."""
    pairs: Array = np.stack([low, high], axis=-1).view(np.uint32)
    return pairs[..., 0]


def from_rows(rows: Array, transposed: bool = False) -> list[Array]:
    """ldmatrix .b16: registers [W, 32] in uint32 from 8x8 matrices [W, count, 8, 8] in uint16."""
    if transposed:
        rows = np.ascontiguousarray(rows.swapaxes(-1, -2))
    warps, count = rows.shape[:2]
    words = rows.view(np.uint32).reshape(warps, count, 32)
    return [words[:, i] for i in range(count)]


def to_rows(registers: Sequence[Array], transposed: bool = False) -> Array:
    """stmatrix .b16: the 8x8 matrices [W, count, 8, 8] in uint16 that registers [W, 32] in uint32 hold."""
    words = np.stack(registers, axis=1)
    rows = words.view(np.uint16).reshape(len(words), len(registers), 8, 8)
    return np.ascontiguousarray(rows.swapaxes(-1, -2)) if transposed else rows
