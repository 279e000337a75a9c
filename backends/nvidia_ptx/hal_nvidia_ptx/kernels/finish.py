"""The end of the tensor-core kernel: sums through shared memory to rows, then results, or partial sums for splitk.py.

Where the sums of all warps are more than the ring's memory, a few rows of warps at a time write theirs, and all threads
store them. The code is the same for each round, and for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hal.op import OpClass
from hal_nvidia_ptx.kernels import regroup, splitk
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.tile import Tile
from hal_nvidia_ptx.kernels.values import ARITHMETIC
from hal_nvidia_ptx.kernels.vectors import VECTOR_BYTES, Vectors, elements
from hal_nvidia_ptx.kernels.where import Where
from hal_nvidia_ptx.ptx import Entry, Register, at

Store = Callable[[Register, list[Register]], None]


@dataclass(frozen=True)
class Warp:
    """Which thread this is; whether the readers changed the order of rows and columns (regroup.Block)."""

    thread: Register
    lane: Register
    row: Register
    column: Register
    rows_changed: bool
    columns_changed: bool


def write(
    k: Entry,
    op_class: OpClass,
    tile: Tile,
    where: Where,
    memory: Register,
    warp: Warp,
    sums: Sequence[Sequence[Register]],
) -> None:
    """sums: by unit of 16 rows, then by 8 columns: four registers."""
    dtype = op_class.inputs[0].dtype
    type, rounds = ARITHMETIC[dtype], tile.rounds(dtype)
    together = tile.wm // rounds  # rows of warps of a round
    block = regroup.Block(
        together * tile.rows, tile.bn, tile.rows, tile.columns, tile.threads, type, warp.rows_changed,
        warp.columns_changed,
    )  # fmt: skip
    count = elements(op_class.outputs[0].dtype) if tile.splits == 1 else VECTOR_BYTES // (8 if type == "f64" else 4)
    k.section(f"Who stores what: {count} neighbours of a row a thread.")
    rows = regroup.Rows(k, block, memory, warp.thread, count)
    column = k.let("s32", "column", "add.s32", rows.column, where.column)
    row = k.let("s32", "row", "add.s32", rows.row, where.row)
    store, width = _results(k, op_class, tile, where, column) if tile.splits == 1 else _partials(k, type, where, column)
    some = k.let("pred", "some", "setp.lt.s32", column, width, note="columns past the end are not stored")
    end = k.let("s32", "end_row", "mov.s32", where.row)
    if rounds == 1:
        regroup.write(k, block, memory, warp.lane, warp.row, warp.column, sums)
        _store(k, block, rows, row, end, where.m, some, store)
        return
    number = k.let("s32", "round", "mov.s32", 0)
    own_round = k.let("s32", "own_round", "shr.u32", warp.row, together.bit_length() - 1)
    own_row = k.let("s32", "row_of_round", "and.b32", warp.row, together - 1)
    with k.loop("round") as loop:
        k('.pragma "nounroll"')
        mine = k.let("pred", "mine", "setp.eq.s32", number, own_round)
        with k.when(mine, "writes"):
            regroup.write(k, block, memory, warp.lane, own_row, warp.column, sums)
        _store(k, block, rows, row, end, where.m, some, store)
        k("bar.sync", 0)
        k("add.s32", number, number, 1)
        loop.repeat(when=k.let("pred", "more", "setp.lt.s32", number, rounds))


def _store(
    k: Entry,
    block: regroup.Block,
    rows: regroup.Rows,
    row: Register,
    end: Register,
    m: Register,
    some: Register,
    store: Store,
) -> None:
    """This thread's rows of the block's part in shared memory."""
    k("bar.sync", 0)
    k.section("Row by row.")
    k("add.s32", end, end, block.rows)
    rows.rewind()
    with k.loop("row") as loop:
        k('.pragma "nounroll"')
        k("setp.lt.s32", rows.here, row, end)
        loop.leave(unless=rows.here)
        k("setp.lt.and.s32", rows.here, row, m, some)
        values = rows.read()
        with k.when(rows.here, "store"):
            store(row, values)
        k("add.s32", row, row, rows.step)


def _results(k: Entry, op_class: OpClass, tile: Tile, where: Where, column: Register) -> tuple[Store, Register]:
    return Vectors(k, Results(op_class, tile.sm), where.base, column).store, where.n


def _partials(k: Entry, type: str, where: Where, column: Register) -> tuple[Store, Register]:
    """Sums as they are, to partials[slice][matrix][row][column] (splitk.py), which has a few columns more."""
    size = 8 if type == "f64" else 4
    vector = VECTOR_BYTES // size
    assert where.matrix is not None
    width = k.let("s32", "partial_pitch", "add.s32", where.n, splitk.PITCH - 1)
    k("and.b32", width, width, -splitk.PITCH)
    number = k.let("s32", "partial", "mad.lo.s32", where.slice, k.param("matrices"), where.matrix)
    first = k.let("s64", "partial_row", "mul.wide.s32", number, where.m)
    pitch = k.let("s64", "partial_pitch_bytes", "mul.wide.s32", width, size)
    base = k.let("s64", "partial_at", "mad.lo.s64", first, pitch, k.param("partials"))
    k("mad.wide.s32", base, column, size, base)

    def store(row: Register, sums: list[Register]) -> None:
        row64 = k.let("s64", "row_wide", "cvt.s64.s32", row)
        place = k.let("s64", "partial_place", "mad.lo.s64", row64, pitch, base)
        k(f"st.global.v{vector}.{type}", at(place), sums)

    return store, width
