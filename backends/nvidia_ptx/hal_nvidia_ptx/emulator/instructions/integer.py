"""Integer arithmetic, logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator import half
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, plain, predicated, several, simple
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, Imm, Instruction

Parts = tuple[str, ...]
INTEGERS = frozenset(("u16", "s16", "u32", "s32", "u64", "s64"))
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def binary(function: Callable[..., Any], kind: str) -> Simple:
    return Simple(function, kind, (kind, kind))


def last(parts: Parts, allowed: frozenset[str] = INTEGERS) -> str:
    """The instruction's type, which is its last part. Raises ValueError for another."""
    if parts[-1] not in allowed:
        raise ValueError(f"type .{parts[-1]}")
    return parts[-1]


def multiply(parts: Parts) -> Simple:
    """mul.lo .hi .wide"""
    kind = last(parts)
    if "wide" in parts:
        return Simple(_wide(WIDER[kind]), WIDER[kind], (kind, kind))
    if "hi" not in parts:
        return binary(np.multiply, kind)
    return binary(lambda a, b, out: np.copyto(out, high(a, b, kind)), kind)


def _wide(kind: str) -> Callable[..., Any]:
    dtype = DTYPE[kind]
    return lambda a, b, out: np.multiply(a, b, out, dtype=dtype)


def high(a: Array, b: Array, kind: str) -> Array:
    """The upper half of the products."""
    if kind not in WIDER:
        return half.multiply_high(*np.broadcast_arrays(a, b))
    wide = np.multiply(a, b, dtype=DTYPE[WIDER[kind]])
    shifted: Array = (wide >> wide.dtype.type(8 * DTYPE[kind].itemsize)).astype(DTYPE[kind])
    return shifted


def multiply_add(parts: Parts) -> Simple:
    """mad.lo .hi .wide, and mad.hi.sat.s32"""
    kind = last(parts)
    if "wide" in parts:
        dtype = DTYPE[WIDER[kind]]

        def wide(a: Array, b: Array, c: Array, out: Array) -> None:
            np.add(np.multiply(a, b, dtype=dtype), c, out)

        return Simple(wide, WIDER[kind], (kind, kind, WIDER[kind]))
    if "hi" in parts:
        return Simple(lambda a, b, c, out: np.add(high(a, b, kind), c, out), kind, (kind,) * 3)
    return Simple(lambda a, b, c, out: np.add(a * b, c, out), kind, (kind,) * 3)


def _24(function: Callable[[Array, Array], Array], signed: bool) -> Callable[[Array, Array], Array]:
    def run(a: Array, b: Array) -> Array:
        wide = np.int64 if signed else np.uint64
        shift = wide(40)
        return function((a.astype(wide) << shift) >> shift, (b.astype(wide) << shift) >> shift)

    return run


@simple("mul24")
def _mul24(parts: Parts) -> Simple:
    kind, shift = last(parts), 16 if "hi" in parts else 0
    product = _24(lambda a, b: (a * b) >> a.dtype.type(shift), kind[0] == "s")
    return binary(lambda a, b, out: np.copyto(out, product(a, b), casting="unsafe"), kind)


@simple("mad24")
def _mad24(parts: Parts) -> Simple:
    kind, shift = last(parts), 16 if "hi" in parts else 0
    product = _24(lambda a, b: (a * b) >> a.dtype.type(shift), kind[0] == "s")
    return Simple(lambda a, b, c, out: np.copyto(out, product(a, b) + c, casting="unsafe"), kind, (kind,) * 3)


