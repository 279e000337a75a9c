"""A backend in C that comes in a package, some of whose functions may still be the simulator's.

The library says which by a second symbol, `uint32_t hal_simulated(void)`: bit i stands for the i-th of C_FUNCTIONS. A
library without that symbol has written all. While op_prepare, op_launch or op_release is not written, operators are
computed on the host, through the library's own memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hal import capi
from hal.device import Device, DeviceInfo
from hal.porting.simulated import simulate

C_FUNCTIONS = (
    *("device_count", "device_info", "device_open", "memory_alloc", "memory_free", "copy_in", "copy_out", "copy"),
    *("synchronize", "op_prepare", "op_launch", "op_release"),
)
_OF_OPERATORS = frozenset(("op_prepare", "op_launch", "op_release"))


class LibraryBackend(capi.Backend):
    """hal.capi's backend, and what of it is simulated."""

    def unwritten(self) -> tuple[str, ...]:
        """Names of C_FUNCTIONS that the simulator plays."""
        loaded = self.library.path  # raises where it does not load, or is no backend
        ask = getattr(ctypes.CDLL(str(loaded)), "hal_simulated", None)
        bits = int(ask()) if ask else 0
        return tuple(name for i, name in enumerate(C_FUNCTIONS) if bits >> i & 1)

    def devices(self) -> Sequence[DeviceInfo]:
        facts = {"functions": len(C_FUNCTIONS), "simulated": self.unwritten()}
        return [replace(info, props={**info.props, **facts}) for info in super().devices()]

    def open(self, info: DeviceInfo) -> capi.device.Device:
        opened = super().open(info)
        if _OF_OPERATORS & set(self.unwritten()):
            device: Device = opened
            device.prepare = partial(simulate, opened)  # type: ignore[method-assign]
        return opened
