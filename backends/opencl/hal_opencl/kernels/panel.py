"""matmul for CPUs by panels (panel.cl): b packed into panels or read in place, sums in registers."""

from __future__ import annotations

from hal.device import DeviceInfo
from hal.dtypes import DTYPES, accumulator
from hal.kernel import Argument, Config, In, Kernel, Launch, Out, Schedule, Scratch
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_opencl.kernels import problem as problems
from hal_opencl.kernels.problem import longs
from hal_opencl.kernels.source import OPTIONS, batch_parameters, render

ROWS = 96  # at most, of one work-item: with 64 columns of float32 24 KiB of sums in private memory
ROWS_OF_ONE = 8  # the same where columns are many and rows come one by one
KC = 512  # steps of a block: with 64 columns 128 KiB of b, half of a usual second-level cache
KC_INTEGER = 1024  # the most for which sums of products of int8 are exact in float32
KP, MP = 256, 16  # what a work-item packs: steps of a panel, rows
IN_CACHE = 300 << 10  # bytes of b below which packing does not pay
ALIGNMENT = 128
ITEM = (1, 1, 1)
PANEL = ("m", "n", "k", "rows_per_item", "a_row", "a_column", "b_panel", "b_step", "out_row", "out_column", "alpha")


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """One config. Every one of them gives the same bits; under deterministic="batch" m and batch are not looked at."""
    acc = arithmetic(op.dtype)
    vector = min(max(int(info.props.get("vector_width", 4)), 4), 16)
    registers = 16 if vector == 8 else 32  # AVX2 has 16; AVX-512 and NEON have 32
    if acc == "float64":
        vector = max(vector // 2, 4)
    batch_free = op.param("deterministic") == "batch"
    mr, nv = _register_tile(p.n, vector, registers, None if batch_free else p.m)
    columns = nv * vector
    few = not batch_free and p.m <= mr
    can_read_in_place = p.strides["b"][1] == 1 and p.n >= columns
    small = op.dtype == acc and p.k * p.n * DTYPES[acc].itemsize <= IN_CACHE
    pack = not (can_read_in_place and (few or small))
    convert = op.dtype != acc and (batch_free or (p.m > mr and p.n > columns))
    values = {"mr": mr, "nv": nv, "vector": vector, "pack": pack, "convert": convert, "units": units(info)}
    return [Config("panel", tuple((key, int(value)) for key, value in values.items()))]


def _register_tile(n: int, vector: int, registers: int, m: int | None) -> tuple[int, int]:
    """Rows, and vectors of columns, whose sums and operands fill the registers; `m` None: must not be looked at."""
    if m == 1 and n >= 8 * vector:
        return 1, 8  # long runs of a row of b are what counts
    widest = 4 if registers == 32 else 2
    nv = next((nv for nv in (1, 2, 4) if n <= nv * vector or nv == widest), widest)
    mr = {1: 12, 2: 12, 4: 6}[nv] if registers == 32 else {1: 12, 2: 6}[nv]
    return (min(mr, 4) if m is not None and m <= 4 else mr), nv


def units(info: DeviceInfo) -> int:
    """Work-items that run at once."""
    return max(int(info.props.get("compute_units", 1)), 1)


def arithmetic(dtype: str) -> str:
    """What products are computed in: int8 in float32, by blocks that are exact."""
    return "float32" if dtype == "int8" else accumulator(dtype)


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """In the order of the launches: pack_b and convert_a if the config has them, panel."""
    dtypes, acc, batch = problems.dtypes(op_class), arithmetic(op_class.inputs[0].dtype), op_class.batch_ndim
    vector, copies = config["vector"], []
    for role, entry, wanted in (("b", "pack_b", "pack"), ("a", "convert_a", "convert")):
        if config[wanted]:
            copies.append(_copy_kernel(entry, role, dtypes[role], acc, config, batch))
            dtypes[role] = acc
    integer = acc != "float64" and op_class.inputs[0].dtype == "int8"
    numbers = {
        "MR": config["mr"],
        "NV": config["nv"],
        "ROWS": _most_rows(config),
        "KC": KC_INTEGER if integer else KC,
        "PACKED": config["pack"],
    }
    roles = problems.roles(op_class)
    source = render(
        "panel.cl",
        dtypes,
        {**numbers, **problems.defines(op_class)},
        acc,
        vector,
        batch_axes=batch,
        batch_operands=roles,
    )
    bias = ("bias", "bias_row", "bias_column") if "bias" in roles else ()
    parameters = ("a", "b", "out", *bias, *PANEL, *batch_parameters(batch, roles))
    return (*copies, Kernel("panel", source, parameters, OPTIONS))


def _copy_kernel(entry: str, role: str, dtype: str, acc: str, config: Config, batch: int) -> Kernel:
    numbers: dict[str, int | str] = {"MP": MP} if role == "a" else {"PACK_B": 1, "NV": config["nv"], "KP": KP}
    source = render(
        "pack.cl",
        {role: dtype, "packed": acc},
        numbers,
        acc,
        config["vector"],
        batch_axes=batch,
        batch_operands=(role,),
    )
    sizes = ("m", "k", "a_row", "a_column") if role == "a" else ("n", "k", "b_step", "b_column")
    return Kernel(entry, source, (role, "packed", *sizes, "matrix", *batch_parameters(batch, (role,))), OPTIONS)


def schedule(op: Op, op_roles: tuple[str, ...], p: Problem, config: Config) -> Schedule:
    """Copies where the config has them and k > 0, then the panels."""
    if p.empty:
        return Schedule(())
    columns, itemsize = config["nv"] * config["vector"], DTYPES[arithmetic(op.dtype)].itemsize
    panels = -(-p.n // columns)
    operands: dict[str, Argument] = {"a": In(0), "b": In(1)}
    a_strides, b_step, replaced = p.strides["a"], p.strides["b"][0], {}
    launches: list[Launch] = []
    scratch = kernel = 0
    if config["pack"]:
        matrix = panels * p.k * columns
        lengths, replaced["b"] = problems.packed_strides(p, "b", matrix)
        inner = Problem(p.m, p.n, p.k, lengths, p.batch_strides, p.strides)
        arguments: tuple[Argument, ...] = (
            In(1),
            Scratch(0),
            *longs(p.n, p.k, *p.strides["b"], matrix),
            *problems.batch_of(inner, ("b",)),
        )
        if p.k:
            launches.append(Launch(kernel, (panels, -(-p.k // KP), inner.count), ITEM, arguments))
        operands["b"], b_step = Scratch(0), columns
        scratch = _aligned(matrix * inner.count * itemsize)
        kernel += 1
    if config["convert"]:
        lengths, replaced["a"] = problems.packed_strides(p, "a", p.m * p.k)
        inner = Problem(p.m, p.n, p.k, lengths, p.batch_strides, p.strides)
        arguments = (
            In(0),
            Scratch(scratch),
            *longs(p.m, p.k, *a_strides, p.m * p.k),
            *problems.batch_of(inner, ("a",)),
        )
        if p.k:
            launches.append(Launch(kernel, (-(-p.m // MP), inner.count, 1), ITEM, arguments))
        operands["a"], a_strides = Scratch(scratch), (p.k, 1)
        scratch += _aligned(p.m * p.k * inner.count * itemsize)
        kernel += 1
    rows = _rows_per_item(p, panels, config)
    numbers = longs(p.m, p.n, p.k, rows, *a_strides, p.k * columns, b_step, *p.strides["out"])
    main: tuple[Argument, ...] = (
        operands["a"],
        operands["b"],
        Out(0),
        *problems.bias_arguments(op, p),
        *numbers,
        problems.alpha(op),
        *problems.batch_of(p, op_roles, replaced),
    )
    launches.append(Launch(kernel, (panels, -(-p.m // rows), p.count), ITEM, main))
    return Schedule(tuple(launches), scratch)


def _rows_per_item(p: Problem, panels: int, config: Config) -> int:
    """As many as fit, fewer where the work would not reach every core four times."""
    mr = config["mr"]
    rows = _most_rows(config)
    while rows > mr and panels * -(-p.m // rows) * p.count < 4 * config["units"]:
        rows = max(mr, -(-(rows // 2) // mr) * mr)
    return rows


def _most_rows(config: Config) -> int:
    """A multiple of every `mr`."""
    return ROWS if config["mr"] > 1 else ROWS_OF_ONE


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
