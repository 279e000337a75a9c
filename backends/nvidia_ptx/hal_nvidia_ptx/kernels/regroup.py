"""Sums from the order of the matrix instructions to rows, through shared memory.

A lane of mma.sync holds pairs of neighbours of many rows; stored from there, a row's bytes would go out in pieces of 8.
So a block's sums are written to shared memory as they are, in 32 (64) bits, and read back row by row, as many
neighbours a thread as make 16 bytes of the result.

Chunk c of a row (16 bytes: four sums, or two doubles) lies where neither side meets a bank twice:

    32 bits   c = 2 q + h: chunk (q & 7) ^ 4 h ^ X(row) of the row's 128-byte line 2 (q / 8) + h, X by row & 7:
              written are 4 rows (or every second of 8) x (h = 0, 1) at once, read are 8 q at once
    64 bits   c ^ 4 (row & 1): written are 2 rows x 4 chunks, read 8 chunks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hal_nvidia_ptx.kernels.fragments import CHUNK, fields
from hal_nvidia_ptx.ptx import Entry, Register, at

TURNS = 0x42715360  # X of rows 7, 6, … 0, a digit each: 6 for bit 0 of the row, 3 for bit 1, 1 for bit 2


@dataclass(frozen=True)
class Block:
    """The block's sums: rows x columns; a warp's part; whether the order of rows or columns was changed inside units
    of 16 (rows 2 g + h instead of g + 8 h, columns 4 t + 2 c + e instead of 8 e + 2 t + c)."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    threads: int
    type: str
    rows_changed: bool = False
    columns_changed: bool = False

    @property
    def wide(self) -> bool:
        """64-bit sums."""
        return self.type == "f64"

    @property
    def pitch(self) -> int:
        """Bytes of a row."""
        return self.columns * (8 if self.wide else 4)

    @property
    def nbytes(self) -> int:
        """Of shared memory."""
        return self.rows * self.pitch

    def position(self, chunk: int) -> int:
        """Where a chunk lies in a row whose X is 0; linear in the bits of `chunk`."""
        if self.wide:
            return chunk
        if self.columns < 64:
            return (chunk >> 1) ^ ((chunk & 1) << 2)
        return (chunk & ~15) ^ ((chunk & 14) >> 1) ^ ((chunk & 1) * 12)

    def turn(self, row: int) -> int:
        """X of a row."""
        return (row & 1) << 2 if self.wide else TURNS >> 4 * (row & 7) & 7


