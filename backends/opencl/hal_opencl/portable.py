"""hal's kernels for GPUs as C++ for CUDA and dialects like it: a public door, for packages of other chips.

    from hal_opencl import portable

    class Device(DriverKernelDevice):
        algorithms = portable.algorithms()
        split_addresses = True

The text of each kernel is hal/include/hal_cuda_like.h and the same OpenCL C that this backend builds. Nothing here
imports pyopencl. What a user has to keep:

- *Arguments.* Each In, Out and Scratch of a Launch is two: an address, then a byte offset (64 bits each).
- *Compiler.* No fused multiply-add of its own making, no fast mathematics; the header says more. `Kernel.options` is
  empty: the options are the device's business.
- *Facts.* DeviceInfo.props may have "max_work_group", threads of a block at most (256 where it is missing), and
  "loop_limit", rounds after which a device ends a loop. No other is looked at.
- *Dtypes.* A chip without float64 leaves it out of DeviceInfo.dtypes; nothing else differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from hal.device import DeviceInfo
from hal.kernel import Algorithm, Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal_opencl.kernels import ALGORITHMS

GPU_SHAPED = ("tile", "group")  # configs whose kernels have work-groups of many, and no vector of more than four


def header() -> str:
    """The text that makes C++ of the kernels."""
    return files("hal").joinpath("include/hal_cuda_like.h").read_text(encoding="utf-8")


def algorithms(before: str = "") -> Mapping[str, Algorithm]:
    """By operator. `before` is text to stand before the header: a dialect's own words, its #includes."""
    prefix = f"{before.rstrip()}\n{header()}".lstrip()
    return {name: Portable(algorithm, prefix) for name, algorithm in ALGORITHMS.items()}


@dataclass(frozen=True)
class Portable:
    """An algorithm of this backend, less what is for CPUs, its text behind the header."""

    algorithm: Algorithm
    prefix: str

    def configs(self, op: Op, info: DeviceInfo) -> Sequence[Config]:
        """Those for GPUs. Raises UnsupportedError with the reason."""
        facts = {key: info.props[key] for key in ("max_work_group", "loop_limit") if key in info.props}
        found = self.algorithm.configs(op, replace(info, props={**facts, "type": "gpu"}))
        return [config for config in found if config.name in GPU_SHAPED]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        """The same entries and parameters."""
        kernels = self.algorithm.kernels(op_class, config)
        return tuple(replace(kernel, source=f"{self.prefix}\n{kernel.source}\n", options=()) for kernel in kernels)

    def schedule(self, op: Op, config: Config) -> Schedule:
        """The same launches."""
        return self.algorithm.schedule(op, config)
