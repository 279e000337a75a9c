"""matmul by tensor cores (mma.sync), sm_75 and later: one design for fp16, bf16, tf32, int8 and float64.

    threads to tile     a block has BM x BN of the result, its warps in WM x WN parts, a warp's part in units of 16 x 8
    shared memory       a ring of stages, each a BM x BK tile of a and a BK x BN tile of b, 16-byte chunks swizzled
    pipeline, block i   step 0 … S-2 | fragments of the next step | copies of block i + stages - 1 | multiply
                        step S-1     | wait, barrier | first fragments of block i + 1 | multiply

Fragments are double-buffered in registers, also across the barrier: while a step is multiplied, the next one's are on
their way, so the tensor cores do not wait for the barrier or for shared memory. One barrier a block of k suffices: the
stage that is filled during block i was last read before the barrier of block i - 1.

Block indices of k run from the last one on: last, 0, 1, …, since the last has the end of k in it (copies.py). Rows and
columns past the end are copies of the last, and not stored. No size is part of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields as fields_of

from hal.kernel import Config, Kernel
from hal.op import OpClass
from hal_nvidia_ptx.kernels import batch, regroup, splitk
from hal_nvidia_ptx.kernels.copies import AsyncCopies, Copies, Emit, StagedCopies, Walk
from hal_nvidia_ptx.kernels.fragments import CHUNK, Reader, instructions, shared, step_bytes
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, zero
from hal_nvidia_ptx.kernels.vectors import Vectors, elements
from hal_nvidia_ptx.ptx import Entry, Register, at, module

GROUP = 8  # rows of tiles that are walked together: their parts of a and b then stay in the L2 cache
import os
LEAD=float(os.environ.get('LEAD','1'))
UNIT = 16  # rows, or columns, of what a reader loads at once
LEAST_ASYNC = 4  # bytes of the narrowest cp.async


@dataclass(frozen=True)
class Tile:
    """A config's numbers. bm, bn, bk: of the block, in elements; wm, wn: warps along both; stages of the ring; blocks
    that an SM should hold; a_width, b_width: bytes by which the operands are read; splits of k."""

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    stages: int
    blocks: int
    sm: int
    a_width: int
    b_width: int
    splits: int

    @classmethod
    def of(cls, config: Config) -> Tile:
        """The numbers of a config of this algorithm."""
        return cls(**dict(config.values))

    def config(self) -> Config:
        """The config with these numbers."""
        return Config("mma", tuple((field.name, getattr(self, field.name)) for field in fields_of(self)))

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.wm * self.wn

    @property
    def rows(self) -> int:
        """Of the result, of a warp."""
        return self.bm // self.wm

    @property
    def columns(self) -> int:
        """Of the result, of a warp."""
        return self.bn // self.wn

    def width(self, role: str) -> int:
        """Bytes by which an operand is read."""
        return self.a_width if role == "a" else self.b_width

    def is_async(self, role: str) -> bool:
        """Whether cp.async copies an operand."""
        return self.sm >= 80 and self.width(role) >= LEAST_ASYNC

    def stage_bytes(self, dtype: str) -> int:
        """Of shared memory, for one stage of the ring."""
        return (self.bm + self.bn) * self.bk * itemsize(dtype)

    def shared_bytes(self, dtype: str) -> int:
        """Of shared memory: the ring, later the sums."""
        sums = self.bm * self.bn * (8 if dtype == "float64" else 4)
        return max(self.stages * self.stage_bytes(dtype), sums)


def along_k(role: str, layout: str) -> bool:
    """Whether the operand's contiguous axis is k."""
    return (layout == "row") == (role == "a")


def parameters(op_class: OpClass, tile: Tile) -> list[tuple[str, str]]:
    """Names and types of the kernel's parameters."""
    results = Results(op_class, tile.sm)
    whole = tile.splits == 1
    return [
        ("a", "u64"),
        ("b", "u64"),
        *([("out", "u64"), *results.bias_parameters] if whole else [("partials", "u64")]),
        *((name, "s32") for name in ("m", "n", "k", "tiles_m", "tiles_n")),
        *([] if whole else [("matrices", "s32"), ("slice_blocks", "s32")]),
        ("a_pitch", "s64"),
        ("b_pitch", "s64"),
        *([("out_row", "s64"), *results.number_parameters] if whole else []),
        *batch.parameters(op_class.batch_ndim, roles(op_class, tile)),
    ]


def roles(op_class: OpClass, tile: Tile) -> tuple[str, ...]:
    """The operands that have batch strides."""
    return Results(op_class, tile.sm).roles if tile.splits == 1 else ("a", "b")