def write(
    k: Entry, block: Block, shared: Register, lane: Register, warp_row: Register, warp_column: Register,
    sums: Sequence[Sequence[Register]],
) -> None:  # fmt: skip
    """sums: by unit of 16 rows, then by 8 columns: four registers. warp_row, warp_column: of the warp, 0, 1, …"""
    k.section(
        f"The sums to shared memory: {block.rows} rows of {block.pitch} bytes. Nobody reads tiles there any more: the\n"
        "last barrier came after the last fragments."
    )
    g = k.let("s32", "g", "shr.u32", lane, 2)
    t = k.let("s32", "t", "and.b32", lane, 3)
    row = k.let("s32", "sum_row", "shl.b32", g, 1) if block.rows_changed else g
    row = k.let("s32", "sum_row", "mad.lo.s32", warp_row, block.warp_rows, row)
    # The lane's part of the chunk, and of the bytes in it.
    own = t if block.wide or block.columns_changed else k.let("s32", "sum_chunk", "shr.u32", t, 1)
    per_chunk = 2 if block.wide else 4
    own = k.let("s32", "sum_chunk", "mad.lo.s32", warp_column, block.warp_columns // per_chunk, own)
    place = _place(k, block, row, own)
    if not (block.wide or block.columns_changed):
        k("add.s32", place, place, fields(k, "sum_byte", t, ((1, 3),)))
    k("add.s32", place, place, shared)
    turned: dict[int, Register] = {0: place}
    for unit, of_unit in enumerate(sums):
        for h in (0, 1):
            line, more = (16 * unit + h, block.turn(h)) if block.rows_changed else (16 * unit + 8 * h, 0)
            for j, registers in _stores(block, of_unit, h):
                position = block.position(j * 8 // per_chunk) ^ more
                low, high = position & 7, position & ~7
                if low not in turned:
                    turned[low] = k.let("s32", "sum_place", "xor.b32", place, low * CHUNK)
                target = at(turned[low], line * block.pitch + high * CHUNK)
                k(f"st.shared.v{len(registers)}.{block.type}", target, registers)


def _stores(block: Block, of_unit: Sequence[Register], h: int) -> list[tuple[int, list[Register]]]:
    """(first of its columns / 8, registers) of the stores of one unit's upper or lower rows."""
    quads = [of_unit[i + 2 * h : i + 2 * h + 2] for i in range(0, len(of_unit), 4)]
    if not block.columns_changed:
        return [(j, list(pair)) for j, pair in enumerate(quads)]
    return [(j, [quads[j + e][c] for c in (0, 1) for e in (0, 1)]) for j in range(0, len(quads), 2)]


def _place(k: Entry, block: Block, row: Register, chunk: Register) -> Register:
    """Bytes from the start of the sums to a chunk of a row."""
    bits = k.let("s32", "row_bits", "shl.b32", row, 2)
    if block.wide:
        k("and.b32", bits, bits, 4, note="X")
        position = k.let("s32", "position", "xor.b32", chunk, bits)
    else:
        k("and.b32", bits, bits, 28)
        x = k.let("s32", "x_of_row", "shr.u32", TURNS, bits)
        k("and.b32", x, x, 7, note="X, from a table of eight digits")
        odd = k.let("s32", "odd", "and.b32", chunk, 1)
        k("mul.lo.s32", odd, odd, 4 if block.columns < 64 else 12)
        position = fields(k, "position", chunk, ((~1, -1),) if block.columns < 64 else ((~15, 0), (14, -1)))
        k("xor.b32", position, position, odd)
        k("xor.b32", position, position, x)
    place = k.let("s32", "place", "shl.b32", position, 4)
    k("mad.lo.s32", place, row, block.pitch, place)
    return place


class Rows:
    """Reads the sums back: a thread has `count` neighbours of rows `row`, row + step, …

    row and column count within the block."""

    def __init__(self, k: Entry, block: Block, shared: Register, thread: Register, count: int) -> None:
        self.k, self.block, self.count = k, block, count
        across = block.columns // count
        self.step = block.threads // across
        if self.step % 4:
            raise ValueError(f"{block}: {across} threads on a row leave {self.step} rows at once, not a multiple of 4")
        x = k.let("s32", "x", "and.b32", thread, across - 1)
        self.row = k.let("s32", "row_in_block", "shr.u32", thread, (across - 1).bit_length())
        self.column = k.let("s32", "column_in_block", "mul.lo.s32", x, count)
        per_chunk = 2 if block.wide else 4
        chunk = k.let("s32", "first_chunk", "mul.lo.s32", x, count // per_chunk) if count > per_chunk else x
        self._start = _place(k, block, self.row, chunk)
        self._start = k.let("s32", "row_place", "add.s32", self._start, shared)
        self._place = k.reg("s32", "row_at")
        self._second = count > per_chunk
        self.here = k.reg("pred", "here")

    def rewind(self) -> None:
        """The first row is the next to be read."""
        self.k("mov.s32", self._place, self._start)

    def read(self) -> list[Register]:
        """The next row's sums."""
        k, block = self.k, self.block
        sums = k.regs(block.type, "sum", self.count)
        per_chunk = 2 if block.wide else 4
        k(f"ld.shared.v{per_chunk}.{block.type}", sums[:per_chunk], at(self._place))
        if self._second:
            # Its own chunk is even, so bit 3 of the position is 0.
            other = k.let("s32", "other_chunk", "xor.b32", self._place, 4 * CHUNK)
            k(f"ld.shared.v4.{block.type}", sums[per_chunk:], at(other, 0 if block.columns < 64 else 8 * CHUNK))
        k("add.s32", self._place, self._place, self.step * block.pitch)
        if turn := block.turn(self.step):
            k("xor.b32", self._place, self._place, turn * CHUNK, note="X of the next row")
        return sums
