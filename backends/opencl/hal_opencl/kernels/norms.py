"""layernorm and rmsnorm: the algorithm of both; norms.cl has the arithmetic."""

from __future__ import annotations

from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal_opencl.kernels import rows

configs = rows.configs


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel with the operands that the call has."""
    defines = {"CENTRED": int(op_class.name == "layernorm")}
    for role in ("weight", "bias", "residual"):
        defines[f"HAS_{role.upper()}"] = int(op_class.input(role) is not None)
    for role in ("mean", "rstd"):
        defines[f"HAS_{role.upper()}"] = int(op_class.output(role) is not None)
    return (rows.kernel(("norms.cl",), "normalise", op_class, config, defines, "eps"),)


def schedule(op: Op, config: Config) -> Schedule:
    """One launch."""
    return rows.schedule(op, config, op.param("eps"))
