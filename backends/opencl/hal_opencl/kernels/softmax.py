"""softmax and log_softmax: the algorithm of both; softmax.cl has the arithmetic."""

from __future__ import annotations

from hal.dtypes import accumulator
from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal_opencl.kernels import rows

FILES = ("exponential.cl", "softmax.cl")
configs = rows.configs


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel. A scale of 1 is multiplied too: that changes nothing and saves a second text."""
    mask, log = op_class.input("mask"), op_class.name == "log_softmax"
    defines = {
        "LOG": int(log),
        # The exponentials wait in `out` where that holds them exactly; else they are computed twice.
        "KEEP": int(not log and op_class.outputs[0].dtype == accumulator(op_class.inputs[0].dtype)),
        "MASK_NONE": int(mask is None),
        "MASK_BOOL": int(mask is not None and mask.dtype == "bool"),
        "MASK_ADDED": int(mask is not None and mask.dtype != "bool"),
    }
    return (rows.kernel(FILES, "softmax", op_class, config, defines, "scale"),)


def schedule(op: Op, config: Config) -> Schedule:
    """One launch."""
    return rows.schedule(op, config, op.param("scale"))
