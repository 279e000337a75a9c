"""Other people's arrays: what each kind is called, where it lives, and how to make another of its kind.

The only file that knows them. No framework is ever imported here: an object of one is only met after its owner
imported it, so `sys.modules` is enough. A Kind is chosen once for each Python type.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal import dlpack
from hal.array import Array, Borrowed, empty
from hal.device import Device, Operand
from hal.dtypes import DTYPES, name_of
from hal.errors import ArgumentError, DTypeError, UnsupportedError
from hal.op import TensorSpec, row_major


def _nowhere(kind: str | int, number: int) -> Device | None:
    return None


# Which hal device the tensors of a torch or DLPack device type and number live on: the registry puts its answer here.
home_of: Callable[[str | int, int], Device | None] = _nowhere


class Kind(ABC):
    """One kind of array."""

    name: str
    writable = True  # may be an `out=`

    def device(self, x: Any) -> Device | None:
        """The hal device it lives on, or None for host memory."""
        return None

    @abstractmethod
    def spec(self, x: Any) -> TensorSpec:
        """Its layout; raises HalError's children where hal cannot take it."""

    @abstractmethod
    def signature(self, x: Any) -> Any:
        """Hashable and cheap: equal signatures of one type mean equal specs, and that `spec` raises for neither."""

    @abstractmethod
    def host(self, x: Any) -> NDArray[Any]:
        """A NumPy array over the same memory (a copy of device memory)."""

    def operand(self, x: Any) -> Operand:
        """What a plan takes of an array that lives on a device; it holds as long as x does."""
        raise NotImplementedError(self.name)

    def stream(self, x: Any) -> Any:
        """The stream that the owner of x works on now, for `Plan.__call__`; None: the device's own does."""
        return None

    @abstractmethod
    def empty(self, spec: TensorSpec, like: Any) -> Any:
        """A new contiguous array of this kind where `like` lives, made by its own allocator."""

    def finish(self, x: Any, like: Any) -> Any:
        """What the caller gets for an array that `empty` made and hal filled."""
        return x

    def wrote(self, x: Any) -> None:  # noqa: B027 - most owners do not want to know
        """hal has written into x, an `out=`: tell its owner."""

    def check_writable(self, x: Any) -> None:
        """Raises ArgumentError where hal must not write."""
        if not self.writable:
            raise ArgumentError(f"out: a {self.name} cannot be written to; leave out= away")


