"""matmul: which of three kernels computes it. A CPU has panels, or dot products for few rows; other devices tiles.

    panel.py  panel.cl  pack.cl    b packed into panels, sums in registers
    dot.py    dot.cl               few rows, both operands contiguous along k
    tile.py   tile.cl              tiles in local memory
    problem.py  epilogue.cl        what they share: sizes and strides; alpha, bias, activation, rounding

panel and tile add in one order, k ascending, so a row's bits depend on nothing but the row, b and the device.
"""

from __future__ import annotations

from types import ModuleType

from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal.ops.problem import problem
from hal_opencl.kernels import dot, panel, tile
from hal_opencl.kernels.source import check_batch_axes

FAMILIES: dict[str, ModuleType] = {"panel": panel, "dot": dot, "tile": tile}
MARGIN = 1 << 12  # a tile may reach past the end of an axis by less than this


def configs(op: Op, info: DeviceInfo) -> list[Config]:
    """Best first. The others are there for devices that refuse the first, and for tests."""
    p = problem(op)
    check_batch_axes(op.name, len(p.batch))
    if max(p.m, p.n, p.k) > 2**31 - MARGIN:
        raise UnsupportedError(f"matmul: an axis of {max(p.m, p.n, p.k)} elements is more than 2^31 - {MARGIN}")
    on_cpu = [*dot.configs(op, p, info), *panel.configs(op, p, info)]
    elsewhere = tile.configs(op, p, info)
    limit = info.props.get("loop_limit")
    if limit:
        return _within(int(limit), p.k, elsewhere)
    return [*on_cpu, *elsewhere] if info.props.get("type") == "cpu" else [*elsewhere, *on_cpu]


def _within(limit: int, k: int, found: list[Config]) -> list[Config]:
    """For devices that end loops without a word: those configs whose rounds stay below the limit."""
    if -(-k // tile.TK) * tile.ROUNDS + tile.LAST_ROUNDS > limit:
        raise UnsupportedError(f"matmul: k = {k} needs more rounds of loops than the {limit} this device makes")
    return found


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """The text of the chosen family."""
    found: tuple[Kernel, ...] = FAMILIES[config.name].kernels(op_class, config)
    return found


def schedule(op: Op, config: Config) -> Schedule:
    """The launches of the chosen family."""
    p = problem(op)
    roles = ("a", "b", "out", *(("bias",) if "bias" in p.strides else ()))
    found: Schedule = FAMILIES[config.name].schedule(op, roles, p, config)
    return found
