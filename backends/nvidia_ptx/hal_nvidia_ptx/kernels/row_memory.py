"""One operand's row as one lane sees it: its vectors in memory, whole, narrow, ragged or scattered.

The lane's vector in slot i lies i * step elements behind its first one. An access is as wide as the operand's
alignment allows. Where the row's length is no multiple of the vector, one vector of one lane is *ragged*: it goes
element by element, in a block of code that all other lanes jump over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hal.op import OperandClass
from hal_nvidia_ptx.kernels.row_vectors import element_of, pack, word_count, word_of, word_type
from hal_nvidia_ptx.kernels.rows import VECTOR_BYTES, Way
from hal_nvidia_ptx.kernels.values import itemsize, narrow
from hal_nvidia_ptx.ptx import Address, Entry, Register, at

STREAMING = ".L1::no_allocate"  # what is read once need not push anything out of the cache


@dataclass(frozen=True)
class Chunk:
    """The part of a row that its lanes hold at a time, as one lane sees it.

    first: the element of the row at which the chunk begins (None: 0). index: that of the lane's first one (gathered
    operands only). left: elements from there to the row's end. whole: for each slot, whether all its vector lies in the
    row (None: certain). ragged: whether one vector of the lane does in part; it begins `tail` elements behind the
    lane's first and has `part` elements.
    """

    left: Register
    whole: tuple[Register | None, ...]
    first: Register | None = None
    index: Register | None = None
    ragged: Register | None = None
    tail: Register | None = None
    part: Register | None = None

    @property
    def unsure(self) -> list[int]:
        """The slots whose vector may lie behind the row's end, in part or all."""
        return [slot for slot, whole in enumerate(self.whole) if whole is not None]


