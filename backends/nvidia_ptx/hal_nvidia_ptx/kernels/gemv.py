"""matmul with few rows or few columns: a matrix of weights is read once, and that is all the time there is.

    dot    the weights' lines are contiguous along k (x @ w.T): a warp a line, lanes along k, sums by shuffles
    axpy   they are contiguous across (x @ w): eight lanes over neighbouring columns, 32 groups of them over k

`few` is the side of 1 to 4 rows that a block keeps in registers, `many` the side of the weights. A result with few
columns is the transpose of one with few rows: the operands change places, and everything else stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hal.device import DeviceInfo
from hal.kernel import I32, I64, Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass
from hal.ops import OPERATORS
from hal.ops.problem import Problem
from hal_nvidia_ptx.kernels import batch
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.results import arguments as arguments_of
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, load, load_words, unpack, zero
from hal_nvidia_ptx.ptx import Entry, Register, at, module

FEW = 4  # the most rows that share one reading of the weights
WARPS = 4  # of a block, for dot
LANES, GROUPS = 8, 32  # for axpy: 8 lanes of 16 bytes make a line of the cache
UNROLL = {"dot": 4, "axpy": 4}  # vectors of weights in flight a thread
SIZES = ("m", "n", "k", "blocks_many", "blocks_few")
STRIDES = ("a_row", "a_column", "b_row", "b_column", "out_row", "out_column")


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """None where no side is short, where the caller wants rows that do not depend on their number, or for integers."""
    if op.param("deterministic") == "batch" or op.dtype == "int8" or op.param("precision") or min(p.m, p.n) > FEW:
        return []
    sm = 75 if info.props["target"] == "sm_75" else 80
    swap = int(p.n < p.m)
    few = min(p.m, p.n)
    rows = 1 if few == 1 else 2 if few == 2 else FEW
    a, b = ((spec.strides[-2], spec.strides[-1]) for _, spec in op.inputs[:2])
    (x_step, w_step, w_across) = (b[0], a[1], a[0]) if swap else (a[1], b[0], b[1])
    common = (("few", rows), ("swap", swap), ("sm", sm))
    if w_step == 1 and x_step == 1:
        return [Config("dot", common)]
    return [Config("axpy", common)] if w_across == 1 else []


def schedule(op: Op, p: Problem, config: Config) -> Schedule:
    """One launch."""
    shape = _Shape.of(OPERATORS[op.name].classify(op), config)
    many, few = (p.m, p.n) if shape.swap else (p.n, p.m)
    blocks_many, blocks_few = -(-many // shape.lines), -(-few // shape.few)
    results = arguments_of(op, p)
    arguments = (
        In(0),
        In(1),
        Out(0),
        *results.bias,
        *map(I32, (p.m, p.n, p.k, blocks_many, blocks_few)),
        *map(I64, (*p.strides["a"], *p.strides["b"], *p.strides["out"])),
        *results.numbers,
        *batch.arguments(p.batch, p.batch_strides, results.roles),
    )
    return Schedule((Launch(0, (blocks_many * blocks_few * p.count, 1, 1), (shape.threads, 1, 1), arguments),))


@dataclass(frozen=True)
class _Shape:
    """What a config means for a class of calls. x is the short operand, w the weights."""

    name: str
    few: int
    swap: bool
    sm: int
    vector: int  # elements of the weights in one access
    lines: int  # of the weights, a block

    @classmethod
    def of(cls, op_class: OpClass, config: Config) -> _Shape:
        a, b = op_class.inputs[:2]
        swap = bool(config["swap"])
        w, x = (a, b) if swap else (b, a)
        align = min(w.align, x.align) if config.name == "dot" else w.align
        vector = max(min(align, 16) // itemsize(w.dtype), 1)
        lines = WARPS if config.name == "dot" else LANES * vector
        return cls(config.name, config["few"], swap, config["sm"], vector, lines)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * WARPS if self.name == "dot" else LANES * GROUPS


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel."""
    shape, results = _Shape.of(op_class, config), Results(op_class, config["sm"])
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
    side = "columns" if shape.swap else "rows"
    doc = (
        f"matmul with few {side}: {shape.few} at a time, {op_class.inputs[0].dtype}, weights contiguous "
        f"{'along k: a warp a line, lanes along k' if shape.name == 'dot' else 'across: lanes across, groups along k'}"
        f", {shape.vector} elements a load.\nSizes count elements, strides too; batch axes are outermost first."
    )
    k = Entry(shape.name, parameters, threads=shape.threads, doc=doc)
    _Writer(k, op_class, shape, results).write()
    return (Kernel(shape.name, module(k), tuple(name for name, _ in parameters)),)


