"""An open NVIDIA GPU over cuda.bindings.driver alone: its primary context, one stream, pooled memory, launches.

    context.py   the context and the form of a driver call
    memory.py    memory in the order of a stream
    modules.py   PTX to functions
    plan.py      launches made ready once

- *One stream* of the device's own, which does not wait for the legacy default stream, orders everything that hal
  does. A caller's stream (torch's or CuPy's current one) is used where a call is given one.
- *The process's fork* leaves the parent's driver in the child: a dead one. The device says so instead of calling it.
- *An error that a kernel left behind* (700 and its like) comes with a later call, and with every one from then on;
  the device remembers it as why it is lost.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from hal.cache import Cache
from hal.device import Bytes, DeviceInfo, Operand
from hal.errors import DeviceError, UnsupportedError
from hal.kernel import Algorithm, Dims, Kernel, KernelDevice, Launch, Number
from hal_nvidia_ptx.context import Context, stream_handle
from hal_nvidia_ptx.emulator.tensormap import TensorMap
from hal_nvidia_ptx.encoding import encode
from hal_nvidia_ptx.errors import WRONG_CONTEXT
from hal_nvidia_ptx.kernels import ALGORITHMS
from hal_nvidia_ptx.memory import Plain, Pool
from hal_nvidia_ptx.modules import Compiled, Modules
from hal_nvidia_ptx.plan import CudaPlan, launch_once, number_bytes

_open: weakref.WeakSet[CudaDevice] = weakref.WeakSet()


class Mark:
    """An event recorded on a stream."""

    __slots__ = ("_context", "event")

    def __init__(self, context: Context, event: Any) -> None:
        self._context, self.event = context, event

    def __del__(self) -> None:
        self._context.cuda.cuEventDestroy(self.event)  # its error would be one of earlier work, reported there


class CudaDevice(KernelDevice):
    """One GPU. `cuda` is cuda.bindings.driver after cuInit."""

    algorithms: Mapping[str, Algorithm] = ALGORITHMS
    plan_type = CudaPlan

    def __init__(self, info: DeviceInfo, cuda: Any, cache: Cache | None = None) -> None:
        super().__init__(info)
        self.cuda = cuda
        self._closed = False
        self.context = Context(cuda, info.name, info.number, self._lose)
        with self.context.current():
            flags = cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
            self.stream = self.context.call("cuStreamCreate", flags)
            pools = info.props["pools"]
            self.pool = Pool(self.context, info.number, self.stream) if pools else Plain(self.context)
        self._modules = Modules(self.context, info, cache)
        _open.add(self)

    # ---- memory

    def alloc(self, nbytes: int) -> int:
        self.check()
        return self.pool.alloc(nbytes, self.stream)

    def free(self, handle: int) -> None:
        if not self.lost:  # else it went with the context, or belongs to the parent process
            self.pool.free(handle, self.stream)

    def copy_in(self, target: int, offset: int, source: Bytes) -> None:
        self.check()
        with self.context.current():
            self.context.call("cuMemcpyHtoDAsync", target + offset, source.ctypes.data, source.nbytes, self.stream)
            self.context.call("cuStreamSynchronize", self.stream)  # the driver may read pinned memory later

    def copy_out(self, target: Bytes, source: int, offset: int) -> None:
        self.check()
        with self.context.current():
            self.context.call("cuMemcpyDtoHAsync", target.ctypes.data, source + offset, target.nbytes, self.stream)
            self.context.call("cuStreamSynchronize", self.stream)

    def copy(self, target: int, target_offset: int, source: int, source_offset: int, nbytes: int) -> None:
        self.check()
        to, from_ = target + target_offset, source + source_offset
        if abs(to - from_) < nbytes:
            super().copy(target, target_offset, source, source_offset, nbytes)  # regions overlap
            return
        self.context.on_stream("cuMemcpyDtoDAsync", to, from_, nbytes, self.stream)

    # ---- kernels

    def compile(self, kernel: Kernel) -> Compiled:
        self.check()
        with self.context.current():
            return self._modules.compile(kernel)

    def check_launch(self, compiled: Compiled, launch: Launch) -> None:
        """Make room for a launch's shared memory. Raises UnsupportedError beyond the kernel's or the GPU's limits."""
        threads = prod(launch.block)
        if threads > compiled.threads:
            raise UnsupportedError(
                f"{compiled.entry}: {threads} threads in a block, this kernel takes {compiled.threads} on {self.name}"
            )
        if launch.shared_bytes:
            with self.context.current():
                self._modules.allow_shared(compiled, launch.shared_bytes)

    def launch(self, compiled: Compiled, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        values = [sum(x).to_bytes(8, "little") if isinstance(x, tuple) else number_bytes(x) for x in arguments]
        self.launch_values(compiled, launch, values, stream)

    def launch_values(
        self,
        compiled: Compiled,
        launch: Launch,
        values: Sequence[bytes],
        stream: Any,
        cluster: Dims | None = None,
    ) -> None:
        """`launch` with the bytes of each parameter, and with clusters of blocks."""
        self.check()
        self.check_launch(compiled, launch)
        chosen = self.stream if stream is None else stream_handle(stream)
        with self.context.current():
            launch_once(self, compiled, launch, values, chosen, cluster)

    def encode_map(self, wanted: TensorMap) -> bytes:
        """A tensor map as this driver's kernels read it."""
        return encode(self.cuda, wanted)

    def launch_again(self, code: Any, *arguments: Any) -> None:
        """After a launch that the driver refused: in the right context if that was the matter, else the error."""
        if int(code) not in WRONG_CONTEXT:
            raise self.context.error("cuLaunchKernelEx", code)
        with self.context.current():
            self.context.call("cuLaunchKernelEx", *arguments, 0)

    # ---- order and time

    def synchronize(self) -> None:
        self.check()
        self.context.on_stream("cuStreamSynchronize", self.stream)

    def mark(self, stream: Any = None) -> Mark:
        self.check()
        with self.context.current():
            mark = Mark(self.context, self.context.call("cuEventCreate", 0))
            self.context.call("cuEventRecord", mark.event, self.stream if stream is None else stream_handle(stream))
        return mark

    def elapsed(self, start: Mark, stop: Mark) -> float:
        self.check()
        with self.context.current():
            self.context.call("cuEventSynchronize", stop.event)
            return float(self.context.call("cuEventElapsedTime", start.event, stop.event)) * 1e-3

    def dlpack_stream(self) -> int:
        return int(self.stream)

    def before(self, stream: Any) -> None:
        # DLPack numbers the legacy and the per-thread default stream 1 and 2, as the driver's own handles do.
        self.wait_for(self.mark(), stream)

    def after(self, stream: Any) -> None:
        """What is queued on `stream` so far happens before what this device gets from now on."""
        self.wait_for(self.mark(stream))

    def wait_for(self, mark: Mark, stream: Any = None) -> None:
        """Queue: the stream (None: the device's own) goes on once `mark` is reached."""
        self.check()
        waiting = self.stream if stream is None else stream_handle(stream)
        with self.context.current():  # it tells which device's default stream is meant
            self.context.call("cuStreamWaitEvent", waiting, mark.event, 0)

    # ---- the end

    def close(self) -> None:
        if self._closed or self not in _open:
            return  # closed before, or a forked child's copy
        self._closed = True
        _open.discard(self)
        try:
            with self.context.current():
                self.context.call("cuStreamSynchronize", self.stream)
                self._modules.close()
                self.pool.close()
                self.context.call("cuStreamDestroy", self.stream)
        finally:
            self.lost = self.lost or "the device is closed, for good: only a new process opens it again"
            self.context.release()

    def check(self) -> None:
        """Raises DeviceError where the device can no longer be used."""
        if self.lost:
            raise DeviceError(f"{self.name}: {self.lost}")

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why
        _open.discard(self)


def _after_fork_in_child() -> None:
    for device in list(_open):
        device.lost = device.lost or (
            "opened before os.fork(), and the CUDA driver does not survive a fork; use multiprocessing's "
            '"spawn" or "forkserver", or open the device in the child'
        )
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