class Tensor:
    """An operand's row.

    base: the address of its first element. lane: of the row. lengths: of the row's axes but the outermost, where it is
    gathered. streaming: read only once. constant: nobody writes it meanwhile.
    """

    def __init__(
        self,
        k: Entry,
        way: Way,
        operand: OperandClass,
        base: Register,
        lane: Register,
        *,
        lengths: Sequence[Register] = (),
        streaming: bool = False,
        constant: bool = False,
    ) -> None:
        self._k, self._way, self.base = k, way, base
        self._gathers = way.gathered and operand.layout != "single"
        self.role, self.dtype, self.size = operand.role, operand.dtype, itemsize(operand.dtype)
        self.words = word_count(self.dtype, way.vector)
        self._bytes = way.vector * self.size
        self._access = min(operand.align, self._bytes, VECTOR_BYTES)
        self._load = "ld.global.nc" if constant else "ld.global"
        if streaming and self._access == VECTOR_BYTES:
            self._load += STREAMING
        self._lane_at = base
        if not way.gathered and operand.layout != "single" and way.lanes > 1:
            self._lane_at = k.let("u64", f"{self.role}_lane", "mad.wide.s32", lane, self._bytes, base)
        self._lengths = lengths
        self._steps = [k.param(f"{self.role}_step{axis}") for axis in range(way.axes)] if self._gathers else []
        self._chunk: Chunk | None = None  # whose address _chunk_at is
        self._chunk_at = self._lane_at

    # ---- addresses

    def _at(self, chunk: Chunk, slot: int) -> Address:
        """Where the vector of a slot begins."""
        if self._gathers:
            return self._gathered(chunk, slot)
        if chunk is not self._chunk:
            self._chunk, self._chunk_at = chunk, self._lane_at
            if chunk.first is not None:
                name = f"{self.role}_chunk"
                self._chunk_at = self._k.let("u64", name, "mad.wide.s32", chunk.first, self.size, self._lane_at)
        return at(self._chunk_at, slot * self._way.step * self.size)

    def _gathered(self, chunk: Chunk, slot: int) -> Address:
        """The address of one element: the sum of its index on each of the row's axes times that axis' step."""
        k = self._k
        assert chunk.index is not None
        rest = chunk.index
        if slot:
            rest = k.let("s32", "index", "add.s32", chunk.index, slot * self._way.step)
        address = k.let("u64", f"{self.role}_at", "mov.u64", self.base)
        for axis in reversed(range(self._way.axes)):
            along = rest
            if axis:
                length = self._lengths[axis - 1]
                outer = k.let("s32", "outer", "div.s32", rest, length)
                along = k.let("s32", "along", "mul.lo.s32", outer, length)
                k("sub.s32", along, rest, along)
                rest = outer
            wide = k.let("s64", "wide", "cvt.s64.s32", along)
            k("mad.lo.s64", address, wide, self._steps[axis], address)
        return at(address)

    # ---- vectors

    def registers(self, count: int) -> list[list[Register]]:
        """Registers for the words of `count` vectors."""
        flat = self._k.regs(word_type(self.dtype), f"{self.role}_word", count * self.words)
        return [flat[i : i + self.words] for i in range(0, len(flat), self.words)]

    def load(self, chunk: Chunk, slot: int, words: Sequence[Register], pad: float | None) -> None:
        """The words of a slot's vector; full of `pad` (0 or -inf; None: left as they are) where it is not whole."""
        k, when = self._k, chunk.whole[slot]
        address = self._at(chunk, slot)
        if self._access < min(self._bytes, 4):
            self._load_elements(address, words, pad or 0.0, [when] * self._way.vector)
            return
        if when is not None and pad is not None:
            for word in words:
                k(f"mov.{word.type}", word, word_of(self.dtype, pad))
        if self._bytes < 4:
            k(f"{self._load}.u{8 * self._bytes}", words[0], address, when=when)
        else:
            self._load_pieces(address, words, when)

    def _load_pieces(self, address: Address, words: Sequence[Register], when: Register | None) -> None:
        word = self._bytes // self.words
        count = self._access // word
        for piece in range(0, self.words, count):
            source = at(address.base, address.offset + piece * word)
            if count > 1:
                self._k(f"{self._load}.v{count}.{words[0].type}", words[piece : piece + count], source, when=when)
            else:
                self._k(f"{self._load}.{words[0].type}", words[piece], source, when=when)

    def _load_elements(
        self, address: Address, words: Sequence[Register], pad: float, whens: Sequence[Register | None]
    ) -> None:
        """A vector element by element, each where its predicate holds, `pad` elsewhere."""
        k, type = self._k, {1: "b32", 2: "b16"}.get(self.size, words[0].type)
        elements = list(words) if self.size >= 4 else k.regs(type, f"{self.role}_element", self._way.vector)
        opcode = f"{self._load.removesuffix(STREAMING)}.{'u8' if self.size == 1 else type}"
        for i, (element, when) in enumerate(zip(elements, whens, strict=True)):
            if when is not None:
                k(f"mov.{type}", element, element_of(self.dtype, pad))
            k(opcode, element, at(address.base, address.offset + i * self.size), when=when)
        if self.size == 2:
            for i, word in enumerate(words):
                k("mov.b32", word, elements[2 * i : 2 * i + 2])
        elif self.size == 1:
            for word in words:
                k("mov.b32", word, 0)
            for i, element in enumerate(elements):
                k("bfi.b32", words[i // 4], element, words[i // 4], 8 * (i % 4), 8)

    def store(
        self, chunk: Chunk, slot: int, values: Sequence[Register], words: Sequence[Register] | None = None
    ) -> None:
        """A slot's vector, rounded; nothing where it is not whole. words: the values as in memory, if known."""
        k, when, address = self._k, chunk.whole[slot], self._at(chunk, slot)
        if self._access < min(self._bytes, 4) or self._bytes < 4:
            self._store_elements(address, values, [when] * self._way.vector)
            return
        words = words or pack(k, self.dtype, self._way.sm, values)
        word = self._bytes // self.words
        count = self._access // word
        for piece in range(0, self.words, count):
            target = at(address.base, address.offset + piece * word)
            if count > 1:
                k(f"st.global.v{count}.{words[0].type}", target, words[piece : piece + count], when=when)
            else:
                k(f"st.global.{words[0].type}", target, words[piece], when=when)

    def _store_elements(self, address: Address, values: Sequence[Register], whens: Sequence[Register | None]) -> None:
        k = self._k
        for i, (value, when) in enumerate(zip(values, whens, strict=True)):
            element = narrow(k, self.dtype, self._way.sm, value) if self.size == 2 else value
            target = at(address.base, address.offset + i * self.size)
            k(f"st.global.{'b16' if self.size == 2 else value.type}", target, element, when=when)

    # ---- the ragged vector: call these in a block for the lane that has it

    def _ragged_at(self, chunk: Chunk) -> Address:
        """Where it begins. Made anew for each block: what one block computes does not exist in the next."""
        assert chunk.tail is not None
        base = self._at(chunk, 0).base
        assert isinstance(base, Register)
        return at(self._k.let("u64", f"{self.role}_tail", "mad.wide.s32", chunk.tail, self.size, base))

    def load_ragged(self, chunk: Chunk, pad: float, inside: Sequence[Register | None]) -> list[Register]:
        """Its words; `pad` behind the row's end. inside: whether an element of it lies in the row."""
        words = self._k.regs(word_type(self.dtype), f"{self.role}_tail", self.words)
        self._load_elements(self._ragged_at(chunk), words, pad, inside)
        return words

    def store_ragged(self, chunk: Chunk, values: Sequence[Register], inside: Sequence[Register | None]) -> None:
        """Its elements that lie in the row."""
        self._store_elements(self._ragged_at(chunk), values, inside)
