"""Planted faults of memory, layouts, threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.subject import Compute, Subject, view
from hal.device import Operand
from hal.op import Op, TensorSpec
from mutants.mutant import Mutant, right


class WritesPastTheEnd(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        super().store(op, spec, operand, result)
        memory, offset = operand
        if spec.size % 4:
            end = offset + spec.extent()[1] * spec.itemsize
            memory[end : end + spec.itemsize] = 0


class WritesIntoGaps(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        if spec.ndim > 1 and spec.strides[-1] == 1 and abs(spec.strides[-2]) > spec.shape[-1] and spec.size:
            wider = replace(spec, shape=(*spec.shape[:-1], spec.shape[-1] + 1))
            if spec.strides[-2] > spec.shape[-1]:
                view(wider, *operand)[..., -1] = 0
        super().store(op, spec, operand, result)


class LeavesRowsUnwritten(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        rows = spec.shape[-2] if spec.ndim > 1 else 0
        if rows > 32:
            view(spec, *operand)[..., : rows // 32 * 32, :] = result[..., : rows // 32 * 32, :]
        else:
            super().store(op, spec, operand, result)


class LeavesTailUnwritten(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        n = spec.shape[-1] if spec.ndim else 0
        kept = n // 4 * 4 if n > 4 else n
        view(spec, *operand)[..., :kept] = result[..., :kept]


class ModifiesAnInput(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        super().run(op, outputs, inputs)
        memory, offset = inputs[0]
        if op.inputs[0][1].size and op.dtype == "float32":
            memory[offset] ^= 1


class TakesFortranForC(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        def straight(spec: TensorSpec) -> TensorSpec:
            dense = spec.ndim > 1 and spec.strides[0] == 1 and spec.shape[0] > 1 and spec.size > 1
            return TensorSpec.contiguous(spec.dtype, spec.shape) if dense and min(spec.strides) > 0 else spec

        super().run(replace(op, inputs=tuple((r, straight(s)) for r, s in op.inputs)), outputs, inputs)


class IgnoresNegativeStrides(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        spec = op.inputs[0][1]
        if any(s < 0 for s in spec.strides):
            memory, offset = inputs[0]
            low = spec.extent()[0]
            inputs = [(memory, offset + low * spec.itemsize), *inputs[1:]]
            op = replace(
                op, inputs=((op.inputs[0][0], replace(spec, strides=tuple(map(abs, spec.strides)))), *op.inputs[1:])
            )
        super().run(op, outputs, inputs)


class NotTheSameTwice(Subject):
    calls = 0

    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        self.calls += 1
        if op.dtype == "float32" and self.calls % 2 and op.name == "softmax":
            result = np.nextafter(result, np.float32(2))
        super().store(op, spec, operand, result)


class FailsSometimes(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        if op.outputs[0][1].size == 0:
            raise ZeroDivisionError("an empty grid")
        super().run(op, outputs, inputs)


class SharedScratch(Subject):
    """One buffer for all threads."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(compute)
        self._scratch: list[NDArray[Any]] = []
        self._both = threading.Barrier(2)

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        arrays = [view(spec, *operand) for (_, spec), operand in zip(op.inputs, inputs, strict=True)]
        self._scratch = list(self.compute(op, arrays))
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(threading.BrokenBarrierError):
                self._both.wait(0.2)  # until the other thread has written too: not left to the scheduler
        for (_, spec), operand, result in zip(op.outputs, outputs, self._scratch, strict=True):
            self.store(op, spec, operand, result)


class IgnoresZeroStrides(Subject):
    """Broadcast rows are read as if they had elements of their own: the second is what lies behind the first."""

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        spec = op.inputs[0][1]
        if not (spec.ndim > 1 and spec.strides[0] == 0 and spec.size > spec.shape[-1]):
            super().run(op, outputs, inputs)
            return
        first, *others = (view(s, *operand) for (_, s), operand in zip(op.inputs, inputs, strict=True))
        wrong = first.copy()
        wrong[1:] = 0
        for (_, s), operand, result in zip(op.outputs, outputs, self.compute(op, [wrong, *others]), strict=True):
            self.store(op, s, operand, result)