def saturated(function: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    """add.sat.s32 and sub.sat.s32"""
    info = np.iinfo(np.int32)
    return lambda a, b, out: np.copyto(
        out, np.clip(function(a.astype(np.int64), b.astype(np.int64)), info.min, info.max), casting="unsafe"
    )


@simple("div")
def _div(parts: Parts) -> Simple:
    from hal_nvidia_ptx.emulator.instructions.floating import divide

    if parts[-1] not in INTEGERS:
        return divide(parts)
    return binary(lambda a, b, out: np.copyto(out, quotient(a, b)), parts[-1])


def quotient(a: Array, b: Array) -> Array:
    """Towards zero. What hardware gives for a division by zero is not specified; here all bits are ones."""
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    result: Array = a // safe
    if a.dtype.kind == "i":
        result = result + ((result < 0) & (result * safe != a)).astype(a.dtype)
    ones: Array = np.where(zero, ~b.dtype.type(0), result)
    return ones


@simple("rem")
def _rem(parts: Parts) -> Simple:
    kind = last(parts)

    def rem(a: Array, b: Array, out: Array) -> None:
        zero = b == 0
        safe = np.where(zero, b.dtype.type(1), b)
        np.copyto(out, np.where(zero, a, np.fmod(a, safe)))

    return binary(rem, kind)


@simple("sad")
def _sad(parts: Parts) -> Simple:
    kind = last(parts)
    return Simple(lambda a, b, c, out: np.add(np.maximum(a, b) - np.minimum(a, b), c, out), kind, (kind,) * 3)


LOGIC = frozenset(("pred", "b16", "b32", "b64"))


@simple("and")
def _and(parts: Parts) -> Simple:
    return binary(np.bitwise_and, last(parts, LOGIC))


@simple("or")
def _or(parts: Parts) -> Simple:
    return binary(np.bitwise_or, last(parts, LOGIC))


@simple("xor")
def _xor(parts: Parts) -> Simple:
    return binary(np.bitwise_xor, last(parts, LOGIC))


@simple("not")
def _not(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)
    return Simple(np.logical_not if kind == "pred" else np.invert, kind, (kind,))


@simple("cnot")
def _cnot(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)
    return Simple(lambda a, out: np.equal(a, 0, out, casting="unsafe"), kind, (kind,))


@instruction("lop3", guarded=True)
def _lop3(ins: Instruction, program: Program) -> Op:
    program.count(ins, 5)
    table = program.constant(ins, 4)
    slots = [program.source(ins, i, "b32") for i in (1, 2, 3)]
    function, used = _LOP3.get(table & 255) or (_lookup(table & 255), (0, 1, 2))
    chosen = [slots[i] for i in used]
    result = program.dest(ins, 0, "b32")
    if ins.guard is None:
        return plain(function, chosen, result)
    return predicated(function, chosen, [result], program.source(ins, ins.guard, "pred"), ins.guard_not)


def _lookup(table: int) -> Callable[..., Any]:
    """Any function of three bits: the OR of the minterms that the table has."""

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        total = np.zeros(out.shape, out.dtype)
        for row in range(8):
            if table >> row & 1:
                total |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        np.copyto(out, total)

    return run


_LOP3: dict[int, tuple[Callable[..., Any], tuple[int, ...]]] = {
    0xC0: (np.bitwise_and, (0, 1)),
    0xFC: (np.bitwise_or, (0, 1)),
    0x3C: (np.bitwise_xor, (0, 1)),
    0x80: (lambda a, b, c, out: np.bitwise_and(a & b, c, out), (0, 1, 2)),
    0xFE: (lambda a, b, c, out: np.bitwise_or(a | b, c, out), (0, 1, 2)),
    0x96: (lambda a, b, c, out: np.bitwise_xor(a ^ b, c, out), (0, 1, 2)),
    0xF8: (lambda a, b, c, out: np.bitwise_or(a, b & c, out), (0, 1, 2)),
    0xEA: (lambda a, b, c, out: np.bitwise_or(a & b, c, out), (0, 1, 2)),
    0x78: (lambda a, b, c, out: np.bitwise_xor(a, b & c, out), (0, 1, 2)),
    0x6A: (lambda a, b, c, out: np.bitwise_xor(a & b, c, out), (0, 1, 2)),
    0xCA: (lambda a, b, c, out: np.bitwise_or(a & b, ~a & c, out), (0, 1, 2)),
}


@instruction("shl", "shr", guarded=True)
def _shift(ins: Instruction, program: Program) -> Op:
    """Amounts beyond the width give what shifting bit by bit would."""
    program.count(ins, 3)
    left, kind = ins.parts[0] == "shl", ins.parts[-1]
    bits = 8 * DTYPE[kind].itemsize
    if not left and kind[0] == "b":
        kind = f"u{bits}"
    value, result = program.source(ins, 1, kind), program.dest(ins, 0, kind)
    operand = program.operand(ins, 2)
    function: Callable[..., Any] = np.left_shift if left else np.right_shift
    if isinstance(operand, Imm):
        amount = int(operand.value) & 0xFFFFFFFF
        sources = [value, program.source(ins, Imm(min(amount, bits - 1)), kind)]
        if amount >= bits and (left or kind[0] != "s"):
            sources = [program.source(ins, Imm(0), kind), program.source(ins, Imm(0), kind)]
    else:
        sources = [value, program.source(ins, operand, "u32")]
        function = _clamped(left, kind, bits)
    if ins.guard is None:
        return plain(function, sources, result)
    return predicated(function, sources, [result], program.source(ins, ins.guard, "pred"), ins.guard_not)


def _clamped(left: bool, kind: str, bits: int) -> Callable[..., Any]:
    most = np.uint32(bits - 1)
    dtype = DTYPE[kind]
    shift = np.left_shift if left else np.right_shift

    def run(a: Array, amount: Array, out: Array) -> None:
        beyond = amount > most
        shifted = shift(a, np.minimum(amount, most).astype(dtype))
        np.copyto(out, shifted)
        if (left or kind[0] != "s") and beyond.any():
            np.copyto(out, dtype.type(0), where=beyond)

    return run


@simple("shf")
def _shf(parts: Parts) -> Simple:
    left, wrap = "l" in parts, "wrap" in parts

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        amount = (c & np.uint32(31) if wrap else np.minimum(c, np.uint32(32))).astype(np.uint64)
        moved = (both << amount) >> np.uint64(32) if left else both >> amount
        np.copyto(out, moved & np.uint64(0xFFFFFFFF), casting="unsafe")

    return Simple(run, "b32", ("b32", "b32", "u32"))


@simple("bfe")
def _bfe(parts: Parts) -> Simple:
    kind = last(parts)
    bits = 8 * DTYPE[kind].itemsize

    def run(a: Array, start: Array, length: Array, out: Array) -> None:
        position, count = (start & np.uint32(255)).astype(np.int64), (length & np.uint32(255)).astype(np.int64)
        end = np.minimum(position + count, bits)  # behind the field's last bit
        width = np.clip(end - position, 0, bits)
        unsigned = np.dtype(f"u{a.dtype.itemsize}")
        raw = a.view(unsigned)
        one = unsigned.type(1)
        mask = np.where(width >= bits, ~unsigned.type(0), (one << np.minimum(width, bits - 1).astype(unsigned)) - one)
        field = (raw >> np.minimum(position, bits - 1).astype(unsigned)) & mask
        field = np.where(position >= bits, unsigned.type(0), field)
        if kind[0] == "s":
            sign_at = np.minimum(position + count - 1, bits - 1)
            negative = ((raw >> np.maximum(sign_at, 0).astype(unsigned)) & one).astype(np.bool_) & (count > 0)
            field = np.where(negative, field | ~mask, field)
        np.copyto(out, np.where(count == 0, unsigned.type(0), field).view(a.dtype))

    return Simple(run, kind, (kind, "u32", "u32"))


@simple("bfi")
def _bfi(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)
    bits = 8 * DTYPE[kind].itemsize

    def run(a: Array, b: Array, start: Array, length: Array, out: Array) -> None:
        dtype = DTYPE[kind].type
        position, count = (start & np.uint32(255)).astype(np.int64), (length & np.uint32(255)).astype(np.int64)
        width = np.clip(np.minimum(count, bits - position), 0, bits)
        one = dtype(1)
        ones = np.where(width >= bits, ~dtype(0), (one << np.minimum(width, bits - 1).astype(dtype)) - one)
        at = np.minimum(position, bits - 1).astype(dtype)
        mask = np.where(width > 0, ones << at, dtype(0))
        np.copyto(out, (b & ~mask) | ((a << at) & mask))

    return Simple(run, kind, (kind, kind, "u32", "u32"))


@simple("bmsk")
def _bmsk(parts: Parts) -> Simple:
    wrap = "wrap" in parts

    def run(start: Array, count: Array, out: Array) -> None:
        a, b = start.astype(np.uint64), count.astype(np.uint64)
        a, b = (a & np.uint64(31), b & np.uint64(31)) if wrap else (np.minimum(a, 32), np.minimum(b, 32))
        np.copyto(out, (((np.uint64(1) << b) - np.uint64(1)) << a) & np.uint64(0xFFFFFFFF), casting="unsafe")

    return Simple(run, "b32", ("u32", "u32"))


@simple("szext")
def _szext(parts: Parts) -> Simple:
    kind, wrap = last(parts), "wrap" in parts

    def run(a: Array, n: Array, out: Array) -> None:
        width = (n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))).astype(np.int64)
        shift = 64 - width
        wide = a.view(np.uint32).astype(np.uint64).view(np.int64 if kind == "s32" else np.uint64)
        moved = (wide << np.minimum(shift, 63).astype(wide.dtype)) >> np.minimum(shift, 63).astype(wide.dtype)
        np.copyto(out, np.where(width == 0, wide.dtype.type(0), moved), casting="unsafe")

    return Simple(run, kind, (kind, "u32"))


