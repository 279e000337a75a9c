"""matmul for few rows by dot products (dot.cl), where both operands have stride 1 along k."""

from __future__ import annotations

from hal.device import DeviceInfo
from hal.dtypes import accumulator
from hal.kernel import Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_opencl.kernels import problem as problems
from hal_opencl.kernels.panel import units
from hal_opencl.kernels.problem import longs
from hal_opencl.kernels.source import OPTIONS, batch_parameters, render

FEW_ROWS, MOST_ROWS = 4, 32
LONG = 128  # k from which the sums over lanes at the end of a dot product do not count, even against packing
DN = 4
DOT = ("m", "n", "k", "columns_per_item", "a_row", "b_column", "out_row", "out_column", "alpha")


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """None where it does not suit. Its order of additions is not that of the other kernels, so that choosing it by m
    is open to deterministic="run" only."""
    along_k = p.k <= 1 or (p.strides["a"][1] == 1 and p.strides["b"][0] == 1)
    few = p.m <= FEW_ROWS or (p.m <= MOST_ROWS and p.k >= LONG)
    if not along_k or not few or op.param("deterministic") == "batch":
        return []
    vector = min(max(int(info.props.get("vector_width", 4)), 4), 16)
    if accumulator(op.dtype) == "float64":
        vector = max(vector // 2, 4)
    return [Config("dot", (("rows", 1 if p.m == 1 else 4), ("vector", vector), ("units", units(info))))]


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel."""
    roles, batch = problems.roles(op_class), op_class.batch_ndim
    source = render(
        "dot.cl",
        problems.dtypes(op_class),
        {"DM": config["rows"], "DN": DN, **problems.defines(op_class)},
        accumulator(op_class.inputs[0].dtype),
        config["vector"],
        batch_axes=batch,
        batch_operands=roles,
    )
    bias = ("bias", "bias_row", "bias_column") if "bias" in roles else ()
    parameters = ("a", "b", "out", *bias, *DOT, *batch_parameters(batch, roles))
    return (Kernel("dot_products", source, parameters, OPTIONS),)


def schedule(op: Op, op_roles: tuple[str, ...], p: Problem, config: Config) -> Schedule:
    """One launch; at least 64 KiB of b for a work-item, at most what gives each core some."""
    if p.empty:
        return Schedule(())
    strips = -(-p.m // config["rows"])
    wanted = max(4 * config["units"] // max(strips * p.count, 1), 1)
    columns = max(-(-p.n // wanted), min(-(-(1 << 14) // max(p.k, 1)), p.n))
    columns = -(-columns // DN) * DN
    arguments = (
        In(0),
        In(1),
        Out(0),
        *problems.bias_arguments(op, p),
        *longs(p.m, p.n, p.k, columns, p.strides["a"][0], p.strides["b"][1], *p.strides["out"]),
        problems.alpha(op),
        *problems.batch_of(p, op_roles),
    )
    return Schedule((Launch(0, (-(-p.n // columns), strips, p.count), (1, 1, 1), arguments),))
