"""matmul by ordinary multiply-add: float32 and float64 exact to their dtype, and every dtype, layout and target.

A block has BM x BN elements of the result, BK steps of k at a time; a thread has WM x WN of them in registers.

    threads to tile           x = thread % (BN / WN), y = thread / (BN / WN); in groups of four neighbours, so that one
                              16-byte access reads a group: rows 4 y + {0 … 3} + g BM / (WM / 4), columns alike with x
    shared memory             two buffers of BK x (BM + 4) elements of a, k outermost, and BK x (BN + 4) of b
    pipeline                  global loads of block i + 1 | multiply block i | store i + 1 to the other buffer | barrier

Every element is one chain of fma for k ascending, so a row's bits depend on the row, b and the device alone. Rows past
the end are read from the last row, and never stored; k past the end is zero in both operands, so that no infinity
meets a padded zero. Loads are of single elements along whichever axis is contiguous: 8 for 512 multiply-adds.
"""

from __future__ import annotations

from dataclasses import dataclass

from hal.device import DeviceInfo
from hal.dtypes import accumulator
from hal.kernel import I32, I64, Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_nvidia_ptx.kernels import batch
from hal_nvidia_ptx.kernels.results import GROUP, Results
from hal_nvidia_ptx.kernels.results import arguments as arguments_of
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, load, zero
from hal_nvidia_ptx.ptx import Entry, Register, at, module

PAD = 4  # elements between rows of shared memory: stores of a transposed tile then meet different banks
SIZES = ("m", "n", "k", "tiles_m", "tiles_n")
# The last two are what a block of k advances, in bytes: ready-made, they cost the loop one addition a pointer.
STRIDES = ("a_row", "a_column", "b_row", "b_column", "out_row", "out_column", "a_block", "b_block")


