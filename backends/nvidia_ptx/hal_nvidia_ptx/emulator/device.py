"""Emulated NVIDIA devices as hal devices: same kernels, same schedules, every finding an error."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, cast, get_args
from weakref import WeakSet

import numpy as np

from hal.device import Bytes, DeviceInfo, Handle, Operand
from hal.errors import DeviceError, OptionError, UnsupportedError
from hal.kernel import F32, F64, I32, I64, Dims, Kernel, KernelDevice, Launch, Number
from hal_nvidia_ptx.emulator.machine import launch
from hal_nvidia_ptx.emulator.memory import Arena
from hal_nvidia_ptx.emulator.program import Program, load
from hal_nvidia_ptx.emulator.races import Races
from hal_nvidia_ptx.emulator.shape import Mode, Options, Shape


def mode_of_environment() -> Mode:
    """HAL_PTX_MODE, "late" where it is not set. Raises OptionError for what is no mode."""
    mode = os.environ.get("HAL_PTX_MODE", "late")
    if mode not in get_args(Mode):
        raise OptionError(f"HAL_PTX_MODE={mode}: use one of {', '.join(get_args(Mode))}")
    return cast(Mode, mode)


_opened: WeakSet[EmulatedDevice] = WeakSet()


class EmulatedDevice(KernelDevice):
    """A target of `hal_nvidia_ptx.target` on the CPU. A handle is the address that a kernel sees.

    mode: when asynchronous copies and products take effect, and whether races are looked for ("races").
    Launches run to their end before they return, one at a time.
    """

    fork_safe = True  # memory of the process and nothing else: a child has its own copy

    def __init__(self, info: DeviceInfo, mode: Mode | None = None) -> None:
        super().__init__(info)
        from hal_nvidia_ptx.kernels import ALGORITHMS

        self.algorithms = ALGORITHMS
        self.mode: Mode = mode_of_environment() if mode is None else mode
        self.arena = Arena()
        self._lock = threading.RLock()
        _opened.add(self)

    def after_fork(self) -> None:
        """In the child: a thread of the parent that held the lock is not here to give it back."""
        self._lock = threading.RLock()

    def alloc(self, nbytes: int) -> Handle:
        with self._lock:
            return self.arena.alloc(nbytes).start

    def free(self, handle: Handle) -> None:
        with self._lock:
            self.arena.free(handle)

    def copy_in(self, target: Handle, offset: int, source: Bytes) -> None:
        with self._lock:
            self.arena.write(target + offset, source)

    def copy_out(self, target: Bytes, source: Handle, offset: int) -> None:
        with self._lock:
            np.copyto(target, self.arena.read(source + offset, len(target)))

    def synchronize(self) -> None:
        with self._lock:
            return

    def compile(self, kernel: Kernel) -> Program:
        return load(kernel.source, kernel.entry, self.info.props["target"])

    def launch(self, compiled: Any, launch_: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        shape = Shape(launch_.grid, launch_.block, compiled.cluster, launch_.shared_bytes)
        self.run(compiled, shape, [_value(argument) for argument in arguments])

    def launch_values(
        self, compiled: Program, launch_: Launch, values: Sequence[bytes], stream: Any, cluster: Dims | None = None
    ) -> None:
        """`launch` with the bytes of each parameter, and with clusters of blocks."""
        if stream is not None:
            raise UnsupportedError(f"device {self.name}: it has no streams; leave stream= away")
        self.run(
            compiled, Shape(launch_.grid, launch_.block, cluster or compiled.cluster, launch_.shared_bytes), values
        )

    def run(self, program: Program, shape: Shape, arguments: Sequence[int | float | bytes]) -> None:
        """One launch with plain arguments. Raises DeviceError with the first finding."""
        options = Options(self.mode, Races() if self.mode == "races" else None)
        with self._lock:
            outcome = launch(program, self.arena, shape, arguments, options)
        for finding in outcome.findings:
            more = len(outcome.findings) - 1
            rest = f"\n({more} more findings)" if more else ""
            raise DeviceError(f"device {self.name}: {finding.render(program.name + '.ptx')}{rest}")


def _after_fork_in_child() -> None:
    for device in _opened:
        device.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _value(argument: Operand | Number) -> int | float:
    if isinstance(argument, (I32, I64, F32, F64)):
        return argument.value
    handle, offset = argument
    return cast(int, handle + offset)
