"""The parameters of a row kernel and their values in a launch: numbers, lengths, and strides in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hal.kernel import F32, F64, I32, I64, Argument, Config, In, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.rows import PER_ROW_RESULTS, Rows, row_length, walk
from hal_nvidia_ptx.kernels.rows import SHARED, Way
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize
from hal_nvidia_ptx.ptx import Entry, Register


def parameters(op_class: OpClass, way: Way, numbers: Sequence[str]) -> list[tuple[str, str]]:
    """Names and types. numbers: the names of the operator's own, in the accumulator's type.

    batch<i>: lengths of the batch's axes but the outermost, whose index is what division leaves; <role>_batch<i>: an
    operand's strides along all of them. length<i>, <role>_step<i>: the same of a row's axes, where it is gathered.
    """
    kind = ARITHMETIC[op_class.inputs[0].dtype]
    operands = (*op_class.outputs, *op_class.inputs)
    stepping = [operand.role for operand in operands if way.gathered and operand.layout != "single"]
    return [
        *((operand.role, "u64") for operand in operands),
        *((name, kind) for name in numbers),
        ("n", "s32"),
        *([("rows", "s32")] if way.rows > 1 else []),
        *((f"length{axis}", "s32") for axis in range(1, way.axes)),
        *((f"{role}_step{axis}", "s64") for role in stepping for axis in range(way.axes)),
        *((f"batch{axis}", "s32") for axis in range(1, op_class.batch_ndim)),
        *((f"{role}_batch{axis}", "s64") for role in _batched(op_class) for axis in range(op_class.batch_ndim)),
    ]


def _batched(op_class: OpClass) -> list[str]:
    """The operands that vary from row to row."""
    return [operand.role for operand in (*op_class.outputs, *op_class.inputs) if operand.role not in SHARED]


def schedule(op: Op, config: Config, numbers: Sequence[float]) -> Schedule:
    """One launch, or none where nothing is to be written. numbers: as in `parameters`."""
    if not any(spec.size for _, spec in op.outputs):
        return Schedule(())
    way, rows = Way.of(config), walk(op)
    number: type[F64] | type[F32] = F64 if op.dtype == "float64" else F32
    arguments: tuple[Argument, ...] = (
        *map(Out, range(len(op.outputs))),
        *map(In, range(len(op.inputs))),
        *(number(value) for value in numbers),
        I32(row_length(op)),
        *([I32(rows.count)] if way.rows > 1 else []),
        *map(I32, rows.row[1:]),
        *(map(I64, _steps(op, way, rows))),
        *map(I32, rows.batch[1:]),
        *(map(I64, _batch_strides(op, rows))),
    )
    blocks = -(-rows.count // way.rows)
    return Schedule((Launch(0, (blocks, 1, 1), (way.threads, 1, 1), arguments),))


def _steps(op: Op, way: Way, rows: Rows) -> Iterator[int]:
    """Bytes from one index of a row's axis to the next, for each operand that is gathered. A row of one element has no
    axis left after the walk."""
    if way.gathered:
        for (role, spec), strides in zip((*op.outputs, *op.inputs), rows.row_strides, strict=True):
            if role not in PER_ROW_RESULTS:
                yield from (step * itemsize(spec.dtype) for step in strides or (0,) * way.axes)


def _batch_strides(op: Op, rows: Rows) -> Iterator[int]:
    """Bytes from one index of a batch axis to the next, for each operand that varies from row to row."""
    for (role, spec), strides in zip((*op.outputs, *op.inputs), rows.batch_strides, strict=True):
        if role not in SHARED:
            yield from (step * itemsize(spec.dtype) for step in strides)


def row_addresses(k: Entry, op_class: OpClass, row: Register) -> dict[str, Register]:
    """The address of each operand's row number `row` (s32, not negative)."""
    operands = (*op_class.outputs, *op_class.inputs)
    bases = {operand.role: k.param(operand.role) for operand in operands}
    rest = row
    for axis in reversed(range(op_class.batch_ndim)):
        along = rest
        if axis:  # the outermost axis needs no division: what is left is its index
            length = k.param(f"batch{axis}")
            outer = k.let("s32", f"row_outer{axis}", "div.u32", rest, length)
            along = k.let("s32", f"row_index{axis}", "mul.lo.s32", outer, length)
            k("sub.s32", along, rest, along)
            rest = outer
        wide = k.let("s64", "row_wide", "cvt.u64.u32", along, note="not negative")
        for role in _batched(op_class):
            k("mad.lo.s64", bases[role], wide, k.param(f"{role}_batch{axis}"), bases[role])
    return bases
