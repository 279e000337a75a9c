"""Elementwise instructions of the PTX emulator against definitions in plain Python, element by element."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.errors import CompileError
from hal_nvidia_ptx.emulator import machine, memory, program
from hal_nvidia_ptx.emulator.syntax import DTYPE as REGISTERS

Array = NDArray[Any]
DTYPE = REGISTERS | {"f16": np.dtype(np.float16)}  # halves are looked at as values here
LANES = 512

KERNEL = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 A, .param .u64 B, .param .u64 C, .param .u64 OUT, .param .u64 Q)
{{
    .reg .b32 %thread, %q; .reg .b64 %base, %at; .reg .pred %p, %other, %odd;
    .reg .{ta} %a; .reg .{tb} %b; .reg .{tc} %c; .reg .{td} %d;
    mov.u32 %thread, %tid.x;
    and.b32 %q, %thread, 1;
    setp.ne.u32 %odd, %q, 0;
    ld.param.u64 %base, [A]; mad.wide.u32 %at, %thread, {wa}, %base; ld.global.{la} %a, [%at];
    ld.param.u64 %base, [B]; mad.wide.u32 %at, %thread, {wb}, %base; ld.global.{lb} %b, [%at];
    ld.param.u64 %base, [C]; mad.wide.u32 %at, %thread, {wc}, %base; ld.global.{lc} %c, [%at];
    {code}
    ld.param.u64 %base, [OUT]; mad.wide.u32 %at, %thread, {wd}, %base; st.global.{ld} [%at], %d;
    ret;
}}
"""


def bits(kind: str) -> str:
    return f"b{8 * DTYPE[kind].itemsize}"


def run(code: str, kinds: tuple[str, ...], result: str, inputs: list[Array]) -> Array:
    """%d of every lane after `code`, whose %a, %b, %c are the inputs; kinds: of those, missing ones are b32."""
    full = (*kinds, *("b32",) * (3 - len(kinds)))
    arrays = [*inputs, *(np.zeros(LANES, np.uint32) for _ in range(3 - len(inputs)))]
    names = {f"t{letter}": kind for letter, kind in zip("abcd", (*full, result), strict=True)}
    names |= {f"l{letter}": bits(kind) for letter, kind in zip("abcd", (*full, result), strict=True)}
    widths = {f"w{x}": DTYPE[kind].itemsize for x, kind in zip("abcd", (*full, result), strict=True)}
    text = KERNEL.format(code=code, **names, **widths)
    arena = memory.Arena(1 << 20)
    blocks = [arena.alloc(array.nbytes) for array in arrays]
    for block, array in zip(blocks, arrays, strict=True):
        arena.write(block.start, array.view(np.uint8))
    out = arena.alloc(LANES * DTYPE[result].itemsize)
    addresses = [block.start for block in (*blocks, out, out)]
    built = program.load(text, "k", "sm_100a")
    outcome = machine.launch(built, arena, machine.Shape((1, 1, 1), (LANES, 1, 1)), addresses)
    assert [finding.render() for finding in outcome.findings] == []
    return arena.read(out.start, out.nbytes).copy().view(DTYPE[result])


