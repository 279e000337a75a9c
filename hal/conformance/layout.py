"""Layouts of operands: contiguous and every other way in which the elements of an array may lie in memory.

Each function gives the TensorSpec of an array of some dtype and shape. `LAYOUTS` has them by the names that appear in
the cases' names. Those in `OVERLAPPING` let several indices share one element, so no output can have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hal.dtypes import DTYPES
from hal.op import Op, TensorSpec, row_major

ALIGNED = 64  # bytes: what every device's `alloc` gives

Shape = Sequence[int]


def contiguous(dtype: str, shape: Shape) -> TensorSpec:
    """Row-major, on an aligned address."""
    return TensorSpec.contiguous(dtype, shape, ALIGNED)


def offset(dtype: str, shape: Shape) -> TensorSpec:
    """Row-major, starting at an address that is a multiple of the element's size and of nothing more."""
    return TensorSpec.contiguous(dtype, shape)


def fortran(dtype: str, shape: Shape) -> TensorSpec:
    """Column-major: the first axis has stride 1."""
    return TensorSpec(dtype, tuple(shape), row_major(shape[::-1])[::-1], ALIGNED)


def transposed(dtype: str, shape: Shape) -> TensorSpec:
    """The last two axes swapped: a transposed view of row-major matrices."""
    if len(shape) < 2:
        return sliced(dtype, shape)
    *batch, rows, columns = shape
    strides = row_major((*batch, columns, rows))
    return TensorSpec(dtype, tuple(shape), (*strides[:-2], strides[-1], strides[-2]), ALIGNED)


def padded(dtype: str, shape: Shape) -> TensorSpec:
    """Rows with a gap of three elements behind each: the left part of a wider array."""
    return TensorSpec(dtype, tuple(shape), row_major((*shape[:-1], shape[-1] + 3)), ALIGNED)


def sliced(dtype: str, shape: Shape) -> TensorSpec:
    """Every second element of every second row."""
    wide = row_major([2 * n + 1 for n in shape])
    return TensorSpec(dtype, tuple(shape), tuple(2 * step for step in wide), DTYPES[dtype].itemsize)


def reversed_(dtype: str, shape: Shape) -> TensorSpec:
    """Negative strides on all axes."""
    return TensorSpec(dtype, tuple(shape), tuple(-step for step in row_major(shape)), DTYPES[dtype].itemsize)


def rows_reversed(dtype: str, shape: Shape) -> TensorSpec:
    """A negative stride on the first axis only: rows stay rows."""
    strides = row_major(shape)
    return TensorSpec(dtype, tuple(shape), (-strides[0], *strides[1:]), DTYPES[dtype].itemsize)


def broadcast(dtype: str, shape: Shape) -> TensorSpec:
    """Stride 0 on the first axis: one row for all."""
    return TensorSpec(dtype, tuple(shape), (0, *row_major(shape[1:])), ALIGNED)


def constant(dtype: str, shape: Shape) -> TensorSpec:
    """Stride 0 on the last axis: one column for all."""
    return TensorSpec(dtype, tuple(shape), (*row_major(shape[:-1]), 0), ALIGNED)


def hankel(dtype: str, shape: Shape) -> TensorSpec:
    """Overlapping rows, each one element further on than the last: sliding windows."""
    strides = tuple(1 for _ in shape)
    return TensorSpec(dtype, tuple(shape), strides, DTYPES[dtype].itemsize)


LAYOUTS: dict[str, Callable[[str, Shape], TensorSpec]] = {
    "contiguous": contiguous,
    "offset": offset,
    "fortran": fortran,
    "transposed": transposed,
    "padded": padded,
    "sliced": sliced,
    "reversed": reversed_,
    "rows_reversed": rows_reversed,
    "broadcast": broadcast,
    "constant": constant,
    "hankel": hankel,
}


def lay_out(layout: str, dtype: str, shape: Shape) -> TensorSpec:
    """The array of that shape in a named layout; a scalar has only one."""
    return LAYOUTS[layout](dtype, tuple(shape)) if len(shape) else contiguous(dtype, ())


OVERLAPPING = frozenset(("broadcast", "constant", "hankel"))
OF_INPUTS = tuple(LAYOUTS)
OF_OUTPUTS = tuple(name for name in LAYOUTS if name not in OVERLAPPING)


def name_of(op: Op) -> str:
    """In one word how the operands of a call lie, the least usual first: what a report's matrix has as columns."""
    specs = [spec for _, spec in (*op.outputs, *op.inputs) if spec.size > 1]
    steps = [[stride for n, stride in zip(spec.shape, spec.strides, strict=True) if n > 1] for spec in specs]
    if any(stride < 0 for strides in steps for stride in strides):
        return "reversed"
    if any(0 in strides for strides in steps):
        return "broadcast"
    if all(spec.is_contiguous for spec in specs):
        return "contiguous"
    if any(spec.strides[-1] != 1 for spec in specs if spec.shape and spec.shape[-1] > 1):
        return "strided"
    return "padded"
