"""What wgmma reads and writes: shared-memory descriptors, the addresses they stand for, and register fragments.

A descriptor (64 bits) names an operand of 32 bytes of K: bits 0-13 start address / 16, 16-29 leading offset (LBO) / 16,
32-45 stride offset (SBO) / 16, 49-51 base offset, 62-63 swizzle. "K-major": the elements along K are neighbours in
memory; "MN-major": those along M or N are. All layouts move in 16-byte chunks, 8 of which (8 lines) are a core matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.swizzle import CHUNK, swizzled

K_BYTES = 32  # bytes of K that one wgmma takes
ROWS = 64  # M of one wgmma
LANES = 128  # threads of a warpgroup
_SPANS = (0, 128, 64, 32)  # bytes, by the descriptor's numbers (not those of tensor maps)
_WINDOW = 1024  # bytes: multiples of it do not change the swizzle


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A decoded descriptor; all but `base` in bytes. base: the 128-byte line (mod 8) at which the pattern starts."""

    start: int
    leading: int
    stride: int
    base: int
    span: int

    @classmethod
    def decode(cls, bits: int) -> Descriptor:
        start, leading, stride = ((bits >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
        return cls(start, leading, stride, bits >> 49 & 7, _SPANS[bits >> 62 & 3])

    def encode(self) -> int:
        start, leading, stride = self.start >> 4, self.leading >> 4, self.stride >> 4
        return start | leading << 16 | stride << 32 | self.base << 49 | _SPANS.index(self.span) << 62


def chunks(operand: Descriptor, rows: int, mn_major: bool) -> NDArray[np.int64]:
    """The 16-byte chunks of shared memory (address / 16) that hold `rows` rows (M or N) and 32 bytes of K.

    K-major: shape (rows, 2), chunk [r, c] holds bytes 16c to 16c+15 of row r. MN-major (16-bit elements only): shape
    (16, rows / 8), chunk [k, c] holds rows 8c to 8c+7 of column k.
    """
    low = operand.start % _WINDOW
    layout = _mn_chunks if mn_major else _k_chunks
    relative = layout(low, operand.leading, operand.stride, operand.base, operand.span, rows)
    return relative + (operand.start - low) // CHUNK


@lru_cache(maxsize=512)
def _k_chunks(start: int, leading: int, stride: int, base: int, span: int, rows: int) -> NDArray[np.int64]:
    row, column = np.arange(rows, dtype=np.int64)[:, None], np.arange(2, dtype=np.int64)
    line, step = (span, CHUNK) if span else (CHUNK, leading)
    address = start + row % 8 * line + row // 8 * stride + column * step
    return swizzled(address, span, base) // CHUNK


@lru_cache(maxsize=512)
def _mn_chunks(start: int, leading: int, stride: int, base: int, span: int, rows: int) -> NDArray[np.int64]:
    k, column = np.arange(16, dtype=np.int64)[:, None], np.arange(-(-rows // 8), dtype=np.int64)
    if span:
        per_line = span // CHUNK
        address = start + k % 8 * span + k // 8 * stride + column % per_line * CHUNK + column // per_line * leading
    else:
        address = start + k % 8 * CHUNK + k // 8 * leading + column * stride
    return swizzled(address, span, base) // CHUNK


def gather(shared: NDArray[np.uint8], where: NDArray[np.int64], mn_major: bool, size: int) -> NDArray[Any]:
    """The operand as unsigned integers of `size` bytes, shape (rows, 32 / size), from one CTA's shared memory.

    shared: uint8 of a multiple of 16 bytes, contiguous; where: from `chunks`, relative to it.
    """
    taken = shared.view(np.complex128)[where].view(f"u{size}")
    return taken.T if mn_major else taken


def d_matrix(registers: NDArray[Any]) -> NDArray[Any]:
    """Accumulators (N / 2, warpgroups, 128 lanes) of 32 bits -> matrices (warpgroups, 64, N).

    Lane 32w + 4g + t holds in registers 4j, 4j+1 row 16w + g, columns 8j + 2t, 8j + 2t + 1, and in 4j+2, 4j+3 row + 8.
    """
    count, groups, _ = registers.shape
    split = registers.reshape(count // 4, 2, 2, groups, 4, 8, 4)  # j half e group w g t
    return split.transpose(3, 4, 1, 5, 0, 6, 2).reshape(groups, ROWS, count * 2)


def d_registers(matrix: NDArray[Any]) -> NDArray[Any]:
    """The inverse of d_matrix: (warpgroups, 64, N) -> (N / 2, warpgroups, 128)."""
    groups, _, n = matrix.shape
    split = matrix.reshape(groups, 4, 2, 8, n // 8, 4, 2)  # group w half g j t e
    return split.transpose(4, 2, 6, 0, 1, 3, 5).reshape(n // 2, groups, LANES)


def a_matrix(registers: NDArray[np.uint32], size: int) -> NDArray[Any]:
    """A from registers, (4, warpgroups, 128) of 32 bits -> (warpgroups, 64, 32 / size) unsigned of `size` bytes.

    Lane 32w + 4g + t: register 0 has row 16w + g and bytes 4t to 4t+3 of K; 1: row + 8; 2, 3: the same 16 bytes on.
    """
    groups = registers.shape[1]
    split = registers.reshape(2, 2, groups, 4, 8, 4)  # k-half row-half group w g t
    rows = split.transpose(2, 3, 1, 4, 0, 5).reshape(groups, ROWS, 8)
    return np.ascontiguousarray(rows).view(f"u{size}")


def packed(matrix: NDArray[np.float16]) -> NDArray[np.uint32]:
    """f16 accumulators: (warpgroups, 64, N) -> (N / 4, warpgroups, 128) of 32 bits, one pair each, low half first."""
    halves = d_registers(matrix.view(np.uint16)).astype(np.uint32)
    return halves[0::2] | halves[1::2] << np.uint32(16)


def unpacked(registers: NDArray[np.uint32]) -> NDArray[np.float16]:
    """The inverse of packed."""
    count, groups, lanes = registers.shape
    halves = np.empty((2 * count, groups, lanes), np.uint16)
    halves[0::2] = registers & np.uint32(0xFFFF)
    halves[1::2] = registers >> np.uint32(16)
    return np.ascontiguousarray(d_matrix(halves)).view(np.float16)
