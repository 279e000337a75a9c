"""rmsnorm of contiguous float32 rows by a kernel of one's own, everything else of rmsnorm by hal's.

An algorithm is a module with three pure functions (hal/kernel.py). Each address is two arguments of the kernel: a
buffer, then a byte offset. Sizes are arguments, never text, so that a new shape compiles nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from hal.device import DeviceInfo
from hal.kernel import F32, I64, Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.rows import row_length
from hal_opencl.kernels import norms

NAME = "own"
LONGEST = 4096  # 64 sums of 64: the bound allows chains of 128 additions


def configs(op: Op, info: DeviceInfo) -> Sequence[Config]:
    """Its own first where it can, then hal's."""
    given = [role for role, _ in (*op.outputs, *op.inputs)]
    plain = all(spec.dtype == "float32" and spec.is_contiguous for _, spec in (*op.outputs, *op.inputs))
    if given == ["out", "x", "weight"] and plain and 0 < row_length(op) <= LONGEST:
        return [Config(NAME), *norms.configs(op, info)]
    return norms.configs(op, info)


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """The text of rmsnorm.cl, or hal's."""
    if config.name != NAME:
        return norms.kernels(op_class, config)
    source = files("hal_pocket").joinpath("rmsnorm.cl").read_text(encoding="utf-8")
    return (Kernel("own_rmsnorm", source, ("out", "x", "weight", "eps", "n"), ("-cl-std=CL1.2",)),)


def schedule(op: Op, config: Config) -> Schedule:
    """A work-item for each row, or hal's launches."""
    if config.name != NAME:
        return norms.schedule(op, config)
    n = row_length(op)
    rows = op.inputs[0][1].size // n
    arguments = (Out(0), In(0), In(1), F32(op.param("eps")), I64(n))
    return Schedule((Launch(0, (rows, 1, 1), (1, 1, 1), arguments),) if rows else ())
