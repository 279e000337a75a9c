"""What operands are filled with: ordinary values, and the witness inputs that show faults which ordinary ones hide.

Each maker returns a function of (Op, random generator) that gives the canonical operands in order. Where a kernel cuts
a sum into pieces (vectors, lanes, tiles) is its own affair, so `boundaries` has the first, the last, and each
element beside a multiple of a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import Values
from hal.op import Op, TensorSpec

Array = NDArray[Any]
Maker = Callable[[Op, TensorSpec, np.random.Generator], Array]  # the main operand; the others get ordinary values


def ordinary(role: str, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Normal values; weights about 1; masks that keep four fifths; all int8; a bias of some hundreds for int32."""
    if spec.dtype == "bool":
        return rng.random(spec.shape) < 0.8
    if spec.dtype == "int8":
        return rng.integers(-128, 128, spec.shape)
    if spec.dtype == "int32":
        return rng.integers(-999, 1000, spec.shape)
    values = rng.standard_normal(spec.shape)
    return 1.0 + 0.5 * values if role == "weight" else values


def normal(scale: float = 1.0, mean: float = 0.0) -> Values:
    """Normal values; scale and mean are those of the first operand."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        made = [ordinary(role, spec, rng) for role, spec in op.inputs]
        if made[0].dtype.kind == "f":
            made[0] = made[0] * scale + mean
        return made

    return values


def first(maker: Maker) -> Values:
    """The first operand by `maker`, the others ordinary."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        rest = [ordinary(role, spec, rng) for role, spec in op.inputs[1:]]
        return [maker(op, op.inputs[0][1], rng), *rest]

    return values


def integers(low: int, high: int) -> Values:
    """Integers from low to high in every operand: with few and small ones each partial sum is exact in any order."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        return [
            rng.integers(low, high + 1, spec.shape) if spec.dtype != "bool" else ordinary(role, spec, rng)
            for role, spec in op.inputs
        ]

    return values


def filled(**by_role: float) -> Values:
    """One number for a whole operand; the others are ordinary."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        return [
            np.full(spec.shape, by_role[role]) if role in by_role else ordinary(role, spec, rng)
            for role, spec in op.inputs
        ]

    return values


def given(**by_role: Any) -> Values:
    """Operands written out, broadcast to the canonical shape; the others are ordinary."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        return [
            np.broadcast_to(np.asarray(by_role[role]), spec.shape) if role in by_role else ordinary(role, spec, rng)
            for role, spec in op.inputs
        ]

    return values


def planted(base: Values, **points: tuple[tuple[tuple[int, ...], float], ...]) -> Values:
    """`base` with single elements replaced: role = ((index, value), …)."""

    def values(op: Op, rng: np.random.Generator) -> list[Array]:
        made = [np.array(x, dtype=None if x.dtype.kind == "b" else np.float64) for x in base(op, rng)]
        for role, entries in points.items():
            array = made[op.input_index(role) or 0]
            for index, value in entries:
                array[index] = value
        return made

    return values


def boundaries(n: int) -> list[int]:
    """Positions in a row of n at which loops end: 0, n - 1, and both sides of multiples of powers of two."""
    marks = {0, n - 1}
    for power in (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768):
        marks |= {power - 1, power, n // power * power - 1, n // power * power}
    return sorted(m for m in marks if 0 <= m < n)


def peaks(height: float, ground: float) -> Values:
    """Row i of x has `height` at the i-th boundary and `ground` elsewhere."""

    def maker(op: Op, spec: TensorSpec, rng: np.random.Generator) -> Array:
        x = np.full(spec.shape, ground)
        marks = boundaries(spec.shape[-1])
        rows = x.reshape(-1, spec.shape[-1])
        for i, row in enumerate(rows):
            row[marks[i % len(marks)]] = height
        return x

    return first(maker)
