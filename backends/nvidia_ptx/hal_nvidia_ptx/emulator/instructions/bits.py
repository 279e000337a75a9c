"""Logic, shifts, bit fields, and bytes put in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.integer import Parts, binary, last
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, plain, predicated, simple
from hal_nvidia_ptx.emulator.lanes import Array
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, Imm, Instruction

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
    value, result = program.source(ins, 1, ins.parts[-1]), program.dest(ins, 0, ins.parts[-1])
    if kind != ins.parts[-1]:
        value, result = program.source(ins, 1, DTYPE[kind]), program.dest(ins, 0, DTYPE[kind])
    operand = program.operand(ins, 2)
    function: Callable[..., Any] = np.left_shift if left else np.right_shift
    if isinstance(operand, Imm):
        program.source(ins, operand, "u32")
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
