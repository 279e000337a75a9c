"""What an author writes into driver.py of a generated package whose chip has the functions of NVIDIA's driver."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from hal.device import Bytes, DeviceInfo
from hal.kernel import Dims
from hal.porting import SharedLibrary, Simulator, Value, pointers

VENDOR = SharedLibrary("libcuda.so.1")
DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int8"))
THREADS, MAJOR, MINOR = 1, 75, 76  # CUdevice_attribute


class Driver(Simulator):
    """An object of it serves one device."""

    def find(self) -> int:
        count = ctypes.c_int()
        VENDOR.call("cuInit", 0)
        VENDOR.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def properties(self, ordinal: int) -> DeviceInfo:
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        VENDOR.call("cuDeviceGetName", name, 256, ordinal)
        VENDOR.call("cuDeviceTotalMem_v2", ctypes.byref(memory), ordinal)
        facts = {}
        for attribute in (THREADS, MAJOR, MINOR):
            value = ctypes.c_int()
            VENDOR.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, ordinal)
            facts[attribute] = value.value
        props = {"max_work_group": facts[THREADS], "target": f"compute_{facts[MAJOR]}{facts[MINOR]}"}
        return DeviceInfo(name.value.decode(), DTYPES, memory.value, vendor="NVIDIA", priority=-5, props=props)

    def open(self, ordinal: int) -> None:
        context = ctypes.c_void_p()
        VENDOR.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        VENDOR.call("cuCtxSetCurrent", context)

    def alloc(self, nbytes: int) -> int:
        address = ctypes.c_uint64()
        VENDOR.call("cuMemAlloc_v2", ctypes.byref(address), nbytes)
        return address.value

    def free(self, address: int) -> None:
        VENDOR.call("cuMemFree_v2", address)

    def copy_in(self, address: int, source: Bytes) -> None:
        VENDOR.call("cuMemcpyHtoD_v2", address, source.ctypes.data, source.nbytes)

    def copy_out(self, target: Bytes, address: int) -> None:
        VENDOR.call("cuMemcpyDtoH_v2", target.ctypes.data, address, target.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        VENDOR.call("cuMemcpyDtoD_v2", target, source, nbytes)

    def load(self, image: bytes) -> Any:
        module = ctypes.c_void_p()
        VENDOR.call("cuModuleLoadData", ctypes.byref(module), image)
        return module

    def function(self, module: Any, entry: str) -> Any:
        function = ctypes.c_void_p()
        VENDOR.call("cuModuleGetFunction", ctypes.byref(function), module, entry.encode())
        return function

    def launch(self, function: Any, grid: Dims, block: Dims, shared_bytes: int, arguments: Sequence[Value]) -> None:
        VENDOR.call("cuLaunchKernel", function, *grid, *block, shared_bytes, None, pointers(arguments), None)

    def synchronize(self) -> None:
        VENDOR.call("cuCtxSynchronize")
