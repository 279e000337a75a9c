"""cuda.bindings.driver, once the driver has said that it works.

`cuInit` is the first call and is made once in a process. Where it fails, no other call is ever made: with no driver
behind them, some of the packages above the bindings hang at the second call instead of failing.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hal.errors import BackendUnavailable
from hal_nvidia_ptx.errors import describe

INSTALL = "pip install 'hal-kernels[nvidia]'"
LEAST_BINDINGS = (12, 8)
LEAST_DRIVER = 12000  # CUDA 12.0, that is driver 525: cuLaunchKernelEx, and PTX 8.0 for sm_90a
_log = logging.getLogger("hal.cuda")
_lock = threading.Lock()
_loaded: Any = None
_reason = ""


def load() -> Any:
    """The module cuda.bindings.driver. Raises BackendUnavailable: one sentence of what is missing and what to do."""
    global _loaded, _reason
    with _lock:
        if _loaded is None and not _reason:
            try:
                _loaded = _initialised()
            except BackendUnavailable as error:
                _reason = str(error)
                _log.info("%s", _reason)
        if _reason:
            raise BackendUnavailable(_reason)
        return _loaded


def driver_version(cuda: Any) -> tuple[int, int]:
    """The CUDA version that the driver is made for: (13, 0). (0, 0) where it does not say."""
    code, number = cuda.cuDriverGetVersion()
    return (0, 0) if code else (number // 1000, number % 1000 // 10)


def _initialised() -> Any:
    cuda = _bindings()
    try:
        (code,) = cuda.cuInit(0)
    except RuntimeError as error:  # cuda.pathfinder's DynamicLibNotFoundError is one
        own_words = "" if type(error).__name__ == "DynamicLibNotFoundError" else f" ({_first_line(error)})"
        raise BackendUnavailable(
            f"NVIDIA's driver is not installed: the system finds no libcuda.so.1{own_words}; "
            "install the driver, or start a container with --gpus all"
        ) from error
    if code:
        raise BackendUnavailable(f"NVIDIA's driver does not start: cuInit failed: {describe(code)}")
    major, minor = driver_version(cuda)
    if 1000 * major + 10 * minor < LEAST_DRIVER:
        raise BackendUnavailable(
            f"NVIDIA's driver is too old: it is for CUDA {major}.{minor}, and hal needs one for CUDA "
            f"{LEAST_DRIVER // 1000}.{LEAST_DRIVER % 1000 // 10} or newer (driver 525 or newer): update it"
        )
    return cuda


def _bindings() -> Any:
    try:
        found = version("cuda-bindings")
    except PackageNotFoundError:
        raise BackendUnavailable(f"cuda-bindings is not installed: {INSTALL}") from None
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if numbers < LEAST_BINDINGS:
        least = ".".join(map(str, LEAST_BINDINGS))
        raise BackendUnavailable(f"cuda-bindings {found} is too old, wanted {least} or newer: {INSTALL}")
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        problem = f"cuda-bindings {found} does not load: {error}"
        raise BackendUnavailable(f"{problem}; install it again: {INSTALL}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
