"""The lanes that share a row: which row, which of its elements, loops over it, and what they find out together.

Everything in a row is added in an order that its length alone decides: the elements of a lane slot by slot into as many
sums as a vector has elements, these pairwise, the lanes of a warp by butterflies, the warps of a block likewise. The
longest chain is slots + log2 n additions. Where a row comes in chunks, a lane adds the sums of its chunks with the
rounding errors kept (`Compensated`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hal.op import OpClass
from hal_nvidia_ptx.kernels.row_arguments import row_addresses
from hal_nvidia_ptx.kernels.row_memory import Chunk, Tensor
from hal_nvidia_ptx.kernels.rows import SHARED, WARP, Way
from hal_nvidia_ptx.kernels.values import ARITHMETIC
from hal_nvidia_ptx.ptx import Entry, Register, at

BOTH = {"add": "add.rn", "max": "max"}  # opcodes of what lanes do together, without the type


class Row:
    """The head of a row kernel: whose lane this is, and the operands' rows.

    kind: "f32" or "f64", the type of the arithmetic. lane: of the row. n: the row's length. bucket: the power of two
    that n is not above, and above half of which it is (unless it is 0).

    The last block may have more lanes than there are rows. Whole warps without a row leave; other lanes without one
    stay, since those beside them exchange values with the whole warp, and take a row of no elements.
    """

    def __init__(self, k: Entry, way: Way, op_class: OpClass) -> None:
        self.k, self.way, self.bucket = k, way, op_class.bucket
        self.kind = ARITHMETIC[op_class.inputs[0].dtype]
        k.section(_whose_row(way))
        self.n = k.param("n")
        thread = k.let("s32", "thread", "mov.u32", "%tid.x")
        self._thread = thread
        self.lane = thread
        self._valid: Register | None = None  # whether there is a row for the lane (None: certain)
        if way.rows > 1:
            self.lane = k.let("s32", "lane", "and.b32", thread, way.lanes - 1)
        row = self._row(thread)
        operands = (*op_class.outputs, *op_class.inputs)
        bases = row_addresses(k, op_class, row)
        lengths = [k.param(f"length{axis}") for axis in range(1, way.axes)]
        self.tensors = {
            operand.role: Tensor(
                k,
                way,
                operand,
                bases[operand.role],
                self.lane,
                lengths=lengths,
                streaming=way.held and operand in op_class.inputs,
                constant=operand.role in SHARED,
            )
            for operand in operands
        }
        self._left, self._part, self._ragged = self._ends()

    def _row(self, thread: Register) -> Register:
        k, way = self.k, self.way
        row = k.let("s32", "row", "mov.u32", "%ctaid.x")
        if way.rows > 1:
            rows = k.param("rows")
            of_block = k.let("s32", "row_of_block", "shr.u32", thread, way.lanes.bit_length() - 1)
            k("mad.lo.s32", row, row, way.rows, of_block)
            self._valid = k.let("pred", "valid", "setp.lt.s32", row, rows)
            if way.lanes == WARP:
                k("ret", unless=self._valid, note="no row behind the last one")
                self._valid = None
        return row

    def _ends(self) -> tuple[Register, Register | None, Register | None]:
        """Elements from the lane's first one to the row's end; those of its ragged vector, and whether it has one."""
        k, way = self.k, self.way
        left = k.let("s32", "left", "mad.lo.s32", self.lane, -way.vector, self.n)
        if self._valid is not None:
            k("selp.s32", left, left, 0, self._valid, note="a row of no elements behind the last one")
        if way.vector == 1:
            return left, None, None
        part = k.let("s32", "part", "and.b32", left, way.step - 1, note="left is a multiple of step, plus this")
        less = k.let("s32", "part_less_1", "add.s32", part, -1)
        return left, part, k.let("pred", "ragged", "setp.lt.u32", less, way.vector - 1, note="0 < part < vector")

    # ---- walking over the row

    def chunk(self) -> Chunk:
        """The whole row, where it is held."""
        k, tail = self.k, None
        if self._part is not None:
            tail = k.let("s32", "tail", "sub.s32", self._left, self._part, note="where the ragged vector begins")
        whole = self._whole(self._left, self.bucket // 2)
        return Chunk(self._left, whole, ragged=self._ragged, tail=tail, part=self._part)

    @contextmanager
    def sweep(self, name: str) -> Iterator[Chunk]:
        """A loop over the chunks of the row, where it is not held. All lanes go round equally often."""
        k, way = self.k, self.way
        first = k.let("s32", f"{name}_first", "mov.s32", 0)
        with k.loop(name) as loop:
            left = k.let("s32", f"{name}_left", "sub.s32", self._left, first)
            index = tail = ragged = None
            if way.gathered:
                index = k.let("s32", f"{name}_index", "add.s32", first, self.lane)
            if self._part is not None and self._ragged is not None:
                tail = k.let("s32", f"{name}_tail", "sub.s32", left, self._part)
                here = k.let("pred", f"{name}_here", "setp.lt.u32", tail, way.chunk, note="in this chunk")
                ragged = k.let("pred", f"{name}_ragged", "and.pred", here, self._ragged)
            yield Chunk(left, self._whole(left, 0), first, index, ragged, tail, self._part)
            k("add.s32", first, first, way.chunk)
            more = k.let("pred", f"{name}_more", "setp.lt.s32", first, self.n)
            loop.repeat(when=more)

    def _whole(self, left: Register, certain: int) -> tuple[Register | None, ...]:
        """For each slot, whether its vector lies in the row; None where `certain` elements prove it."""
        way = self.way
        return tuple(
            None
            if (slot + 1) * way.step <= certain
            else self.k.let("pred", f"whole{slot}", "setp.ge.s32", left, slot * way.step + way.vector)
            for slot in range(way.slots)
        )

    def inside(self, chunk: Chunk) -> list[Register | None]:
        """For each element of the ragged vector, whether it lies in the row: the first one does."""
        assert chunk.part is not None
        later = (self.k.let("pred", f"inside{i}", "setp.gt.s32", chunk.part, i) for i in range(1, self.way.vector))
        return [None, *later]

    def in_tail(self, chunk: Chunk, slot: int) -> Register:
        """In the block of a ragged vector: whether it is in this slot."""
        assert chunk.tail is not None
        return self.k.let("pred", f"tail_in{slot}", "setp.eq.s32", chunk.tail, slot * self.way.step)

    def load(self, role: str, chunk: Chunk, pad: float) -> list[list[Register]]:
        """All the words of an operand, `pad` (0 or -inf) behind the row's end. All loads come before any use."""
        k, tensor = self.k, self.tensors[role]
        words = tensor.registers(self.way.slots)
        for slot in range(self.way.slots):
            tensor.load(chunk, slot, words[slot], pad)
        if chunk.ragged is not None:
            with k.when(chunk.ragged, f"{role}_ragged", note="one lane, where n is no multiple of the vector"):
                ends = tensor.load_ragged(chunk, pad, self.inside(chunk))
                for slot in chunk.unsure:
                    here = self.in_tail(chunk, slot)
                    for word, end in zip(words[slot], ends, strict=True):
                        k(f"mov.{word.type}", word, end, when=here)
        return words

    def present(self, chunk: Chunk, slot: int) -> Register | None:
        """Whether a slot's vector has an element of the row (None: certain)."""
        if chunk.whole[slot] is None or self.way.vector == 1:
            return chunk.whole[slot]
        return self.k.let("pred", f"present{slot}", "setp.gt.s32", chunk.left, slot * self.way.step)

    def blank_ragged(self, chunk: Chunk, values: Sequence[Sequence[Register]], fill: str | float) -> None:
        """Put `fill` into the elements of the ragged vector that lie behind the row's end."""
        if chunk.ragged is None:
            return
        k, way = self.k, self.way
        with k.when(chunk.ragged, "blank_ragged", note="what lies behind the row's end again does not count"):
            for slot in chunk.unsure:
                for i in range(1, way.vector):
                    behind = k.let("pred", "behind", "setp.le.s32", chunk.left, slot * way.step + i)
                    k(f"mov.{self.kind}", values[slot][i], fill, when=behind)

    def pick_ragged(self, chunk: Chunk, values: Sequence[Sequence[Register]]) -> list[Register]:
        """In the block of a ragged vector: its values, out of those of all slots."""
        k, kind = self.k, self.kind
        picked = k.regs(kind, "end", self.way.vector)
        for position, slot in enumerate(chunk.unsure):
            here = self.in_tail(chunk, slot) if position else None
            for end, value in zip(picked, values[slot], strict=True):
                k(f"mov.{kind}", end, value, when=here)
        return picked

    def store_ragged(self, role: str, chunk: Chunk, values: Sequence[Sequence[Register]]) -> None:
        """What is left of the row behind its last whole vector, out of the values of all slots."""
        if chunk.ragged is not None:
            with self.k.when(chunk.ragged, f"{role}_ragged", note="what is left behind the last whole vector"):
                ends = self.pick_ragged(chunk, values)
                self.tensors[role].store_ragged(chunk, ends, self.inside(chunk))

    def store_once(self, role: str, value: Register) -> None:
        """One element of an operand that has one a row."""
        k, tensor = self.k, self.tensors[role]
        first = k.let("pred", "first_lane", "setp.eq.s32", self.lane, 0)
        if self._valid is not None:
            k("and.pred", first, first, self._valid)
        k(f"st.global.{value.type}", at(tensor.base), value, when=first)

    # ---- what the lanes find out together

    def fold(self, what: str, slots: Sequence[Sequence[Register]], name: str) -> Register:
        """A lane's own "add", "max", or "square" (the sum of squares) of its values: slot by slot, then pairwise."""
        k, kind = self.k, self.kind
        opcode = f"{BOTH.get(what, BOTH['add'])}.{kind}"
        partial = list(slots[0])
        rest = slots[1:]
        if what == "square":
            partial = k.regs(kind, f"{name}_of", len(slots[0]))
            for target, value in zip(partial, slots[0], strict=True):
                k(f"mul.rn.{kind}", target, value, value)
        elif rest:
            partial = k.regs(kind, f"{name}_of", len(slots[0]))
            for target, first, second in zip(partial, slots[0], slots[1], strict=True):
                k(opcode, target, first, second)
            rest = slots[2:]
        for slot in rest:
            for target, value in zip(partial, slot, strict=True):
                if what == "square":
                    k(f"fma.rn.{kind}", target, value, value, target)
                else:
                    k(opcode, target, target, value)
        return self._pairwise(opcode, partial, name)

    def _pairwise(self, opcode: str, values: list[Register], name: str) -> Register:
        """A power of two of values made one, in a register of its own."""
        k, kind = self.k, self.kind
        if len(values) == 1:
            return k.let(kind, name, f"mov.{kind}", values[0])
        while len(values) > 1:
            half = len(values) // 2
            names = f"{name}_pair" if half > 1 else name
            values = [
                k.let(kind, names, opcode, low, high) for low, high in zip(values[:half], values[half:], strict=True)
            ]
        return values[0]

    def sum_of_words(self, dtype: str, words: Sequence[Sequence[Register]], name: str) -> Register:
        """The sum of all 16-bit elements of a warp's words by its matrix unit; every lane gets it.

        Four words a lane are a 16 x 16 matrix, whichever element stands where; times ones it gives the sums of its
        rows, the same two to four neighbouring lanes. The products are exact, the sums float32.
        """
        k, kind = self.k, {"bfloat16": "bf16", "float16": "f16"}[dtype]
        one = k.let("b32", "ones", "mov.b32", "0x3F803F80" if dtype == "bfloat16" else "0x3C003C00")
        sums = k.regs("f32", f"{name}_of", 4)
        for part in sums:
            k("mov.f32", part, 0.0)
        for slot in words:
            k(f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32", sums, slot, [one, one], sums)
        total = k.let("f32", name, "add.rn.f32", sums[0], sums[2], note="rows lane / 4 and 8 below")
        self.across_warp("add", [total], nearest=4)
        return total

    def across_warp(self, what: str, values: Sequence[Register], lanes: int = 0, nearest: int = 1) -> None:
        """Replace each value by that of all lanes of the row in this warp: butterflies, so that all get the same bits.

        lanes: among how many neighbours; by default those of the row. nearest: of which every so many are alike."""
        distance = min(lanes or self.way.lanes, WARP) // 2
        while distance >= nearest:
            others = [self._exchanged(value, distance) for value in values]
            for value, other in zip(values, others, strict=True):
                self.k(f"{BOTH[what]}.{value.type}", value, value, other)
            distance //= 2

    def _exchanged(self, value: Register, distance: int) -> Register:
        k, other = self.k, self.k.reg(value.type, f"{value.name}_other")
        if value.type != "f64":
            k("shfl.sync.bfly.b32", other, value, distance, 31, "0xffffffff")
            return other
        low, high = k.reg("b32", "low"), k.reg("b32", "high")
        k("mov.b64", [low, high], value)
        for half in (low, high):
            k("shfl.sync.bfly.b32", half, half, distance, 31, "0xffffffff")
        k("mov.b64", other, [low, high])
        return other

    @property
    def warps(self) -> int:
        """That share the row."""
        return max(self.way.lanes // WARP, 1)

    def across_block(self, values: Sequence[Register], name: str) -> list[Register]:
        """What each warp of the row has, one warp a lane (again from the first where there are more lanes)."""
        k, kind, warps = self.k, self.kind, self.warps
        size = len(values) * (8 if kind == "f64" else 4)
        memory = k.shared(f"{name}_of_warps", warps * size)
        slots = k.let("b32", f"{name}_slots", "mov.u32", memory)
        warp = k.let("s32", "warp", "shr.u32", self._thread, WARP.bit_length() - 1)
        in_warp = k.let("s32", "in_warp", "and.b32", self._thread, WARP - 1)
        own, theirs = k.reg("b32", f"{name}_own"), k.reg("b32", f"{name}_theirs")
        k("mad.lo.s32", own, warp, size, slots)
        speaks = k.let("pred", "speaks", "setp.eq.s32", in_warp, 0)
        vector = f".v{len(values)}" if len(values) > 1 else ""
        k(f"st.shared{vector}.{kind}", at(own), values if vector else values[0], when=speaks)
        k("bar.sync", 0)
        other = k.let("s32", "of_warp", "and.b32", in_warp, warps - 1)
        k("mad.lo.s32", theirs, other, size, slots)
        found = k.regs(kind, f"{name}_warp", len(values))
        k(f"ld.shared{vector}.{kind}", found if vector else found[0], at(theirs))
        return found

    def total(self, values: Sequence[Register], name: str) -> Sequence[Register]:
        """The sums over all lanes of the row, in registers of their own where a block has them; one barrier at most."""
        self.across_warp("add", values)
        return self.total_of_warps(values, name)

    def total_of_warps(self, values: Sequence[Register], name: str) -> Sequence[Register]:
        """The sums over the warps of the row."""
        if self.warps == 1:
            return values
        found = self.across_block(values, name)
        self.across_warp("add", found, self.warps)
        return found


def _whose_row(way: Way) -> str:
    lanes = "one lane takes a row" if way.lanes == 1 else f"{way.lanes} lanes share a row"
    return f"Whose row, and which part of it: {lanes}, {way.rows if way.rows > 1 else 'one'} to a block."


class Compensated:
    """A sum of many terms with the rounding errors of its additions kept apart (D. Knuth, "The Art of Computer
    Programming", volume 2, section 4.2.2, theorem B): as good as one rounding, however many they are."""

    def __init__(self, k: Entry, kind: str, name: str) -> None:
        self._k, self._kind = k, kind
        self.sum = k.let(kind, name, f"mov.{kind}", 0.0)
        self.error = k.let(kind, f"{name}_error", f"mov.{kind}", 0.0)

    def add(self, term: Register) -> None:
        k, kind = self._k, self._kind
        added = k.let(kind, "added", f"add.rn.{kind}", self.sum, term)
        of_term = k.let(kind, "of_term", f"sub.rn.{kind}", added, self.sum, note="what the sum took of the term")
        of_sum = k.let(kind, "of_sum", f"sub.rn.{kind}", added, of_term)
        k(f"sub.rn.{kind}", of_term, term, of_term)
        k(f"sub.rn.{kind}", of_sum, self.sum, of_sum)
        k(f"add.rn.{kind}", of_sum, of_sum, of_term)
        k(f"add.rn.{kind}", self.error, self.error, of_sum)
        k(f"mov.{kind}", self.sum, added)

    def scale(self, factor: Register) -> None:
        for part in (self.sum, self.error):
            self._k(f"mul.rn.{self._kind}", part, part, factor)

    def result(self, name: str) -> Register:
        """The sum; where it is infinite, its error is NaN and left out."""
        k, kind = self._k, self._kind
        known = k.let("pred", "known", f"setp.num.{kind}", self.error, self.error)
        result = k.let(kind, name, f"mov.{kind}", self.sum)
        k(f"add.rn.{kind}", result, result, self.error, when=known)
        return result
