"""A vector of a row in registers: `words` as it lies in memory, and its elements in the type of the arithmetic.

A word is 32 bits (two 16-bit elements, four of bool), a float32 or a float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, pair
from hal_nvidia_ptx.ptx import Entry, Register, f32

MINUS_INFINITY = float("-inf")
_BITS = {  # of an element, and of a word full of them
    ("float16", 0.0): ("0", "0"),
    ("float16", MINUS_INFINITY): ("0xFC00", "0xFC00FC00"),
    ("bfloat16", 0.0): ("0", "0"),
    ("bfloat16", MINUS_INFINITY): ("0xFF80", "0xFF80FF80"),
    ("bool", 0.0): ("0", "0"),
}


def word_type(dtype: str) -> str:
    """PTX type of the registers that hold words of a dtype."""
    return ARITHMETIC[dtype] if dtype in ("float32", "float64") else "b32"


def word_count(dtype: str, elements: int) -> int:
    """Words of a vector."""
    return max(elements * itemsize(dtype) // (8 if dtype == "float64" else 4), 1)


def word_of(dtype: str, value: float) -> str | float:
    """The literal of a word whose elements are all 0 or -inf."""
    if dtype in ("float32", "float64"):
        return f32(value) if dtype == "float32" else value
    return _BITS[dtype, value][1]


def element_of(dtype: str, value: float) -> str | float:
    """The literal of an element, 0 or -inf, as it lies in memory."""
    return _BITS[dtype, value][0] if (dtype, value) in _BITS else word_of(dtype, value)


def unpack(k: Entry, dtype: str, words: Sequence[Register], values: Sequence[Register]) -> None:
    """The elements of `words`, widened exactly into `values` (f32 or f64)."""
    if dtype in ("float32", "float64"):
        widen = "cvt.f64.f32" if dtype == "float32" and values[0].type == "f64" else f"mov.{values[0].type}"
        for value, word in zip(values, words, strict=True):
            if value is not word:
                k(widen, value, word)
        return
    for i, value in enumerate(values):
        word, high = words[i // 2], i % 2
        if dtype == "bfloat16" and high:
            note = "a bfloat16 is the upper half of a float32" if i == 1 else ""
            k("and.b32", value, word, "0xffff0000", note=note)
        elif dtype == "bfloat16":
            k("shl.b32", value, word, 16)
        elif not high:
            halves = [k.reg("b16", "low"), k.reg("b16", "high")]
            k("mov.b32", halves, word)
            for half, wide in zip(halves, values[i : i + 2], strict=False):
                k("cvt.f32.f16", wide, half)


def kept(k: Entry, words: Sequence[Register], index: int) -> Register:
    """A predicate: whether element `index` of a vector of bool is True."""
    byte = k.let("b32", "byte", "and.b32", words[index // 4], f"{0xFF << 8 * (index % 4):#x}")
    return k.let("pred", "keep", "setp.ne.u32", byte, 0)


def pack(k: Entry, dtype: str, sm: int, values: Sequence[Register]) -> list[Register]:
    """Elements as they go to memory, rounded once, to nearest even. An even number of 16-bit ones."""
    if dtype in ("float32", "float64"):
        return list(values)
    return [pair(k, dtype, sm, low, high) for low, high in zip(values[::2], values[1::2], strict=True)]
