"""hal: matmul, softmax and norms on any accelerator, each result held to a stated bound.

    import hal
    y = hal.matmul(x, w, bias=b, activation="gelu")     # NumPy, torch, JAX or hal.Array in; the same kind out

Importing touches no hardware and no framework. This list is the public interface.
"""

from __future__ import annotations

import logging

from hal.api import (
    asarray,
    device,
    devices,
    empty,
    layernorm,
    log_softmax,
    matmul,
    rmsnorm,
    softmax,
    synchronize,
)
from hal.array import Array
from hal.device import Backend, Device, DeviceInfo, Plan
from hal.errors import (
    AbiMismatch,
    ArgumentError,
    BackendUnavailable,
    CompileError,
    DeviceError,
    DeviceMemoryError,
    DTypeError,
    HalError,
    OptionError,
    OutOfRangeError,
    ShapeError,
    UnsupportedError,
    WrongResult,
)
from hal.planning import explain, plan
from hal.registry import DeviceEntry, load_plugin
from hal.settings import use

__version__ = "0.1.0"

logging.getLogger("hal").addHandler(logging.NullHandler())  # silent unless the program that uses hal listens

__all__ = [
    "AbiMismatch",
    "ArgumentError",
    "Array",
    "Backend",
    "BackendUnavailable",
    "CompileError",
    "DTypeError",
    "Device",
    "DeviceEntry",
    "DeviceError",
    "DeviceInfo",
    "DeviceMemoryError",
    "HalError",
    "OptionError",
    "OutOfRangeError",
    "Plan",
    "ShapeError",
    "UnsupportedError",
    "WrongResult",
    "asarray",
    "device",
    "devices",
    "empty",
    "explain",
    "layernorm",
    "load_plugin",
    "log_softmax",
    "matmul",
    "plan",
    "rmsnorm",
    "softmax",
    "synchronize",
    "use",
]
