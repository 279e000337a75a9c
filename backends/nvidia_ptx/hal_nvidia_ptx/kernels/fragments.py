"""What tensor-core instructions want in registers, and how it gets there from shared memory.

Everything is done in units of 16 rows of a (or 16 columns of b) by one step of k, four registers a lane: register i has
half h of the 16 rows and half q of the step, of group g = lane / 4 and thread t = lane % 4 (PTX ISA, "Matrix Fragments
for mma"). A step is 32 bytes of k, 64 for doubles. What an instruction leaves out, several instructions cover.

A tile lies in shared memory as lines of `pitch` bytes along the operand's contiguous axis, in 16-byte chunks. Chunk c
of line l is at chunk c ^ swizzle(l), so that the eight lanes which are served at once meet different banks. All of it
is linear over the bits of the lane: an address is the sum of a part of the lane, which is computed once, and of
constants, of which only the three lowest bits of the chunk have to go through the exclusive or.
"""

from __future__ import annotations

from dataclasses import dataclass

from hal_nvidia_ptx.ptx import Entry, Register

CHUNK = 16  # bytes that lie together in shared memory
LINE_OF_BANKS = 128  # bytes that shared memory serves at once

Bits = tuple[tuple[int, int], ...]  # fields of an integer: (mask, left shift), negative shifts to the right


@dataclass(frozen=True)
class Instruction:
    """One mma.sync: which of a unit's registers it takes."""

    opcode: str
    sums: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]


def _whole(shape: str, types: str) -> tuple[Instruction, ...]:
    return (Instruction(_opcode(shape, types), (0, 1, 2, 3), (0, 1, 2, 3), (0, 1)),)


def _quarters(shape: str, types: str) -> tuple[Instruction, ...]:
    opcode = _opcode(shape, types)
    return tuple(Instruction(opcode, (2 * h, 2 * h + 1), (2 * q + h,), (q,)) for q in (0, 1) for h in (0, 1))


def _opcode(shape: str, types: str) -> str:
    return f"mma.sync.aligned.{shape}.row.col.{types}"


HALVES = "f32.f16.f16.f32"
INTEGERS = "s32.s8.s8.s32"
DOUBLES = "f64.f64.f64.f64"
# By dtype, for the oldest target first: a 16 x 8 tile's sums over one step of k.
INSTRUCTIONS: dict[str, dict[int, tuple[Instruction, ...]]] = {
    "float16": {
        75: tuple(Instruction(_opcode("m16n8k8", HALVES), (0, 1, 2, 3), (2 * q, 2 * q + 1), (q,)) for q in (0, 1)),
        80: _whole("m16n8k16", HALVES),
    },
    "bfloat16": {80: _whole("m16n8k16", "f32.bf16.bf16.f32")},
    "float32": {80: _whole("m16n8k8", "f32.tf32.tf32.f32")},
    "int8": {75: _quarters("m8n8k16", INTEGERS), 80: _whole("m16n8k32", INTEGERS)},
    "float64": {80: _quarters("m8n8k4", DOUBLES), 90: _whole("m16n8k8", DOUBLES)},
}


def instructions(dtype: str, sm: int) -> tuple[Instruction, ...]:
    """The newest that `sm` has; empty where it has none for the dtype."""
    known = INSTRUCTIONS[dtype]
    return next((known[least] for least in sorted(known, reverse=True) if least <= sm), ())


def step_bytes(dtype: str) -> int:
    """Bytes along k of one step."""
    return 64 if dtype == "float64" else 32


@dataclass(frozen=True)
class Shared:
    """An operand's tile in shared memory: `lines` of `pitch` bytes; `swizzle` gives what is xored to the chunk."""

    lines: int
    pitch: int
    swizzle: Bits

    @property
    def nbytes(self) -> int:
        """Of the whole tile."""
        return self.lines * self.pitch

    def __str__(self) -> str:
        """The layout in words."""
        bits = " ^ ".join(
            f"(l & {mask}){'' if not shift else f' << {shift}' if shift > 0 else f' >> {-shift}'}"
            for mask, shift in self.swizzle
        )
        return f"{self.lines} lines of {self.pitch} bytes" + (f", chunk c of line l at c ^ {bits}" if bits else "")

    def swizzled(self, line: int) -> int:
        """What is xored to the chunks of a line."""
        return sum(_shifted(line & mask, shift) for mask, shift in self.swizzle)


