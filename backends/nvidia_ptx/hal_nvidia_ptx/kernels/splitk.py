"""The second kernel of a matmul whose k is split: partial sums are added in the order of the slices, and finished.

partials[slice][matrix][row][column], rows rounded up to PITCH columns, in the accumulator's type. A thread has as many
neighbours of one row as make 16 bytes of the result. The order is fixed, so the same call gives the same bits always.
"""

from __future__ import annotations

from hal.kernel import I32, I64, Argument, Kernel, Launch, Out, Scratch
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_nvidia_ptx.kernels import batch
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.results import arguments as arguments_of
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize
from hal_nvidia_ptx.kernels.vectors import VECTOR_BYTES, Vectors, elements
from hal_nvidia_ptx.ptx import Entry, Register, at, module

PITCH = 8  # columns; a vector of results never reaches past a row
THREADS = 128


def pitch(n: int) -> int:
    """Columns of a row of partial sums."""
    return -(-n // PITCH) * PITCH


def partial_bytes(op: Op, p: Problem, splits: int) -> int:
    """Of scratch memory."""
    return splits * p.count * p.m * pitch(p.n) * (8 if ARITHMETIC[op.dtype] == "f64" else 4)


def parameters(op_class: OpClass, results: Results) -> list[tuple[str, str]]:
    """Names and types of the kernel's parameters."""
    return [
        ("partials", "u64"),
        ("out", "u64"),
        *results.bias_parameters,
        *((name, "s32") for name in ("m", "n", "vectors", "vectors_of_row", "slices")),
        ("slice_bytes", "s64"),
        ("out_row", "s64"),
        *results.number_parameters,
        *batch.parameters(op_class.batch_ndim, results.roles[2:]),
    ]


def launch(op: Op, p: Problem, splits: int, number: int) -> Launch:
    """The launch of kernel `number` on partial sums at the start of the scratch memory."""
    of_row = -(-p.n // elements(op.outputs[0][1].dtype))
    vectors = p.count * p.m * of_row
    results = arguments_of(op, p)
    arguments: tuple[Argument, ...] = (
        Scratch(0),
        Out(0),
        *results.bias,
        *map(I32, (p.m, p.n, vectors, of_row, splits)),
        I64(partial_bytes(op, p, 1)),
        I64(p.strides["out"][0]),
        *results.numbers,
        *batch.arguments(p.batch, p.batch_strides, results.roles[2:]),
    )
    return Launch(number, (-(-vectors // THREADS), 1, 1), (THREADS, 1, 1), arguments)


def kernel(op_class: OpClass, sm: int) -> Kernel:
    """The text."""
    results = Results(op_class, sm)
    names = parameters(op_class, results)
    doc = "Partial sums of a matmul, added in the order of the slices of k; alpha, bias, activation, one rounding."
    k = Entry("mma_sum", names, threads=THREADS, doc=doc)
    _write(k, op_class, results)
    return Kernel("mma_sum", module(k), tuple(name for name, _ in names))


def _write(k: Entry, op_class: OpClass, results: Results) -> None:
    k.section(f"A thread has {elements(results.out.dtype)} neighbours of one row of one matrix.")
    m, n = k.param("m"), k.param("n")
    block, thread = k.let("s32", "block", "mov.u32", "%ctaid.x"), k.let("s32", "thread", "mov.u32", "%tid.x")
    vector = k.let("s32", "vector", "mad.lo.s32", block, THREADS, thread)
    there = k.let("pred", "exists", "setp.lt.s32", vector, k.param("vectors"))
    with k.when(there, "vector_there"):
        of_row = k.param("vectors_of_row")
        line = k.let("s32", "line", "div.s32", vector, of_row)
        before = k.let("s32", "vectors_before", "mul.lo.s32", line, of_row)
        column = k.let("s32", "column", "sub.s32", vector, before)
        k("mul.lo.s32", column, column, elements(results.out.dtype))
        matrix = k.let("s32", "matrix", "div.s32", line, m)
        above = k.let("s32", "rows_before", "mul.lo.s32", matrix, m)
        row = k.let("s32", "row", "sub.s32", line, above)
        sums = _sums(k, results, line, column, n)
        wide = k.let("s64", "matrix_index", "cvt.s64.s32", matrix)
        sizes = {x.role: itemsize(x.dtype) for x in (*op_class.inputs, *op_class.outputs)}
        offsets = batch.offsets(k, wide, op_class.batch_ndim, results.roles[2:], sizes)

        def base(role: str) -> Register:
            pointer = k.param(role)
            if role in offsets:
                k("add.s64", pointer, pointer, offsets[role])
            return pointer

        k.section("Finished and stored.")
        Vectors(k, results, base, column).store(row, sums)


def _sums(k: Entry, results: Results, line: Register, column: Register, n: Register) -> list[Register]:
    """This thread's sums over all slices, first to last."""
    k.section("Slice by slice, in order.")
    type, size = results.type, 8 if results.type == "f64" else 4
    each = VECTOR_BYTES // size
    width = k.let("s32", "partial_pitch", "add.s32", n, PITCH - 1)
    k("and.b32", width, width, -PITCH)
    place = k.let("s64", "partial", "mul.wide.s32", line, width)
    column64 = k.let("s64", "column_wide", "cvt.s64.s32", column)
    k("add.s64", place, place, column64)
    k("mad.lo.s64", place, place, size, k.param("partials"))
    count = elements(results.out.dtype)
    sums, terms = k.regs(type, "total", count), k.regs(type, "term", count)
    _load(k, type, each, sums, place)
    left, step = k.param("slices"), k.param("slice_bytes")
    with k.loop("slice") as loop:
        k("sub.s32", left, left, 1)
        done = k.let("pred", "done", "setp.le.s32", left, 0)
        loop.leave(when=done)
        k("add.s64", place, place, step)
        _load(k, type, each, terms, place)
        for total, term in zip(sums, terms, strict=True):
            k("add.s32" if type == "s32" else f"add.rn.{type}", total, total, term)
    return sums


def _load(k: Entry, type: str, each: int, registers: list[Register], place: Register) -> None:
    for i in range(0, len(registers), each):
        k(f"ld.global.v{each}.{type}", registers[i : i + each], at(place, i * VECTOR_BYTES // each))
