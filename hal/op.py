"""Op: one operator call with everything but the data.

The same frozen value is the argument of `Device.prepare`, a cache key, a tuning key, a test case, the text of an
error, and the payload of the C interface. Shapes, strides and offsets count *elements*, never bytes.

An Op is canonical, so that a backend meets each operator in one form only:

- 1-D matmul operands are already 2-D, batch axes are already broadcast (stride 0), the bias already has the result's
  shape (strides 0 where it was broadcast);
- softmax and the norms always work on the *last* axes: another `axis` is only a permutation of strides;
- defaults are filled in (`eps=None` became a number).

OpClass is an Op without its sizes: what a kernel's source may depend on. Two Ops of one class share compiled kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from hal.dtypes import DTYPES

Scalar: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Layout of one operand: `strides` in elements (0 and negative allowed), `align` in bytes.

    Every address of an element with unit-stride neighbours may be assumed a multiple of the dtype's size; the address
    of element [0, …, 0] is a multiple of `align`.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    align: int = 1

    @classmethod
    def contiguous(cls, dtype: str, shape: Sequence[int], align: int = 0) -> TensorSpec:
        """The row-major layout of `shape`; `align` defaults to the dtype's size."""
        return cls(dtype, tuple(shape), row_major(shape), align or DTYPES[dtype].itemsize)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def is_contiguous(self) -> bool:
        """Row-major without gaps (axes of length 1 do not count)."""
        return self.size == 0 or all(
            n == 1 or have == want
            for n, have, want in zip(self.shape, self.strides, row_major(self.shape), strict=True)
        )

    def extent(self) -> tuple[int, int]:
        """(lowest, one past the highest) element offset touched, relative to element [0, …, 0]; (0, 0) if empty."""
        if self.size == 0:
            return 0, 0
        spans = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        return sum(s for s in spans if s < 0), sum(s for s in spans if s > 0) + 1

    def permute(self, axes: Sequence[int]) -> TensorSpec:
        """The same elements with axes in another order."""
        return TensorSpec(
            self.dtype, tuple(self.shape[i] for i in axes), tuple(self.strides[i] for i in axes), self.align
        )

    def broadcast_to(self, shape: Sequence[int]) -> TensorSpec:
        """Stretched to `shape` with stride 0. The shapes must be compatible (checked by the operator's rules)."""
        pad = len(shape) - self.ndim
        strides = (0,) * pad + tuple(
            0 if have == 1 else stride for have, stride in zip(self.shape, self.strides, strict=True)
        )
        return TensorSpec(self.dtype, tuple(shape), strides, self.align)

    def insert_axis(self, position: int) -> TensorSpec:
        """A new axis of length 1 at `position`."""
        at = position % (self.ndim + 1)
        return TensorSpec(
            self.dtype, (*self.shape[:at], 1, *self.shape[at:]), (*self.strides[:at], 0, *self.strides[at:]), self.align
        )

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        layout = "" if self.is_contiguous else f" strides {self.strides}"
        return f"{self.dtype}[{shape}]{layout}"