@dataclass(frozen=True)
class Tile:
    """The numbers of a config; `threads` follow."""

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    sm: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.bm // self.wm) * (self.bn // self.wn)


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """A tile of 128 x 128 where it gives the device enough blocks, else 64 x 64 or 32 x 32; doubles have no 128."""
    sm = 75 if info.props["target"] == "sm_75" else 80
    batch_invariant = op.param("deterministic") == "batch"
    rows, count = (p.n, 1) if batch_invariant else (p.m, p.count)
    wide = accumulator(op.dtype) == "float64"
    menu = [(64, 64, 8, 4, 4)] if wide else [(128, 128, 8, 8, 8), (64, 64, 8, 4, 4)]
    enough = [t for t in menu if -(-rows // t[0]) * -(-p.n // t[1]) * count >= info.props["sms"]]
    order = [*enough, (32, 32, 8, 4, 4), *(t for t in reversed(menu) if t not in enough)]
    return [
        Config("ffma", tuple(zip(("bm", "bn", "bk", "wm", "wn", "sm"), (*tile, sm), strict=True))) for tile in order
    ]


def schedule(op: Op, p: Problem, config: Config) -> Schedule:
    """One launch: a block a tile, tiles of a row of tiles first."""
    tiles_m, tiles_n = -(-p.m // config["bm"]), -(-p.n // config["bn"])
    results = arguments_of(op, p)
    arguments = (
        In(0),
        In(1),
        Out(0),
        *results.bias,
        *map(I32, (p.m, p.n, p.k, tiles_m, tiles_n)),
        *map(I64, (*p.strides["a"], *p.strides["b"], *p.strides["out"])),
        *(I64(step * config["bk"] * itemsize(op.dtype)) for step in (p.strides["a"][1], p.strides["b"][0])),
        *results.numbers,
        *batch.arguments(p.batch, p.batch_strides, results.roles),
    )
    tile = Tile(**dict(config.values))
    return Schedule((Launch(0, (tiles_m * tiles_n * p.count, 1, 1), (tile.threads, 1, 1), arguments),))


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel, whose text depends on which axis of each operand is contiguous."""
    tile = Tile(**dict(config.values))
    results = Results(op_class, tile.sm)
    parameters = [
        ("a", "u64"),
        ("b", "u64"),
        ("out", "u64"),
        *results.bias_parameters,
        *((name, "s32") for name in SIZES),
        *((name, "s64") for name in STRIDES),
        *results.number_parameters,
        *batch.parameters(op_class.batch_ndim, results.roles),
    ]
    # One block is all that is asked of an SM: without a word ptxas aims at more, and spills for it on sm_100a.
    k = Entry("ffma", parameters, threads=tile.threads, min_blocks=1, doc=_doc(op_class, tile))
    _Writer(k, op_class, tile, results).write()
    return (Kernel("ffma", module(k), tuple(name for name, _ in parameters)),)


def _doc(op_class: OpClass, tile: Tile) -> str:
    a, b = op_class.inputs[:2]
    return (
        f"matmul by multiply-add: {a.dtype} {a.layout} a, {b.layout} b; blocks of {tile.bm} x {tile.bn} x {tile.bk}, "
        f"{tile.wm} x {tile.wn} a thread.\nSizes count elements, strides too; batch axes are outermost first."
    )


class _Operand:
    """One operand's way from global to shared memory: who copies which elements of a tile."""

    def __init__(self, name: str, dtype: str, size: int, along_k: bool, tile: Tile) -> None:
        self.name, self.dtype, self.size, self.along_k = name, dtype, size, along_k
        self.bytes = 8 if ARITHMETIC[dtype] == "f64" else 4
        self.pitch = (size + PAD) * self.bytes
        self.buffer = self.pitch * tile.bk
        self.loads = size * tile.bk // tile.threads
        # A thread has one step of k, and neighbours lie on whichever axis is contiguous.
        self.lanes = tile.bk if along_k else tile.threads // tile.bk
        self.apart = tile.threads // tile.bk  # rows or columns between a thread's elements
        self.pointers: list[Register] = []
        self.values: list[Register] = []


class _Writer:
    """The kernel's text, part by part."""

    def __init__(self, k: Entry, op_class: OpClass, tile: Tile, results: Results) -> None:
        self.k, self.op_class, self.tile, self.results = k, op_class, tile, results
        a, b = op_class.inputs[:2]
        self.type = ARITHMETIC[a.dtype]
        self.a = _Operand("a", a.dtype, tile.bm, a.layout != "column", tile)
        self.b = _Operand("b", b.dtype, tile.bn, b.layout == "column", tile)
        # By operand: this thread's step of k, bytes from block to block, addresses in shared memory and their sum over
        # both buffers.
        self.step: dict[str, Register] = {}
        self.stride: dict[str, Register] = {}
        self.to: dict[str, Register] = {}
        self.read: dict[str, Register] = {}
        self.both_read: dict[str, Register] = {}
        self.both_write: dict[str, Register] = {}

    def write(self) -> None:
        """All of it."""
        self._where()
        for x in (self.a, self.b):
            self._addresses(x)
        self._shared()
        k, tile = self.k, self.tile
        acc = k.regs(self.type, "acc", tile.wm * tile.wn)
        for register in acc:
            k(f"mov.{self.type}", register, zero(self.type))
        k.section("The first block of k to shared memory.")
        self.left = k.let("s32", "k_left", "mov.s32", self.size_k, note="steps of k that are not loaded yet")
        self._load()
        for x in (self.a, self.b):
            self._store(x)
        k("bar.sync", 0)
        some = k.let("pred", "some", "setp.gt.s32", self.size_k, 0, note="K = 0: a sum of nothing")
        with k.when(some, "sums"), k.loop("block") as loop:
            self._block(acc)
            more = k.let("pred", "more", "setp.gt.s32", self.left, -tile.bk, note="one more was loaded")
            loop.repeat(when=more)
        self._finish(acc)

    def _where(self) -> None:
        """Tile and matrix of this block; place of this thread."""
        k, tile = self.k, self.tile
        k.section("Which tile of which matrix: columns of tiles first, then rows, then the batch.")
        self.thread = k.let("s32", "thread", "mov.u32", "%tid.x")
        block = k.let("s32", "tile", "mov.u32", "%ctaid.x")
        tiles_n, tiles_m = k.param("tiles_n"), k.param("tiles_m")
        rest, column = batch.divide(k, block, tiles_n, "tile_column")
        matrix32, row = batch.divide(k, rest, tiles_m, "tile_row")
        self.first = {
            "a": k.let("s32", "first_row", "mul.lo.s32", row, tile.bm),
            "b": k.let("s32", "first_column", "mul.lo.s32", column, tile.bn),
        }
        self.limit = {"a": k.param("m"), "b": k.param("n")}
        self.size_k = k.param("k")
        matrix = k.let("s64", "matrix_index", "cvt.s64.s32", matrix32)
        sizes = {x.role: itemsize(x.dtype) for x in (*self.op_class.inputs, *self.op_class.outputs)}
        self.offsets = batch.offsets(k, matrix, self.op_class.batch_ndim, self.results.roles, sizes)

    def base(self, role: str) -> Register:
        """The address of the operand's matrix."""
        pointer = self.k.param(role)
        if role in self.offsets:
            self.k("add.s64", pointer, pointer, self.offsets[role])
        return pointer

    def _addresses(self, x: _Operand) -> None:
        """Where this thread's elements of the operand's first block are, and how far on those of the next."""
        k, size = self.k, itemsize(x.dtype)
        across, along = ("row", "column") if x.name == "a" else ("column", "row")
        k.section(f"This thread's elements of {x.name}: {'k' if x.along_k else across + 's'} along the lanes.")
        base = self.base(x.name)
        low = k.let("s32", f"{x.name}_low", "and.b32", self.thread, x.lanes - 1)
        high = k.let("s32", f"{x.name}_high", "shr.u32", self.thread, x.lanes.bit_length() - 1)
        self_step, self_across = (low, high) if x.along_k else (high, low)
        x_step = k.let("s64", f"{x.name}_k_bytes", "mul.lo.s64", k.param(f"{x.name}_{along}"), size)
        x_across = k.let("s64", f"{x.name}_{across}_bytes", "mul.lo.s64", k.param(f"{x.name}_{across}"), size)
        last = k.let("s32", f"{x.name}_last", "sub.s32", self.limit[x.name], 1)
        step64 = k.let("s64", f"{x.name}_step", "cvt.s64.s32", self_step)
        k("mad.lo.s64", base, step64, x_step, base)
        for j in range(x.loads):
            i = k.let("s32", f"{x.name}_{across}{j}", "add.s32", self.first[x.name], self_across)
            if j:
                k("add.s32", i, i, j * x.apart)
            k("min.s32", i, i, last, note="past the end: read the last one again")
            i64 = k.let("s64", f"{x.name}_{across}{j}_wide", "cvt.s64.s32", i)
            pointer = k.let("s64", f"{x.name}_at{j}", "mad.lo.s64", i64, x_across, base)
            x.pointers.append(pointer)
        x.values = k.regs(self.type, f"{x.name}_next", x.loads)
        self.step[x.name] = self_step
        self.stride[x.name] = k.param(f"{x.name}_block")
        # Where they go in shared memory: [k][row or column].
        to = k.let("s32", f"{x.name}_store", "mul.lo.s32", self_step, x.pitch)
        k("mad.lo.s32", to, self_across, x.bytes, to)
        self.to[x.name] = to

    def _shared(self) -> None:
        """Shared memory: two buffers of both operands; a sum of both addresses turns one into the other."""
        k, tile, a, b = self.k, self.tile, self.a, self.b
        k.section("Shared memory, two buffers: while one is multiplied, the other is filled.")
        whole = a.buffer + b.buffer
        name = k.shared("tiles", 2 * whole, note="[buffer][a, b][k][row, column]")
        base = k.let("s32", "shared", "mov.u32", name)
        columns = tile.bn // tile.wn
        x = k.let("s32", "x", "and.b32", self.thread, columns - 1)
        y = k.let("s32", "y", "shr.u32", self.thread, columns.bit_length() - 1)
        self.place = {"a": y, "b": x}
        for operand, start in ((a, 0), (b, a.buffer)):
            name = operand.name
            read = k.let("s32", f"{name}_read", "mad.lo.s32", self.place[name], GROUP * operand.bytes, base)
            if start:
                k("add.s32", read, read, start)
            k("add.s32", self.to[name], self.to[name], base)
            if start:
                k("add.s32", self.to[name], self.to[name], start)
            self.read[name] = read
            for table, register in ((self.both_read, read), (self.both_write, self.to[name])):
                table[name] = k.let("s32", f"{register.name}_both", "mad.lo.s32", register, 2, whole)

    def _load(self) -> None:
        """This thread's elements of the next block; zeros past the end of k."""
        k = self.k
        for x in (self.a, self.b):
            inside = k.let("pred", f"{x.name}_inside", "setp.gt.s32", self.left, self.step[x.name])
            for j, (pointer, value) in enumerate(zip(x.pointers, x.values, strict=True)):
                load(k, x.dtype, pointer, name=f"{x.name}_element{j}", when=inside, into=value)
                k("add.s64", pointer, pointer, self.stride[x.name])
        k("sub.s32", self.left, self.left, self.tile.bk)

    def _store(self, x: _Operand) -> None:
        """What `_load` brought, to the buffer that is not being multiplied."""
        k, to, other = self.k, self.to[x.name], self.both_write[x.name]
        for j, value in enumerate(x.values):
            k(f"st.shared.{self.type}", at(to, j * x.apart * x.bytes), value)
        k("sub.s32", to, other, to, note="the other buffer")

    def _block(self, acc: list[Register]) -> None:
        """One block of k: loads for the next, multiply-adds, stores for the next, a barrier."""
        k, tile = self.k, self.tile
        k.section("Loads of the next block go out before the arithmetic, which hides their latency.")
        self._load()
        k.section(f"{tile.bk} steps of k: {tile.wm} + {tile.wn} values make {tile.wm * tile.wn} multiply-adds.")
        for step in range(tile.bk):
            a = self._fragment(self.a, step, tile.wm)
            b = self._fragment(self.b, step, tile.wn)
            for i in range(tile.wm):
                for j in range(tile.wn):
                    total = acc[i * tile.wn + j]
                    k("mad.lo.s32" if self.type == "s32" else f"fma.rn.{self.type}", total, a[i], b[j], total)
        k.section("The next block to the other buffer; one barrier, since nobody reads that one now.")
        for x in (self.a, self.b):
            self._store(x)
            k("sub.s32", self.read[x.name], self.both_read[x.name], self.read[x.name])
        k("bar.sync", 0)

    def _fragment(self, x: _Operand, step: int, count: int) -> list[Register]:
        """`count` values of one step of k, by 16-byte reads."""
        k, width = self.k, 16 // x.bytes
        values = k.regs(self.type, f"{x.name}_k{step}_", count)
        apart = x.size // (count // GROUP) * x.bytes
        for i in range(0, count, width):
            group, inner = divmod(i, GROUP)
            address = at(self.read[x.name], step * x.pitch + group * apart + inner * x.bytes)
            k(f"ld.shared.v{width}.{self.type}", values[i : i + width], address)
        return values

    def _finish(self, acc: list[Register]) -> None:
        """Rows and columns of this thread; the rest is the same for all kernels that hold sums in registers."""
        k, tile = self.k, self.tile
        k.section("The results: row by row, groups of four neighbours.")
        rows = self._indices("a", tile.bm, tile.wm, "row")
        columns = self._indices("b", tile.bn, tile.wn, "column")
        self.results.store(k, self.base, rows, columns, acc)

    def _indices(self, name: str, size: int, count: int, word: str) -> list[tuple[Register, int]]:
        """(first of a group of four, number in the group) for each of this thread's rows or columns."""
        k, apart = self.k, size // (count // GROUP)
        found = []
        for group in range(count // GROUP):
            first = k.let("s32", f"{word}{group * GROUP}", "mad.lo.s32", self.place[name], GROUP, self.first[name])
            if group:
                k("add.s32", first, first, group * apart)
            found += [(first, i) for i in range(GROUP)]
        return found
