"""A device over a driver's functions: memory and the queue.

Freed memory waits in a pool and is given out again at once: the queue is in order, so who gets it runs later, and a
driver's own `free`, which often waits for the whole device, is called only when memory is short and at the end.
`free` takes no lock, since the garbage collector calls it at any line.
"""

from __future__ import annotations

import threading
from collections import deque

from hal.device import Bytes, Device, DeviceInfo
from hal.errors import DeviceError, DeviceMemoryError
from hal.op import next_pow2
from hal.porting.simulator import Simulator

_SMALLEST = 512  # bytes


class DriverDevice(Device):
    """`driver` is a driver of its own for this device; `info.number` is the number that the driver gives it."""

    def __init__(self, info: DeviceInfo, driver: Simulator) -> None:
        super().__init__(info)
        self.driver = driver
        self._threads = threading.local()
        self._lock = threading.Lock()  # of the three below
        self._sizes: dict[int, int] = {}  # address -> bytes, of all memory that the driver gave
        self._pool: dict[int, list[int]] = {}  # bytes -> addresses
        self._freed: deque[int] = deque()  # what `free` was given and the pool was not
        self._closed = False

    def ready(self) -> None:
        """Before any call of the driver: its device is the calling thread's."""
        if self._closed:
            raise DeviceError(f"{self.name}: the device is closed; only a new process opens it again")
        if not getattr(self._threads, "opened", False):
            self.driver.open(self.info.number)
            self._threads.opened = True

    def alloc(self, nbytes: int) -> int:
        self.ready()
        if nbytes > self.info.memory:
            raise DeviceMemoryError(f"{self.name}: {nbytes} bytes wanted, it has {self.info.memory}")
        size = rounded(nbytes)
        with self._lock:
            self._collect()
            if waiting := self._pool.get(size):
                return waiting.pop()
        try:
            address = self.driver.alloc(size)
        except DeviceMemoryError:
            self._give_back()
            address = self.driver.alloc(size)
        with self._lock:
            self._sizes[address] = size
        return address

    def free(self, handle: int) -> None:
        self._freed.append(handle)

    def copy_in(self, target: int, offset: int, source: Bytes) -> None:
        self.ready()
        self.driver.copy_in(target + offset, source)

    def copy_out(self, target: Bytes, source: int, offset: int) -> None:
        self.ready()
        self.driver.copy_out(target, source + offset)

    def copy(self, target: int, target_offset: int, source: int, source_offset: int, nbytes: int) -> None:
        self.ready()
        to, start = target + target_offset, source + source_offset
        if abs(to - start) < nbytes:
            super().copy(target, target_offset, source, source_offset, nbytes)  # through the host: they overlap
        else:
            self.driver.copy(to, start, nbytes)

    def synchronize(self) -> None:
        self.ready()
        self.driver.synchronize()

    def close(self) -> None:
        if self._closed:
            return
        self.synchronize()
        self._closed = True
        with self._lock:
            addresses, self._sizes = list(self._sizes), {}
        for address in addresses:  # in use or not: nobody uses the device afterwards
            self.driver.free(address)

    def _collect(self) -> None:
        """What was freed, to the pool. The caller holds the lock."""
        while self._freed:
            address = self._freed.popleft()
            self._pool.setdefault(self._sizes[address], []).append(address)

    def _give_back(self) -> None:
        """Everything that is not in use, to the driver, when no queued work uses it."""
        self.synchronize()
        with self._lock:
            self._collect()
            idle = [address for addresses in self._pool.values() for address in addresses]
            self._pool.clear()
            for address in idle:
                del self._sizes[address]
        for address in idle:
            self.driver.free(address)


def rounded(nbytes: int) -> int:
    """The size of block for so many bytes: in steps of an eighth of the next power of two, so that few sizes occur."""
    step = max(_SMALLEST, next_pow2(nbytes) // 8)
    return -(-nbytes // step) * step