@dataclass(frozen=True, slots=True)
class Op:
    """`name`, the operands by role in the operator's order (absent optional ones left out), and options by name.

    `params` holds plain values only, in the operator's order, so that an Op is JSON and a dictionary key.
    """

    name: str
    outputs: tuple[tuple[str, TensorSpec], ...]
    inputs: tuple[tuple[str, TensorSpec], ...]
    params: tuple[tuple[str, Scalar], ...]

    def input(self, role: str) -> TensorSpec | None:
        """The operand of that role, or None where the call has none."""
        return next((spec for name, spec in self.inputs if name == role), None)

    def output(self, role: str) -> TensorSpec | None:
        """The result of that role, or None where the call did not ask for it."""
        return next((spec for name, spec in self.outputs if name == role), None)

    def input_index(self, role: str) -> int | None:
        """Position among `inputs` (the `i` of `kernel.In(i)`), or None."""
        return next((i for i, (name, _) in enumerate(self.inputs) if name == role), None)

    def output_index(self, role: str) -> int | None:
        """Position among `outputs` (the `i` of `kernel.Out(i)`), or None."""
        return next((i for i, (name, _) in enumerate(self.outputs) if name == role), None)

    def param(self, name: str) -> Any:
        """The value of an option. Raises KeyError if the operator has no such option."""
        for key, value in self.params:
            if key == name:
                return value
        raise KeyError(name)

    @property
    def dtype(self) -> str:
        """dtype of the first input: the one an operator's arithmetic is named after."""
        return self.inputs[0][1].dtype

    def __str__(self) -> str:
        operands = ", ".join(f"{role}={spec}" for role, spec in self.inputs)
        options = "".join(f", {k}={v}" for k, v in self.params if v is not None)
        results = ", ".join(str(spec) for _, spec in self.outputs)
        return f"{self.name}({operands}{options}) -> {results}"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and values; `from_json` is the inverse."""

        def operands(pairs: tuple[tuple[str, TensorSpec], ...]) -> list[list[Any]]:
            return [[role, s.dtype, list(s.shape), list(s.strides), s.align] for role, s in pairs]

        return {
            "name": self.name,
            "outputs": operands(self.outputs),
            "inputs": operands(self.inputs),
            "params": [list(pair) for pair in self.params],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Op:
        """Raises KeyError, ValueError or TypeError on anything that `to_json` would not have written."""

        def operands(rows: list[list[Any]]) -> tuple[tuple[str, TensorSpec], ...]:
            return tuple(
                (
                    str(role),
                    TensorSpec(DTYPES[dtype].name, tuple(map(int, shape)), tuple(map(int, strides)), int(align)),
                )
                for role, dtype, shape, strides, align in rows
            )

        params = tuple((str(key), value) for key, value in data["params"])
        return cls(str(data["name"]), operands(data["outputs"]), operands(data["inputs"]), params)


@dataclass(frozen=True, slots=True)
class OperandClass:
    """An operand without its sizes.

    layout: the operator's own word for the order of axes (hal/ops/<operator>.py: `classify`).
    align: bytes, a power of two up to 16, of which the address of every vector of neighbours is a multiple.
    """

    role: str
    dtype: str
    layout: str
    align: int


@dataclass(frozen=True, slots=True)
class OpClass:
    """An Op without its sizes.

    epilogue: the options that change a kernel's code (activation), not those that are numbers (alpha, eps, scale).
    batch_ndim: axes that remain of the batch once those that can be merged are merged.
    bucket: next_pow2 of the row length for row operators, else 0.
    wide: some element or byte offset needs more than 31 bits.
    """

    name: str
    outputs: tuple[OperandClass, ...]
    inputs: tuple[OperandClass, ...]
    epilogue: tuple[tuple[str, Scalar], ...] = ()
    batch_ndim: int = 0
    bucket: int = 0
    wide: bool = False

    def input(self, role: str) -> OperandClass | None:
        """The input of that role, or None where the call has none."""
        return next((operand for operand in self.inputs if operand.role == role), None)

    def output(self, role: str) -> OperandClass | None:
        """The output of that role, or None where the call did not ask for it."""
        return next((operand for operand in self.outputs if operand.role == role), None)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major array."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def merge_axes(shape: Sequence[int], *strides: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The fewest axes that describe the same walk over several operands at once.

    Axes of length 1 go; two neighbours become one where, in *every* operand, the outer stride is the inner stride
    times the inner length. Returns (shape, [strides of each operand]).
    """
    merged: list[list[int]] = []  # rows of [length, stride of operand 0, stride of operand 1, …], outermost first
    for n, *steps in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if merged and all(outer == step * n for outer, step in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = [merged[-1][0] * n, *steps]
        else:
            merged.append([n, *steps])
    columns: list[tuple[int, ...]] = list(zip(*merged, strict=True)) if merged else [()] * (1 + len(strides))
    return columns[0], columns[1:]


def next_pow2(n: int) -> int:
    """The smallest power of two >= n (1 for n <= 1)."""
    return 1 << max(n - 1, 0).bit_length()


def needs_wide_index(*specs: TensorSpec) -> bool:
    """True where an element offset or byte offset of some operand does not fit 31 bits."""
    return any(max(map(abs, spec.extent())) * spec.itemsize > 2**31 - 1 for spec in specs)


def vector_align(spec: TensorSpec, unit_axis: int | None) -> int:
    """Bytes (a power of two, at most 16) that divide the address of every vector along `unit_axis`."""
    steps = [s for i, (n, s) in enumerate(zip(spec.shape, spec.strides, strict=True)) if n > 1 and i != unit_axis]
    align = min(16, spec.align & -spec.align)
    for step in steps:
        span = abs(step) * spec.itemsize
        align = min(align, span & -span) if span else align
    return align