def kernel(op_class: OpClass, tile: Tile) -> Kernel:
    """The text. With splits it ends in partial sums instead of results."""
    names = parameters(op_class, tile)
    k = Entry("mma" if tile.splits == 1 else "mma_partial", names, threads=tile.threads, min_blocks=tile.blocks,
              doc=_doc(op_class, tile))  # fmt: skip
    _Writer(k, op_class, tile).write()
    return Kernel(k.name, module(k), tuple(name for name, _ in names))


def _doc(op_class: OpClass, tile: Tile) -> str:
    a, b = op_class.inputs[:2]
    size = itemsize(a.dtype)
    steps = tile.bk * size // step_bytes(a.dtype)
    ways = [f"{r} {'cp.async' if tile.is_async(r) else 'through registers'}, {tile.width(r)} bytes" for r in "ab"]
    return f"""matmul by tensor cores: {a.dtype}, a {a.layout}, b {b.layout} (which axis is contiguous).

threads to tile   {tile.bm} x {tile.bn} of the result a block; {tile.wm} x {tile.wn} warps of {tile.rows} x {tile.columns}
shared memory     {tile.stages} stages of a ({tile.bm} x {tile.bk}) and b ({tile.bk} x {tile.bn}); at the end the sums
copies            {ways[0]}; {ways[1]}
pipeline          block of k i: multiply, {steps} steps of {tile.bk // steps}; copy block i + {tile.stages - 1}; fragments of \
step s + 1 are
                  read while step s is multiplied, those of block i + 1 behind the barrier before the last step
Blocks of k come in the order last, first, second, …: only the last has an end of k in it.
Sizes count elements, strides too; batch axes are outermost first."""


