"""Device memory in the order of a stream: a block that is freed goes to whoever asks next, once queued work is done.

The pool is hal's own, so that its settings are nobody else's: it keeps what is freed (the release threshold is the
largest there is) instead of giving all of it back at each synchronisation. Devices without pools (attribute 115) get
cuMemAlloc and cuMemFree, which wait for the device.
"""

from __future__ import annotations

import gc
from typing import Any

from hal.errors import DeviceError, DeviceMemoryError
from hal_nvidia_ptx.context import Context
from hal_nvidia_ptx.errors import OUT_OF_MEMORY, WRONG_CONTEXT

KEEP_ALL = 2**64 - 1  # bytes


class Pool:
    """Blocks of one device. No method takes a lock: the garbage collector calls `free` at any line."""

    def __init__(self, context: Context, ordinal: int, stream: Any) -> None:
        self._context, self._stream = context, stream
        cuda = context.cuda
        wanted = cuda.CUmemPoolProps()
        wanted.allocType = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = ordinal
        self._pool = context.call("cuMemPoolCreate", wanted)
        threshold = cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        context.call("cuMemPoolSetAttribute", self._pool, threshold, cuda.cuuint64_t(KEEP_ALL))

    def alloc(self, nbytes: int, stream: Any) -> int:
        """An address. Raises DeviceMemoryError, after waiting and giving everything unused back."""
        code, address = self._context.cuda.cuMemAllocFromPoolAsync(nbytes, self._pool, stream)
        if not code:
            return int(address)
        return self._alloc_again(nbytes, stream, code)

    def _alloc_again(self, nbytes: int, stream: Any, code: Any) -> int:
        context = self._context
        if int(code) not in WRONG_CONTEXT | {OUT_OF_MEMORY}:
            raise context.error("cuMemAllocFromPoolAsync", code)
        with context.current():
            for collect in (False, True):
                if collect:
                    gc.collect()
                context.call("cuStreamSynchronize", self._stream)
                context.call("cuMemPoolTrimTo", self._pool, 0)
                code, address = context.cuda.cuMemAllocFromPoolAsync(nbytes, self._pool, stream)
                if not code:
                    return int(address)
            raise _no_memory(context, "cuMemAllocFromPoolAsync", code, nbytes)

    def free(self, address: int, stream: Any) -> None:
        """Give back once what is queued on the stream is done."""
        self._context.on_stream("cuMemFreeAsync", address, stream)

    def close(self) -> None:
        """Blocks that are still out go with the pool once their owners drop them."""
        self._context.call("cuMemPoolDestroy", self._pool)


class Plain:
    """The same for a device that has no pools."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def alloc(self, nbytes: int, stream: Any) -> int:
        context = self._context
        with context.current():
            for collect in (False, True):
                if collect:
                    gc.collect()
                code, address = context.cuda.cuMemAlloc(nbytes)
                if not code:
                    return int(address)
                if int(code) != OUT_OF_MEMORY:
                    break
            raise _no_memory(context, "cuMemAlloc", code, nbytes)

    def free(self, address: int, stream: Any) -> None:
        with self._context.current():
            self._context.call("cuMemFree", address)

    def close(self) -> None:
        """Nothing is held."""


def _no_memory(context: Context, call: str, code: Any, nbytes: int) -> Exception:
    """The error of an allocation, with how much there is."""
    error = context.error(call, code, f"{nbytes} bytes wanted")
    if not isinstance(error, DeviceMemoryError):
        return error
    try:
        free, total = context.call("cuMemGetInfo")
    except DeviceError:
        return error
    return DeviceMemoryError(f"{error}, {free} of {total} are free")
