"""What softmax and the norms share: rows, masks, residuals, and how a batch of rows is walked.

A canonical row operator works on the last `row_ndim` axes of x. All operands that vary over the batch (x, mask,
residual, the outputs) have x's batch axes; weight and bias have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from hal.dtypes import DTYPES
from hal.op import Op, OpClass, OperandClass, TensorSpec, merge_axes, needs_wide_index, next_pow2, vector_align

PER_ROW_RESULTS = ("mean", "rstd")  # outputs with one element a row


def row_ndim(op: Op) -> int:
    """How many trailing axes make a row."""
    return next((int(value) for key, value in op.params if key == "row_ndim" and value is not None), 1)


def row_length(op: Op) -> int:
    """Elements in a row."""
    x = op.inputs[0][1]
    return prod(x.shape[x.ndim - row_ndim(op) :])


@dataclass(frozen=True, slots=True)
class Rows:
    """The walk over all rows of an Op with as few axes as possible.

    batch: lengths of the merged batch axes; row: of the merged row axes (one in nearly every case).
    batch_strides, row_strides: for each operand, outputs first, the strides of these axes; operands that do not vary
    along them (weight over the batch, mean along the row) have zeros there.
    """

    batch: tuple[int, ...]
    row: tuple[int, ...]
    batch_strides: tuple[tuple[int, ...], ...]
    row_strides: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return prod(self.batch)


def walk(op: Op) -> Rows:
    """The Rows of a canonical row operator."""
    x = op.inputs[0][1]
    depth = row_ndim(op)
    split = x.ndim - depth
    batch_strides, row_strides = [], []
    for role, spec in (*op.outputs, *op.inputs):
        parameter = role in ("weight", "bias")
        batch_strides.append((0,) * split if parameter else spec.strides[:split])
        whole_row = spec.strides if parameter else spec.strides[split:]
        row_strides.append((0,) * depth if role in PER_ROW_RESULTS else whole_row)
    batch, batch_walk = merge_axes(x.shape[:split], *batch_strides)
    row, row_walk = merge_axes(x.shape[split:], *row_strides)
    return Rows(batch, row, tuple(batch_walk), tuple(row_walk))


def classify_rows(op: Op, epilogue: tuple[tuple[str, str | int | float | bool | None], ...] = ()) -> OpClass:
    """Layouts of a row: "unit" (stride 1), "strided", "broadcast" (stride 0), "single" (one element a row), and
    "scattered" for all operands where the row's axes cannot be merged into one."""
    rows = walk(op)
    outputs = len(op.outputs)
    classes = []
    for i, (role, spec) in enumerate((*op.outputs, *op.inputs)):
        classes.append(_row_class(role, spec, rows, i))
    return OpClass(
        op.name,
        tuple(classes[:outputs]),
        tuple(classes[outputs:]),
        epilogue,
        batch_ndim=len(rows.batch),
        bucket=next_pow2(row_length(op)),
        wide=needs_wide_index(*(spec for _, spec in (*op.outputs, *op.inputs))),
    )


def _row_class(role: str, spec: TensorSpec, rows: Rows, index: int) -> OperandClass:
    itemsize = DTYPES[spec.dtype].itemsize
    if role in PER_ROW_RESULTS:
        return OperandClass(role, spec.dtype, "single", itemsize)
    if len(rows.row) > 1:
        return OperandClass(role, spec.dtype, "scattered", itemsize)
    stride = rows.row_strides[index][0] if rows.row else 1
    if stride == 1:
        unit = max((i for i, n in enumerate(spec.shape) if n > 1 and spec.strides[i] == 1), default=None)
        return OperandClass(role, spec.dtype, "unit", vector_align(spec, unit))
    return OperandClass(role, spec.dtype, "broadcast" if stride == 0 else "strided", itemsize)


def move_last(spec: TensorSpec, axis: int) -> TensorSpec:
    """The same elements with `axis` last."""
    return spec.permute([*(i for i in range(spec.ndim) if i != axis), axis])


def per_row_shape(shape: Sequence[int], depth: int) -> tuple[int, ...]:
    """`shape` with its last `depth` axes of length 1: that of mean and rstd."""
    return (*shape[: len(shape) - depth], *(1,) * depth)