class _Writer:
    """The kernel's text, part by part."""

    def __init__(self, k: Entry, op_class: OpClass, tile: Tile) -> None:
        self.k, self.op_class, self.tile = k, op_class, tile
        a, b = op_class.inputs[:2]
        self.dtype, self.size = a.dtype, itemsize(a.dtype)
        self.steps = tile.bk * self.size // step_bytes(a.dtype)
        self.along = {"a": along_k("a", a.layout), "b": along_k("b", b.layout)}
        self.type = ARITHMETIC[a.dtype]
        self.units = {"a": tile.rows // UNIT, "b": tile.columns // UNIT}
        self.copies: dict[str, AsyncCopies | StagedCopies] = {}
        self.readers: dict[str, Reader] = {}
        for role, across in (("a", tile.bm), ("b", tile.bn)):
            lines, pitch = (across, tile.bk) if self.along[role] else (tile.bk, across)
            memory = shared(role, self.dtype, self.along[role], lines, pitch * self.size)
            self.readers[role] = Reader(k, role, self.dtype, self.along[role], memory)
            width, is_async = tile.width(role), tile.is_async(role)
            walk = Walk(memory, tile.threads, self.size, self.along[role], width, width if is_async else CHUNK)
            self.copies[role] = (AsyncCopies if is_async else StagedCopies)(k, role, walk)
        self.stage = tile.stage_bytes(self.dtype)

    @property
    def _async(self) -> list[AsyncCopies]:
        return [copies for copies in self.copies.values() if isinstance(copies, AsyncCopies)]

    @property
    def _staged(self) -> list[StagedCopies]:
        return [copies for copies in self.copies.values() if isinstance(copies, StagedCopies)]

    def write(self) -> None:
        """All of it."""
        self._where()
        self._operands()
        self._prologue()
        with self.k.loop("block") as loop:
            more = self._block()
            loop.repeat(when=more)
        self._finish()

    # ---- which part of which matrix

    def _where(self) -> None:
        k, tile = self.k, self.tile
        k.section(f"Which tile of which matrix: groups of {GROUP} rows of tiles, in a group column by column.")
        self.m, self.n, self.size_k = k.param("m"), k.param("n"), k.param("k")
        tiles_m, tiles_n = k.param("tiles_m"), k.param("tiles_n")
        block = k.let("s32", "tile", "mov.u32", "%ctaid.x")
        self.matrix = None
        if self.op_class.batch_ndim or tile.splits > 1:
            tiles = k.let("s32", "tiles", "mul.lo.s32", tiles_m, tiles_n)
            matrix = k.let("s32", "matrix", "div.s32", block, tiles)
            before = k.let("s32", "tiles_before", "mul.lo.s32", matrix, tiles)
            k("sub.s32", block, block, before)
            self.matrix = matrix
        in_group = k.let("s32", "tiles_of_group", "mul.lo.s32", tiles_n, GROUP)
        group = k.let("s32", "group", "div.s32", block, in_group)
        first = k.let("s32", "first_of_group", "mul.lo.s32", group, GROUP)
        height = k.let("s32", "height", "sub.s32", tiles_m, first)
        k("min.s32", height, height, GROUP, note="the last group may be lower")
        skipped = k.let("s32", "tiles_before", "mul.lo.s32", group, in_group)
        rest = k.let("s32", "tile_in_group", "sub.s32", block, skipped)
        column = k.let("s32", "tile_column", "div.s32", rest, height)
        above = k.let("s32", "tiles_before", "mul.lo.s32", column, height)
        row = k.let("s32", "tile_row", "sub.s32", rest, above)
        k("add.s32", row, row, first)
        self.first = {
            "a": k.let("s32", "first_row", "mul.lo.s32", row, tile.bm),
            "b": k.let("s32", "first_column", "mul.lo.s32", column, tile.bn),
        }
        self.offsets: dict[str, Register] = {}
        if self.op_class.batch_ndim and self.matrix is not None:
            wide = k.let("s64", "matrix_index", "cvt.s64.s32", self.matrix)
            sizes = {x.role: itemsize(x.dtype) for x in (*self.op_class.inputs, *self.op_class.outputs)}
            self.offsets = batch.offsets(k, wide, self.op_class.batch_ndim, roles(self.op_class, tile), sizes)
        self._slice()

    def _slice(self) -> None:
        """Blocks of k: [start, end), never none; for K = 0 one of zeros."""
        k, tile = self.k, self.tile
        end = k.let("s32", "blocks", "add.s32", self.size_k, tile.bk - 1)
        k("shr.s32", end, end, tile.bk.bit_length() - 1)
        k("max.s32", end, end, 1, note="K = 0: one block of zeros")
        self.start: Register | int = 0
        if tile.splits > 1:
            self.slice = k.let("s32", "slice", "mov.u32", "%ctaid.y")
            length = k.param("slice_blocks")
            start = k.let("s32", "slice_start", "mul.lo.s32", self.slice, length)
            stop = k.let("s32", "slice_end", "add.s32", start, length)
            k("min.s32", end, end, stop)
            self.start = start
        self.last = k.let("s32", "last_block", "sub.s32", end, 1)
        self.left = k.let("s32", "blocks_left", "sub.s32", end, self.start)

    def base(self, role: str) -> Register:
        """The address of an operand's matrix."""
        pointer = self.k.param(role)
        if role in self.offsets:
            self.k("add.s64", pointer, pointer, self.offsets[role])
        return pointer

    # ---- operands

    def _operands(self) -> None:
        k, tile = self.k, self.tile
        self.thread = k.let("s32", "thread", "mov.u32", "%tid.x")
        self.memory = k.let("s32", "shared", "mov.u32", k.shared_dynamic("memory", 128))
        b_memory = k.let("s32", "shared_b", "add.s32", self.memory, self.copies["a"].walk.tile.nbytes)
        for role, memory, extent in (("a", self.memory, self.m), ("b", b_memory, self.n)):
            pitch = k.let("s64", f"{role}_pitch_bytes", "mul.lo.s64", k.param(f"{role}_pitch"), self.size)
            self.copies[role].start(memory, self.thread, self.base(role), pitch, self.first[role], extent)
        k.section(f"Which part of the block a warp has: {tile.rows} x {tile.columns}.")
        warp = k.let("s32", "warp", "shr.u32", self.thread, 5)
        self.lane = k.let("s32", "lane", "and.b32", self.thread, 31)
        self.warp = {
            "a": k.let("s32", "warp_row", "shr.u32", warp, tile.wn.bit_length() - 1),
            "b": k.let("s32", "warp_column", "and.b32", warp, tile.wn - 1),
        }
        for role, memory, own in (("a", self.memory, tile.rows), ("b", b_memory, tile.columns)):
            along = self.along[role]
            part = own if along else own * self.size // CHUNK
            first = k.let("s32", f"{role}_first", "mul.lo.s32", self.warp[role], part)
            self.readers[role].start(memory, self.lane, first if along else 0, 0 if along else first)
            self.readers[role].prepare(self.units[role], self.steps)
        self.sets = {
            role: [self.readers[role].registers(self.units[role], f"{role}{'xy'[i]}_") for i in (0, 1)] for role in "ab"
        }

    # ---- before the loop

    def _prologue(self) -> None:
        k, tile = self.k, self.tile
        k.section("The last block of k to stage 0, with zeros past its end.")
        remaining = k.let("s32", "remaining", "mul.lo.s32", self.last, tile.bk)
        k("sub.s32", remaining, self.size_k, remaining)
        for copies in self.copies.values():
            copies.seek(self.last)
            if isinstance(copies, AsyncCopies):
                copies.first(0, remaining)
            else:
                copies.first(remaining)
            copies.seek(self.start)
        if self._async:
            k("cp.async.commit_group")
        for stage in range(1, tile.stages - 1) if self._async else ():
            k.section(f"Block {stage} to stage {stage}, if there is one.")
            exists = k.let("pred", "exists", "setp.gt.s32", self.left, stage)
            for copies in self._async:
                copies.aim(stage * self.stage)
                _emit(copies.part(0, 1, exists))
            k("cp.async.commit_group")
        k.section("Sums, and the first fragments.")
        flat = k.regs(self.type, "sum", 4 * self.units["a"] * 2 * self.units["b"])
        width = 8 * self.units["b"]
        self.sums = [flat[i : i + width] for i in range(0, len(flat), width)]
        for register in flat:
            k(f"mov.{self.type}", register, zero(self.type))
        second = k.let("pred", "second", "setp.gt.s32", self.left, 1)
        for staged in self._staged:
            staged.store(0, None)
            _emit(staged.block(second))
        self.read = k.let("s32", "stage", "mov.s32", 0, note="the one that is multiplied")
        self.ahead = k.reg("pred", "ahead")
        self._await()
        _emit(self._fragments(0, 0, None))
        for copies in self._async:
            copies.aim((tile.stages - 1) * self.stage)
        _emit(self._copies(0))

    def _await(self) -> None:
        """Every thread's copies of the next block are there, and nobody reads the block before any more."""
        if self._async:
            self.k("cp.async.wait_group", self.tile.stages - 2)
        self.k("bar.sync", 0)

    def _fragments(self, step: int, into: int, when: Register | None) -> list[Emit]:
        """Loads of a step's fragments from the stage that is read."""
        for reader in self.readers.values():
            reader.aim(self.read)

        def load(role: str, unit: int) -> Emit:
            return lambda: self.readers[role].load(unit, step, self.sets[role][into][unit], when)

        a, b = self.units["a"], self.units["b"]
        order = sorted([(i / a, "a", i) for i in range(a)] + [(i / b, "b", i) for i in range(b)])
        return [load(role, unit) for _, role, unit in order]

    # ---- the loop

    def _block(self) -> Register:
        """One block of k; the predicate whether there is another."""
        k, tile = self.k, self.tile
        more = k.let("pred", "more", "setp.gt.s32", self.left, 1)
        later = k.let("pred", "later", "setp.gt.s32", self.left, 2) if self._staged else more
        k("sub.s32", self.left, self.left, 1)
        parts = self.steps - 1
        for step in range(parts):
            k.section(f"Step {step}: multiply it; fragments of step {step + 1}; copies of block i + {tile.stages - 1}.")
            share = self._copies(step + 1)
            self._multiply(step % 2, _merged(self._fragments(step + 1, (step + 1) % 2, None), share))
        k.section(f"Step {parts}: the barrier; multiply it; the first fragments of block i + 1.")
        if self._async:
            k("cp.async.commit_group")
            for copies in self._async:
                copies.aim(self.read)  # nobody reads it behind the barrier
        self._next_stage()
        for staged in self._staged:
            staged.store(self.read, more)
        self._await()
        loads = [emit for staged in self._staged for emit in staged.block(later)]
        first = self._fragments(0, (parts + 1) % 2, more)
        self._multiply(parts % 2, [*_merged(first, self._copies(0)), *loads])
        return more

    def _next_stage(self) -> None:
        k, ring = self.k, self.tile.stages * self.stage
        k("add.s32", self.read, self.read, self.stage)
        if ring & (ring - 1) == 0:
            k("and.b32", self.read, self.read, ring - 1, note="round the ring")
            return
        end = k.let("pred", "end_of_ring", "setp.eq.s32", self.read, ring)
        k("selp.s32", self.read, 0, self.read, end)

    def _copies(self, part: int) -> list[Emit]:
        """A part of the copies of a block into the free stage: the first part comes in the last step of the block
        before, the others follow step by step. In the first part block i + stages - 1 is the next to copy, where
        `blocks_left` counts from i on."""
        k = self.k
        copying = self._async

        def begin() -> None:
            k("setp.ge.s32", self.ahead, self.left, self.tile.stages)

        emits = [emit for copies in copying for emit in copies.part(part, self.steps, self.ahead)]
        return [begin, *emits] if copying and part == 0 else emits

    def _multiply(self, which: int, others: Sequence[Emit]) -> None:
        """A step's multiplications, and other instructions between them."""
        k = self.k
        a = [self.readers["a"].ready(unit) for unit in self.sets["a"][which]]
        b = [self.readers["b"].ready(unit) for unit in self.sets["b"][which]]
        products: list[Emit] = []
        for instruction in instructions(self.dtype, self.tile.sm):
            for i, unit in enumerate(a):
                columns = range(2 * len(b))
                for j in columns if i % 2 == 0 else reversed(columns):  # back and forth: one operand stays the same
                    sums = self.sums[i][4 * j : 4 * j + 4]
                    pair = b[j // 2][2 * (j % 2) : 2 * (j % 2) + 2]
                    products.append(_product(k, instruction.opcode, *(
                        [registers[x] for x in chosen]
                        for registers, chosen in ((sums, instruction.sums), (unit, instruction.a), (pair, instruction.b))
                    )))  # fmt: skip
        _emit(_merged(products, others))

    # ---- results

    def _finish(self) -> None:
        k, tile = self.k, self.tile
        changed = {role: self.readers[role].transposes for role in "ab"}
        block = regroup.Block(
            tile.bm, tile.bn, tile.rows, tile.columns, tile.threads, self.type, changed["a"], changed["b"]
        )
        regroup.write(k, block, self.memory, self.lane, self.warp["a"], self.warp["b"], self.sums)
        k("bar.sync", 0)
        count = elements(self.op_class.outputs[0].dtype) if tile.splits == 1 else 16 // (8 if block.wide else 4)
        k.section(f"Row by row: {count} neighbours a thread.")
        rows = regroup.Rows(k, block, self.memory, self.thread, count)
        column = k.let("s32", "column", "add.s32", rows.column, self.first["b"])
        row = k.let("s32", "row", "add.s32", rows.row, self.first["a"])
        self.width = self.n
        if tile.splits > 1:
            self.width = k.let("s32", "partial_pitch", "add.s32", self.n, splitk.PITCH - 1)
            k("and.b32", self.width, self.width, -splitk.PITCH)
        some = k.let("pred", "some", "setp.lt.s32", column, self.width)
        end = k.let("s32", "end_row", "add.s32", self.first["a"], tile.bm)
        k("min.s32", end, end, self.m)
        with k.when(some, "columns"):
            store = self._store_results(column) if tile.splits == 1 else self._store_partials(column)
            with k.loop("row") as loop:
                outside = k.let("pred", "outside", "setp.ge.s32", row, end)
                loop.leave(when=outside)
                store(row, rows.read())
                k("add.s32", row, row, rows.step)

    def _store_results(self, column: Register) -> Callable[[Register, list[Register]], None]:
        return Vectors(self.k, Results(self.op_class, self.tile.sm), self.base, column).store

    def _store_partials(self, column: Register) -> Callable[[Register, list[Register]], None]:
        """Sums as they are, to partials[slice][matrix][row][column] (splitk.py)."""
        k = self.k
        size = 8 if self.type == "f64" else 4
        vector = 16 // size
        assert self.matrix is not None
        number = k.let("s32", "partial", "mad.lo.s32", self.slice, k.param("matrices"), self.matrix)
        first = k.let("s64", "partial_row", "mul.wide.s32", number, self.m)
        pitch64 = k.let("s64", "partial_pitch_bytes", "mul.wide.s32", self.width, size)
        base = k.let("s64", "partial_at", "mad.lo.s64", first, pitch64, k.param("partials"))
        k("mad.wide.s32", base, column, size, base)

        def store(row: Register, sums: list[Register]) -> None:
            row64 = k.let("s64", "row_wide", "cvt.s64.s32", row)
            place = k.let("s64", "partial_place", "mad.lo.s64", row64, pitch64, base)
            k(f"st.global.v{vector}.{self.type}", at(place), sums)

        return store


def _product(k: Entry, opcode: str, sums: list[Register], a: list[Register], b: list[Register]) -> Emit:
    def one(registers: list[Register]) -> Register | list[Register]:
        return registers

    return lambda: k(opcode, one(sums), one(a), one(b), one(sums))


def _merged(first: Sequence[Emit], second: Sequence[Emit]) -> list[Emit]:
    """Both sequences in one, in proportion."""
    placed = [((i + 1) / (len(x) + 1) * (LEAD if n and len(first)>20 else 1), n, i, emit) for n, x in enumerate((first, second)) for i, emit in enumerate(x)]
    return [emit for _, _, _, emit in sorted(placed, key=lambda entry: entry[:3])]


def _emit(instructions: Sequence[Emit]) -> None:
    for emit in instructions:
        emit()
