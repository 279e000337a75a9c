"""Tensor maps for hardware: the driver's own 128 bytes for what the emulator describes in the open."""

from __future__ import annotations

import ctypes
from typing import Any

from hal.errors import DeviceError
from hal_nvidia_ptx.emulator.tensormap import BYTES, DTYPES, FILLS, PROMOTIONS, SWIZZLES, TensorMap
from hal_nvidia_ptx.errors import describe

ALIGNED = 64  # bytes; where the driver writes a map
TRIALS = 64


def encode(cuda: Any, wanted: TensorMap) -> bytes:
    """The bytes of a kernel's parameter. Raises DeviceError where the driver refuses the map.

    cuda.bindings chooses where the driver writes, not always at a multiple of 64 bytes, which the driver refuses. Then
    a few maps are held, so that the next one lies elsewhere.
    """
    held = []
    for _ in range(TRIALS):
        code, made = cuda.cuTensorMapEncodeTiled(*_arguments(cuda, wanted))
        if not code:
            return ctypes.string_at(int(made.getPtr()), BYTES)
        held.append(cuda.CUtensorMap())
    raise DeviceError(f"cuTensorMapEncodeTiled failed: {describe(code)}; the map: {wanted}")


def _arguments(cuda: Any, wanted: TensorMap) -> tuple[Any, ...]:
    """As cuTensorMapEncodeTiled takes them: numbers of the enumerations, innermost dimension first."""
    names = [name for name, _ in DTYPES]
    return (
        cuda.CUtensorMapDataType(names.index(wanted.dtype)),
        len(wanted.shape),
        wanted.address,
        [cuda.cuuint64_t(n) for n in wanted.shape],
        [cuda.cuuint64_t(n) for n in wanted.strides],
        [cuda.cuuint32_t(n) for n in wanted.box],
        [cuda.cuuint32_t(n) for n in wanted.element_strides],
        cuda.CUtensorMapInterleave(0),
        cuda.CUtensorMapSwizzle(SWIZZLES.index(wanted.swizzle)),
        cuda.CUtensorMapL2promotion(PROMOTIONS.index(wanted.promotion)),
        cuda.CUtensorMapFloatOOBfill(FILLS.index(wanted.fill)),
    )