@dataclass(frozen=True)
class Way:
    """How a unit is read: by ldmatrix (one instruction) or register by register; the lane's part of the address, and
    what unit, step and, register by register, the halves h and q add: (lines, chunks) each."""

    name: str
    line: Bits
    chunk: Bits
    byte: Bits = ()
    unit: tuple[int, int] = (0, 0)
    step: tuple[int, int] = (0, 0)
    h: tuple[int, int] = (0, 0)
    q: tuple[int, int] = (0, 0)


def way(role: str, dtype: str, along_k: bool) -> Way:
    """The way for an operand whose contiguous axis is k, or is not."""
    a = role == "a"
    if along_k and dtype != "float64":
        # Matrix lane / 8 of ldmatrix is (h, q): for a the lower bit is h, for b q.
        line: Bits = ((15, 0),) if a else ((7, 0), (16, -1))
        return Way("ldmatrix", line, ((16, -4),) if a else ((8, -3),), unit=(16, 0), step=(0, 2))
    if along_k:
        return Way("ld", ((28, -2),), ((2, -1),), ((1, 3),), unit=(16, 0), step=(0, 4), h=(8, 0), q=(0, 2))
    if dtype in ("float16", "bfloat16"):
        line = ((7, 0), (16, -1)) if a else ((15, 0),)
        return Way("ldmatrix.trans", line, ((8, -3),) if a else ((16, -4),), unit=(0, 2), step=(16, 0))
    if dtype == "int8":
        # ldmatrix moves pairs of bytes: the k of a lane's pairs are chosen so that two prmt make four k of one row.
        return Way("ldmatrix.trans", ((1, 0), (6, 1), (8, -2), (16, 0)), (), unit=(0, 1), step=(32, 0))
    if dtype == "float32":
        return Way("ld", ((3, 0),), ((16, -4),), ((12, 0),), unit=(0, 4), step=(8, 0), h=(0, 2), q=(4, 0))
    return Way("ld", ((3, 0),), ((24, -3),), ((4, 1),), unit=(0, 8), step=(8, 0), h=(0, 4), q=(4, 0))


def shared(role: str, dtype: str, along_k: bool, lines: int, pitch: int) -> Shared:
    """The tile's layout: which bits of a line have to tell the lanes of one access apart."""
    read = way(role, dtype, along_k)
    chunks = min(pitch, LINE_OF_BANKS) // CHUNK
    if dtype == "int8" and not along_k:
        swizzle: Bits = {1: (), 2: ((4, -2),), 4: ((12, -2),), 8: ((1, 0), (12, -1))}[chunks]
    elif read.name == "ld":
        swizzle = {1: (), 2: (), 4: ((2, 0),), 8: ((3, 1),)}[chunks]
    else:
        swizzle = {1: (), 2: ((4, -2),), 4: ((6, -1),), 8: ((7, 0),)}[chunks]
    return Shared(lines, pitch, swizzle)


def fields(k: Entry, name: str, source: Register, bits: Bits) -> Register:
    """The sum of some of an integer's bits, shifted."""
    total: Register | None = None
    for mask, shift in bits:
        part = k.let("s32", name, "and.b32", source, mask)
        if shift:
            k("shl.b32" if shift > 0 else "shr.u32", part, part, abs(shift))
        if total is None:
            total = part
        else:
            k("add.s32", total, total, part)
    assert total is not None
    return total


def swizzled_offset(k: Entry, name: str, tile: Shared, line: Register, chunk: Register | None) -> Register:
    """Bytes from the tile's start to chunk `chunk` (none: 0) of a line."""
    position = chunk
    if tile.swizzle:
        turn = fields(k, f"{name}_turn", line, tile.swizzle)
        note = "the swizzle of its line"
        position = turn if chunk is None else k.let("s32", f"{name}_chunk", "xor.b32", chunk, turn, note=note)
    if position is None:
        return k.let("s32", f"{name}_offset", "mul.lo.s32", line, tile.pitch)
    offset = k.let("s32", f"{name}_offset", "shl.b32", position, CHUNK.bit_length() - 1)
    k("mad.lo.s32", offset, line, tile.pitch, offset)
    return offset


def _shifted(value: int, shift: int) -> int:
    return value << shift if shift >= 0 else value >> -shift
