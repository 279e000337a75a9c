"""A device whose operators are calls of a vendor's library: a function for each, written one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hal.device import Plan
from hal.errors import UnsupportedError
from hal.op import Op
from hal.porting.device import DriverDevice
from hal.porting.functions import FUNCTIONS
from hal.porting.simulated import simulate
from hal.porting.simulator import Simulator, simulated

COMPILED = frozenset(("load", "function", "launch"))  # a library's calls need none of these


class OperatorDevice(DriverDevice):
    """Children have `operators`: name -> function(device, op) that gives a Plan or raises UnsupportedError.

    `hal.porting.simulate` is such a function: it computes on the host, and counts as not written.
    """

    operators: Mapping[str, Callable[[Any, Op], Plan]] = {}

    @classmethod
    def unwritten(cls, driver: type[Simulator]) -> tuple[tuple[str, ...], int]:
        """What is still simulated, driver functions and operators, and of how many."""
        functions = [name for name in simulated(driver) if name not in COMPILED]
        operators = [name for name, function in cls.operators.items() if function is simulate]
        return (*functions, *operators), len(FUNCTIONS) - len(COMPILED) + len(cls.operators)

    def prepare(self, op: Op) -> Plan:
        function = self.operators.get(op.name)
        if function is None:
            raise UnsupportedError(f"{op.name}: device {self.name} has no call for it")
        if op.dtype not in self.info.dtypes:
            raise UnsupportedError(f"{op.name}: device {self.name} does not compute in {op.dtype}; op: {op}")
        return function(self, op)
