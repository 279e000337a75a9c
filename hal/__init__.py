"""hal: matmul, softmax and norms on any accelerator, each result held to a stated bound.

    import hal
    y = hal.matmul(x, w, bias=b, activation="gelu")     # NumPy, torch, JAX or hal.Array in; the same kind out

Importing touches no hardware and no framework. This list is the public interface.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from hal.conformance.subjects.reference import reference
    from hal.conformance.subjects.verdict import judge

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
    "judge",
    "layernorm",
    "load_plugin",
    "log_softmax",
    "matmul",
    "plan",
    "reference",
    "rmsnorm",
    "softmax",
    "synchronize",
    "use",
]


def __getattr__(name: str) -> Any:
    """`judge` and `reference`: the judge is imported when it is first asked for."""
    if name == "judge":
        from hal.conformance.subjects.verdict import judge

        return judge
    if name == "reference":
        from hal.conformance.subjects.reference import reference

        return reference
    raise AttributeError(f"module 'hal' has no attribute {name!r}")
