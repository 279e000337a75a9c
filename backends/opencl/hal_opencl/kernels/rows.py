"""What the algorithms of softmax and the norms share: who takes which row, and how rows of any layout reach a kernel.

Two ways, one text (rows.cl). On CPUs a work-item takes a row with wide vectors; elsewhere the lanes of a work-group
share one. A row's bits may depend on its length, dtypes and layout only, so that is all that `configs` looks at; how
many rows a work-group takes one after the other changes no bit.

An operand whose row has stride 1 is read by vectors. Any other, and one whose row axes do not merge, element by
element at the sum of axis index times stride: rare, and simple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hal.device import DeviceInfo
from hal.dtypes import DTYPES, accumulator
from hal.errors import UnsupportedError
from hal.kernel import F32, F64, I64, Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.rows import PER_ROW_RESULTS, Rows, row_length, walk
from hal_opencl.kernels.source import (
    OPTIONS,
    batch_arguments,
    batch_parameters,
    check_batch_axes,
    read,
    render,
)

SHARED = ("weight", "bias")  # one row for the whole batch
MAXIMUM_ROW_AXES = 5  # with 8 batch axes and 8 operands still below the 1024 bytes of arguments every device takes
CPU_VECTOR_BYTES = 64  # a cache line; narrower machines take it in parts
GROUP_VECTOR = 4
CPU_GROUPS = 256  # enough to share out among cores, each with enough rows to pay for its start
CPU_ELEMENTS = 4096  # of all rows that one work-item should at least get
MAXIMUM_GROUPS = 2**20  # with 256 lanes 2^28 work-items: well below what a grid may have


def configs(op: Op, info: DeviceInfo) -> list[Config]:
    """One work-item a row on CPUs, else a work-group, with smaller groups for devices that take no larger ones."""
    rows = walk(op)
    check_batch_axes(op.name, len(rows.batch))
    if len(rows.row) > MAXIMUM_ROW_AXES:
        raise UnsupportedError(
            f"{op.name}: {len(rows.row)} axes of a row remain after merging, more than the {MAXIMUM_ROW_AXES} whose "
            "strides fit the arguments of an OpenCL kernel; make an operand contiguous"
        )
    axes = ("row_axes", max(len(rows.row), 1))
    one_item = Config(
        "item", (("lanes", 1), ("vector", CPU_VECTOR_BYTES // DTYPES[accumulator(op.dtype)].itemsize), axes)
    )
    loop_limit = info.props.get("loop_limit")
    if info.props.get("type") == "cpu" and not loop_limit:
        return [one_item]
    lanes = (256, 64, 32) if row_length(op) > 64 * GROUP_VECTOR else (64, 32)
    groups = [Config("group", (("lanes", n), ("vector", GROUP_VECTOR), axes)) for n in lanes]
    if loop_limit:
        return _within(loop_limit, op, rows, groups)
    return [*groups, one_item]


def _within(limit: int, op: Op, rows: Rows, configs: Sequence[Config]) -> list[Config]:
    """Those of which no work-item's loops make more rounds, in all, than a device can count."""

    def rounds(config: Config) -> int:
        vector, n = config["vector"], row_length(op)
        steps = n // (vector * config["lanes"]) + 1
        a_sweep = (
            steps * (1 + (2 + len(op.inputs)) * vector) + 100
        )  # loops over vectors count too; sums of blocks, lanes
        return 3 * a_sweep * _rows_per_group(rows.count, n, config)

    fit = [config for config in configs if rounds(config) <= limit]
    if not fit:
        raise UnsupportedError(
            f"{op.name}: a row of {row_length(op)} is too long for a device whose loops end after {limit} rounds"
        )
    return fit


