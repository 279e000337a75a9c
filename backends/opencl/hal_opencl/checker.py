"""A device that interprets kernels and reports their faults (Oclgrind), kept from what would hide faults or break it.

- Buffers have the size that was asked for and are new each time: in a pool's larger or older block, an access past the
  end or before the first write looks right.
- What is freed is kept aside until memory is short: Oclgrind gives a new buffer the map of written bytes, and its
  size, of one that was released, and then reports reads that are in order.
- Programs are built from source, so that reports show lines of it.
- One thread makes all calls, the one that made the context: calls from another end the process, locked or not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from hal.device import Bytes, DeviceInfo, Operand
from hal.kernel import Kernel, Launch, Number
from hal_opencl.driver import OpenCLDevice, cl
from hal_opencl.programs import Compiled

T = TypeVar("T")


class CheckedDevice(OpenCLDevice):
    """An OpenCLDevice without pool and cache, all of whose driver calls are made by one thread."""

    def __init__(self, info: DeviceInfo, device: Any) -> None:
        self._aside: list[Any] = []
        self._process, self._closed = os.getpid(), False
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        # A daemon, because the registry closes devices when the interpreter ends: other threads are gone by then.
        self._thread = threading.Thread(target=self._serve, name="hal-opencl-checker", daemon=True)
        self._thread.start()
        self._there(super().__init__, info, device)

    def _serve(self) -> None:
        while (wanted := self._calls.get()) is not None:
            future, call, arguments = wanted
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                future.set_exception(error)

    def _there(self, call: Callable[..., T], *arguments: Any) -> T:
        """The call's result, made by the one thread. In a forked child there is no such thread: it fails at once."""
        if threading.current_thread() is self._thread or self._closed or os.getpid() != self._process:
            return call(*arguments)
        future: Future[T] = Future()
        self._calls.put((future, call, arguments))
        return future.result()

    def alloc(self, nbytes: int) -> Any:
        return self._there(super().alloc, nbytes)

    def _take(self, nbytes: int) -> Any:
        return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, nbytes)

    def _release(self, handle: Any) -> None:
        self._aside.append(handle)

    def _give_back(self) -> None:
        for handle in self._aside:
            handle.release()
        self._aside.clear()

    def copy_in(self, target: Any, offset: int, source: Bytes) -> None:
        self._there(super().copy_in, target, offset, source)

    def copy_out(self, target: Bytes, source: Any, offset: int) -> None:
        self._there(super().copy_out, target, source, offset)

    def copy(self, target: Any, target_offset: int, source: Any, source_offset: int, nbytes: int) -> None:
        self._there(super().copy, target, target_offset, source, source_offset, nbytes)

    def compile(self, kernel: Kernel) -> Compiled:
        return self._there(super().compile, kernel)

    def launch(self, compiled: Compiled, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        self._there(super().launch, compiled, launch, arguments, stream)

    def synchronize(self) -> None:
        self._there(super().synchronize)

    def mark(self, stream: Any = None) -> Any:
        return self._there(super().mark, stream)

    def elapsed(self, start: Any, stop: Any) -> float:
        return self._there(super().elapsed, start, stop)

    def close(self) -> None:
        self._there(super().close)
        self._calls.put(None)
