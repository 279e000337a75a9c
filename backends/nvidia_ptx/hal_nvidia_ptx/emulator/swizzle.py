"""The XOR swizzles of shared memory that tensor copies write and wgmma reads: one map, told by its span in bytes.

A span of 128, 64 or 32 bytes exchanges 16-byte chunks inside each line of the span: the chunk's number (address bits
from 4) is XORed with the number of the 128-byte line (address bits from 7). The bits are those of the absolute shared
address, so a tile's base matters unless it is aligned to the pattern (1024, 512 or 256 bytes).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CHUNK = 16  # bytes that stay together
SPANS = (0, 32, 64, 128)  # 0: no swizzle


def mask(span: int) -> int:
    """The address bits that a swizzle of `span` bytes changes: 0x70 for 128, 0x30 for 64, 0x10 for 32, 0 for none."""
    return max(span - CHUNK, 0)


def swizzled(address: NDArray[np.int64], span: int, line: int = 0) -> NDArray[np.int64]:
    """Where logical shared address `address` lies. `line`: the 128-byte line at which the pattern starts."""
    return address ^ (((address - (line << 7)) >> 3) & mask(span))


@lru_cache(maxsize=256)
def chunk_order(line: int, chunks: int, span: int) -> NDArray[np.int64]:
    """For a tile that starts at 128-byte line `line` (mod 8): the chunk of the tile at which each logical one lies.

    The order is its own inverse. It has 8 more chunks than asked for when the last line is not full.
    """
    start = line << 7
    logical = start + CHUNK * np.arange(-(-chunks // 8) * 8, dtype=np.int64)
    order = (swizzled(logical, span) - start) >> 4
    order.setflags(write=False)
    return order
