"""Weights of any size, made panel by panel: the same bytes whenever a panel is asked for again.

Every weight has a random sign and a random mantissa and lies in ±[2^-6, 2^-5): none is small, so that each term of a
sum counts, and |w| < 2^-5 bounds sums of them without a pass over the data.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.dtypes import DTYPES

BOUND = 2.0**-5
EXPONENT = -6
# dtype -> bits of its words, mantissa bits, exponent bias
_WORDS = {"float64": (64, 52, 1023), "float32": (32, 23, 127), "float16": (16, 10, 15), "bfloat16": (16, 7, 127)}


def panel(name: str, dtype: str, rows: int, k: int, first: int, seed: int = 0) -> NDArray[Any]:
    """Rows first … first + rows - 1 of the weights `name`, (rows, k); a panel always begins at the same `first`."""
    bits, mantissa, bias = _WORDS[dtype]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), first])
    words = np.frombuffer(rng.bytes(rows * k * bits // 8), f"u{bits // 8}").reshape(rows, k)
    kind = words.dtype.type
    keep = kind((1 << (bits - 1)) | ((1 << mantissa) - 1))
    weights: NDArray[Any] = ((words & keep) | kind((EXPONENT + bias) << mantissa)).view(DTYPES[dtype].numpy)
    return weights


def widen(x: NDArray[Any]) -> NDArray[np.float64]:
    """As float64; bfloat16 by way of its bits, which is much faster than a conversion element by element."""
    if x.dtype == DTYPES["bfloat16"].numpy:
        return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)