def _log2_floor(a: Array) -> Array:
    """int64 index of the highest set bit of unsigned integers, -1 for 0."""
    wide = a.astype(np.uint64)
    result = np.full(a.shape, -1, np.int64)
    high_part = (wide >> np.uint64(32)).astype(np.float64)
    low_part = (wide & np.uint64(0xFFFFFFFF)).astype(np.float64)
    np.copyto(result, np.frexp(low_part)[1] - 1, where=low_part > 0)
    np.copyto(result, np.frexp(high_part)[1] + 31, where=high_part > 0)
    return result


@simple("clz")
def _clz(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)
    bits = 8 * DTYPE[kind].itemsize
    return Simple(lambda a, out: np.copyto(out, bits - 1 - _log2_floor(a), casting="unsafe"), "u32", (kind,))


@simple("bfind")
def _bfind(parts: Parts) -> Simple:
    kind, shift = last(parts), "shiftamt" in parts
    bits = 8 * DTYPE[kind].itemsize

    def run(a: Array, out: Array) -> None:
        raw = np.where(a < 0, ~a, a) if kind[0] == "s" else a
        found = _log2_floor(raw.view(f"u{raw.dtype.itemsize}"))
        np.copyto(out, np.where(found < 0, -1, bits - 1 - found) if shift else found, casting="unsafe")

    return Simple(run, "u32", (kind,))


