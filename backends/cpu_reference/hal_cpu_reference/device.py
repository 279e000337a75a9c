"""The reference's Device: host memory, addresses for handles, work done before the call returns."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.device import Backend as BackendContract
from hal.device import Bytes, DeviceInfo, Operand, Plan
from hal.device import Device as DeviceContract
from hal.dtypes import DTYPES
from hal.errors import DeviceMemoryError, UnsupportedError
from hal.op import Op, TensorSpec
from hal_cpu_reference.operators import COMPUTE

_ALIGNMENT = 64


class Backend(BackendContract):
    """One device, `cpu`."""

    name = "cpu"

    def devices(self) -> Sequence[DeviceInfo]:
        return [
            DeviceInfo(
                name="cpu",
                dtypes=frozenset(("float64", "float32", "float16", "bfloat16", "int8")),
                memory=_physical_memory(),
                vendor=platform.machine(),
                dlpack_type=1,
                torch_type="cpu",
                props={"implementation": f"NumPy {np.__version__}, float64 inside"},
            )
        ]

    def open(self, info: DeviceInfo) -> Device:
        return Device(info)


class Device(DeviceContract):
    """Host memory and NumPy."""

    fork_safe = True  # there is no driver whose state a fork could split

    def __init__(self, info: DeviceInfo) -> None:
        super().__init__(info)
        self._memory: dict[int, Bytes] = {}  # address -> the allocation that keeps it alive

    def alloc(self, nbytes: int) -> int:
        try:
            raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
        except (MemoryError, ValueError, OverflowError):
            raise DeviceMemoryError(f"{self.name}: no memory for {nbytes} bytes") from None
        start = raw.ctypes.data
        address = start + -start % _ALIGNMENT
        self._memory[address] = raw
        return address

    def free(self, handle: int) -> None:
        del self._memory[handle]

    def copy_in(self, target: int, offset: int, source: Bytes) -> None:
        ctypes.memmove(target + offset, source.ctypes.data, source.nbytes)

    def copy_out(self, target: Bytes, source: int, offset: int) -> None:
        ctypes.memmove(target.ctypes.data, source + offset, target.nbytes)

    def copy(self, target: int, target_offset: int, source: int, source_offset: int, nbytes: int) -> None:
        ctypes.memmove(target + target_offset, source + source_offset, nbytes)

    def wrap(self, address: int, nbytes: int) -> int:
        return address

    def prepare(self, op: Op) -> Plan:
        compute = COMPUTE.get(op.name)
        if compute is None:
            raise UnsupportedError(f"{op.name}: the reference does not define it")
        return ReferencePlan(op)

    def synchronize(self) -> None:
        pass


class ReferencePlan(Plan):
    """Compute, round, store."""

    def __init__(self, op: Op) -> None:
        self._op = op
        self._compute = COMPUTE[op.name]

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        operands = [view(spec, *operand) for (_, spec), operand in zip(self._op.inputs, inputs, strict=True)]
        try:
            results = self._compute(self._op, operands)
        except MemoryError as error:  # float64 needs up to eight times what the operands do
            raise DeviceMemoryError(f"{self._op.name}: no memory to compute {self._op}: {error}") from error
        for (_, spec), operand, result in zip(self._op.outputs, outputs, results, strict=True):
            view(spec, *operand)[...] = result

    def describe(self) -> dict[str, Any]:
        return {"plan": "reference", "config": "NumPy, float64 inside, one rounding"}


def view(spec: TensorSpec, address: int, offset: int) -> NDArray[Any]:
    """The operand as a NumPy array over its memory."""
    dtype = DTYPES[spec.dtype].numpy
    low, high = (n * spec.itemsize for n in spec.extent())
    if high == low:
        return np.empty(spec.shape, dtype)
    memory = (ctypes.c_char * (high - low)).from_address(address + offset + low)
    strides = tuple(s * spec.itemsize for s in spec.strides)
    return np.ndarray(spec.shape, dtype, memory, -low, strides)  # type: ignore[arg-type]


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
