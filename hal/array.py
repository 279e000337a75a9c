"""Array: a strided, typed view of device memory. What operators take and give without leaving the device.

Operators on Arrays are asynchronous; `.numpy()` waits and copies to the host. Views (slices, transposes) share memory;
the memory goes back to the device when the last view of it is gone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal import dlpack
from hal.device import Device, Operand
from hal.dtypes import DTYPES
from hal.errors import ArgumentError, DeviceError, OptionError, OutOfRangeError, ShapeError
from hal.op import TensorSpec, row_major
from hal.ops.operator import normal_axis

DEVICE_ALIGNMENT = 64  # bytes: what Device.alloc promises


class Memory:
    """One allocation, given back when nothing refers to it any more."""

    __slots__ = ("device", "handle", "nbytes")

    def __init__(self, device: Device, nbytes: int) -> None:
        check_usable(device)
        self.device = device
        self.nbytes = max(nbytes, 1)
        self.handle = device.alloc(self.nbytes)

    def __del__(self) -> None:
        if hasattr(self, "handle") and not self.device.lost:
            self.device.free(self.handle)


class Borrowed(Memory):
    """Memory that somebody else owns; `owner` is kept as long as this."""

    __slots__ = ("owner",)

    def __init__(self, device: Device, address: int, nbytes: int, owner: Any) -> None:
        self.device, self.handle, self.nbytes, self.owner = device, address, nbytes, owner

    def __del__(self) -> None:
        """Nothing to give back."""


class Array:
    """A device-resident array. Made by hal.asarray, hal.empty and by operators on other Arrays."""

    __slots__ = ("device", "memory", "offset", "spec", "__weakref__")

    def __init__(self, memory: Memory, spec: TensorSpec, offset: int = 0) -> None:
        """`offset` is the byte offset of element [0, …, 0] in `memory`."""
        self.device = memory.device
        self.memory = memory
        self.offset = offset
        self.spec = intern(spec)

    # ---- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype (ml_dtypes' for bfloat16)."""
        return DTYPES[self.spec.dtype].numpy

    @property
    def ndim(self) -> int:
        return self.spec.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements (not of the memory they are spread over)."""
        return self.spec.size * self.spec.itemsize

    def operand(self) -> Operand:
        """(handle, byte offset): what a Plan takes."""
        return self.memory.handle, self.offset

    def __repr__(self) -> str:
        return f"<hal.Array {self.spec} on {self.device.name}>"

    # ---- to the host

    def numpy(self) -> NDArray[Any]:
        """A contiguous copy on the host, after all work queued before."""
        check_usable(self.device)
        spec = self.spec
        if spec.size == 0:
            return np.empty(spec.shape, self.dtype)
        low, high = spec.extent()
        raw = np.empty((high - low) * spec.itemsize, np.uint8)
        self.device.copy_out(raw, self.memory.handle, self.offset + low * spec.itemsize)
        strides = tuple(s * spec.itemsize for s in spec.strides)
        return np.array(np.ndarray(spec.shape, self.dtype, raw, -low * spec.itemsize, strides), order="C")

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise ArgumentError("a hal.Array is not copied to the host unasked; use .numpy()")

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (device type, device number). Raises BufferError where the device has no type in DLPack."""
        if self.device.info.dlpack_type is None:
            raise BufferError(f"{self!r} has no DLPack device type; use .numpy()")
        return self.device.info.dlpack_type, self.device.info.number

    def __dlpack__(self, *, stream: Any = None, dl_device: Any = None, copy: bool | None = None, **_: Any) -> Any:
        """A capsule over the memory itself, where others can use it. Raises BufferError elsewhere.

        stream: the consumer's, as DLPack numbers them; -1 where it will wait by itself.
        """
        check_usable(self.device)
        kind = self.device.info.dlpack_type
        if kind is None or dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError(f"{self!r} cannot be exported without a copy; use .numpy()")
        if stream is None:
            self.device.synchronize()
        elif stream != -1:
            self.device.before(stream)
        return dlpack.write(self.memory.handle + self.offset, self.spec, self.memory, self.__dlpack_device__())

    # ---- views

    def transpose(self, *axes: int) -> Array:
        """A view with axes in another order (reversed if none are named)."""
        order = [normal_axis("transpose", a, self.ndim) for a in axes] if axes else list(reversed(range(self.ndim)))
        if sorted(order) != list(range(self.ndim)):
            raise OptionError(f"transpose: {axes} is no order of {self.ndim} axes")
        return Array(self.memory, self.spec.permute(order), self.offset)

    @property
    def T(self) -> Array:
        """The transpose."""
        return self.transpose()

    def reshape(self, *shape: int) -> Array:
        """A view of another shape (one length may be -1); the array has to be contiguous."""
        wanted = lengths("reshape", shape)
        if wanted.count(-1) == 1:
            rest = -prod(wanted)
            wanted[wanted.index(-1)] = self.size // rest if rest else 0
        if prod(wanted) != self.size or min(wanted, default=0) < 0:
            raise ShapeError(f"reshape: {self.spec} has {self.size} elements, shape {shape} has another number")
        if not self.spec.is_contiguous:
            raise ShapeError(f"reshape: {self.spec} is not contiguous; use hal.asarray(x.numpy()) for a copy")
        spec = TensorSpec(self.spec.dtype, tuple(wanted), row_major(wanted), self.spec.align)
        return Array(self.memory, spec, self.offset)

    def broadcast_to(self, shape: Sequence[int]) -> Array:
        """A view stretched to `shape` with stride 0."""
        try:
            shape = lengths("broadcast_to", shape)
            fits = np.broadcast_shapes(self.shape, tuple(shape)) == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"broadcast_to: {self.spec} does not broadcast to {tuple(shape)}")
        return Array(self.memory, self.spec.broadcast_to(shape), self.offset)

    def __getitem__(self, index: Any) -> Array:
        """A view by integers, slices, Ellipsis and None, as in NumPy."""
        entries = index if isinstance(index, tuple) else (index,)
        named = sum(1 for entry in entries if entry is not None and entry is not Ellipsis)
        if named > self.ndim:
            raise ShapeError(f"{named} indices for an array of {self.ndim} dimensions")
        fill = (slice(None),) * (self.ndim - named)
        if not any(entry is Ellipsis for entry in entries):
            entries = (*entries, Ellipsis)
        at = next(i for i, entry in enumerate(entries) if entry is Ellipsis)
        shape, strides, offset, axis = [], [], 0, 0
        for entry in (*entries[:at], *fill, *entries[at + 1 :]):
            if entry is None:
                shape.append(1)
                strides.append(0)
                continue
            n, step = self.shape[axis], self.spec.strides[axis]
            axis += 1
            if isinstance(entry, slice):
                if entry.step == 0:
                    raise OptionError("a slice needs a step other than 0")
                start, _, stride = entry.indices(n)
                count = len(range(*entry.indices(n)))
                shape.append(count)
                strides.append(step * stride)
                offset += start * step if count else 0
            elif hasattr(entry, "__index__") and not isinstance(entry, (bool, np.bool_)):
                position = _index(entry)
                if not -n <= position < n:
                    raise OutOfRangeError(f"index {position} is out of range for an axis of length {n}")
                offset += position % n * step
            else:
                raise ArgumentError(f"a hal.Array is indexed by integers, slices, ... and None, not {entry!r}")
        moved = offset * self.spec.itemsize
        align = min(self.spec.align, moved & -moved) if moved else self.spec.align
        return Array(self.memory, TensorSpec(self.spec.dtype, tuple(shape), tuple(strides), align), self.offset + moved)