_POPCOUNT = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)
_REVERSED = np.array([int(f"{i:08b}"[::-1], 2) for i in range(256)], np.uint8)


@simple("popc")
def _popc(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)

    def run(a: Array, out: Array) -> None:
        np.copyto(out, _POPCOUNT[np.ascontiguousarray(a).view(np.uint16).reshape(len(a), -1)].sum(1), casting="unsafe")

    return Simple(run, "u32", (kind,))


@simple("brev")
def _brev(parts: Parts) -> Simple:
    kind = last(parts, LOGIC)

    def run(a: Array, out: Array) -> None:
        octets = np.ascontiguousarray(a).view(np.uint8).reshape(len(a), -1)[:, ::-1]
        np.copyto(out, np.ascontiguousarray(_REVERSED[octets]).view(a.dtype).reshape(-1))

    return Simple(run, kind, (kind,))


@simple("prmt")
def _prmt(parts: Parts) -> Simple:
    mode = parts[-1] if parts[-1] in _PRMT else ""
    return Simple(_permute(mode), "b32", ("b32", "b32", "b32"))


_PRMT: dict[str, tuple[tuple[int, ...], ...]] = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


def _permute(mode: str) -> Callable[..., Any]:
    """Bytes of b:a by selectors; the tables list the most significant selector first."""
    table = np.array(_PRMT[mode], np.uint64)[:, ::-1] if mode else None

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        total = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint64)
        for position in range(4):
            if table is None:
                selector = (c.astype(np.uint64) >> np.uint64(4 * position)) & np.uint64(15)
            else:
                selector = table[c & np.uint32(3), position]
            octet = (both >> ((selector & np.uint64(7)) << np.uint64(3))) & np.uint64(255)
            if table is None:
                sign = np.where(octet & np.uint64(128), np.uint64(255), np.uint64(0))
                octet = np.where(selector & np.uint64(8), sign, octet)
            total |= octet << np.uint64(8 * position)
        np.copyto(out, total, casting="unsafe")

    return run


