"""A driver's twelve functions in host memory: a device to start from, on a machine without the chip.

A generated driver is `class Driver(Simulator)` with twelve lines `alloc = Simulator.alloc  # TODO 4 of 12: …`. Its
author replaces a line by a `def` of the same arguments. As long as a line is there that function counts as simulated,
`hal conformance` says SIMULATED with the number of those that are not, and nothing passes.

Rules for the functions, whoever writes them:

- Errors are raised: hal.errors.DeviceError with the call's name and the driver's number, DeviceMemoryError from
  `alloc`. hal.porting.SharedLibrary does both.
- All work goes to one queue, in order. `launch` and `copy` may return early; `copy_in` and `copy_out` may not.
- Any thread may call any function; `open` was called in that thread before.
- An address is a number. `alloc`'s are multiples of 64, and others get the sum of one and an offset.
- `alloc`, `free` and the three copies belong together: an address of one's own means nothing to the simulator.
"""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from hal.device import Bytes, DeviceInfo
from hal.errors import DeviceError, DeviceMemoryError, UnsupportedError
from hal.kernel import Dims
from hal.porting.arguments import Value
from hal.porting.functions import FUNCTIONS

_ALIGNMENT = 64
_MEMORY = 1 << 32  # bytes that the simulated device says it has
_DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int8"))


class Simulator:
    """One made-up device, `simulated 0`. A Driver object serves one device, or none yet for `find`."""

    def __init__(self) -> None:
        self._blocks: dict[int, Bytes] = {}  # address -> the allocation that keeps it alive
        self._starts: list[int] = []  # the addresses, ascending
        self._lock = threading.Lock()

    def find(self) -> int:
        """How many devices there are; 0 where there is no hardware, or no driver."""
        return 1

    def properties(self, ordinal: int) -> DeviceInfo:
        """Name, memory in bytes, the dtypes that operators compute in, and facts for algorithms in `props`."""
        return DeviceInfo(f"simulated {ordinal}", _DTYPES, _MEMORY, vendor="hal's simulator", props={"type": "gpu"})

    def open(self, ordinal: int) -> None:
        """Make device `ordinal` the calling thread's. Called once in each thread, before any function below."""

    def alloc(self, nbytes: int) -> int:
        """The address of `nbytes` >= 1 bytes, a multiple of 64. Raises DeviceMemoryError."""
        try:
            raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
        except (MemoryError, ValueError, OverflowError):
            raise DeviceMemoryError(f"simulated alloc: no memory for {nbytes} bytes") from None
        address = raw.ctypes.data + -raw.ctypes.data % _ALIGNMENT
        with self._lock:
            self._blocks[address] = raw[address - raw.ctypes.data :][:nbytes]
            self._starts.insert(bisect_right(self._starts, address), address)
        return address

    def free(self, address: int) -> None:
        """Give back what `alloc` gave. No queued work uses it any more."""
        with self._lock:
            if self._blocks.pop(address, None) is None:
                raise _stranger("free", address)
            self._starts.remove(address)

    def copy_in(self, address: int, source: Bytes) -> None:
        """Host to device, after the work queued before. `source` may change as soon as this returns."""
        self._check("copy_in", address, source.nbytes)
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def copy_out(self, target: Bytes, address: int) -> None:
        """Device to host, after the work queued before. `target` is filled when this returns."""
        self._check("copy_out", address, target.nbytes)
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Device to device, in the order of the queue; the regions do not overlap."""
        self._check("copy", target, nbytes)
        self._check("copy", source, nbytes)
        ctypes.memmove(target, source, nbytes)

    def load(self, image: bytes) -> Any:
        """What the compiler made, as a module. Raises CompileError with the driver's log where it has one."""
        raise _no_code("load")

    def function(self, module: Any, entry: str) -> Any:
        """The kernel `entry` of a module."""
        raise _no_code("function")

    def launch(self, function: Any, grid: Dims, block: Dims, shared_bytes: int, arguments: Sequence[Value]) -> None:
        """Queue one launch. `grid` counts blocks; `arguments` are ctypes values in the order of the parameters."""
        raise _no_code("launch")

    def synchronize(self) -> None:
        """Wait for all queued work. Raises the error that a kernel left behind."""

    def _check(self, call: str, address: int, nbytes: int) -> None:
        """A copy outside one's own memory would end the process."""
        with self._lock:
            position = bisect_right(self._starts, address) - 1
            if position >= 0:
                start = self._starts[position]
                if address + nbytes <= start + self._blocks[start].nbytes:
                    return
        raise _stranger(call, address)


def simulated(driver: type[Simulator]) -> tuple[str, ...]:
    """Those of the twelve that a driver still has from the simulator."""
    return tuple(f.name for f in FUNCTIONS if getattr(driver, f.name) is getattr(Simulator, f.name))


def _stranger(call: str, address: int) -> DeviceError:
    return DeviceError(
        f"simulated {call}: {address:#x} is not within memory of the simulated alloc; "
        "alloc, free, copy_in, copy_out and copy belong together: write all five"
    )


def _no_code(call: str) -> UnsupportedError:
    return UnsupportedError(f"simulated {call}: the simulator runs no compiled code; write load, function and launch")