def kernel(
    files: Sequence[str], entry: str, op_class: OpClass, config: Config, defines: Mapping[str, int], number: str
) -> Kernel:
    """The kernel `entry` of the last of some .cl files, put after rows.cl.

    Args:
        defines: the files' own parameters. number: the name of its one argument that is a real number (scale, eps).
    """
    operands = (*op_class.outputs, *op_class.inputs)
    axes, gathered = config["row_axes"], [x.role for x in operands if x.layout not in ("unit", "single")]
    batched = [x.role for x in operands if x.role not in SHARED]
    row_parameters = _row_parameters(gathered, axes)
    macros: dict[str, int | str] = {"LANES": config["lanes"], **defines}
    macros["OPERANDS"] = ", ".join(f"MEMORY({x.role})" for x in operands)
    macros["ROW_PARAMETERS"] = "".join(f", long {name}" for name in row_parameters)
    for x in operands:
        macros[f"{x.role.upper()}_BYTES"] = DTYPES[x.dtype].itemsize
        macros[f"{x.role.upper()}_UNIT"] = int(x.role not in gathered)
        macros[f"{x.role.upper()}_AT(i)"] = _offset(x.role, axes) if x.role in gathered else "(i)"
    head = render(
        "rows.cl",
        {x.role: x.dtype for x in operands},
        macros,
        accumulator(op_class.inputs[0].dtype),
        config["vector"],
        wide=op_class.wide,
        batch_axes=op_class.batch_ndim,
        batch_operands=batched,
    )
    names = [*(x.role for x in operands), number, "row_length", "rows", "rows_per_group", *row_parameters]
    parameters = (*names, *batch_parameters(op_class.batch_ndim, batched))
    return Kernel(entry, "\n".join([head, *map(read, files)]), parameters, OPTIONS)


def _row_parameters(gathered: Sequence[str], axes: int) -> tuple[str, ...]:
    """Lengths of the row's axes but the outermost, then the strides of each operand that is read by element."""
    lengths = [f"row_length_{axis}" for axis in range(1, axes)] if gathered else []
    return (*lengths, *(f"{role}_row_stride_{axis}" for role in gathered for axis in range(axes)))


def _offset(role: str, axes: int) -> str:
    """C text for the offset of element i of the row."""
    terms, rest = [], "(i)"
    for axis in range(axes - 1, 0, -1):
        outer = f"({rest} / (INDEX)row_length_{axis})"
        # No %: what compilers make of it stops Oclgrind.
        terms.append(f"({rest} - {outer} * (INDEX)row_length_{axis}) * (INDEX){role}_row_stride_{axis}")
        rest = outer
    return f"({' + '.join([f'{rest} * (INDEX){role}_row_stride_0', *terms])})"


def schedule(op: Op, config: Config, number: float) -> Schedule:
    """One launch, or none where nothing is to be written. number: the argument of that name in `kernel`."""
    if not any(spec.size for _, spec in op.outputs):
        return Schedule(())
    rows, n = walk(op), row_length(op)
    roles = [role for role, _ in (*op.outputs, *op.inputs)]
    per_group = _rows_per_group(rows.count, n, config)
    batch_strides = [s for role, s in zip(roles, rows.batch_strides, strict=True) if role not in SHARED]
    arguments = (
        *map(Out, range(len(op.outputs))),
        *map(In, range(len(op.inputs))),
        F64(number) if op.dtype == "float64" else F32(number),
        I64(n),
        I64(rows.count),
        I64(per_group),
        *_row_arguments(rows, roles),
        *batch_arguments(rows.batch, batch_strides),
    )
    groups = -(-rows.count // per_group)
    return Schedule((Launch(0, (groups, 1, 1), (config["lanes"], 1, 1), arguments),))


def _rows_per_group(rows: int, n: int, config: Config) -> int:
    """How many rows a work-group takes one after the other: it changes the time, and no bit."""
    if config["lanes"] > 1:
        return -(-rows // MAXIMUM_GROUPS)
    return max(-(-rows // CPU_GROUPS), min(rows, CPU_ELEMENTS // max(n, 1)), 1)


def _row_arguments(rows: Rows, roles: Sequence[str]) -> tuple[I64, ...]:
    """The values of `_row_parameters`."""
    gathered = [
        strides
        for role, strides in zip(roles, rows.row_strides, strict=True)
        if role not in PER_ROW_RESULTS and rows.row and (len(rows.row) > 1 or strides[0] != 1)
    ]
    lengths = rows.row[1:] if gathered else ()
    return tuple(map(I64, (*lengths, *(stride for strides in gathered for stride in strides))))
