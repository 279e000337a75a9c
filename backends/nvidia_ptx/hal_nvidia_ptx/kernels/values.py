"""How an element of each dtype gets from memory into the arithmetic's type, and back, rounded once.

The arithmetic's type is float32 for float32 and the 16-bit dtypes, float64 for float64, and 32-bit integers for int8.
bfloat16 is the upper half of a float32; below sm_80, which has no conversion, it is rounded by integer arithmetic.
"""

from __future__ import annotations

from hal.dtypes import DTYPES
from hal_nvidia_ptx.ptx import WIDTHS, Entry, Register, at, f32

ARITHMETIC = {"float64": "f64", "float32": "f32", "float16": "f32", "bfloat16": "f32", "int8": "s32", "int32": "s32"}
_BITS = {"float16": "b16", "bfloat16": "u16", "int8": "s8"}  # how the narrow ones are read


def zero(type: str) -> str | int | float:
    """The literal 0 of an arithmetic type."""
    return 0 if type == "s32" else 0.0


def load(
    k: Entry,
    dtype: str,
    base: Register,
    offset: int = 0,
    *,
    name: str,
    when: Register | None = None,
    into: Register | None = None,
) -> Register:
    """One element from global memory, widened; 0 where the predicate `when` is false. into: a register to use."""
    type = ARITHMETIC[dtype]
    value = into or k.reg(type, name)
    raw = {"float16": "b16", "bfloat16": "b32"}.get(dtype)
    target = k.reg(raw, f"{name}_bits") if raw else value
    if when is not None:
        k(f"mov.{target.type}", target, zero(type) if target is value else 0)
    k(f"ld.global.{_BITS.get(dtype, type)}", target, at(base, offset), when=when)
    if target is not value:
        widen(k, dtype, target, value)
    return value


def load_vector(
    k: Entry, dtype: str, base: Register, offset: int, count: int, *, name: str, when: Register | None = None
) -> list[Register]:
    """`count` neighbours (2 to 16 bytes, aligned to their size) from memory that nobody writes meanwhile, widened; 0
    where the predicate is false. The loads come first: `unpack` what they bring when it is needed."""
    return unpack(k, dtype, load_words(k, dtype, base, offset, count, name=name, when=when))


def load_words(
    k: Entry, dtype: str, base: Register, offset: int, count: int, *, name: str, when: Register | None = None
) -> list[Register]:
    """The memory of `count` neighbours in registers of 16, 32 or 64 bits."""
    size = itemsize(dtype) * count
    type = ARITHMETIC[dtype] if itemsize(dtype) >= 4 else "b16" if size == 2 else "b32"
    words = k.regs(type, f"{name}_", size * 8 // WIDTHS[type])
    if when is not None:
        for word in words:
            k(f"mov.{type}", word, zero(type) if type in ("f32", "f64") else 0)
    vector = f".v{len(words)}" if len(words) > 1 else ""
    target: Register | list[Register] = words if vector else words[0]
    k(f"ld.global.nc{vector}.{type}", target, at(base, offset), when=when)
    return words


def unpack(k: Entry, dtype: str, words: list[Register]) -> list[Register]:
    """What `load_words` brought, an element a register, widened."""
    if itemsize(dtype) >= 4:
        return words
    if words[0].type == "b16":
        wide = k.let("u32", "wide", "cvt.u32.u16", words[0]) if dtype == "bfloat16" else words[0]
        value = k.reg("f32", "value")
        widen(k, dtype, wide, value)
        return [value]
    values = []
    for word in words:
        low, high = k.reg("f32", "low"), k.reg("f32", "high")
        if dtype == "bfloat16":
            k("mov.b32", low, k.let("b32", "bits", "shl.b32", word, 16))
            k("mov.b32", high, k.let("b32", "bits", "and.b32", word, "0xffff0000"))
        else:
            halves = [k.reg("b16", "half"), k.reg("b16", "half")]
            k("mov.b32", halves, word)
            k("cvt.f32.f16", low, halves[0])
            k("cvt.f32.f16", high, halves[1])
        values += [low, high]
    return values


def widen(k: Entry, dtype: str, bits: Register, value: Register) -> None:
    """A 16-bit element's bits to float32, exactly."""
    if dtype == "float16":
        k("cvt.f32.f16", value, bits)
        return
    shifted = k.let("b32", f"{value.name}_wide", "shl.b32", bits, 16)
    k("mov.b32", value, shifted)


def store(
    k: Entry, dtype: str, sm: int, base: Register, offset: int, value: Register, *, when: Register | None = None
) -> None:
    """One element to global memory, rounded to nearest even."""
    if dtype in ("float16", "bfloat16"):
        k("st.global.b16", at(base, offset), narrow(k, dtype, sm, value), when=when)
    else:
        k(f"st.global.{ARITHMETIC[dtype]}", at(base, offset), value, when=when)


def narrow(k: Entry, dtype: str, sm: int, value: Register) -> Register:
    """float32 to the bits of a 16-bit dtype, to nearest even."""
    bits = k.reg("b16", f"{value.name}_narrow")
    if dtype == "float16":
        k("cvt.rn.f16.f32", bits, value)
    elif sm >= 80:
        k("cvt.rn.bf16.f32", bits, value)
    else:
        k("cvt.u16.u32", bits, _bfloat16(k, value))
    return bits


def pair(k: Entry, dtype: str, sm: int, low: Register, high: Register) -> Register:
    """Two float32 to neighbouring elements of a 16-bit dtype in one 32-bit register, to nearest even."""
    both = k.reg("b32", f"{low.name}_pair")
    if sm >= 80:
        k(f"cvt.rn.{'f16x2' if dtype == 'float16' else 'bf16x2'}.f32", both, high, low)
    else:
        k("mov.b32", both, [narrow(k, dtype, sm, low), narrow(k, dtype, sm, high)])
    return both


def _bfloat16(k: Entry, value: Register) -> Register:
    """Add just under half a unit of the last bit that stays, and that bit. A NaN, which the sum could turn into
    infinity, keeps its upper bits and becomes quiet."""
    bits = k.let("b32", f"{value.name}_bits", "mov.b32", value)
    last = k.let("u32", f"{value.name}_last", "bfe.u32", bits, 16, 1)
    rounded = k.let("u32", f"{value.name}_rounded", "add.u32", bits, last)
    k("add.u32", rounded, rounded, 0x7FFF)
    quiet = k.let("b32", f"{value.name}_quiet", "or.b32", bits, 0x400000)
    number = k.let("pred", f"{value.name}_number", "setp.num.f32", value, value)
    k("selp.b32", rounded, rounded, quiet, number)
    k("shr.u32", rounded, rounded, 16)
    return rounded


def literal(type: str, value: float) -> str | float:
    """A constant as the arithmetic's type writes it."""
    return f32(value) if type == "f32" else float(value)


def itemsize(dtype: str) -> int:
    """Bytes of an element in memory."""
    return DTYPES[dtype].itemsize