class _Writer:
    """The kernel's text, part by part."""

    def __init__(self, k: Entry, op_class: OpClass, shape: _Shape, results: Results) -> None:
        self.k, self.op_class, self.shape, self.results = k, op_class, shape, results
        self.dtype = op_class.inputs[0].dtype
        self.type = ARITHMETIC[self.dtype]
        self.x, self.w = ("b", "a") if shape.swap else ("a", "b")
        # The words for an operand's axis across, and along k.
        self.across = {"a": "a_row", "b": "b_column"}
        self.along = {"a": "a_column", "b": "b_row"}

    def write(self) -> None:
        """All of it."""
        k = self.k
        self._where()
        sums = [k.regs(self.type, f"sum{r}_", self._columns()) for r in range(self.shape.few)]
        for register in (register for row in sums for register in row):
            k(f"mov.{self.type}", register, zero(self.type))
        if self.shape.name == "dot":
            self._dot([row[0] for row in sums])
        else:
            self._axpy(sums)

    def _columns(self) -> int:
        return 1 if self.shape.name == "dot" else self.shape.vector

    def _where(self) -> None:
        """Lines of the weights and rows of x of this block; its matrix; the place of this thread."""
        k, shape = self.k, self.shape
        k.section("Which lines of the weights, which rows of x, which matrix.")
        self.thread = k.let("s32", "thread", "mov.u32", "%tid.x")
        block = k.let("s32", "block", "mov.u32", "%ctaid.x")
        blocks_many, blocks_few = k.param("blocks_many"), k.param("blocks_few")
        rest, many = batch.divide(k, block, blocks_many, "block_many")
        matrix32, few = batch.divide(k, rest, blocks_few, "block_few")
        matrix = k.let("s64", "matrix", "cvt.s64.s32", matrix32)
        self.first_line = k.let("s32", "first_line", "mul.lo.s32", many, shape.lines)
        self.first_row = k.let("s32", "first_row", "mul.lo.s32", few, shape.few)
        self.size = {"a": k.param("m"), "b": k.param("n")}
        self.size_k = k.param("k")
        sizes = {x.role: itemsize(x.dtype) for x in (*self.op_class.inputs, *self.op_class.outputs)}
        self.offsets = batch.offsets(k, matrix, self.op_class.batch_ndim, self.results.roles, sizes)

    def base(self, role: str) -> Register:
        """The address of the operand's matrix."""
        pointer = self.k.param(role)
        if role in self.offsets:
            self.k("add.s64", pointer, pointer, self.offsets[role])
        return pointer

    def _line(self, role: str, base: Register, index: Register, name: str) -> Register:
        """The address of a line of an operand; past the end, of the last one: read, and not used."""
        k = self.k
        last = k.let("s32", f"{role}_last", "sub.s32", self.size[role], 1)
        i = k.let("s64", f"{name}_index", "cvt.s64.s32", k.let("s32", f"{name}_clamped", "min.s32", index, last))
        step = k.let("s64", f"{role}_line", "mul.lo.s64", k.param(self.across[role]), itemsize(self.dtype))
        return k.let("s64", f"{name}_at", "mad.lo.s64", i, step, base)

    def _rows_of_x(self, base: Register) -> list[Register]:
        """The addresses of this block's rows of x."""
        k, found = self.k, []
        for r in range(self.shape.few):
            row = k.let("s32", f"x{r}", "add.s32", self.first_row, r)
            found.append(self._line(self.x, base, row, f"x{r}"))
        return found

    def _multiply(self, sums: list[Register], w: list[Register], x: list[Register]) -> None:
        for total, left, right in zip(sums, w, x, strict=True):
            self.k(f"fma.rn.{self.type}", total, left, right, total)

    # ---- dot

    def _dot(self, sums: list[Register]) -> None:
        """A warp has one line: lane l takes vectors l, l + 32, …, then all lanes' sums are added."""
        k, shape, size = self.k, self.shape, itemsize(self.dtype)
        k.section("A warp has one line of the weights.")
        lane = k.let("s32", "lane", "and.b32", self.thread, 31)
        warp = k.let("s32", "warp", "shr.u32", self.thread, 5)
        line = k.let("s32", "line", "add.s32", self.first_line, warp)
        pointers = [self._line(self.w, self.base(self.w), line, "w"), *self._rows_of_x(self.base(self.x))]
        vectors = k.let("s32", "vectors", "shr.u32", self.size_k, shape.vector.bit_length() - 1)
        i = k.let("s32", "i", "mov.s32", lane, note="vector of this lane")
        places = self._advanced(pointers, lane, shape.vector * size)
        some = k.let("pred", "some", "setp.lt.s32", i, vectors)
        with k.when(some, "whole_vectors"), k.loop("along_k") as loop:
            self._dot_step(sums, places, i, vectors)
            step = 32 * UNROLL["dot"]
            for place in places:
                k("add.s64", place, place, step * shape.vector * size)
            k("add.s32", i, i, step)
            loop.repeat(when=k.let("pred", "more", "setp.lt.s32", i, vectors))
        if shape.vector > 1:
            self._dot_rest(sums, pointers, lane, vectors)
        k.section("The lanes' sums: every lane gets the total.")
        for distance in (16, 8, 4, 2, 1):
            for total in sums:
                self._add_from(total, distance)
        first = k.let("pred", "first_lane", "setp.eq.s32", lane, 0)
        with k.when(first, "result"):
            self._store(sums, [(line, 0)])

    def _advanced(self, pointers: list[Register], count: Register, size: int) -> list[Register]:
        offset = self.k.let("s64", "lane_bytes", "mul.wide.s32", count, size)
        return [self.k.let("s64", "place", "add.s64", pointer, offset) for pointer in pointers]

    def _dot_step(self, sums: list[Register], places: list[Register], i: Register, vectors: Register) -> None:
        """UNROLL vectors of every operand: all loads, then all arithmetic. Vectors past the end are zero."""
        k, vector, size = self.k, self.shape.vector, itemsize(self.dtype)
        loaded = []
        for u in range(UNROLL["dot"]):
            left = k.let("s32", "left", "sub.s32", vectors, i)
            inside = k.let("pred", "inside", "setp.gt.s32", left, 32 * u)
            loaded.append(
                [
                    load_words(k, self.dtype, place, u * 32 * vector * size, vector, name=f"v{u}", when=inside)
                    for place in places
                ]
            )
        for w_words, *x_words in loaded:
            w = unpack(k, self.dtype, w_words)
            for total, words in zip(sums, x_words, strict=True):
                self._multiply([total] * vector, w, unpack(k, self.dtype, words))

    def _dot_rest(self, sums: list[Register], pointers: list[Register], lane: Register, vectors: Register) -> None:
        """The elements after the last whole vector, one a lane."""
        k, vector = self.k, self.shape.vector
        k.section("The elements after the last whole vector, one a lane.")
        start = k.let("s32", "rest", "mad.lo.s32", vectors, vector, lane)
        inside = k.let("pred", "inside", "setp.lt.s32", start, self.size_k)
        places = self._advanced(pointers, start, itemsize(self.dtype))
        w, *x = [load(k, self.dtype, place, name="element", when=inside) for place in places]
        self._multiply(sums, [w] * len(x), x)

    def _add_from(self, total: Register, distance: int) -> None:
        """Add the value of the lane whose number differs in one bit."""
        k = self.k
        other = k.reg(self.type, "other")
        if self.type == "f64":
            halves, moved = [k.regs("b32", f"half{i}_", 2) for i in range(2)]
            k("mov.b64", halves, total)
            for half, there in zip(halves, moved, strict=True):
                k("shfl.sync.bfly.b32", there, half, distance, 31, -1)
            k("mov.b64", other, moved)
        else:
            k("shfl.sync.bfly.b32", other, total, distance, 31, -1)
        k(f"add.rn.{self.type}", total, total, other)

    # ---- axpy

    def _axpy(self, sums: list[list[Register]]) -> None:
        """Eight lanes have neighbouring columns; their group g of 32 takes steps g, g + 32, … of k."""
        k, shape, size = self.k, self.shape, itemsize(self.dtype)
        k.section("Eight lanes on neighbouring lines; 32 groups of lanes along k.")
        lane = k.let("s32", "lane", "and.b32", self.thread, LANES - 1)
        group = k.let("s32", "group", "shr.u32", self.thread, LANES.bit_length() - 1)
        line = k.let("s32", "line", "mad.lo.s32", lane, shape.vector, self.first_line)
        last = k.let("s32", "last_vector", "sub.s32", self.size[self.w], shape.vector)
        whole = k.let("pred", "whole", "setp.le.s32", line, last, note="else elements, one by one")
        w_base, x_rows = self.base(self.w), self._rows_of_x(self.base(self.x))
        w_step = k.let("s64", "w_step", "mul.lo.s64", k.param(self.along[self.w]), size)
        x_step = k.let("s64", "x_step", "mul.lo.s64", k.param(self.along[self.x]), size)
        start = k.let("s64", "start", "cvt.s64.s32", group)
        w_at = k.let("s64", "w_at", "mad.lo.s64", start, w_step, w_base)
        offset = k.let("s64", "line_bytes", "mul.wide.s32", line, size)
        k("add.s64", w_at, w_at, offset)
        x_at = [k.let("s64", "x_at", "mad.lo.s64", start, x_step, row) for row in x_rows]
        left = k.let("s32", "left", "sub.s32", self.size_k, group, note="steps of k")
        some = k.let("pred", "some", "setp.gt.s32", left, 0)
        with k.when(some, "sums"), k.loop("along_k") as loop:
            self._axpy_step(sums, w_at, x_at, (w_step, x_step), left, whole, line)
            k("sub.s32", left, left, GROUPS * UNROLL["axpy"])
            loop.repeat(when=k.let("pred", "more", "setp.gt.s32", left, 0))
        self._axpy_total(sums)

    def _axpy_step(
        self,
        sums: list[list[Register]],
        w_at: Register,
        x_at: list[Register],
        steps: tuple[Register, Register],
        left: Register,
        whole: Register,
        line: Register,
    ) -> None:
        """UNROLL steps of k: all loads, then all arithmetic."""
        k, vector = self.k, self.shape.vector
        far = [k.let("s64", "far", "mul.lo.s64", step, GROUPS) for step in steps]
        loaded = []
        for u in range(UNROLL["axpy"]):
            inside = k.let("pred", "inside", "setp.gt.s32", left, GROUPS * u)
            w = self._weights(w_at, inside, whole, line)
            x = [load(k, self.dtype, place, name=f"x{r}_value", when=inside) for r, place in enumerate(x_at)]
            loaded.append((w, x))
            for place, step in ((w_at, far[0]), *((place, far[1]) for place in x_at)):
                k("add.s64", place, place, step)
        for words, x in loaded:
            w = unpack(k, self.dtype, words)
            for row, value in zip(sums, x, strict=True):
                self._multiply(row, w, [value] * vector)

    def _weights(self, at_line: Register, inside: Register, whole: Register, line: Register) -> list[Register]:
        """One vector; at the end of the lines, those elements of it that are there."""
        k, vector, size = self.k, self.shape.vector, itemsize(self.dtype)
        valid = k.let("pred", "valid", "and.pred", inside, whole)
        words = load_words(k, self.dtype, at_line, 0, vector, name="w", when=valid)
        if vector == 1:
            return words
        partly = k.let("pred", "partly", "and.pred", inside, k.let("pred", "not_whole", "not.pred", whole))
        with k.when(partly, "last_lines"):
            self._partial(words, at_line, line, size)
        return words

    def _partial(self, words: list[Register], at_line: Register, line: Register, size: int) -> None:
        k, each = self.k, self.shape.vector // len(words)
        for i, word in enumerate(words):
            parts = [k.reg("b16", "part") for _ in range(each)] if each > 1 else [word]
            for j, part in enumerate(parts):
                index = k.let("s32", "line_i", "add.s32", line, i * each + j)
                valid = k.let("pred", "line_inside", "setp.lt.s32", index, self.size[self.w])
                if each > 1:
                    k("mov.b16", part, 0)
                k(f"ld.global.{part.type}", part, at(at_line, (i * each + j) * size), when=valid)
            if each > 1:
                k("mov.b32", word, parts)

    def _axpy_total(self, sums: list[list[Register]]) -> None:
        """The groups' sums: four of a warp by shuffles, eight warps through shared memory in ascending order."""
        k, shape = self.k, self.shape
        nbytes = 8 if self.type == "f64" else 4
        warps = LANES * GROUPS // 32
        k.section("The groups' sums: four of a warp by shuffles, the warps' through shared memory, in order.")
        for distance in (8, 16):
            for total in (total for row in sums for total in row):
                self._add_from(total, distance)
        name = k.shared("parts", warps * shape.few * shape.lines * nbytes, note="[warp][row of x][line]")
        base = k.let("s32", "parts_at", "mov.u32", name)
        warp = k.let("s32", "warp", "shr.u32", self.thread, 5)
        lane = k.let("s32", "warp_lane", "and.b32", self.thread, 31)
        own = k.let("s32", "own", "mad.lo.s32", warp, shape.few * shape.lines * nbytes, base)
        k("mad.lo.s32", own, lane, shape.vector * nbytes, own)
        writes = k.let("pred", "writes", "setp.lt.s32", lane, LANES)
        for r, row in enumerate(sums):
            for j, total in enumerate(row):
                k(f"st.shared.{self.type}", at(own, (r * shape.lines + j) * nbytes), total, when=writes)
        k("bar.sync", 0)
        # One result a thread and round: line = i % lines, row = i / lines.
        rounds = -(-shape.few * shape.lines // shape.threads)
        for number in range(rounds):
            i = k.let("s32", "result", "add.s32", self.thread, number * shape.threads)
            mine = k.let("pred", "mine", "setp.lt.s32", i, shape.few * shape.lines)
            with k.when(mine, "result"):
                self._axpy_result(i, base, warps, nbytes)

    def _axpy_result(self, i: Register, base: Register, warps: int, nbytes: int) -> None:
        k, shape = self.k, self.shape
        total = k.let(self.type, "total", f"mov.{self.type}", zero(self.type))
        place = k.let("s32", "part", "mad.lo.s32", i, nbytes, base)
        for warp in range(warps):
            part = k.reg(self.type, "part_value")
            k(f"ld.shared.{self.type}", part, at(place, warp * shape.few * shape.lines * nbytes))
            k(f"add.rn.{self.type}", total, total, part)
        row = k.let("s32", "row", "shr.u32", i, shape.lines.bit_length() - 1)
        k("add.s32", row, row, self.first_row)
        line = k.let("s32", "out_line", "and.b32", i, shape.lines - 1)
        k("add.s32", line, line, self.first_line)
        self._store([total], [(line, 0)], row)

    def _store(self, sums: list[Register], lines: list[tuple[Register, int]], row: Register | None = None) -> None:
        rows = [(row, 0)] if row is not None else [(self.first_row, r) for r in range(self.shape.few)]
        across: Callable[..., None] = self.results.store
        if self.shape.swap:
            across(self.k, self.base, lines, rows, sums)
        else:
            across(self.k, self.base, rows, lines, sums)
