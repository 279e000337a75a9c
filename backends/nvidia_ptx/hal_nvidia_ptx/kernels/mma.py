"""matmul by tensor cores (mma.sync), sm_75 and later: one design for fp16, bf16, tf32, int8 and float64.

    threads to tile     a block has BM x BN of the result, its warps equal parts of it, in units of 16 x 8
    shared memory       a ring of stages, each a BM x BK tile of a and a BK x BN tile of b, 16-byte chunks swizzled
    pipeline, block i   step 0 … S-2 | copies of block i + stages - 1 | fragments of the next step | multiply
                        step S-1     | wait, barrier | copies of the block after | first fragments of i + 1 | multiply

Fragments are double-buffered in registers, also across the barrier: while a step is multiplied, the next one's are on
their way, so the tensor cores wait neither for the barrier nor for shared memory. One barrier a block of k suffices:
the stage that is filled after a barrier was last read before it. Copies are written before the loads of fragments:
measured on the machine code, the other orders let more loads wait for registers that copies still read.

Blocks of k come in the order last, first, second, …, since the last has the end of k in it (copies.py). Rows and
columns past the end are copies of the last, and not stored. No size is part of the text.
"""

from __future__ import annotations

from hal.kernel import Kernel
from hal.op import OpClass
from hal_nvidia_ptx.kernels import batch
from hal_nvidia_ptx.kernels.fragments import step_bytes
from hal_nvidia_ptx.kernels.mainloop import Writer
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.tile import Tile
from hal_nvidia_ptx.kernels.values import itemsize
from hal_nvidia_ptx.ptx import Entry, module


def roles(op_class: OpClass, tile: Tile) -> tuple[str, ...]:
    """The operands that have batch strides, in order."""
    return Results(op_class, tile.sm).roles if tile.splits == 1 else ("a", "b")


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


def kernel(op_class: OpClass, tile: Tile) -> Kernel:
    """The text. With splits it ends in partial sums instead of results."""
    names = parameters(op_class, tile)
    name = "mma" if tile.splits == 1 else "mma_partial"
    k = Entry(name, names, threads=tile.threads, min_blocks=tile.blocks, doc=_doc(op_class, tile))
    Writer(k, op_class, tile, roles(op_class, tile)).write()
    return Kernel(name, module(k), tuple(name for name, _ in names))


def _doc(op_class: OpClass, tile: Tile) -> str:
    a, b = op_class.inputs[:2]
    steps = tile.bk * itemsize(a.dtype) // step_bytes(a.dtype)
    ways = [f"{r} {'by cp.async' if tile.is_async(r) else 'through registers'}, {tile.width(r)} bytes" for r in "ab"]
    warps = f"{tile.wm} x {tile.wn} warps, {tile.rows} x {tile.columns} a warp"
    stages = f"{tile.stages} stages of a ({tile.bm} x {tile.bk}) and b ({tile.bk} x {tile.bn}); at the end the sums"
    return f"""matmul by tensor cores: {a.dtype}, a {a.layout}, b {b.layout} (which axis is contiguous).

threads to tile   {tile.bm} x {tile.bn} of the result a block, {warps}
shared memory     {stages}
copies            {ways[0]}; {ways[1]}
pipeline          a block of k is {steps} steps of {tile.bk // steps}; while one is multiplied, the next one's fragments
                  are read and later blocks copied; the barrier comes before the last step

Blocks of k come in the order last, first, second and so on: only the last has an end of k in it.
Sizes and strides count elements; batch axes are outermost first."""