def integers(kind: str, seed: int) -> Array:
    """Random bits, many of them small numbers and limits of the type."""
    rng = np.random.default_rng(seed)
    dtype = DTYPE[kind]
    values = rng.integers(0, 256, LANES * dtype.itemsize, np.uint8).view(dtype)
    info = np.iinfo(dtype)
    special = [0, 1, 2, 3, int(info.max), int(info.min), int(info.max) - 1, int(info.min) + 1, int(info.max) // 2]
    values[: LANES // 2] = np.array([special[i] for i in rng.integers(0, len(special), LANES // 2)], dtype)
    small = slice(LANES // 2, 3 * LANES // 4)
    values[small] = (values[small].astype(np.int64) % 67).astype(dtype)
    return values


def wrap(value: int, kind: str) -> int:
    """An integer as its type keeps it."""
    size = 8 * DTYPE[kind].itemsize
    value &= (1 << size) - 1
    return value - (1 << size) if kind[0] == "s" and value >> (size - 1) else value


def raw(value: int, size: int) -> int:
    return value & ((1 << size) - 1)


def tdiv(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def low24(a: int, signed: bool) -> int:
    a &= 0xFFFFFF
    return a - (1 << 24) if signed and a >> 23 else a


def clamp(a: int, kind: str) -> int:
    info = np.iinfo(DTYPE[kind])
    return min(max(a, int(info.min)), int(info.max))


def shift_left(a: int, n: int, size: int) -> int:
    return raw(a << n, size) if n < size else 0


def shift_right(a: int, n: int, size: int) -> int:
    return a >> min(n, size) if a >= 0 or n < size else -1


def bfe(a: int, start: int, length: int, kind: str) -> int:
    """The pseudo-code of the PTX ISA."""
    size = 8 * DTYPE[kind].itemsize
    most = size - 1
    pos, count = start & 0xFF, length & 0xFF
    word = raw(a, size)
    sbit = 0 if kind[0] == "u" or count == 0 else (word >> min(pos + count - 1, most)) & 1
    total = 0
    for i in range(most + 1):
        bit = (word >> (pos + i)) & 1 if i < count and pos + i <= most else sbit
        total |= bit << i
    return wrap(total, kind)


def bfi(a: int, b: int, start: int, length: int, size: int) -> int:
    """The pseudo-code of the PTX ISA."""
    pos, count, total = start & 0xFF, length & 0xFF, b
    for i in range(count):
        if pos + i < size:
            total = total & ~(1 << (pos + i)) | ((a >> i) & 1) << (pos + i)
    return total


def prmt(a: int, b: int, c: int) -> int:
    octets = [(((b << 32) | a) >> (8 * i)) & 255 for i in range(8)]
    total = 0
    for i in range(4):
        selector = (c >> (4 * i)) & 15
        octet = octets[selector & 7]
        if selector & 8:
            octet = 255 if octet & 128 else 0
        total |= octet << (8 * i)
    return total


def lop3(a: int, b: int, c: int, table: int) -> int:
    return sum(((table >> (((a >> i) & 1) << 2 | ((b >> i) & 1) << 1 | ((c >> i) & 1))) & 1) << i for i in range(32))


def dp4a(a: int, b: int, c: int, a_signed: bool, b_signed: bool) -> int:
    def octet(word: int, i: int, signed: bool) -> int:
        value = (word >> (8 * i)) & 255
        return value - 256 if signed and value > 127 else value

    return c + sum(octet(a, i, a_signed) * octet(b, i, b_signed) for i in range(4))


Reference = Callable[..., int]
S32, U32, S64, U64, U16, S16 = "s32", "u32", "s64", "u64", "u16", "s16"

# code, types of a, b, c, type of d, what d is
INTEGER: list[tuple[str, tuple[str, ...], str, Reference]] = [
    *((f"add.{k} %d, %a, %b;", (k, k), k, lambda a, b: a + b) for k in (U16, S16, U32, S32, U64, S64)),
    *((f"sub.{k} %d, %a, %b;", (k, k), k, lambda a, b: a - b) for k in (U16, S32, U64)),
    ("add.sat.s32 %d, %a, %b;", (S32, S32), S32, lambda a, b: clamp(a + b, S32)),
    ("sub.sat.s32 %d, %a, %b;", (S32, S32), S32, lambda a, b: clamp(a - b, S32)),
    *((f"mul.lo.{k} %d, %a, %b;", (k, k), k, lambda a, b: a * b) for k in (U16, S32, U64, S64)),
    *((f"mul.hi.{k} %d, %a, %b;", (k, k), k, lambda a, b, n=int(k[1:]): a * b >> n) for k in (S16, U32, S32, U64, S64)),
    *(
        (f"mul.wide.{k} %d, %a, %b;", (k, k), f"{k[0]}{2 * int(k[1:])}", lambda a, b: a * b)
        for k in (U16, S16, U32, S32)
    ),
    *((f"mad.lo.{k} %d, %a, %b, %c;", (k, k, k), k, lambda a, b, c: a * b + c) for k in (U16, S32, U64)),
    ("mad.hi.u32 %d, %a, %b, %c;", (U32, U32, U32), U32, lambda a, b, c: (a * b >> 32) + c),
    ("mad.wide.s32 %d, %a, %b, %c;", (S32, S32, S64), S64, lambda a, b, c: a * b + c),
    ("mul24.lo.s32 %d, %a, %b;", (S32, S32), S32, lambda a, b: low24(a, True) * low24(b, True)),
    ("mul24.hi.u32 %d, %a, %b;", (U32, U32), U32, lambda a, b: low24(a, False) * low24(b, False) >> 16),
    ("mad24.lo.u32 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: low24(a, False) * low24(b, False) + c),
    *((f"div.{k} %d, %a, %b;", (k, k), k, lambda a, b: tdiv(a, b) if b else -1) for k in (U16, S32, U64, S64)),
    *((f"rem.{k} %d, %a, %b;", (k, k), k, lambda a, b: a - tdiv(a, b) * b if b else a) for k in (U32, S32, S64)),
    *((f"abs.{k} %d, %a;", (k,), k, abs) for k in (S16, S32, S64)),
    *((f"neg.{k} %d, %a;", (k,), k, lambda a: -a) for k in (S16, S32, S64)),
    *((f"min.{k} %d, %a, %b;", (k, k), k, min) for k in (U16, S32, U64)),
    *((f"max.{k} %d, %a, %b;", (k, k), k, max) for k in (S16, U32, S64)),
    ("sad.u32 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: abs(a - b) + c),
    ("sad.s32 %d, %a, %b, %c;", (S32,) * 3, S32, lambda a, b, c: abs(a - b) + c),
    ("and.b16 %d, %a, %b;", (U16, U16), U16, lambda a, b: a & b),
    ("or.b64 %d, %a, %b;", (U64, U64), U64, lambda a, b: a | b),
    ("xor.b32 %d, %a, %b;", (U32, U32), U32, lambda a, b: a ^ b),
    ("not.b32 %d, %a;", (U32,), U32, lambda a: ~a),
    ("cnot.b32 %d, %a;", (U32,), U32, lambda a: int(a == 0)),
    *(
        (f"lop3.b32 %d, %a, %b, %c, {t};", (U32,) * 3, U32, lambda a, b, c, t=t: lop3(a, b, c, t))
        for t in (0x00, 0xFF, 0x96, 0xE8, 0xCA, 0xC0, 0x3C, 0xFC, 0x80, 0xFE, 0xF8, 0xEA, 0x78, 0x6A, 0x1D)
    ),
    *(
        (f"shl.b{n} %d, %a, %b;", (f"u{n}", U32), f"u{n}", lambda a, b, n=n: shift_left(a, b, n)) for n in (16, 32, 64)
    ),
    *(
        (f"shr.{k} %d, %a, %b;", (k, U32), k, lambda a, b, k=k: shift_right(a, b, int(k[1:])))
        for k in (U16, S16, U32, S32, U64, S64)
    ),
    *((f"shr.s32 %d, %a, {n};", (S32,), S32, lambda a, n=n: a >> n) for n in (0, 7, 31, 32, 40)),
    *((f"shl.b32 %d, %a, {n};", (U32,), U32, lambda a, n=n: shift_left(a, n, 32)) for n in (0, 7, 31, 32, 40)),
    ("shf.l.wrap.b32 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: (((b << 32 | a) << (c & 31)) >> 32)),
    ("shf.r.clamp.b32 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("shf.l.clamp.b32 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: ((b << 32 | a) << min(c, 32)) >> 32),
    *(
        (f"bfe.{k} %d, %a, %b, %c;", (k, U32, U32), k, lambda a, b, c, k=k: bfe(a, b, c, k))
        for k in (U32, S32, U64, S64)
    ),
    *((f"bfe.{k} %d, %a, 5, 9;", (k,), k, lambda a, k=k: bfe(a, 5, 9, k)) for k in (U32, S32)),
    ("bfi.b32 %d, %a, %b, 7, 11;", (U32, U32), U32, lambda a, b: bfi(a, b, 7, 11, 32)),
    ("bfi.b32 %d, %a, 12345, %b, %c;", (U32, U32, U32), U32, lambda a, b, c: bfi(a, 12345, b, c, 32)),
    ("bfi.b64 %d, %a, %a, %b, %c;", (U64, U32, U32), U64, lambda a, b, c: bfi(a, a, b, c, 64)),
    *((f"clz.b{n} %d, %a;", (f"u{n}",), U32, lambda a, n=n: n - a.bit_length()) for n in (32, 64)),
    *((f"popc.b{n} %d, %a;", (f"u{n}",), U32, lambda a: bin(a).count("1")) for n in (32, 64)),
    *((f"brev.b{n} %d, %a;", (f"u{n}",), f"u{n}", lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2)) for n in (32, 64)),
    ("bfind.u32 %d, %a;", (U32,), U32, lambda a: a.bit_length() - 1),
    ("bfind.s64 %d, %a;", (S64,), U32, lambda a: (a if a >= 0 else ~a).bit_length() - 1),
    ("bfind.shiftamt.u32 %d, %a;", (U32,), U32, lambda a: 32 - a.bit_length() if a else -1),
    ("prmt.b32 %d, %a, %b, %c;", (U32,) * 3, U32, prmt),
    ("prmt.b32 %d, %a, %b, 0x5410;", (U32,) * 2, U32, lambda a, b: prmt(a, b, 0x5410)),
    ("prmt.b32.rc8 %d, %a, %b, %c;", (U32,) * 3, U32, lambda a, b, c: (a >> 8 * (c & 3) & 255) * 0x01010101),
    ("bmsk.clamp.b32 %d, %a, %b;", (U32, U32), U32, lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32)),
    ("szext.clamp.u32 %d, %a, %b;", (U32, U32), U32, lambda a, b: a & ((1 << min(b, 32)) - 1)),
    ("dp4a.s32.s32 %d, %a, %b, %c;", (U32, U32, S32), S32, lambda a, b, c: dp4a(a, b, c, True, True)),
    ("dp4a.u32.s32 %d, %a, %b, %c;", (U32, U32, S32), S32, lambda a, b, c: dp4a(a, b, c, False, True)),
    ("selp.b32 %d, %a, %b, %odd;", (U32, U32), U32, lambda a, b, lane: a if lane & 1 else b),
    ("slct.u32.s32 %d, %a, %b, %c;", (U32, U32, S32), U32, lambda a, b, c: a if c >= 0 else b),
    ("set.lt.u32.s32 %d, %a, %b;", (S32, S32), U32, lambda a, b: -1 if a < b else 0),
    ("set.ne.u32.u64 %d, %a, %b;", (U64, U64), U32, lambda a, b: -1 if a != b else 0),
    ("mov.b32 %d, {%a, %b};", (U16, U16), U32, lambda a, b: b << 16 | a),
    ("mov.b64 %d, {%a, %b};", (U32, U32), U64, lambda a, b: b << 32 | a),
    ("mov.b32 {_, %d}, %a;", (U32,), U16, lambda a: a >> 16),
    ("mov.b64 {%d, _}, %a;", (U64,), U32, lambda a: a),
    ("mov.b32 %d, %b; @%odd mov.b32 %d, %a;", (U32, U32), U32, lambda a, b, lane: a if lane & 1 else b),
    ("mov.b32 %d, %b; @!%odd add.s32 %d, %a, 1;", (U32, U32), U32, lambda a, b, lane: b if lane & 1 else a + 1),
    ("{ .reg .b32 %d; mov.b32 %d, %b; } mov.b32 %d, %a;", (U32, U32), U32, lambda a, b: a),
    ("{.reg .b32 t<3>; mov.b32 t1, 0X1f; add.u32 t2, t1, 010; xor.b32 %d, %a, t2;}", (U32,), U32, lambda a: a ^ 39),
    ("add.s32 %d, %a, -5;", (S32,), S32, lambda a: a - 5),
    ("{.reg .b32 lo, hi; mov.b64 {lo, hi}, %a; add.cc.u32 lo, lo, %b; addc.u32 hi, hi, 0; mov.b64 %d, {lo, hi};}",
     (U64, U32), U64, lambda a, b: a + b),
    ("{.reg .b32 lo, hi; mov.b64 {lo, hi}, %a; sub.cc.u32 lo, lo, %b; subc.u32 hi, hi, 0; mov.b64 %d, {lo, hi};}",
     (U64, U32), U64, lambda a, b: a - b),
    ("cvt.u8.u32 %d, %a;", (U32,), U32, lambda a: a & 255),
    ("cvt.s32.s8 %d, %a;", (U32,), S32, lambda a: wrap(a, "s8")),
    ("cvt.s64.s32 %d, %a;", (S32,), S64, lambda a: a),
    ("cvt.u64.u32 %d, %a;", (U32,), U64, lambda a: a),
    ("cvt.u16.u64 %d, %a;", (U64,), U16, lambda a: a),
    ("cvt.sat.u8.s32 %d, %a;", (S32,), U32, lambda a: clamp(a, "u8")),
    ("cvt.sat.s16.u32 %d, %a;", (U32,), S32, lambda a: clamp(a, S16)),
    ("cvt.pack.sat.s8.s32.b32 %d, %a, %b, %c;", (S32, S32, U32), U32,
     lambda a, b, c: raw(clamp(a, "s8"), 8) << 8 | raw(clamp(b, "s8"), 8) | raw(c << 16, 32)),
    ("vote: min.s32 %d, %a, 3;", (S32,), S32, lambda a: min(a, 3)),
]  # fmt: skip


@pytest.mark.parametrize("case", INTEGER, ids=lambda case: case[0])
def test_integers(case: tuple[str, tuple[str, ...], str, Reference]) -> None:
    code, kinds, result, reference = case
    inputs = [integers(kind, seed) for seed, kind in enumerate(kinds)]
    got = run(code, kinds, result, inputs)
    needs_lane = "lane" in getattr(getattr(reference, "__code__", None), "co_varnames", ())
    for i in range(LANES):
        values = [int(x[i]) for x in inputs]
        wanted = wrap(reference(*values, **({"lane": i} if needs_lane else {})), result)
        assert int(got[i]) == wanted, (code, i, values)


FLOAT_SPECIAL = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 1e-40, -3e-42, 3.4e38, 65504.0, 2.0**-24, 7.5]


def floats(kind: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    dtype = DTYPE[kind]
    values = rng.standard_normal(LANES).astype(np.float64)
    values *= 10.0 ** rng.integers(-6, 7, LANES)
    values[: LANES // 3] = rng.choice(FLOAT_SPECIAL, LANES // 3)
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def ftz(x: float) -> float:
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def f32(x: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float32(x))


def larger(a: float, b: float) -> float:
    """A NaN loses, -0 is less than +0."""
    return b if math.isnan(a) else a if math.isnan(b) else max(a, b, key=lambda x: (x, math.copysign(1.0, x)))


def compared(name: str, a: float, b: float) -> bool:
    unordered = math.isnan(a) or math.isnan(b)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    plain = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[name[:2]]
    return unordered or plain if name.endswith("u") else plain and not unordered


FLOATS: list[tuple[str, tuple[str, ...], str, Callable[..., float]]] = [
    ("add.f32 %d, %a, %b;", ("f32", "f32"), "f32", lambda a, b: f32(a + b)),
    ("sub.ftz.f32 %d, %a, %b;", ("f32", "f32"), "f32", lambda a, b: ftz(f32(ftz(a) - ftz(b)))),
    ("mul.rn.f32 %d, %a, %b;", ("f32", "f32"), "f32", lambda a, b: f32(a * b)),
    ("mul.f64 %d, %a, %b;", ("f64", "f64"), "f64", lambda a, b: a * b),
    ("div.rn.f32 %d, %a, 3f40400000;".replace("3f4", "0f4"), ("f32",), "f32", lambda a: f32(a / 3.0)),
    ("abs.f32 %d, %a;", ("f32",), "f32", abs),
    ("neg.f64 %d, %a;", ("f64",), "f64", lambda a: -a),
    ("max.f32 %d, %a, %b;", ("f32", "f32"), "f32", larger),
    ("max.NaN.f32 %d, %a, %b;", ("f32", "f32"), "f32",
     lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else max(a, b)),
    ("max.f32 %d, %a, %b, %c;", ("f32", "f32", "f32"), "f32", lambda a, b, c: larger(larger(a, b), c)),
    ("min.xorsign.abs.f32 %d, %a, 0fC0E00000;", ("f32",), "f32",
     lambda a: math.copysign(7.0 if math.isnan(a) else min(abs(a), 7.0), -math.copysign(1.0, a))),
    ("copysign.f32 %d, %a, %b;", ("f32", "f32"), "f32", lambda a, b: math.copysign(b, a)),
    ("sqrt.rn.f32 %d, %a;", ("f32",), "f32", lambda a: f32(math.sqrt(a)) if a >= 0 or a == 0 else math.nan),
    ("selp.f32 %d, %a, %b, %odd;", ("f32", "f32"), "f32", lambda a, b, lane: a if lane & 1 else b),
    ("slct.f32.f32 %d, %a, %b, %c;", ("f32", "f32", "f32"), "f32", lambda a, b, c: a if c >= 0 else b),
    ("cvt.f64.f32 %d, %a;", ("f32",), "f64", lambda a: a),
    ("cvt.rn.f32.f64 %d, %a;", ("f64",), "f32", f32),
    ("cvt.rn.f16.f32 %d, %a;", ("f32",), "f16", lambda a: float(np.float32(a).astype(np.float16))),
    ("cvt.f32.f16 %d, %a;", ("f16",), "f32", float),
    ("cvt.rni.f32.f32 %d, %a;", ("f32",), "f32", lambda a: float(np.rint(np.float32(a)))),
    ("add.f16 %d, %a, %b;", ("f16", "f16"), "f16", lambda a, b: float(np.float64(a + b).astype(np.float16))),
    ("fma.rn.f16 %d, %a, %b, %a;", ("f16", "f16"), "f16", lambda a, b: float(np.float64(a * b + a).astype(np.float16))),
    ("{.reg .pred q; setp.gtu.f32 q, %a, %b; selp.f32 %d, 1.0, 0.0, q;}", ("f32", "f32"), "f32",
     lambda a, b: float(compared("gtu", a, b))),
]  # fmt: skip


@pytest.mark.parametrize("case", FLOATS, ids=lambda case: case[0])
def test_floats(case: tuple[str, tuple[str, ...], str, Callable[..., float]]) -> None:
    code, kinds, result, reference = case
    inputs = [floats(kind, seed) for seed, kind in enumerate(kinds)]
    got = run(code, kinds, result, inputs)
    needs_lane = "lane" in getattr(getattr(reference, "__code__", None), "co_varnames", ())
    with np.errstate(all="ignore"):
        for i in range(LANES):
            values = [float(x[i]) for x in inputs]
            wanted = reference(*values, **({"lane": i} if needs_lane else {}))
            same = math.isnan(wanted) and math.isnan(got[i])
            assert same or struct.pack("<d", wanted) == struct.pack("<d", float(got[i])), (code, i, values, got[i])


@pytest.mark.parametrize(
    "name", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_comparisons_of_floats_with_a_second_predicate(name: str) -> None:
    a, b = floats("f32", 5), floats("f32", 6)
    b[::7] = a[::7]
    code = f"setp.{name}.and.f32 %p|%other, %a, %b, !%odd; selp.b32 %d, 1, 0, %p; @%other add.u32 %d, %d, 2;"
    got = run(code, ("f32", "f32"), "u32", [a, b])
    for i in range(LANES):
        holds = compared(name, float(a[i]), float(b[i]))
        wanted = 0 if i & 1 else 1 if holds else 2
        assert got[i] == wanted, (name, a[i], b[i])


def test_a_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(LANES).astype(np.float32) for _ in range(2))
    c = (-(a.astype(np.float64) * b)).astype(np.float32)
    got = run("fma.rn.f32 %d, %a, %b, %c;", ("f32", "f32", "f32"), "f32", [a, b, c])
    assert np.array_equal(got, (a.astype(np.float64) * b + c).astype(np.float32)) and got.any()


def test_packed_halves_and_pairs_of_floats() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(2 * LANES).astype(np.float16) for _ in range(2))
    got = run("fma.rn.f16x2 %d, %a, %b, %a;", ("b32", "b32"), "b32", [x.view(np.uint32), y.view(np.uint32)])
    exact = x.astype(np.float64) * y + x
    assert np.array_equal(got.view(np.float16), exact.astype(np.float16))
    u, v = (rng.standard_normal(2 * LANES).astype(np.float32) for _ in range(2))
    pair = run("add.rn.f32x2 %d, %a, %b;", ("b64", "b64"), "b64", [u.view(np.uint64), v.view(np.uint64)])
    assert np.array_equal(pair.view(np.float32), u + v)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("frobnicate.b32 %d, %a;", "does not know the instruction frobnicate.b32"),
        ("add.s32 %d, %a;", "3 operands are needed, 2 given"),
        ("add.s32 %d, %a, %zz;", "register %zz is not declared"),
        ("add.s64 %d, %a, %b;", ".s64 is wanted"),
        ("cvt.u32.f32 %d, %a;", "rounding"),
        ("setp.lo.s32 %p, %a, %b;", "unsigned"),
        ("bra NOWHERE;", "no label"),
        ("add.s32 5, %a, %b;", "no register that can be written"),
    ],
)
def test_what_is_no_instruction_is_an_error_at_its_line(code: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        run(code, ("b32", "b32"), "b32", [])
    assert "line 15: " in str(caught.value)


# What each instruction says of special values.

SPECIAL32 = np.array(
    [0.0, -0.0, 1.5, -1.5, 1e-40, -1e-40, np.inf, -np.inf, np.nan, 1e30, -1e30, 300.7, -5.2], np.float32
)


def repeated(values: Array) -> Array:
    return np.resize(values, LANES)


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ("finite", np.isfinite),
        ("infinite", np.isinf),
        ("number", lambda x: ~np.isnan(x)),
        ("notanumber", np.isnan),
        ("normal", lambda x: np.isfinite(x) & ((np.abs(x) >= 2.0**-126) | (x == 0))),  # zeros are normal numbers
        ("subnormal", lambda x: (np.abs(x) < 2.0**-126) & (x != 0)),
    ],
)
def test_kinds_of_numbers(what: str, holds: Callable[[Array], Array]) -> None:
    x = repeated(SPECIAL32)
    got = run(f"testp.{what}.f32 %p, %a; selp.u32 %d, 1, 0, %p;", ("f32",), "u32", [x])
    assert np.array_equal(got.astype(bool), holds(x))


@pytest.mark.parametrize("target", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("source", ["f32", "f64", "f16"])
def test_floats_beyond_an_integer_are_clamped_and_nan_has_its_value(source: str, target: str) -> None:
    """NaN gives 0; with a 64-bit type on either side the bit of the sign alone. From "cvt" in the PTX ISA document."""
    dtype = {"f32": np.float32, "f64": np.float64, "f16": np.float16}[source]
    with np.errstate(over="ignore"):
        x = repeated(SPECIAL32.astype(dtype))
    register = {"u8": "u32", "s8": "s32"}.get(target, target)
    declared = "b16" if source == "f16" else source
    got = run(f"cvt.rzi.{target}.{source} %d, %a;", (declared,), register, [x.view(f"u{x.itemsize}")])
    info = np.iinfo(np.dtype(f"{'i' if target[0] == 's' else 'u'}{int(target[1:]) // 8}"))
    wide = source == "f64" or target[1:] == "64"
    for value, result in zip(x.tolist(), got.tolist(), strict=True):
        if math.isnan(value):
            bit = 1 << (int(target[1:]) - 1)
            wanted = (-bit if target[0] == "s" else bit) if wide else 0
        else:
            wanted = info.max if value == math.inf else info.min if value == -math.inf else math.trunc(value)
            wanted = min(max(int(wanted), int(info.min)), int(info.max))
        assert result == wanted, (value, result, wanted)


def halves_of(kind: str) -> Array:
    """Bits of halves: zeros, subnormals, ordinary numbers, infinities, NaN, of both signs."""
    one, infinity = (0x3C00, 0x7C00) if kind == "f16" else (0x3F80, 0x7F80)
    bits = np.array([0, 1, 0x40, one, one + 3, one + 64, infinity - 1, infinity, infinity + 1], np.uint16)
    return np.concatenate([bits, bits | 0x8000])


def half_value(bits: int, kind: str) -> float:
    if kind == "f16":
        return float(np.uint16(bits).view(np.float16))
    return float(np.uint32(bits << 16).view(np.float32))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("modifiers", ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs", ".ftz", ".ftz.xorsign.abs"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_and_max_of_halves(name: str, modifiers: str, kind: str) -> None:
    if "ftz" in modifiers and kind == "bf16":
        return  # there is none
    values = halves_of(kind)
    a, b = repeated(np.repeat(values, len(values))), repeated(np.tile(values, len(values)))
    got = run(f"{name}{modifiers}.{kind} %d, %a, %b;", ("b16", "b16"), "b16", [a, b])
    exponent = 0x7C00 if kind == "f16" else 0x7F80
    for x, y, result in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        if "ftz" in modifiers:
            x, y = (bits if bits & exponent else bits & 0x8000 for bits in (x, y))
        sign = (x ^ y) & 0x8000
        if "abs" in modifiers:
            x, y = x & 0x7FFF, y & 0x7FFF
        nans = [math.isnan(half_value(bits, kind)) for bits in (x, y)]
        if all(nans) or ("NaN" in modifiers and any(nans)):
            assert math.isnan(half_value(result, kind))
            continue
        order = [
            (half_value(bits, kind), not bits & 0x8000, bits) for bits, nan in zip((x, y), nans, strict=True) if not nan
        ]
        wanted = (min if name == "min" else max)(order)[2]
        if "xorsign" in modifiers:
            wanted = (wanted & 0x7FFF) | sign
        assert result == wanted, (hex(x), hex(y), hex(result), hex(wanted))


@pytest.mark.parametrize(("name", "after"), [("abs", lambda x: x & 0x7FFF), ("neg", lambda x: x ^ 0x8000)])
def test_signs_of_halves_without_subnormals(name: str, after: Callable[[int], int]) -> None:
    a = repeated(halves_of("f16"))
    got = run(f"{name}.ftz.f16 %d, %a;", ("b16",), "b16", [a])
    flushed = [x if x & 0x7C00 else x & 0x8000 for x in a.tolist()]
    number = [not math.isnan(half_value(x, "f16")) for x in flushed]
    wanted = [after(x) for x in flushed]
    assert all(g == w for g, w, counts in zip(got.tolist(), wanted, number, strict=True) if counts)


def test_comparison_of_halves_without_subnormals() -> None:
    a = repeated(np.array([1, 0x8001, 0, 0x3C00], np.uint16))
    zero = np.zeros(LANES, np.uint16)
    for ftz, equal in (("", [0, 0, 1, 0]), (".ftz", [1, 1, 1, 0])):
        code = f"setp.eq{ftz}.f16 %p, %a, %b; selp.u32 %d, 1, 0, %p;"
        assert run(code, ("b16", "b16"), "u32", [a, zero])[:4].tolist() == equal


def test_saturating_multiply_and_add_of_upper_halves() -> None:
    a, b, c = (integers("s32", seed) for seed in (1, 2, 3))
    full = [(int(x) * int(y) >> 32) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    got = run("mad.hi.sat.s32 %d, %a, %b, %c;", ("s32",) * 3, "s32", [a, b, c])
    assert got.tolist() == [min(max(value, -(2**31)), 2**31 - 1) for value in full]
    assert max(full) > 2**31 - 1 or min(full) < -(2**31)
