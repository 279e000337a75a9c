"""The device: hal's kernels for GPUs, compiled by g++."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

from hal.kernel import Kernel
from hal.porting import DriverKernelDevice, compile_with
from hal_opencl import portable

DIALECT = files("hal_fibre").joinpath("dialect.h").read_text(encoding="utf-8")
OPTIONS = ("-std=c++11", "-O1", "-ffp-contract=off", "-fno-math-errno", "-march=native", "-fPIC", "-shared", "-w")
COMPILER = ("g++", *OPTIONS, "{source}", "-o", "{output}")


class Device(DriverKernelDevice):
    """One chip."""

    algorithms = portable.algorithms(DIALECT)
    split_addresses = True

    def build(self, kernel: Kernel) -> bytes:
        """The kernel, and a door to it that knows its arguments."""
        whole = replace(kernel, source=f"{kernel.source}\nFIBRE_ENTRY({kernel.entry})\n")
        return compile_with(COMPILER, whole, suffix=".cpp")
