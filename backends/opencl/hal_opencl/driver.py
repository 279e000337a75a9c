"""An open OpenCL device: one in-order queue, pooled memory, and launches with the arguments set once.

What each rule here is for:

- *Kernel objects belong to a (compiled kernel, thread).* clSetKernelArg is the one call that is not thread-safe, and
  pyopencl takes milliseconds to make a kernel object, so one per plan would make every new shape slow. Each remembers
  whose arguments it holds, and sets only those that changed.
- *Freed memory goes to a pool* and is given out again at once: the queue is in order, so who gets it runs later. It
  goes back to the device when memory is short, and on close.
- *`free` takes no lock*: the garbage collector calls it at any line, also of a thread that is allocating. It leaves
  the block in a list, from which the next allocation takes it to the pool.
- *Nothing is released between setting an argument and the launch*: neither OpenCL nor pyopencl holds a reference, and
  some implementations end the process then. Callers keep operands until the call returns; a Plan frees scratch later.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from hal.cache import Cache
from hal.device import Bytes, DeviceInfo, Operand
from hal.errors import DeviceError, DeviceMemoryError, UnsupportedError
from hal.kernel import F32, F64, I32, I64, Algorithm, Config, Kernel, KernelDevice, KernelPlan, Launch, Number
from hal.op import Op
from hal_opencl import loader
from hal_opencl.kernels import ALGORITHMS
from hal_opencl.programs import Compiled, Programs

cl = loader.load()

NUMBERS: Mapping[type, Any] = {I32: np.int32, I64: np.int64, F32: np.float32, F64: np.float64}
_OUT_OF_MEMORY = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY", "INVALID_BUFFER_SIZE")


def failure(name: str, error: Any) -> DeviceError:
    """A driver's error in hal's form: which call, number, name."""
    code = int(getattr(error, "code", 0))
    return DeviceError(f"{name}: {getattr(error, 'routine', '') or 'OpenCL'} failed: {code} {status(code)}")


def status(code: int) -> str:
    """The name of an OpenCL status."""
    return str(cl.status_code.to_string(code, "unknown status"))


class Arguments:
    """A kernel object of one thread, and what it holds now."""

    __slots__ = ("handles", "kernel", "launch", "offsets", "sizes")

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launch: Launch | None = None
        self.handles: list[Any] = []  # of the launch's arguments in order; None for a number
        self.offsets: list[int] = []
        self.sizes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def set_all(self, launch: Launch, arguments: Sequence[Operand | Number]) -> None:
        """Set every argument, for a launch other than the last."""
        self.launch = None  # should a call below fail, nothing is taken as set
        self.handles, self.offsets = [], []
        position, set_arg = 0, self.kernel.set_arg
        for argument in arguments:
            if isinstance(argument, tuple):
                set_arg(position, argument[0])
                set_arg(position + 1, np.int64(argument[1]))
                self.handles.append(argument[0])
                self.offsets.append(argument[1])
                position += 2
            else:
                set_arg(position, NUMBERS[type(argument)](argument.value))
                self.handles.append(None)
                self.offsets.append(0)
                position += 1
        self.sizes = (tuple(g * b for g, b in zip(launch.grid, launch.block, strict=True)), launch.block)
        self.launch = launch

    def set_changed(self, arguments: Sequence[Operand | Number]) -> None:
        """Set the addresses that differ from the last call of the same launch; its numbers are the same."""
        position = 0
        for index, argument in enumerate(arguments):
            if isinstance(argument, tuple):
                handle, offset = argument
                if handle is not self.handles[index]:
                    self.kernel.set_arg(position, handle)
                    self.handles[index] = handle
                if offset != self.offsets[index]:
                    self.kernel.set_arg(position + 1, np.int64(offset))
                    self.offsets[index] = offset
                position += 2
            else:
                position += 1


class OpenCLDevice(KernelDevice):
    """One device, its context, its queue."""

    algorithms: Mapping[str, Algorithm] = ALGORITHMS

    def __init__(self, info: DeviceInfo, device: Any, cache: Cache | None = None) -> None:
        super().__init__(info)
        self._process = os.getpid()
        self._memory_lock = threading.Lock()  # of the pool
        self._freed: deque[Any] = deque()  # what `free` was given and the pool was not
        self._closed = False
        # A CPU's runtime hands out more than there is, and PoCL ends the process when that comes to light; other
        # devices refuse in time, and there a block of the pool need not be given up for fear of it.
        self._counted = info.props.get("type") == "cpu"
        self._clock: bool | None = None
        with self._driver():
            self._context = cl.Context([device])
            self._queue = cl.CommandQueue(self._context, device, cl.command_queue_properties.PROFILING_ENABLE)
        self._pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(self._queue))
        self._programs = Programs(info, device, self._context, cache)
        self._kernel_objects = threading.local()
        if "float64" in info.dtypes and not self._programs.builds_double():
            self.info = replace(info, dtypes=info.dtypes - {"float64"})

    # ---- memory

    def alloc(self, nbytes: int) -> Any:
        self._check()
        largest = self.info.props.get("largest_allocation", self.info.memory)
        if nbytes > largest:
            raise DeviceMemoryError(f"{self.name}: {nbytes} bytes wanted, its largest block is {largest}")
        try:
            with self._memory_lock:
                self._release_freed()
                return self._take(nbytes)
        except (cl.Error, MemoryError) as error:
            return self._alloc_again(nbytes, error)

    def _alloc_again(self, nbytes: int, error: Any) -> Any:
        """Give the pool's unused blocks back and try once more, then again without arrays in dead cycles."""
        if isinstance(error, cl.Error) and status(int(error.code)) not in _OUT_OF_MEMORY:
            raise failure(self.name, error)
        for collect in (False, True):
            if collect:
                gc.collect()
            self.synchronize()  # some implementations cannot release memory that queued work uses
            try:
                with self._memory_lock:
                    self._release_freed()
                    self._give_back()
                    return self._take(nbytes)
            except (cl.Error, MemoryError) as again:
                error = again
        used = f"{self._pool.active_bytes} in use of "
        raise DeviceMemoryError(f"{self.name}: no memory for {nbytes} bytes; {used}{self.info.memory}") from error

    def _take(self, nbytes: int) -> Any:
        pool = self._pool
        if self._counted and pool.managed_bytes + pool.alloc_size(pool.bin_number(nbytes)) > self.info.memory:
            raise MemoryError(f"{pool.managed_bytes} bytes are out already")
        return pool.allocate(nbytes)

    def _release_freed(self) -> None:
        """What was freed, to the pool. The caller holds the lock; a collection meanwhile only makes the list longer."""
        while self._freed:
            self._release(self._freed.popleft())

    def _release(self, handle: Any) -> None:
        handle.release()

    def _give_back(self) -> None:
        """Everything that is not in use, to the device."""
        self._pool.free_held()

    def free(self, handle: Any) -> None:
        if self._closed or os.getpid() != self._process:
            return  # the memory went with the device, or belongs to the parent process
        self._freed.append(handle)  # no lock: see above

    def copy_in(self, target: Any, offset: int, source: Bytes) -> None:
        self._check()
        with self._driver():
            cl.enqueue_copy(self._queue, target, source, dst_offset=offset, is_blocking=True)

    def copy_out(self, target: Bytes, source: Any, offset: int) -> None:
        self._check()
        with self._driver():
            cl.enqueue_copy(self._queue, target, source, src_offset=offset, is_blocking=True)

    def copy(self, target: Any, target_offset: int, source: Any, source_offset: int, nbytes: int) -> None:
        self._check()
        if target is source and abs(target_offset - source_offset) < nbytes:
            super().copy(target, target_offset, source, source_offset, nbytes)  # OpenCL copies no overlapping regions
            return
        with self._driver():
            cl.enqueue_copy(
                self._queue, target, source, src_offset=source_offset, dst_offset=target_offset, byte_count=nbytes
            )

    # ---- kernels

    def compile(self, kernel: Kernel) -> Compiled:
        self._check()
        return self._programs.compile(kernel)

    def prepare_config(
        self, op: Op, algorithm: Algorithm, config: Config, rejected: tuple[str, ...] = ()
    ) -> KernelPlan:
        plan = super().prepare_config(op, algorithm, config, rejected)
        for launch in plan.schedule.launches:
            self.compiled(plan.kernels[launch.kernel]).check(prod(launch.block), self.info)
        return plan

    def launch(self, compiled: Compiled, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        if self._closed or os.getpid() != self._process:
            self._check()
        if stream is not None and stream is not self._queue:
            raise UnsupportedError(f"{self.name}: work runs on the device's own queue; pass no stream")
        try:
            held = self._arguments(compiled)
            if held.launch is launch:
                held.set_changed(arguments)
            else:
                held.set_all(launch, arguments)
            cl.enqueue_nd_range_kernel(self._queue, held.kernel, *held.sizes)
            if compiled.unsaved:
                self._queue.finish()  # some compile at the first launch: only then the binary is whole
                self._programs.save(compiled)
        except cl.Error as error:
            raise failure(f"{self.name}, kernel {compiled.entry}", error) from error

    def _arguments(self, compiled: Compiled) -> Arguments:
        """The kernel object of this thread."""
        try:
            objects: dict[Compiled, Arguments] = self._kernel_objects.by_compiled
        except AttributeError:
            objects = self._kernel_objects.by_compiled = {}
        held = objects.get(compiled)
        if held is None:
            held = objects[compiled] = Arguments(cl.Kernel(compiled.program, compiled.entry))
        return held

    # ---- order and time

    def synchronize(self) -> None:
        self._check()
        with self._driver():
            self._queue.finish()
            with self._memory_lock:
                self._release_freed()

    def mark(self, stream: Any = None) -> Any:
        self._check()
        if not self._has_clock():
            return super().mark()
        with self._driver():
            marker = cl.enqueue_marker(self._queue)
            self._queue.flush()
        return marker

    def elapsed(self, start: Any, stop: Any) -> float:
        if isinstance(start, float):
            return super().elapsed(start, stop)
        with self._driver():
            stop.wait()
            return float(stop.profile.end - start.profile.end) * 1e-9

    def _has_clock(self) -> bool:
        """Whether markers know their time: some implementations always say the same, or refuse to say."""
        if self._clock is None:
            try:
                first, second = (self._marker_end() for _ in range(2))
                self._clock = 0 < first < second
            except cl.Error:
                self._clock = False
        return self._clock

    def _marker_end(self) -> int:
        marker = cl.enqueue_marker(self._queue)
        marker.wait()
        return int(marker.profile.end)

    def close(self) -> None:
        if self._closed or os.getpid() != self._process:
            return
        with self._driver():
            self._queue.finish()
        self._closed = True
        with self._memory_lock:
            self._release_freed()
            self._give_back()
            self._pool.stop_holding()  # blocks that are still out go back as their owners drop them

    # ---- checks

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise DeviceError(
                f"{self.name}: opened before os.fork(), and an OpenCL driver does not survive a fork; "
                'use multiprocessing\'s "spawn" or "forkserver", or open the device in the child'
            )
        if self._closed:
            raise DeviceError(
                f"{self.name}: the device is closed: close() was called, and that is for good; "
                "only a new process opens it again"
            )

    @contextmanager
    def _driver(self) -> Iterator[None]:
        """Errors of the calls inside, in hal's form."""
        try:
            yield
        except cl.Error as error:
            raise failure(self.name, error) from error
