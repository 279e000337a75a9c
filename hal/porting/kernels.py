"""A device that compiles and launches kernels by a driver's load, function and launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hal.device import DeviceInfo, Operand, Plan
from hal.errors import UnsupportedError
from hal.kernel import Algorithm, Kernel, KernelDevice, Launch, Number
from hal.op import Op
from hal.porting.arguments import values
from hal.porting.device import DriverDevice
from hal.porting.functions import FUNCTIONS
from hal.porting.simulated import simulate
from hal.porting.simulator import Simulator, simulated


class DriverKernelDevice(DriverDevice, KernelDevice):
    """Children say which `algorithms` there are and how text becomes code (`build`).

    simulates: load, function or launch is not written yet, so that operators are computed on the host.
    split_addresses: the kernels take an address as two arguments, base and byte offset, as hal's OpenCL kernels do.
    """

    algorithms: Mapping[str, Algorithm] = {}
    split_addresses = False

    def __init__(self, info: DeviceInfo, driver: Simulator) -> None:
        super().__init__(info, driver)
        self.simulates = bool({"load", "function", "launch"} & set(simulated(type(driver))))

    @classmethod
    def unwritten(cls, driver: type[Simulator]) -> tuple[tuple[str, ...], int]:
        """What is still simulated, and of how many functions."""
        return simulated(driver), len(FUNCTIONS)

    def build(self, kernel: Kernel) -> bytes:
        """What `driver.load` takes. By default the text itself. Raises CompileError."""
        return kernel.source.encode()

    def prepare(self, op: Op) -> Plan:
        if self.simulates:
            return simulate(self, op)
        return KernelDevice.prepare(self, op)

    def compile(self, kernel: Kernel) -> Any:
        self.ready()
        return self.driver.function(self.driver.load(self.build(kernel)), kernel.entry)

    def launch(self, compiled: Any, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        if stream is not None:
            raise UnsupportedError(f"{self.name}: work runs on the device's own queue; pass no stream")
        self.ready()
        given = values(arguments, split=self.split_addresses)
        self.driver.launch(compiled, launch.grid, launch.block, launch.shared_bytes, given)
