"""The text of the tensor-core kernel (mma.py): ring of stages, fragments, multiplications."""

from __future__ import annotations

from collections.abc import Sequence

from hal.op import OpClass
from hal_nvidia_ptx.kernels import finish
from hal_nvidia_ptx.kernels.asynchronous import AsyncCopies
from hal_nvidia_ptx.kernels.copies import Emit, Walk
from hal_nvidia_ptx.kernels.fragments import CHUNK, instructions, shared, step_bytes
from hal_nvidia_ptx.kernels.reader import Reader
from hal_nvidia_ptx.kernels.staged import StagedCopies
from hal_nvidia_ptx.kernels.tile import Tile, along_k
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, zero
from hal_nvidia_ptx.kernels.where import Where
from hal_nvidia_ptx.ptx import Entry, Register

UNIT = 16  # rows, or columns, of what a reader loads at once


class Writer:
    """Writes the kernel into an entry. roles: the operands that have batch strides, in order."""

    def __init__(self, k: Entry, op_class: OpClass, tile: Tile, roles: Sequence[str]) -> None:
        self.k, self.op_class, self.tile, self.roles = k, op_class, tile, roles
        a, b = op_class.inputs[:2]
        self.dtype, self.size = a.dtype, itemsize(a.dtype)
        self.type = ARITHMETIC[a.dtype]
        self.steps = tile.bk * self.size // step_bytes(a.dtype)
        self.stage = tile.stage_bytes(self.dtype)
        self.units = {"a": tile.rows // UNIT, "b": tile.columns // UNIT}
        self.asynchronous: list[AsyncCopies] = []
        self.staged: list[StagedCopies] = []
        self.copies: dict[str, AsyncCopies | StagedCopies] = {}
        self.readers: dict[str, Reader] = {}
        for role, across, layout in (("a", tile.bm, a.layout), ("b", tile.bn, b.layout)):
            self._operand(role, across, along_k(role, layout))

    def _operand(self, role: str, across: int, along: bool) -> None:
        """How one operand is copied and read."""
        k, tile = self.k, self.tile
        lines, pitch = (across, tile.bk) if along else (tile.bk, across)
        memory = shared(role, self.dtype, along, lines, pitch * self.size)
        self.readers[role] = Reader(k, role, self.dtype, along, memory)
        width = tile.width(role)
        if tile.is_async(role):
            copies = AsyncCopies(k, role, Walk(memory, tile.threads, self.size, along, width, width), tile.sm)
            self.asynchronous.append(copies)
            self.copies[role] = copies
        else:
            staged = StagedCopies(k, role, Walk(memory, tile.threads, self.size, along, width, CHUNK), tile.sm)
            self.staged.append(staged)
            self.copies[role] = staged

    def write(self) -> None:
        """All of it."""
        k, tile = self.k, self.tile
        names = (*self.op_class.inputs, *self.op_class.outputs)
        sizes = {role: itemsize(x.dtype) for role in self.roles for x in names if x.role == role}
        self.where = Where(k, tile, self.op_class.batch_ndim, sizes)
        self.left = self.where.left
        self._operands()
        self._fill()
        with k.loop("block") as loop:
            more = self._block()
            loop.repeat(when=more)
        changed = {role: self.readers[role].transposes for role in "ab"}
        warp = finish.Warp(self.thread, self.lane, self.warp["a"], self.warp["b"], changed["a"], changed["b"])
        finish.write(k, self.op_class, tile, self.where, self.memory, warp, self.sums)

    # ---- before the loop

    def _operands(self) -> None:
        """Addresses of this thread's copies, and of this lane's fragments."""
        k, tile, where = self.k, self.tile, self.where
        self.thread = k.let("s32", "thread", "mov.u32", "%tid.x")
        self.memory = k.let("s32", "shared", "mov.u32", k.shared_dynamic("memory", 128))
        b_memory = k.let("s32", "shared_b", "add.s32", self.memory, self.copies["a"].walk.tile.nbytes)
        memory = {"a": self.memory, "b": b_memory}
        for role, first, extent in (("a", where.row, where.m), ("b", where.column, where.n)):
            pitch = k.let("s64", f"{role}_pitch_bytes", "mul.lo.s64", k.param(f"{role}_pitch"), self.size)
            self.copies[role].start(memory[role], self.thread, where.base(role), pitch, first, extent)
        k.section(
            f"Fragments: which part of the block a warp has, {tile.rows} x {tile.columns}, and a lane's addresses."
        )
        warp = k.let("s32", "warp", "shr.u32", self.thread, 5)
        self.lane = k.let("s32", "lane", "and.b32", self.thread, 31)
        self.warp = {
            "a": k.let("s32", "warp_row", "shr.u32", warp, tile.wn.bit_length() - 1),
            "b": k.let("s32", "warp_column", "and.b32", warp, tile.wn - 1),
        }
        self.sets: dict[str, list[list[list[Register]]]] = {}
        for role, own in (("a", tile.rows), ("b", tile.columns)):
            reader = self.readers[role]
            lines = self.copies[role].walk.along_k
            part = own if lines else own * self.size // CHUNK
            first = k.let("s32", f"{role}_first", "mul.lo.s32", self.warp[role], part)
            reader.start(memory[role], self.lane, first if lines else 0, 0 if lines else first)
            reader.prepare(self.units[role], self.steps)
            self.sets[role] = [reader.registers(self.units[role], f"{role}_{i}_") for i in ("even", "odd")]

    def _fill(self) -> None:
        """All stages but one get their blocks, the last block of k first; then the first fragments."""
        k, tile, where = self.k, self.tile, self.where
        remaining = k.let("s32", "remaining", "mul.lo.s32", where.last, tile.bk)
        k("sub.s32", remaining, where.size_k, remaining, note="steps of k in the last block")
        if self.asynchronous:
            self._fill_ring(remaining)
        if self.staged:
            self._fill_stage(remaining)
        k.section("Sums, and the first fragments.")
        flat = k.regs(self.type, "sum", 4 * self.units["a"] * 2 * self.units["b"])
        width = 8 * self.units["b"]
        self.sums = [flat[i : i + width] for i in range(0, len(flat), width)]
        for register in flat:
            k(f"mov.{self.type}", register, zero(self.type))
        self.read = k.let("s32", "read_stage", "mov.s32", 0, note="the one that is multiplied, in bytes")
        self.ahead = k.reg("pred", "ahead")
        for copies in self.asynchronous:
            copies.aim((tile.stages - 1) * self.stage)
        self._await()
        _emit([*self._copies(0), *self._fragments(0, 0, None)])

    def _fill_ring(self, remaining: Register) -> None:
        k, tile, where = self.k, self.tile, self.where
        k.section("The last block of k to stage 0, with zeros past its end; the first ones to the stages behind it.")
        begin = {copies.role: copies.seek(where.start) for copies in self.asynchronous}
        for copies in self.asynchronous:
            k("mov.s64", copies.at, copies.seek(where.last))
        stage = k.let("s32", "fill_stage", "mov.s32", 0)
        number, end = k.let("s32", "number", "mov.s32", 0), k.let("s32", "end_in", "mov.s32", remaining)
        exists, first = k.reg("pred", "exists"), k.reg("pred", "first")
        with k.loop("fill") as loop:
            k('.pragma "nounroll"')
            k("setp.gt.s32", exists, self.left, number)
            k("setp.eq.s32", first, number, 0)
            for copies in self.asynchronous:
                copies.fill(stage, end, exists)
                k("mov.s64", copies.at, begin[copies.role], when=first, note="after the last block the first")
            k("cp.async.commit_group")
            k("mov.s32", end, tile.bk, note="the others are whole")
            k("add.s32", number, number, 1)
            k("add.s32", stage, stage, self.stage)
            more = k.let("pred", "more", "setp.lt.s32", number, tile.stages - 1)
            loop.repeat(when=more)

    def _fill_stage(self, remaining: Register) -> None:
        k = self.k
        k.section("The last block of k to stage 0, with zeros past its end; the next one into registers.")
        second = k.let("pred", "second", "setp.gt.s32", self.left, 1)
        for copies in self.staged:
            k("mov.s64", copies.at, copies.seek(self.where.last))
            copies.first(remaining)
            k("mov.s64", copies.at, copies.seek(self.where.start))
            copies.store(0)
            copies.load(second)

    def _await(self) -> None:
        """Every thread's copies of the next block are there, and nobody reads the block before any more."""
        if self.asynchronous:
            self.k("cp.async.wait_group", self.tile.stages - 2)
        self.k("bar.sync", 0)

    # ---- the loop

    def _block(self) -> Register:
        """One block of k; the predicate whether there is another."""
        k, last = self.k, self.steps - 1
        more = k.let("pred", "more", "setp.gt.s32", self.left, 1)
        later = k.let("pred", "later", "setp.gt.s32", self.left, 2) if self.staged else more
        k("sub.s32", self.left, self.left, 1)
        following = self._following()
        for step in range(last):
            k.section(f"Step {step}: multiply it; copies of a later block; fragments of step {step + 1}.")
            others = [*self._copies(step + 1), *self._fragments(step + 1, (step + 1) % 2, None)]
            if step == last - 1:
                others += [emit for copies in self.staged for emit in copies.exchange(following, more, later)]
            self._multiply(step % 2, others)
        k.section(
            f"Step {last}: the barrier; multiply it; copies of a later block; the first fragments of block i + 1."
        )
        if self.asynchronous:
            k("cp.async.commit_group")
            for copies in self.asynchronous:
                copies.aim(self.read)  # nobody reads it behind the barrier
        k("mov.s32", self.read, following)
        self._await()
        self._multiply(last % 2, [*self._copies(0), *self._fragments(0, (last + 1) % 2, more)])
        return more

    def _following(self) -> Register:
        """The offset of the stage behind the one that is read."""
        k, ring = self.k, self.tile.stages * self.stage
        following = k.let("s32", "next_stage", "add.s32", self.read, self.stage)
        if ring & (ring - 1) == 0:
            k("and.b32", following, following, ring - 1, note="round the ring")
        else:
            end = k.let("pred", "end_of_ring", "setp.eq.s32", following, ring)
            k("selp.s32", following, 0, following, end)
        return following

    def _copies(self, part: int) -> list[Emit]:
        """A part of the copies of a block: the first in the last step of a block, the others step by step after it.
        Then block i + stages - 1 is the next to copy, where `blocks_left` counts from i on."""

        def begin() -> None:
            self.k("setp.ge.s32", self.ahead, self.left, self.tile.stages)

        emits = [emit for copies in self.asynchronous for emit in copies.part(part, self.steps, self.ahead)]
        return [begin, *emits] if self.asynchronous and part == 0 else emits

    def _fragments(self, step: int, into: int, when: Register | None) -> list[Emit]:
        """Loads of a step's fragments from the stage that is read, in the order in which they are needed."""

        def load(role: str, unit: int) -> Emit:
            return lambda: self.readers[role].load(unit, step, self.sets[role][into][unit], when)

        for reader in self.readers.values():
            reader.aim(self.read)
        order = [("a", 0), *(("b", i) for i in range(self.units["b"])), *(("a", i) for i in range(1, self.units["a"]))]
        loads = [load(role, unit) for role, unit in order]
        if self.tile.sm >= 80:
            return loads
        return [emit for each in loads for emit in (self._keep_apart, each)]

    def _keep_apart(self) -> None:
        """On sm_75 the assembler would gather the loads of a step, and let the tensor cores wait for them; it moves
        none past this, which costs next to nothing where a warp's threads are together anyhow."""
        self.k("bar.warp.sync", "0xffffffff")

    def _multiply(self, which: int, others: Sequence[Emit]) -> None:
        """A step's multiplications, and other instructions between them."""
        a = [self.readers["a"].ready(unit) for unit in self.sets["a"][which]]
        b = [self.readers["b"].ready(unit) for unit in self.sets["b"][which]]
        products: list[Emit] = []
        for instruction in instructions(self.dtype, self.tile.sm):
            for i, unit in enumerate(a):
                columns = range(2 * len(b))
                for j in columns if i % 2 == 0 else reversed(columns):  # back and forth: one operand stays the same
                    sums = [self.sums[i][4 * j + x] for x in instruction.sums]
                    own_a = [unit[x] for x in instruction.a]
                    own_b = [b[j // 2][2 * (j % 2) + x] for x in instruction.b]
                    products.append(_product(self.k, instruction.opcode, sums, own_a, own_b))
        _emit(_merged(products, others))


def _product(k: Entry, opcode: str, sums: list[Register], a: list[Register], b: list[Register]) -> Emit:
    return lambda: k(opcode, sums, a, b, sums)


def _merged(first: Sequence[Emit], second: Sequence[Emit]) -> list[Emit]:
    """Both sequences in one, in proportion."""
    placed = [((i + 1) / (len(x) + 1), n, i, emit) for n, x in enumerate((first, second)) for i, emit in enumerate(x)]
    return [emit for _, _, _, emit in sorted(placed, key=lambda entry: entry[:3])]


def _emit(instructions: Sequence[Emit]) -> None:
    for emit in instructions:
        emit()