class RoundsAddressesDown(Subject):
    """Vector loads on addresses that are no multiples of 16."""

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        down = [(memory, (offset + memory.ctypes.data) // 16 * 16 - memory.ctypes.data) for memory, offset in inputs]
        contiguous = all(spec.is_contiguous for _, spec in op.inputs)
        super().run(op, outputs, down if contiguous and all(offset >= 0 for _, offset in down) else inputs)


class WritesBeforeItReads(Subject):
    """Results are cleared first: in place, that is the operand."""

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        for (_, spec), operand in zip(op.outputs, outputs, strict=True):
            view(spec, *operand)[...] = 0
        super().run(op, outputs, inputs)


class Remembers(Subject):
    """A plan answers by the data of its first call."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(compute)
        self._answers: dict[Op, list[NDArray[Any]]] = {}

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        arrays = [view(spec, *operand) for (_, spec), operand in zip(op.inputs, inputs, strict=True)]
        answer = self._answers.setdefault(op, list(self.compute(op, arrays)))
        for (_, spec), operand, result in zip(op.outputs, outputs, answer, strict=True):
            self.store(op, spec, operand, result)


class WritesBeforeTheStart(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        super().store(op, spec, operand, result)
        memory, offset = operand
        if spec.size and offset >= spec.itemsize and spec.extent()[0] == 0:
            memory[offset - spec.itemsize : offset] = 0


class WritesLate(Subject):
    """The last call's results are stored by the next call, or when somebody waits."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(compute)
        self._waiting: list[tuple[Any, ...]] = []

    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        self._waiting.append((op, spec, operand, result))
        if len(self._waiting) > 1:
            Subject.store(self, *self._waiting.pop(0))


class AddsToTheOutput(Subject):
    """beta = 1: what stands in the output is added."""

    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        target = view(spec, *operand)
        with np.errstate(all="ignore"):
            target[...] = target + result


MUTANTS = {
    "writes past the end": Mutant(
        lambda: WritesPastTheEnd(right), ("softmax", "matmul"),
        ("softmax/float32/size/5x7", "matmul/float32/shape/15x17x16"),
    ),
    "writes into gaps": Mutant(
        lambda: WritesIntoGaps(right), ("softmax", "matmul"),
        ("softmax/float32/layout/out-padded", "matmul/float32/layout/out-padded"),
    ),
    "last rows left unwritten": Mutant(
        lambda: LeavesRowsUnwritten(right), ("softmax", "matmul"),
        ("softmax/float32/rows/129x33", "matmul/float32/shape/33x31x63"),
    ),
    "tail left unwritten": Mutant(
        lambda: LeavesTailUnwritten(right), ("layernorm", "matmul"),
        ("layernorm/float32/size/5x7", "matmul/float16/shape/33x31x63"),
    ),
    "an input modified": Mutant(
        lambda: ModifiesAnInput(right), ("rmsnorm", "matmul"), ("rmsnorm/float32/bare", "matmul/float32/shape/2x3x7"),
    ),
    "Fortran order taken for C": Mutant(
        lambda: TakesFortranForC(right), ("softmax", "matmul"),
        ("softmax/float32/layout/x-fortran", "matmul/float32/layout/b-transposed"),
    ),
    "negative strides ignored": Mutant(
        lambda: IgnoresNegativeStrides(right), ("softmax", "matmul"),
        ("softmax/float32/layout/x-reversed", "matmul/bfloat16/layout/a-rows_reversed"),
    ),
    "another result the second time": Mutant(
        lambda: NotTheSameTwice(right), ("softmax",), ("softmax/float32/size/5x7",),
    ),
    "raises for empty results": Mutant(
        lambda: FailsSometimes(right), ("softmax", "matmul"),
        ("softmax/float32/empty/0x5", "matmul/float32/empty/0x5x3"),
    ),
    "one scratch buffer for all threads": Mutant(
        lambda: SharedScratch(right), ("softmax",), ("softmax/float32/two-threads",),
    ),
    "zero strides ignored": Mutant(
        lambda: IgnoresZeroStrides(right), ("softmax", "matmul"), ("softmax/float32/layout/x-broadcast",),
    ),
    "addresses rounded down to 16 bytes": Mutant(
        lambda: RoundsAddressesDown(right), ("softmax", "matmul"), ("softmax/float32/layout/x-offset",),
    ),
    "output cleared before the input is read": Mutant(
        lambda: WritesBeforeItReads(right), ("softmax", "rmsnorm"),
        ("softmax/float32/shared/in-place-contiguous", "rmsnorm/float32/shared/in-place-contiguous"),
    ),
    "answers by the first call's data": Mutant(
        lambda: Remembers(right), ("softmax", "matmul"), ("softmax/float32/two-threads", "matmul/float32/two-threads"),
    ),
    "writes before the start": Mutant(
        lambda: WritesBeforeTheStart(right), ("softmax", "matmul"), ("softmax/float32/size/5x7",),
    ),
    "the last result is never written": Mutant(
        lambda: WritesLate(right), ("softmax", "matmul"), ("softmax/float32/size/5x7", "matmul/float32/shape/2x3x7"),
    ),
    "added to what stands in the output": Mutant(
        lambda: AddsToTheOutput(right), ("softmax", "matmul"), ("softmax/float32/size/5x7",),
    ),
}  # fmt: skip