class NumPyKind(Kind):
    """np.ndarray and well-behaved subclasses (np.memmap)."""

    name = "NumPy array"

    def spec(self, x: Any) -> TensorSpec:
        dtype = name_of(x.dtype)
        itemsize = x.dtype.itemsize
        if not x.flags.aligned or any(s % itemsize for s in x.strides):
            return TensorSpec.contiguous(dtype, x.shape)  # it is copied first: see `host`
        return TensorSpec(dtype, x.shape, tuple(s // itemsize for s in x.strides), itemsize)

    def signature(self, x: Any) -> Any:
        return x.dtype, x.shape, x.strides, x.flags.aligned

    def host(self, x: Any) -> NDArray[Any]:
        x = x.view(np.ndarray)
        uneven = not x.flags.aligned or any(s % x.dtype.itemsize for s in x.strides)
        return np.array(x, order="C") if uneven else x

    def empty(self, spec: TensorSpec, like: Any) -> Any:
        return np.empty(spec.shape, DTYPES[spec.dtype].numpy)

    def check_writable(self, x: Any) -> None:
        if not x.flags.writeable:
            raise ArgumentError("out: the NumPy array is read-only")
        if not x.flags.aligned or any(s % x.dtype.itemsize for s in x.strides):
            raise ArgumentError("out: the NumPy array is not aligned to its dtype; pass a new array")


class HalKind(Kind):
    """hal.Array."""

    name = "hal.Array"

    def device(self, x: Any) -> Device | None:
        return x.device  # type: ignore[no-any-return]

    def spec(self, x: Any) -> TensorSpec:
        return x.spec  # type: ignore[no-any-return]

    def signature(self, x: Any) -> Any:
        return x.spec, x.device

    def host(self, x: Any) -> NDArray[Any]:
        return x.numpy()  # type: ignore[no-any-return]

    def operand(self, x: Any) -> Operand:
        return x.operand()  # type: ignore[no-any-return]

    def empty(self, spec: TensorSpec, like: Any) -> Any:
        return empty(like.device, spec.dtype, spec.shape)


class TorchKind(Kind):
    """torch.Tensor in host memory, or on a device that hal has."""

    name = "torch tensor"

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.dtypes = {getattr(torch, name): name for name in DTYPES}

    def device(self, x: Any) -> Device | None:
        return None if x.device.type == "cpu" else home_of(x.device.type, x.device.index or 0)

    def spec(self, x: Any) -> TensorSpec:
        torch = self.torch
        if x.device.type == "meta":
            raise ArgumentError("a torch tensor on device meta has no plain memory, only a shape; give it data first")
        if x.layout is not torch.strided or x.is_quantized:
            advice = ".dequantize()" if x.is_quantized else ".to_dense()"
            raise ArgumentError(f"a torch tensor of layout {x.layout}, {x.dtype} has no plain memory; use {advice}")
        if x.device.type != "cpu" and self.device(x) is None:
            raise UnsupportedError(f"a torch tensor on {x.device}: no hal device shares its memory; use .cpu()")
        if x.is_neg() or x.is_conj():
            raise ArgumentError("a torch tensor with its sign or conjugate pending; use .resolve_neg().resolve_conj()")
        if x.requires_grad and torch.is_grad_enabled():
            raise ArgumentError("a torch tensor that requires grad: hal would cut the graph; use x.detach()")
        dtype = self.dtypes.get(x.dtype)
        if dtype is None:
            raise DTypeError(f"torch dtype {x.dtype} is not supported; supported: {', '.join(DTYPES)}")
        try:
            align = x.data_ptr() & -x.data_ptr() if x.numel() else 64
            return TensorSpec(dtype, tuple(x.shape), x.stride(), min(align, 64))
        except RuntimeError as error:  # wrappers of vmap, functorch, fake tensors
            raise ArgumentError(f"a torch tensor without memory of its own ({type(x).__name__}): {error}") from error

    def signature(self, x: Any) -> Any:
        if x.layout is not self.torch.strided:
            return x.layout  # has no strides to ask for; `spec` refuses it
        pending = x.is_neg(), x.requires_grad and self.torch.is_grad_enabled()
        return x.dtype, x.shape, x.stride(), x.device, x.data_ptr() & 63, pending

    def host(self, x: Any) -> NDArray[Any]:
        x = x.detach().cpu()
        if x.dtype is self.torch.bfloat16:  # NumPy meets torch without this dtype: by its bits
            return x.view(self.torch.int16).numpy().view(DTYPES["bfloat16"].numpy)  # type: ignore[no-any-return]
        return x.numpy()  # type: ignore[no-any-return]

    def operand(self, x: Any) -> Operand:
        return x.data_ptr(), 0

    def stream(self, x: Any) -> Any:
        return getattr(self.torch, x.device.type).current_stream(x.device)

    def wrote(self, x: Any) -> None:
        # autograd refuses to use a value that was saved before and written since; it knows by this counter.
        self.torch.autograd.graph.increment_version(x)

    def empty(self, spec: TensorSpec, like: Any) -> Any:
        return self.torch.empty(spec.shape, dtype=getattr(self.torch, spec.dtype), device=like.device)


class DLPackKind(Kind):
    """Any other array that speaks DLPack: JAX, CuPy, TensorFlow … On a device, it is a hal.Array over its memory."""

    name = "DLPack array"
    writable = False

    def device(self, x: Any) -> Device | None:
        if isinstance(x, Array):  # made by `empty`
            return x.device
        device_type, number = _told(x.__dlpack_device__)
        if device_type in dlpack.HOST_TYPES:
            return None
        device = home_of(device_type, number)
        if device is None:
            raise UnsupportedError(
                f"a {type(x).__name__} on DLPack device type {device_type}: no hal device shares its memory; "
                "copy it to the host first"
            )
        return device

    def _read(self, x: Any) -> NDArray[Any]:
        return _told(lambda: dlpack.read(x.__dlpack__()), type(x).__name__)  # type: ignore[no-any-return]

    def _over(self, x: Any, device: Device, stream: int | None) -> Array:
        """x as a hal.Array; the device's queue, where it is the `stream`, waits for x's data."""
        capsule = _told(lambda: x.__dlpack__(stream=stream), type(x).__name__)
        address, spec, _ = dlpack.describe(capsule)
        return Array(Borrowed(device, address, spec.size * spec.itemsize, capsule), spec)

    def spec(self, x: Any) -> TensorSpec:
        device = self.device(x)
        if device is not None:
            return self._over(x, device, -1).spec
        host = self._read(x)
        itemsize = host.dtype.itemsize
        return TensorSpec(name_of(host.dtype), host.shape, tuple(s // itemsize for s in host.strides), itemsize)

    def signature(self, x: Any) -> Any:
        device = self.device(x)
        if device is not None:
            return self._over(x, device, -1).spec, device
        host = self._read(x)
        return host.dtype, host.shape, host.strides

    def host(self, x: Any) -> NDArray[Any]:
        if isinstance(x, np.ndarray):  # made by `empty`, as hal.Arrays are
            return x
        device = self.device(x)
        if device is None:
            return self._read(x)
        return (x if isinstance(x, Array) else self._over(x, device, device.dlpack_stream())).numpy()

    def operand(self, x: Any) -> Operand:
        if isinstance(x, Array):
            return x.operand()
        device = self.device(x)
        assert device is not None
        return self._over(x, device, device.dlpack_stream()).operand()

    def empty(self, spec: TensorSpec, like: Any) -> Any:
        device = self.device(like)
        return (
            np.empty(spec.shape, DTYPES[spec.dtype].numpy) if device is None else empty(device, spec.dtype, spec.shape)
        )

    def finish(self, x: Any, like: Any) -> Any:
        if not hasattr(like, "__array_namespace__"):
            return x
        namespace = like.__array_namespace__()
        return namespace.from_dlpack(x) if isinstance(x, Array) else namespace.asarray(x)


def _told(ask: Callable[[], Any], name: str = "DLPack array") -> Any:
    """What a stranger's array says of itself; its errors in hal's form."""
    try:
        return ask()
    except (BufferError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, (ArgumentError, DTypeError)):
            raise
        raise ArgumentError(f"a {name} does not give its memory by DLPack: {error}") from error


_NUMPY = NumPyKind()
_HAL = HalKind()
_DLPACK = DLPackKind()
_kinds: dict[type, Kind] = {np.ndarray: _NUMPY, Array: _HAL}


def kind_of(x: Any) -> Kind:
    """The Kind of an object. Raises ArgumentError that says what to pass instead."""
    return _kinds.get(type(x)) or _find_kind(x)


def _find_kind(x: Any) -> Kind:
    kind: Kind | None = None
    if isinstance(x, np.ma.MaskedArray):
        raise ArgumentError("a masked array is not taken: pass x.filled(value), or a mask= where there is one")
    if isinstance(x, np.matrix):
        raise ArgumentError("np.matrix is not taken: pass np.asarray(x)")
    if isinstance(x, np.ndarray):
        kind = _NUMPY
    elif (torch := sys.modules.get("torch")) is not None and isinstance(x, torch.Tensor):
        kind = next((k for k in list(_kinds.values()) if isinstance(k, TorchKind)), None) or TorchKind(torch)
    elif hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__") and not isinstance(x, (np.generic, type)):
        kind = _DLPACK
    if kind is None:
        raise ArgumentError(
            f"{type(x).__name__} is no array: pass a NumPy array, a DLPack tensor (torch, JAX, …) or a hal.Array "
            "(lists and numbers are not converted: their dtype would be a guess)"
        )
    _kinds[type(x)] = kind
    return kind


def strided_view(host: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """`host`'s memory with the shape and strides of a canonical operand made from it."""
    strides = tuple(s * spec.itemsize for s in spec.strides)
    return np.lib.stride_tricks.as_strided(host, spec.shape, strides, writeable=False)


def memory_of(host: NDArray[Any], spec: TensorSpec) -> tuple[NDArray[np.uint8], int]:
    """All bytes from the lowest to the highest element of a host array, and the offset of element [0, …, 0]."""
    low, high = (n * spec.itemsize for n in spec.extent())
    # A one-dimensional walk over the same allocation; the base keeps it alive.
    if high == low:
        return np.empty(0, np.uint8), 0
    index = tuple(slice(-1, None) if s < 0 else slice(0, 1) for s in spec.strides)
    corner = host[index].view(np.uint8) if host.ndim else host.reshape(1).view(np.uint8)
    return np.lib.stride_tricks.as_strided(corner, (high - low,), (1,), writeable=False), -low


def worth_copying_whole(spec: TensorSpec) -> bool:
    """True where copying the whole span of an operand costs at most twice its elements."""
    low, high = spec.extent()
    return high - low <= 2 * spec.size


def contiguous_like(spec: TensorSpec, align: int) -> TensorSpec:
    """The row-major layout of the same shape and dtype."""
    return TensorSpec(spec.dtype, spec.shape, row_major(spec.shape), align)
