"""The twelve functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from hal.device import Bytes, DeviceInfo
from hal.kernel import Dims
from hal.porting import Simulator, Value, pointers
from hal_fibre.library import vendor

DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int8"))


class Driver(Simulator):
    """Nothing is the simulator's any more."""

    def find(self) -> int:
        count = ctypes.c_int()
        vendor().call("fbInit", 0)
        vendor().call("fbGetDeviceCount", ctypes.byref(count))
        return count.value

    def properties(self, ordinal: int) -> DeviceInfo:
        name, memory = ctypes.create_string_buffer(64), ctypes.c_size_t()
        vendor().call("fbDeviceGetName", name, 64, ordinal)
        vendor().call("fbDeviceTotalMem", ctypes.byref(memory), ordinal)
        return DeviceInfo(
            name.value.decode(), DTYPES, memory.value, vendor="hal's tests", priority=-5, props={"max_work_group": 256}
        )

    def open(self, ordinal: int) -> None:
        vendor().call("fbSetDevice", ordinal)

    def alloc(self, nbytes: int) -> int:
        address = ctypes.c_void_p()
        vendor().call("fbMalloc", ctypes.byref(address), nbytes)
        return address.value or 0

    def free(self, address: int) -> None:
        vendor().call("fbFree", address)

    def copy_in(self, address: int, source: Bytes) -> None:
        vendor().call("fbMemcpyHtoD", address, source.ctypes.data, source.nbytes)

    def copy_out(self, target: Bytes, address: int) -> None:
        vendor().call("fbMemcpyDtoH", target.ctypes.data, address, target.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        vendor().call("fbMemcpyDtoD", target, source, nbytes)

    def load(self, image: bytes) -> Any:
        module = ctypes.c_void_p()
        vendor().call("fbModuleLoadData", ctypes.byref(module), image, len(image))
        return module

    def function(self, module: Any, entry: str) -> Any:
        function = ctypes.c_void_p()
        vendor().call("fbModuleGetFunction", ctypes.byref(function), module, entry.encode())
        return function

    def launch(self, function: Any, grid: Dims, block: Dims, shared_bytes: int, arguments: Sequence[Value]) -> None:
        vendor().call("fbLaunchKernel", function, *grid, *block, shared_bytes, pointers(arguments))

    def synchronize(self) -> None:
        vendor().call("fbDeviceSynchronize")
