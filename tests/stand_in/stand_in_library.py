"""Builds libcuda.c and registers Python functions as the driver's calls, before cuda.bindings asks for them.

cuda.bindings takes a libcuda.so.1 that the process has loaded already, and every form of dlopen finds one by that
name; so loading the stand-in first is all that is needed. No other program or process sees it.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("libcuda.c")
SONAME = "libcuda.so.1"
UNKNOWN = 999

INT, UINT, SIZE, ADDRESS = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
U64, BYTE, TEXT = ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_char_p

# What cuda.h declares: the result is always CUresult. Handles and pointers are ADDRESS, device addresses U64.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (UINT,),
    "cuDriverGetVersion": (ADDRESS,),
    "cuDeviceGetCount": (ADDRESS,),
    "cuDeviceGet": (ADDRESS, INT),
    "cuDeviceGetName": (ADDRESS, INT, INT),
    "cuDeviceGetUuid": (ADDRESS, INT),
    "cuDeviceTotalMem": (ADDRESS, INT),
    "cuDeviceGetAttribute": (ADDRESS, INT, INT),
    "cuDevicePrimaryCtxRetain": (ADDRESS, INT),
    "cuDevicePrimaryCtxRelease": (INT,),
    "cuCtxGetCurrent": (ADDRESS,),
    "cuCtxSetCurrent": (ADDRESS,),
    "cuModuleLoadDataEx": (ADDRESS, ADDRESS, UINT, ADDRESS, ADDRESS),
    "cuModuleLoadData": (ADDRESS, ADDRESS),
    "cuModuleUnload": (ADDRESS,),
    "cuModuleGetFunction": (ADDRESS, ADDRESS, TEXT),
    "cuFuncGetAttribute": (ADDRESS, INT, ADDRESS),
    "cuFuncSetAttribute": (ADDRESS, INT, INT),
    "cuMemGetInfo": (ADDRESS, ADDRESS),
    "cuMemAlloc": (ADDRESS, SIZE),
    "cuMemFree": (U64,),
    "cuMemPoolCreate": (ADDRESS, ADDRESS),
    "cuMemPoolDestroy": (ADDRESS,),
    "cuMemPoolSetAttribute": (ADDRESS, INT, ADDRESS),
    "cuMemPoolTrimTo": (ADDRESS, SIZE),
    "cuMemAllocFromPoolAsync": (ADDRESS, SIZE, ADDRESS, ADDRESS),
    "cuMemFreeAsync": (U64, ADDRESS),
    "cuMemcpyHtoDAsync": (U64, ADDRESS, SIZE, ADDRESS),
    "cuMemcpyDtoHAsync": (ADDRESS, U64, SIZE, ADDRESS),
    "cuMemcpyDtoDAsync": (U64, U64, SIZE, ADDRESS),
    "cuMemcpyHtoD": (U64, ADDRESS, SIZE),
    "cuMemcpyDtoH": (ADDRESS, U64, SIZE),
    "cuMemcpyDtoD": (U64, U64, SIZE),
    "cuMemsetD8Async": (U64, BYTE, SIZE, ADDRESS),
    "cuStreamCreate": (ADDRESS, UINT),
    "cuStreamDestroy": (ADDRESS,),
    "cuStreamSynchronize": (ADDRESS,),
    "cuStreamWaitEvent": (ADDRESS, ADDRESS, UINT),
    "cuEventCreate": (ADDRESS, UINT),
    "cuEventDestroy": (ADDRESS,),
    "cuEventRecord": (ADDRESS, ADDRESS),
    "cuEventSynchronize": (ADDRESS,),
    "cuEventElapsedTime": (ADDRESS, ADDRESS, ADDRESS),
    "cuCtxSynchronize": (),
    "cuLaunchKernel": (ADDRESS, *([UINT] * 7), ADDRESS, ADDRESS, ADDRESS),
    "cuLaunchKernelEx": (ADDRESS, ADDRESS, ADDRESS, ADDRESS),
    "cuTensorMapEncodeTiled": (ADDRESS, INT, UINT, ADDRESS, *([ADDRESS] * 4), *([INT] * 4)),
}


def build(folder: Path) -> Path:
    """The library, compiled in `folder`. Raises FileNotFoundError where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc, gcc or clang)")
    library = folder / SONAME
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}"]
    subprocess.run([*command, str(SOURCE), "-o", str(library)], check=True)
    return library


def register(library: Path, calls: dict[str, Callable[..., int] | None]) -> list[Any]:
    """Load the library and make each call known; None is a call that does nothing. Keep what this returns."""
    loaded = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    kept: list[Any] = [loaded]
    for name, function in calls.items():
        target: Any = loaded.nothing
        if function is not None:
            target = ctypes.CFUNCTYPE(INT, *SIGNATURES[name])(guarded(function))
            kept.append(target)
        assert loaded.stand_in_register(name.encode(), ctypes.cast(target, ADDRESS)) == 0, name
    return kept


def guarded(function: Callable[..., int]) -> Callable[..., int]:
    """An error in the stand-in itself is shown, and is 999 for the caller."""

    @wraps(function)
    def call(*arguments: Any) -> int:
        try:
            return function(*arguments)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            return UNKNOWN

    return call