def lengths(name: str, shape: Any) -> list[int]:
    """A shape as integers. Raises ArgumentError where it is none."""
    try:
        return [_index(n) for n in ((shape,) if hasattr(shape, "__index__") else shape)]
    except TypeError:
        raise ArgumentError(f"{name}: a shape is integers, not {shape!r}") from None


def _index(n: Any) -> int:
    """An integer of any library, but no bool. Raises ArgumentError."""
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        return operator.index(n)
    except TypeError:
        raise ArgumentError(f"{n!r} is no integer") from None


def empty(device: Device, dtype: str, shape: Sequence[int]) -> Array:
    """A new contiguous Array whose elements are whatever was there."""
    spec = TensorSpec.contiguous(dtype, shape, DEVICE_ALIGNMENT)
    return Array(Memory(device, spec.size * spec.itemsize), spec)


def from_host(device: Device, host: NDArray[Any], dtype: str) -> Array:
    """A new contiguous Array with the values of a host array of that dtype."""
    result = empty(device, dtype, host.shape)
    if host.size:
        device.copy_in(result.memory.handle, 0, as_bytes(np.ascontiguousarray(host)))
    return result


def as_bytes(contiguous: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of a contiguous array."""
    return contiguous.reshape(-1).view(np.uint8)


@lru_cache(maxsize=8192)
def intern(spec: TensorSpec) -> TensorSpec:
    """One object for equal specs, so that held plans compare by identity first."""
    return spec


def check_usable(device: Device) -> None:
    """Raises DeviceError after fork or close."""
    if device.lost:
        raise DeviceError(f"{device.name}: {device.lost}")
