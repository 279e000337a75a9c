"""A call that was prepared: how its operands get to the device and its results back.

Three ways, by where the arrays are. Each checks on every call what a remembered decision cannot know: that `out` may be
written, and what shares memory with what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal import interop
from hal.array import Array, Memory, as_bytes
from hal.device import Device, Operand, Plan
from hal.errors import DeviceError, DeviceMemoryError, HalError, ShapeError
from hal.interop import Kind, kind_of
from hal.op import Op, TensorSpec
from hal.ops.operator import Operator, Result

_SHARED = "{}: out shares memory with another operand or result; give it its own"


class Call:
    """A prepared call. Subclasses differ in where operands are and how they get to the device."""

    specs: list[TensorSpec]  # of the operands as given; kept, since their ids are part of a key

    def __init__(
        self, operator: Operator, op: Op, plan: Plan, device: Device, results: tuple[Result, ...], kind: Kind
    ) -> None:
        self.operator, self.op, self.plan, self.device, self.results, self.kind = (
            operator,
            op,
            plan,
            device,
            results,
            kind,
        )
        self._fresh = [TensorSpec.contiguous(r.dtype, r.shape) for r in results]
        self._in_place = operator.roles.index(operator.in_place) if operator.in_place else None

    def __call__(self, arrays: tuple[Any, ...], out: Any) -> Any:
        kind = self.kind
        present = [x for x in arrays if x is not None]
        if out is None:
            first = present[0]
            made = [self._empty(spec, first) for spec in self._fresh]
            self.run(present, made)
            results = [kind.finish(x, first) for x in made]
            return results[0] if len(results) == 1 else tuple(results)
        targets = list(out) if isinstance(out, tuple) else [out]
        for target in targets:
            kind.check_writable(target)
        self.run_into(present, targets)
        for target in targets:
            kind.wrote(target)
        return out

    def _empty(self, spec: TensorSpec, like: Any) -> Any:
        try:
            return self.kind.empty(spec, like)
        except (MemoryError, ValueError, OverflowError, RuntimeError) as error:
            if isinstance(error, HalError):
                raise
            raise DeviceMemoryError(f"{self.operator.name}: no memory for the result {spec}: {error}") from error

    def run(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Compute into outputs that share no memory with anything."""
        raise NotImplementedError

    def run_into(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Compute into the caller's outputs."""
        raise NotImplementedError


class HostCall(Call):
    """Host arrays, on a device that works in host memory: nothing is copied."""

    def run(self, inputs: list[Any], outputs: list[Any]) -> None:
        self._launch([self.kind.host(x) for x in inputs], [self.kind.host(x) for x in outputs])

    def _launch(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
        device = self.device
        wrapped = [(device.wrap(x.ctypes.data, x.nbytes), 0) for x in (*outputs, *inputs)]
        self.plan(wrapped[: len(outputs)], wrapped[len(outputs) :])
        device.synchronize()

    def run_into(self, inputs: list[Any], outputs: list[Any]) -> None:
        sources, targets = [self.kind.host(x) for x in inputs], [self.kind.host(x) for x in outputs]
        _check_apart(self.operator, targets)
        shared = any(
            np.may_share_memory(target, source) and not (i == 0 and j == self._in_place and _same(target, source))
            for i, target in enumerate(targets)
            for j, source in enumerate(sources)
        )
        if not shared:
            self._launch(sources, targets)
            return
        # `out` lies in an operand: compute beside it, then copy. The copies have out's strides only if the plan needs
        # none, so they are made with the very layout that was prepared.
        beside = [_same_layout(target) for target in targets]
        self._launch(sources, beside)
        for target, result in zip(targets, beside, strict=True):
            target[...] = result


class UploadCall(Call):
    """Host arrays, on a device with memory of its own: copied there, results copied back."""

    moved: list[tuple[TensorSpec, TensorSpec]]  # layout on the host and on the device, for each operand

    def run(self, inputs: list[Any], outputs: list[Any]) -> None:
        self._launch([self.kind.host(x) for x in inputs], [self.kind.host(x) for x in outputs])

    def run_into(self, inputs: list[Any], outputs: list[Any]) -> None:
        targets = [self.kind.host(x) for x in outputs]
        _check_apart(self.operator, targets)
        self._launch([self.kind.host(x) for x in inputs], targets)

    def _launch(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
        device = self.device
        memories: list[Memory] = []  # given back when this returns, after the last copy out

        def place(nbytes: int) -> Any:
            memories.append(Memory(device, nbytes))
            return memories[-1].handle

        operands: list[Operand] = []
        for host, (here, there) in zip(inputs, self.moved, strict=True):
            if here.strides == there.strides:
                data, offset = interop.memory_of(host, here)
            else:
                data, offset = as_bytes(np.ascontiguousarray(host)), 0
            handle = place(data.nbytes)
            if data.nbytes:
                device.copy_in(handle, 0, data)
            operands.append((handle, offset))
        targets: list[Operand] = [(place(out.nbytes), 0) for out in outputs]
        self.plan(targets, operands)
        for out, (handle, _) in zip(outputs, targets, strict=True):
            if not out.size:
                continue
            if out.flags.c_contiguous:
                device.copy_out(as_bytes(out), handle, 0)
            else:
                staging = np.empty(out.shape, out.dtype)
                device.copy_out(as_bytes(staging), handle, 0)
                out[...] = staging


class DeviceCall(Call):
    """hal.Arrays: nothing moves, and nobody waits."""

    def run(self, inputs: list[Any], outputs: list[Any]) -> None:
        self.plan([x.operand() for x in outputs], [x.operand() for x in inputs])

    def run_into(self, inputs: list[Any], outputs: list[Any]) -> None:
        for target in outputs:
            if target.device is not self.device:
                raise DeviceError(
                    f"{self.operator.name}: out is on {target.device.name}, operands on {self.device.name}"
                )
        check_apart(self.operator.name, self._in_place, inputs, outputs)
        self.run(inputs, outputs)


class ForeignCall(Call):
    """Others' tensors that live on the device: nothing moves, and the work goes to the stream their owner works on."""

    def run(self, inputs: list[Any], outputs: list[Any]) -> None:
        kind = self.kind
        self.plan([kind.operand(x) for x in outputs], [kind.operand(x) for x in inputs], kind.stream(inputs[0]))

    def run_into(self, inputs: list[Any], outputs: list[Any]) -> None:
        operands = [self.kind.operand(x) for x in (*inputs, *outputs)]
        spans = [_span(address + offset, spec) for (address, offset), spec in zip(operands, self.specs, strict=True)]
        for i, (target, spec) in enumerate(list(zip(spans, self.specs, strict=True))[len(inputs) :]):
            for j, other in enumerate(spans[: len(inputs) + i]):
                same = i == 0 and j == self._in_place and operands[j] == operands[len(inputs)]
                if not (same and self.specs[j] == spec) and target[0] < other[1] and other[0] < target[1]:
                    raise ShapeError(_SHARED.format(self.operator.name))
        self.run(inputs, outputs)


def _span(address: int, spec: TensorSpec) -> tuple[int, int]:
    """First and one past the last byte of a tensor; the same twice if it has none."""
    low, high = spec.extent()
    return address + low * spec.itemsize, address + high * spec.itemsize


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """The very same elements in the same layout: an operation in place."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.dtype == b.dtype and a.shape == b.shape


def _same_layout(x: NDArray[Any]) -> NDArray[Any]:
    """New memory with the strides of x."""
    spec = TensorSpec("int8", x.shape, x.strides)
    low, high = spec.extent()
    memory = np.empty(max(high - low, 0) + x.itemsize, np.uint8)
    return np.ndarray(x.shape, x.dtype, memory, -low, x.strides)


def _check_apart(operator: Operator, targets: Sequence[NDArray[Any]]) -> None:
    for i, target in enumerate(targets):
        if any(np.may_share_memory(target, other) for other in targets[:i]):
            raise ShapeError(f"{operator.name}: the arrays in out may share memory with one another")


def check_apart(name: str, in_place: int | None, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Raises ShapeError where a result shares memory with an operand or another result, unless it is in place.

    in_place: the position among `inputs` of the operand that the first result may be.
    """
    for i, target in enumerate(outputs):
        for j, other in enumerate((*inputs, *outputs[:i])):
            if other.memory is not target.memory:
                continue
            same = i == 0 and j == in_place and target.spec == other.spec and target.offset == other.offset
            if not same and _share(target, other):
                raise ShapeError(_SHARED.format(name))


def _share(a: Array, b: Array) -> bool:
    """Whether two arrays in one memory have a byte in common, by the spans they lie in."""
    if not a.size or not b.size:
        return False
    spans = [[x.offset + bound * x.spec.itemsize for bound in x.spec.extent()] for x in (a, b)]
    return spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


class ObservedCall:
    """A Call whose operands and results observers see, as canonical host copies."""

    def __init__(self, made: Call, seen: Op, kind: Kind, observers: list[Callable[..., None]]) -> None:
        self._made, self._seen, self._kind, self._observers = made, seen, kind, observers

    def __call__(self, arrays: tuple[Any, ...], out: Any) -> Any:
        before = [self._copy(x) for x in arrays if x is not None]  # now: an operation in place changes them
        results = self._made(arrays, out)
        after = [self._copy(x) for x in (results if isinstance(results, tuple) else (results,))]
        op = self._seen
        inputs = tuple(interop.strided_view(x, spec) for x, (_, spec) in zip(before, op.inputs, strict=True))
        outputs = tuple(interop.strided_view(x, spec) for x, (_, spec) in zip(after, op.outputs, strict=True))
        for observer in self._observers:
            observer(op, inputs, outputs)
        return results

    def _copy(self, x: Any) -> NDArray[Any]:
        kind = self._kind if not isinstance(x, np.ndarray) else kind_of(x)
        return np.array(kind.host(x), order="C")
