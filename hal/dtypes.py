"""One table of dtypes: hal's names, NumPy's (through ml_dtypes), DLPack's codes, and how to round to each.

Names, not classes, travel through hal ("float32"): they hash fast, print well and survive JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hal.errors import DTypeError


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    `dlpack` is DLPack's (type code, bits). `accumulator` names the dtype that sums of this one are kept in.
    """

    name: str
    numpy: np.dtype[Any]
    dlpack: tuple[int, int]
    accumulator: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize


_TABLE = (
    DType("float64", np.dtype(np.float64), (2, 64), "float64"),
    DType("float32", np.dtype(np.float32), (2, 32), "float32"),
    DType("float16", np.dtype(np.float16), (2, 16), "float32"),
    DType("bfloat16", np.dtype(ml_dtypes.bfloat16), (4, 16), "float32"),
    DType("int8", np.dtype(np.int8), (0, 8), "int32"),
    DType("int32", np.dtype(np.int32), (0, 32), "int32"),
    DType("bool", np.dtype(np.bool_), (6, 8), "bool"),
)

DTYPES: dict[str, DType] = {d.name: d for d in _TABLE}
FLOATS = ("float64", "float32", "float16", "bfloat16")
# Keyed on np.dtype itself: bfloat16's `.str` is an opaque '<V2'. Big-endian dtypes compare unequal and are not here.
_BY_NUMPY: dict[np.dtype[Any], str] = {d.numpy: d.name for d in _TABLE}
_BY_DLPACK: dict[tuple[int, int], str] = {d.dlpack: d.name for d in _TABLE}


def name_of(dtype: object) -> str:
    """hal's name of a NumPy dtype, scalar type or dtype name.

    Raises:
        DTypeError: no such dtype in hal, or one that is not in this machine's byte order.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    if type(dtype).__module__ == "torch":  # torch.float32 prints as its name
        dtype = str(dtype).removeprefix("torch.")
    try:
        as_numpy = np.dtype(dtype) if dtype is not None else None  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):
        as_numpy = None
    name = _BY_NUMPY.get(as_numpy) if as_numpy is not None else None
    if name is not None:
        return name
    if as_numpy is not None and not as_numpy.isnative:
        raise DTypeError(
            f"dtype {as_numpy.str!r} is not in this machine's byte order; "
            f"convert it first: x.astype(x.dtype.newbyteorder('='))"
        )
    raise DTypeError(f"dtype {dtype!r} is not supported; supported: {', '.join(FLOATS)}; matmul also int8")


def from_dlpack(code: int, bits: int, lanes: int) -> str:
    """hal's name of a DLPack dtype. Raises DTypeError where there is none."""
    name = _BY_DLPACK.get((code, bits)) if lanes == 1 else None
    if name is None:
        raise DTypeError(f"DLPack dtype (code {code}, {bits} bits, {lanes} lanes) is not supported")
    return name


def accumulator(name: str) -> str:
    """The dtype in which sums of dtype `name` are kept (float16 -> float32, int8 -> int32 …)."""
    return DTYPES[name].accumulator


def round_to(values: NDArray[np.float64], name: str) -> NDArray[Any]:
    """float64 `values` rounded once, to nearest even, to dtype `name`; overflow and subnormals as IEEE 754 has them.

    bfloat16 goes through float32 by *rounding to odd*, because ml_dtypes converts float64 by way of float32 and two
    roundings to nearest are not one (S. Boldo, G. Melquiond, "When double rounding is odd", 2005).
    """
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if name != "bfloat16":
            return values.astype(DTYPES[name].numpy)
        narrow = values.astype(np.float32)
        inexact = np.isfinite(values) & (narrow.astype(np.float64) != values)
        bits = narrow.view(np.uint32)
        # Truncate towards zero (infinity steps back to the largest finite value), then make the last bit odd.
        away = inexact & (np.abs(narrow.astype(np.float64)) > np.abs(values))
        bits = np.where(away, bits - np.uint32(1), bits)
        bits = np.where(inexact, bits | np.uint32(1), bits)
        return bits.view(np.float32).astype(ml_dtypes.bfloat16)


def largest(name: str) -> float:
    """The largest finite value of a floating dtype."""
    return float(ml_dtypes.finfo(DTYPES[name].numpy).max)  # type: ignore[no-untyped-call]
