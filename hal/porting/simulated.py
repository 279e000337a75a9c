"""The operators of a device that cannot launch yet: operands to the host, the reference, results back.

Every byte goes through the device's own `copy_in` and `copy_out`, so a driver's memory functions are judged as soon as
they are written.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from hal.device import Bytes, Device, Operand, Plan
from hal.errors import UnsupportedError
from hal.op import Op, TensorSpec
from hal.registry import REFERENCE, open_device

_lock = threading.Lock()  # results with gaps are read, filled and written back: one call at a time


def simulate(device: Device, op: Op) -> Plan:
    """A plan that computes on the host. Raises UnsupportedError for a dtype that the device does not list."""
    if op.dtype not in device.info.dtypes:
        raise UnsupportedError(f"{op.name}: device {device.name} does not compute in {op.dtype}; op: {op}")
    return SimulatedPlan(device, op)


class SimulatedPlan(Plan):
    """The reference's plan on copies of the operands."""

    def __init__(self, device: Device, op: Op) -> None:
        self._device, self._op = device, op
        self._reference = open_device(REFERENCE)
        self._plan = self._reference.prepare(op)

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        with _lock:
            given = [self._fetch(spec, *x) for (_, spec), x in zip(self._op.inputs, inputs, strict=True)]
            results = [self._fetch(spec, *x) for (_, spec), x in zip(self._op.outputs, outputs, strict=True)]
            self._plan([operand for _, operand in results], [operand for _, operand in given])
            for (_, spec), (staging, _), (handle, offset) in zip(self._op.outputs, results, outputs, strict=True):
                if staging.nbytes:
                    self._device.copy_in(handle, offset + spec.extent()[0] * spec.itemsize, staging)

    def _fetch(self, spec: TensorSpec, handle: Any, offset: int) -> tuple[Bytes, Operand]:
        """A copy of the bytes from an operand's first to its last, and the operand in it."""
        low, high = (n * spec.itemsize for n in spec.extent())
        staging = np.empty(high - low, np.uint8)
        if staging.nbytes:
            self._device.copy_out(staging, handle, offset + low)
        return staging, (self._reference.wrap(staging.ctypes.data, staging.nbytes), -low)

    def describe(self) -> dict[str, Any]:
        """What `hal explain` shows."""
        return {"plan": "simulated", "config": "the reference on the host: this operator is not written yet"}
