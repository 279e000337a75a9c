"""NVIDIA's architectures on a CPU: PTX text executed by NumPy, with checks that hardware does not make.

    source.py operands.py syntax.py   text to data
    header.py forms.py agreement.py   what the text may have: versions and targets, modifiers, types of operands
    program.py                        data to what runs: one function for each instruction; `instructions/` has them
    machine.py lanes.py memory.py     threads, registers, memory, barriers
    races.py report.py places.py      what is found, and how it is written
    device.py                         one more hal device for each target

Importing this package imports none of them; opening a device does.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal.device import Backend as BackendContract
from hal.device import Device, DeviceInfo
from hal_nvidia_ptx.target import CHECKED, TARGETS

DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int8"))
MEMORY = 1 << 34  # bytes of address space; the system commits what is touched
PRIORITY = -10  # never the default: these devices are for finding faults, not for speed

__all__ = ["Backend"]


class Backend(BackendContract):
    """One device for each target that kernels are checked on."""

    name = "ptx"

    def devices(self) -> Sequence[DeviceInfo]:
        return [
            DeviceInfo(
                target,
                DTYPES,
                MEMORY,
                vendor="emulated NVIDIA",
                priority=PRIORITY,
                props={"target": target, "sms": TARGETS[target].sms},
            )
            for target in CHECKED
        ]

    def open(self, info: DeviceInfo) -> Device:
        from hal_nvidia_ptx.emulator.device import EmulatedDevice

        return EmulatedDevice(info)
