"""matmul for GPUs by tiles in local memory (tile.cl)."""

from __future__ import annotations

from hal.device import DeviceInfo
from hal.dtypes import accumulator
from hal.kernel import Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_opencl.kernels import problem as problems
from hal_opencl.kernels.problem import longs
from hal_opencl.kernels.source import OPTIONS, batch_parameters, render

WORK = 4  # elements of a work-item along each axis
TK = 16
# Rounds of loops that a work-item makes for TK steps of k, where a compiler unrolls only the innermost (99 were seen),
# and at the end.
ROUNDS, LAST_ROUNDS = 128, 512
LARGE = 1024  # n (and m, where it may be looked at) from which larger tiles fill a device
SIZES = (64, 32, 16)
TILE = ("m", "n", "k", "a_row", "a_column", "b_step", "b_column", "out_row", "out_column", "alpha")


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """Tiles of 64 x 64 for large results, smaller ones otherwise and for devices of small work-groups."""
    large = p.n >= LARGE and (op.param("deterministic") == "batch" or p.m >= LARGE)
    limit = int(info.props.get("max_work_group", 256))
    fitting = [size for size in SIZES if (size // WORK) ** 2 <= limit]
    return [Config("tile", (("size", size),)) for size in fitting if large or size < SIZES[0]]


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel, whose text depends on which axis of each operand is contiguous."""
    roles, batch, size = problems.roles(op_class), op_class.batch_ndim, config["size"]
    a, b = op_class.inputs[:2]
    numbers: dict[str, int | str] = {
        "TM": size,
        "TN": size,
        "TK": TK,
        "WM": WORK,
        "WN": WORK,
        "A_ALONG_K": int(a.layout != "column"),
        "B_ALONG_K": int(b.layout == "column"),
    }
    source = render(
        "tile.cl",
        problems.dtypes(op_class),
        {**numbers, **problems.defines(op_class)},
        accumulator(a.dtype),
        1,
        wide=op_class.wide,
        batch_axes=batch,
        batch_operands=roles,
    )
    bias = ("bias", "bias_row", "bias_column") if "bias" in roles else ()
    return (Kernel("tile", source, ("a", "b", "out", *bias, *TILE, *batch_parameters(batch, roles)), OPTIONS),)


def schedule(op: Op, op_roles: tuple[str, ...], p: Problem, config: Config) -> Schedule:
    """One launch."""
    if p.empty:
        return Schedule(())
    size = config["size"]
    arguments = (
        In(0),
        In(1),
        Out(0),
        *problems.bias_arguments(op, p),
        *longs(p.m, p.n, p.k, *p.strides["a"], *p.strides["b"], *p.strides["out"]),
        problems.alpha(op),
        *problems.batch_of(p, op_roles),
    )
    block = (size // WORK, size // WORK, 1)
    return Schedule((Launch(0, (-(-p.n // size), -(-p.m // size), p.count), block, arguments),))
