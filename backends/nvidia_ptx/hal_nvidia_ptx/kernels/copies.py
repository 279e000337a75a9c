"""One operand's way from global to shared memory, block of k by block of k.

A thread copies the same pieces of every block: a piece lies on a line of the tile (a row of a, say, or all rows of one
k), neighbouring lanes copy neighbouring pieces, then come further lines. What lies past the end of the rows or columns
is read from the last one, and its results are never stored. What lies past the end of k has to be zero in both
operands: an infinity times a padding of something else would be NaN. Only the last block of k has such an end, so it is
copied *first*, before the main loop, which then copies whole blocks without a look at k.

Two kinds: asynchronous.py (cp.async: sm_80, pieces of 16, 8 or 4 bytes) and staged.py (through registers: every target,
down to single elements).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hal_nvidia_ptx.kernels.fragments import CHUNK, Shared, swizzled_offset
from hal_nvidia_ptx.ptx import Entry, Register

Emit = Callable[[], None]


@dataclass(frozen=True)
class Walk:
    """Who copies what of a tile: `width` bytes at a time are read, `piece` bytes written; `size` is an element's."""

    tile: Shared
    threads: int
    size: int
    along_k: bool
    width: int
    piece: int

    @property
    def across(self) -> int:
        """Threads side by side on a line."""
        return min(self.tile.pitch // self.piece, self.threads)

    @property
    def lines(self) -> int:
        """Lines of one pass."""
        return self.threads // self.across

    @property
    def passes(self) -> int:
        """Pieces that a thread copies."""
        return max(self.tile.lines // self.lines, 1)

    @property
    def idle(self) -> bool:
        """Whether some threads have nothing to copy."""
        return self.lines > self.tile.lines


class Copies:
    """The addresses, which both kinds share. `at` is where this thread reads next.

    Pieces of one line are at offsets from there, in 64 bits where the target adds those in one instruction (sm_100).
    Where lines are evenly spaced, a pointer can walk from piece to piece instead, which needs fewer registers; on sm_75
    it was worse, since loads wait for it."""

    def __init__(self, k: Entry, role: str, walk: Walk, sm: int) -> None:
        self.k, self.role, self.walk = k, role, walk
        self.wide, self.walks = sm >= 100, sm >= 80 and not walk.along_k
        self.works: Register | None = None
        self.offsets: list[Register] = []
        self._turned: dict[int, Register] = {}

    def start(
        self, shared: Register, thread: Register, base: Register, pitch: Register, first: Register, extent: Register
    ) -> None:
        """shared: the tile of stage 0; base: the matrix; pitch: bytes from line to line (s64); first: the tile's first
        row or column, of `extent` that there are."""
        k, walk, name = self.k, self.walk, self.role
        what = ("rows" if name == "a" else "columns") if walk.along_k else "k"
        k.section(
            f"Copies of {name}: {walk.across} threads of {walk.piece} bytes on a line, {walk.lines} lines of {what} at "
            f"once, {walk.passes} times.\nShared memory: {walk.tile}."
        )
        mask = walk.across - 1
        piece = k.let("s32", f"{name}_piece", "and.b32", thread, mask)
        self.line = k.let("s32", f"{name}_line", "shr.u32", thread, mask.bit_length())
        if walk.idle:
            self.works = k.let(
                "pred", f"{name}_works", "setp.lt.s32", self.line, walk.tile.lines, note="the others copy nothing"
            )
        self._to_shared(shared, piece)
        places = self._rows if walk.along_k else self._columns
        places(base, pitch, first, extent, piece)
        self.at = k.reg("s64", f"{name}_next")

    def _to_shared(self, shared: Register, piece: Register) -> None:
        k, walk, name = self.k, self.walk, self.role
        per_chunk = CHUNK // walk.piece
        chunk = piece
        if per_chunk > 1:
            chunk = k.let("s32", f"{name}_chunk", "shr.u32", piece, per_chunk.bit_length() - 1)
        to = swizzled_offset(k, name, walk.tile, self.line, chunk)
        if per_chunk > 1:
            part = k.let("s32", f"{name}_part", "and.b32", piece, per_chunk - 1)
            k("mad.lo.s32", to, part, walk.piece, to)
        self.to = k.let("s32", f"{name}_to", "add.s32", to, shared, note="where its first piece goes, in stage 0")

    def _rows(self, base: Register, pitch: Register, first: Register, extent: Register, piece: Register) -> None:
        """Lines are rows of a (columns of b), the last one where there is none: each has its own offset."""
        k, walk, name = self.k, self.walk, self.role
        first64 = k.let("s64", f"{name}_first", "cvt.s64.s32", first)
        matrix = k.let("s64", f"{name}_base", "mad.lo.s64", first64, pitch, base)
        self.base = k.let("s64", f"{name}_base", "mad.wide.s32", piece, walk.piece, matrix)
        self.of_k = k.let("s32", f"{name}_k", "mul.lo.s32", piece, walk.piece // walk.size, note="k of its pieces")
        last = k.let("s32", f"{name}_last", "sub.s32", extent, first)
        k("sub.s32", last, last, 1)
        lines = []
        for i in range(walk.passes):
            line = k.let("s32", f"{name}_row", "add.s32", self.line, i * walk.lines) if i else self.line
            note = "past the end: the last one again" if i == 0 else ""
            lines.append(k.let("s32", f"{name}_row", "min.s32", line, last, note=note))
        self._offsets(lines, pitch)
        self.block_bytes: Register | int = walk.tile.pitch

    def _columns(self, base: Register, pitch: Register, first: Register, extent: Register, piece: Register) -> None:
        """Lines are steps of k; the piece is the same in all, the last one where there is none. A pointer walks."""
        k, walk, name = self.k, self.walk, self.role
        in_piece = walk.piece // walk.size
        place = k.let("s32", f"{name}_place", "mad.lo.s32", piece, in_piece, first)
        self.left = k.let("s32", f"{name}_left", "sub.s32", extent, place, note="that there are from its place on")
        if walk.width == walk.piece:
            last = k.let("s32", f"{name}_last", "sub.s32", extent, in_piece)
            k("min.s32", place, place, last, note="past the end: the last one again")
        self.base = k.let("s64", f"{name}_base", "mad.wide.s32", place, walk.size, base)
        self.block_bytes = k.let(
            "s64", f"{name}_block", "mul.lo.s64", pitch, walk.tile.lines, note="from block to block"
        )
        if self.walks:
            line64 = k.let("s64", f"{name}_line_wide", "cvt.s64.s32", self.line)
            k("mad.lo.s64", self.base, line64, pitch, self.base)
            lines = min(walk.lines, walk.tile.lines)
            self.stride = k.let("s64", f"{name}_stride", "mul.lo.s64", pitch, lines, note="from piece to piece")
            return
        add = range(0, walk.passes * walk.lines, walk.lines)
        self._offsets([k.let("s32", f"{name}_k", "add.s32", self.line, i) if i else self.line for i in add], pitch)

    def _offsets(self, lines: list[Register], pitch: Register) -> None:
        """How far each piece's line is from the first: 32 bits of units of `width` bytes, or 64 bits of bytes."""
        k, walk, name = self.k, self.walk, self.role
        units = pitch
        if walk.width > 1:
            units = k.let("s64", f"{name}_pitch_units", "shr.s64", pitch, walk.width.bit_length() - 1)
        units = k.let("s32", f"{name}_units", "cvt.s32.s64", units, note=f"from line to line, in {walk.width} bytes")
        for i, line in enumerate(lines):
            offset = k.reg("s64" if self.wide else "s32", f"{name}_offset_{i}")
            k("mul.wide.s32" if self.wide else "mul.lo.s32", offset, line, units)
            if self.wide and walk.width > 1:
                k("shl.b64", offset, offset, walk.width.bit_length() - 1)
            self.offsets.append(offset)

    def seek(self, block: Register | int) -> Register:
        """Where this thread reads first in a block."""
        k = self.k
        if isinstance(block, int):
            return (
                self.base
                if block == 0
                else k.let("s64", f"{self.role}_seek", "mad.lo.s64", block, self.block_bytes, self.base)
            )
        block64 = k.let("s64", f"{self.role}_block64", "cvt.s64.s32", block)
        return k.let("s64", f"{self.role}_seek", "mad.lo.s64", block64, self.block_bytes, self.base)

    def step(self) -> None:
        """On to the block that follows in memory, after the last piece of one."""
        if not self.walks:
            self.k("add.s64", self.at, self.at, self.block_bytes)

    def _before_end(self, remaining: Register) -> Register:
        """How many steps of k there are from this thread's first element on: `remaining` from the block's start on."""
        own = self.of_k if self.walk.along_k else self.line
        return self.k.let("s32", f"{self.role}_before_end", "sub.s32", remaining, own)

    def _inside_k(self, before_end: Register, i: int, within: int = 0) -> Register:
        """Whether element `within` of piece i lies before the end of k."""
        place = within if self.walk.along_k else i * self.walk.lines
        return self.k.let("pred", f"{self.role}_inside", "setp.gt.s32", before_end, place)

    def _working(self, when: Register) -> Register:
        """Threads with something to copy, where `when` holds."""
        if self.works is None:
            return when
        return self.k.let("pred", f"{self.role}_copies", "and.pred", when, self.works)

    def _place(self, i: int) -> tuple[Register, int]:
        """Where piece i goes in the stage that `aim` chose: a register and a constant."""
        walk = self.walk
        return self._turned[self._turn(i)], i * walk.lines * walk.tile.pitch

    def _turn(self, i: int) -> int:
        return self.walk.tile.swizzled(i * self.walk.lines) * CHUNK

    def aim(self, stage: Register | int) -> None:
        """Addresses in the stage at this offset, one for each value of the swizzle among the passes."""
        k = self.k
        for turn in dict.fromkeys([0, *(self._turn(i) for i in range(self.walk.passes))]):
            if turn not in self._turned:
                self._turned[turn] = k.reg("s32", f"{self.role}_into" + (f"_x{turn}" if turn else ""))
            if turn:
                k("xor.b32", self._turned[turn], self._turned[0], turn)
            else:
                k("add.s32", self._turned[0], self.to, stage)

    def _source(self, i: int) -> Register:
        """The address of piece i; pieces come in order, each is asked for once."""
        k = self.k
        source = k.reg("s64", f"{self.role}_from")
        if self.walks:
            k("mov.s64", source, self.at)
            k("add.s64", self.at, self.at, self.stride)
        elif self.wide:
            k("add.s64", source, self.at, self.offsets[i])
        else:
            k("mad.wide.s32", source, self.offsets[i], self.walk.width, self.at)
        return source
