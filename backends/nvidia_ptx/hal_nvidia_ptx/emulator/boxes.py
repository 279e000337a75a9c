"""Moves the boxes of tensor maps between global and shared memory, given as arrays of bytes.

A box lies in shared memory row by row, a row `pitch` bytes long, its 16-byte chunks exchanged by the map's swizzle.
Shared offsets are those of a flat array whose byte 0 has an address that is a multiple of 1024, so that swizzles see
the same low bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.formats import narrow, widen
from hal_nvidia_ptx.emulator.swizzle import CHUNK, chunk_order
from hal_nvidia_ptx.emulator.tensormap import TensorMap, Window

Bytes = NDArray[np.uint8]
Array = NDArray[Any]

_NAN = {"f16": (2, 0x7FFF), "bf16": (2, 0x7FFF), "f64": (8, 0x7FFFFFFFFFFFFFFF)}  # others: 4 bytes
_NAN32 = (4, 0x7FFFFFFF)
_FLUSHED = ("f32_ftz", "tf32_ftz")
# What a reducing store may do, by the operation's name in PTX.
_REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and} | {
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def span(tensor: TensorMap) -> int:
    """Bytes of shared memory from the box's beginning to its end."""
    return tensor.pitch * tensor.rows


def extent(window: Window, size: int) -> tuple[int, int]:
    """The global addresses [low, high) between which a window that is not empty lies."""
    last = sum((count - 1) * stride for count, stride in zip(window.shape, window.strides, strict=True))
    return window.address, window.address + last + size


def strided(memory: Array, offset: int, window: Window, size: int) -> Array:
    """A view of a window's bytes in an array of bytes (or of their states), the rows' bytes as the last axis."""
    shape = (*window.shape[:-1], window.shape[-1] * size)
    return np.ndarray(shape, memory.dtype, memory, offset, (*window.strides[:-1], 1))


def load(tensor: TensorMap, window: Window, memory: Bytes, offset: int, shared: Bytes, at: int) -> None:
    """Global to shared. offset: of the window's address in `memory`; at: of the box in `shared`."""
    tile = _filled(tensor)
    if not window.empty:
        part = _part(tile, tensor, window)
        part[...] = strided(memory, offset, window, tensor.size)
        if tensor.dtype in _FLUSHED:
            _flush(part)
    flat = tile.reshape(-1)
    if tensor.swizzle:
        order = chunk_order(at >> 7 & 7, len(flat) // CHUNK, tensor.swizzle)[: len(flat) // CHUNK]
        _chunks(shared, at, len(flat) + 128)[order] = flat.view(np.complex128)
    else:
        shared[at : at + len(flat)] = flat


def box(tensor: TensorMap, shared: Bytes, at: int) -> Bytes:
    """The bytes of the box at `at` in shared memory, shape (outer …, rows, pitch), not swizzled."""
    nbytes = span(tensor)
    if tensor.swizzle:
        order = chunk_order(at >> 7 & 7, nbytes // CHUNK, tensor.swizzle)[: nbytes // CHUNK]
        flat = _chunks(shared, at, nbytes + 128)[order].view(np.uint8)
    else:
        flat = shared[at : at + nbytes]
    return flat.reshape(*reversed(tensor.counts[1:]), tensor.pitch)


def store(tensor: TensorMap, window: Window, tile: Bytes, memory: Bytes, offset: int) -> None:
    """What `box` gave to global memory; what lies outside the tensor is dropped."""
    if not window.empty:
        strided(memory, offset, window, tensor.size)[...] = _part(tile, tensor, window)


def reduce(tensor: TensorMap, window: Window, tile: Bytes, memory: Bytes, offset: int, operation: str) -> None:
    """As `store`, each element combined with the one in memory. Raises ValueError for what is not known."""
    if window.empty:
        return
    target = strided(memory, offset, window, tensor.size)
    old, new = np.ascontiguousarray(target), np.ascontiguousarray(_part(tile, tensor, window))
    target[...] = combine(operation, tensor.dtype.removesuffix("_ftz"), old, new)


def combine(operation: str, kind: str, old: Bytes, new: Bytes) -> Bytes:
    """old `operation` new, both as bytes of elements of a PTX type, along the last axis."""
    if operation not in (*_REDUCTIONS, "inc", "dec"):
        raise ValueError(f"reduction .{operation}")
    if kind in ("f16", "bf16"):
        left, right = (widen(each.view(np.uint16), kind) for each in (old, new))  # type: ignore[arg-type]
        result = narrow(_REDUCTIONS[operation](left, right), kind).astype(np.uint16)  # type: ignore[arg-type]
        return result.view(np.uint8)
    dtype = np.dtype({"b": "u", "t": "f"}.get(kind[0], kind[0].replace("s", "i")) + str(int(kind.lstrip("bustf")) // 8))
    left, right = old.view(dtype), new.view(dtype)
    if operation == "inc":
        combined: Array = np.where(left >= right, 0, left + 1).astype(dtype)
    elif operation == "dec":
        combined = np.where((left == 0) | (left > right), right, left - 1).astype(dtype)
    else:
        combined = _REDUCTIONS[operation](left, right)
    return combined.view(np.uint8)


def _filled(tensor: TensorMap) -> Bytes:
    """A box of fill, shape (outer …, rows, pitch)."""
    shape = (*reversed(tensor.counts[1:]), tensor.pitch)
    if tensor.fill == "zero":
        return np.zeros(shape, np.uint8)
    size, bits = _NAN.get(tensor.dtype, _NAN32)
    return np.full((*shape[:-1], shape[-1] // size), bits, f"u{size}").view(np.uint8)


def _part(tile: Bytes, tensor: TensorMap, window: Window) -> Bytes:
    """The view of a tile that a window fills."""
    outer = tuple(slice(b, b + n) for b, n in zip(window.begin[:-1], window.shape[:-1], strict=True))
    first = window.begin[-1] * tensor.size
    return tile[(*outer, slice(first, first + window.shape[-1] * tensor.size))]


def _flush(part: Bytes) -> None:
    values = np.ascontiguousarray(part).view(np.float32)
    tiny = np.abs(values) < np.finfo(np.float32).tiny
    part[...] = np.where(tiny, np.copysign(np.float32(0), values), values).view(np.uint8)


def _chunks(shared: Bytes, at: int, nbytes: int) -> Array:
    """A view of 16-byte chunks from `at`."""
    end = min(at + -(-nbytes // CHUNK) * CHUNK, len(shared) // CHUNK * CHUNK)
    return shared[at:end].view(np.complex128)