@simple("dp4a")
def _dp4a(parts: Parts) -> Simple:
    a_kind, b_kind = parts[1], parts[2]
    signed = "s32" if "s32" in (a_kind, b_kind) else "u32"

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        np.copyto(out, half.dot4(a, b, c, a_kind == "s32", b_kind == "s32").view(out.dtype))

    return Simple(run, signed, ("b32", "b32", signed))


@simple("dp2a")
def _dp2a(parts: Parts) -> Simple:
    high_half, a_kind, b_kind = parts[1] == "hi", parts[2], parts[3]
    signed = "s32" if "s32" in (a_kind, b_kind) else "u32"

    def run(a: Array, b: Array, c: Array, out: Array) -> None:
        np.copyto(out, half.dot2(a, b, c, a_kind == "s32", b_kind == "s32", high_half).view(out.dtype))

    return Simple(run, signed, ("b32", "b32", signed))


# Extended precision: the carry is a bit per lane beside the registers.


def _carry(lanes: Lanes) -> Array:
    state = lanes.run.state
    if "carry" not in state:
        state["carry"] = np.zeros(lanes.run.total, np.bool_)
    carry: Array = state["carry"]
    return carry


@instruction("add.cc", "addc", "sub.cc", "subc", "mad.lo.cc", "mad.hi.cc", "madc")
def _extended(ins: Instruction, program: Program) -> Op:
    name, kind = ins.parts[0], ins.parts[-1]
    if kind not in ("u32", "s32", "u64", "s64"):
        raise ValueError(f"type .{kind}")
    kind = "u" + kind[1:]
    reads, writes = name.endswith("c"), "cc" in ins.parts
    sources = [program.source(ins, 1 + i, kind) for i in range(3 if name.startswith("mad") else 2)]
    result = program.dest(ins, 0, kind)
    minus = name.startswith("sub")
    upper = "hi" in ins.parts

    def run(run: object, lanes: Lanes) -> None:
        a, b, *rest = (lanes.read(slot) for slot in sources)
        if rest:
            a, b = high(a, b, kind) if upper else a * b, rest[0]
        carry = lanes.of(_carry(lanes)).astype(a.dtype) if reads else a.dtype.type(0)
        partial = a - b if minus else a + b
        total = partial - carry if minus else partial + carry
        if writes:
            over = (a < b) | (partial < carry) if minus else (partial < a) | (total < partial)
            _carry(lanes)[lanes.index] = over
        lanes.put(result, total)

    return run


@instruction("testp", "isspacep", guarded=False)
def _test(ins: Instruction, program: Program) -> Op:
    if ins.parts[0] == "isspacep":
        return _isspacep(ins, program)
    kind, what = ins.parts[-1], ins.parts[1]
    source, result = program.source(ins, 1, kind), program.dest(ins, 0, "pred")
    tiny = np.finfo(DTYPE[kind]).smallest_normal
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny),
        "subnormal": lambda a: np.abs(a) < tiny,
    }
    test = tests[what]
    return several(lambda a, out: np.copyto(out, test(a)), [source], [result])


def _isspacep(ins: Instruction, program: Program) -> Op:
    space = ins.parts[1]
    source, result = program.source(ins, 1, "u64"), program.dest(ins, 0, "pred")
    windows: dict[str, Callable[[Array], Array]] = {
        "global": lambda a: a >> np.uint64(32) > 2,
        "shared": lambda a: a >> np.uint64(32) == 1,
        "shared::cta": lambda a: a >> np.uint64(24) == 1 << 8,
        "shared::cluster": lambda a: a >> np.uint64(32) == 1,
        "local": lambda a: a >> np.uint64(32) == 2,
        "const": lambda a: np.zeros(a.shape, np.bool_),
        "param": lambda a: np.zeros(a.shape, np.bool_),
    }
    inside = windows[space]
    return several(lambda a, out: np.copyto(out, inside(a)), [source], [result])
