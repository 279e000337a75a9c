"""Subject: a function on NumPy arrays as a device, so that the suite can judge what is not a hal backend.

    device = Subject(lambda op, inputs: [...])      # canonical arrays in, the results in the Op's order out
    run_case(device, case)

Its memory is the host's and its handles are byte arrays. A function that stores results itself, or badly, derives from
`Subject` and overrides `store`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.device import Bytes, Device, DeviceInfo, Operand, Plan
from hal.dtypes import DTYPES
from hal.errors import DeviceMemoryError, UnsupportedError
from hal.op import Op, TensorSpec

Compute: TypeAlias = Callable[[Op, Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]

EVERY_DTYPE = frozenset(("float64", "float32", "float16", "bfloat16", "int8"))


class Subject(Device):
    """Compute, then store."""

    fork_safe = True

    def __init__(self, compute: Compute, name: str = "subject", dtypes: frozenset[str] = EVERY_DTYPE) -> None:
        super().__init__(DeviceInfo(name, dtypes, memory=0))
        self.compute = compute

    def alloc(self, nbytes: int) -> Bytes:
        try:
            raw = np.empty(nbytes + 64, np.uint8)
        except MemoryError:
            raise DeviceMemoryError(f"{self.name}: no memory for {nbytes} bytes") from None
        start = -raw.ctypes.data % 64
        return raw[start : start + nbytes]

    def free(self, handle: Bytes) -> None:
        pass

    def copy_in(self, target: Bytes, offset: int, source: Bytes) -> None:
        target[offset : offset + source.nbytes] = source

    def copy_out(self, target: Bytes, source: Bytes, offset: int) -> None:
        target[...] = source[offset : offset + target.nbytes]

    def prepare(self, op: Op) -> Plan:
        if op.dtype not in self.info.dtypes:
            raise UnsupportedError(f"{op.name}: {self.name} does not compute in {op.dtype}")
        return SubjectPlan(self, op)

    def synchronize(self) -> None:
        pass

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        """One call."""
        arrays = [view(spec, *operand) for (_, spec), operand in zip(op.inputs, inputs, strict=True)]
        results = self.compute(op, arrays)
        for (_, spec), operand, result in zip(op.outputs, outputs, results, strict=True):
            self.store(op, spec, operand, result)

    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        """Put one result where it belongs."""
        view(spec, *operand)[...] = result


class SubjectPlan(Plan):
    """A call of the subject's function."""

    def __init__(self, device: Subject, op: Op) -> None:
        self._device, self._op = device, op

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        self._device.run(self._op, outputs, inputs)


def view(spec: TensorSpec, memory: Bytes, offset: int) -> NDArray[Any]:
    """An operand as an array over its memory. Nothing outside of `memory` can be reached through it."""
    dtype = DTYPES[spec.dtype].numpy
    if spec.size == 0:
        return np.empty(spec.shape, dtype)
    return np.ndarray(spec.shape, dtype, memory, offset, tuple(s * spec.itemsize for s in spec.strides))
