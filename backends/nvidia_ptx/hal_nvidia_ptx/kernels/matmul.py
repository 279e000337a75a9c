"""matmul: which kernel computes it.

    gemv.py     few rows or few columns: the other operand is read once
    mma.py      tensor cores: fp16, bf16, int8, float64 where it has full rate, float32 with precision="tf32";
                splitk.py adds its partial sums where k is split
    ffma.py     every dtype, layout and target, by ordinary multiply-add; always the last of the list

Tiles are chosen by an estimate of time, in clocks of an SM. A block of k of a tile takes the longest of

    tensor      BM BN BK / multiply-adds a clock
    shared      (bytes copied + bytes read as fragments) / 128
    L2          bytes copied / 40

and never less than LATENCY where a block has its SM for itself. A call takes as many rounds of them as there are tiles
for an SM, plus START once. Splitting k adds the second kernel: its START and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import I32, I64, Argument, Config, In, Kernel, Launch, Out, Schedule, Scratch
from hal.op import Op, OpClass
from hal.ops import OPERATORS
from hal.ops.problem import Problem, problem
from hal_nvidia_ptx.kernels import batch, ffma, gemv, mma, splitk
from hal_nvidia_ptx.kernels.fragments import instructions
from hal_nvidia_ptx.kernels.results import arguments as results_of
from hal_nvidia_ptx.kernels.tile import Tile, along_k
from hal_nvidia_ptx.kernels.values import itemsize
from hal_nvidia_ptx.target import TARGETS

MARGIN = 1 << 12  # a tile may reach past the end of an axis by less than this
LINE = 16  # bytes

# Multiply-adds of fp16 with float32 sums a clock and SM, by target (NVIDIA's white papers of each architecture); what
# mma.sync reaches of them on sm_90 and later. int8 has twice as many, tf32 half, float64 an own rate.
RATE = {75: 512, 80: 1024, 86: 256, 87: 512, 89: 256, 90: 1228, 100: 1024, 120: 256}
FACTOR = {"float16": 1.0, "bfloat16": 1.0, "int8": 2.0, "float32": 0.5}
DOUBLES = {80: 64, 90: 128, 100: 64}  # the others have 2 to 4: less than ffma.py's
LATENCY = 400  # clocks of a block of k at least: a barrier, fragments, a chain of multiplications
START = 2500  # clocks of a kernel without work: launch, first copies, results
SHARED, L2, DRAM = 128, 40, 16  # bytes a clock and SM
SPLITS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
LEAST_BLOCKS = 4  # of k, of a slice
ROWS_OF_A_BATCH = 256  # what is assumed of m where the choice must not depend on it

# bm, bn, bytes of k, warps along m and n, stages, blocks of an SM.
Shape = tuple[int, int, int, int, int, int, int]
SMALL: tuple[Shape, ...] = ((64, 64, 128, 2, 2, 3, 2), (32, 64, 128, 1, 4, 3, 2), (32, 32, 128, 2, 2, 3, 4))
MENU: dict[str, tuple[Shape, ...]] = {
    "large": ((128, 256, 128, 2, 4, 3, 1), (256, 128, 128, 4, 2, 3, 1), (128, 128, 64, 2, 2, 4, 2), *SMALL),
    "99K": ((128, 128, 128, 2, 4, 3, 1), *SMALL),
    "sm_120": ((128, 128, 128, 2, 2, 3, 1), *SMALL),
    "sm_75": ((256, 128, 64, 4, 2, 2, 1), (128, 128, 64, 2, 4, 2, 1), (64, 64, 64, 2, 2, 2, 2), (32, 32, 64, 2, 2, 2, 4)),
    "float64": ((64, 64, 128, 2, 2, 3, 2), (32, 32, 128, 2, 2, 3, 4)),
}


def configs(op: Op, info: DeviceInfo) -> list[Config]:
    """Best first."""
    p = problem(op)
    batch.check_axes(op.name, len(p.batch))
    if max(p.m, p.n, p.k) > 2**31 - MARGIN:
        raise UnsupportedError(f"matmul: an axis of {max(p.m, p.n, p.k)} elements is more than 2^31 - {MARGIN}")
    found = [*gemv.configs(op, p, info), *_tensor_cores(op, p, info), *ffma.configs(op, p, info)]
    return found


def _tensor_cores(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """Tiles by estimated time; empty where the tensor cores cannot take the call."""
    target = TARGETS[info.props["target"]]
    rate = DOUBLES.get(target.sm, 0) if op.dtype == "float64" else int(RATE[target.sm] * FACTOR[op.dtype])
    if not rate or not instructions(op.dtype, target.sm) or not _suits(op, p):
        return []
    levels = (75, 80, 90, 100) if op.dtype == "float64" else (75, 80, 100)  # what makes a text differ
    sm = max(level for level in levels if level <= target.sm)
    widths = _width(op, p, "a"), _width(op, p, "b")
    timed = []
    menu = "float64" if op.dtype == "float64" else "large" if target.shared_block > 128 << 10 else target.name
    for tile in _tiles(op, p, MENU.get(menu, MENU["99K"]), target.shared_block, sm, widths):
        if _reaches(op, p, tile):
            timed.append((_clocks(op, p, tile, int(info.props["sms"]), rate, target.shared_sm), tile))
    timed.sort(key=lambda pair: pair[0])
    # Of the split ones only the best can be the first; the others have unsplit forms in the list.
    kept = [tile for i, (_, tile) in enumerate(timed) if i == 0 or tile.splits == 1]
    return [tile.config() for tile in kept]


def _suits(op: Op, p: Problem) -> bool:
    """Layouts: one axis of each operand contiguous, rows of the result too."""
    if op.dtype == "float32" and op.param("precision") != "tf32":
        return False
    invariant = op.param("deterministic") == "batch"
    a, b, out = (p.strides[role] for role in ("a", "b", "out"))
    op_class = OPERATORS[op.name].classify(op)
    by_rows = a[1] == 1 or p.k <= 1
    # With one row any stride of k would do, with more it may not: a choice that is the same for both.
    a_fits = by_rows if op_class.inputs[0].layout == "row" else not invariant and (a[0] == 1 or p.m == 1)
    b_fits = {"row": b[1] == 1 or p.n == 1, "column": b[0] == 1 or p.k <= 1}.get(op_class.inputs[1].layout, False)
    return (
        a_fits
        and op_class.inputs[0].layout != "strided"
        and b_fits
        and op_class.outputs[0].layout == "row"
        and (out[1] == 1 or p.n == 1)
    )


def _width(op: Op, p: Problem, role: str) -> int:
    """Bytes by which an operand is copied: as many as divide its addresses and the length of its contiguous axis."""
    spec = OPERATORS[op.name].classify(op).input(role)
    assert spec is not None
    extent = p.k if along_k(role, spec.layout) else p.m if role == "a" else p.n
    width = min(LINE, spec.align)
    while extent * itemsize(op.dtype) % width:
        width //= 2
    return max(width, itemsize(op.dtype) if itemsize(op.dtype) < 4 else 4)


def _tiles(
    op: Op, p: Problem, menu: tuple[Shape, ...], shared: int, sm: int, widths: tuple[int, int]
) -> Iterator[Tile]:
    """The tiles of a menu that suit the widths of copies, with the ways to split k."""
    invariant = op.param("deterministic") == "batch"
    size = itemsize(op.dtype)
    for bm, bn, k_bytes, wm, wn, stages, blocks in menu:
        tile = Tile(bm, bn, k_bytes // size, wm, wn, stages, blocks, sm, *widths, 1)
        staged = sum(not tile.is_async(role) for role in "ab")
        if staged and sm >= 80 and tile.threads * 2 < (bm + bn) and bm * bn > 64 * 64:
            continue  # too many registers on the way to shared memory
        if tile.shared_bytes(op.dtype) > shared:
            continue
        yield tile
        blocks_of_k = -(-p.k // tile.bk)
        for splits in () if invariant else SPLITS:
            length = -(-blocks_of_k // splits)
            if length >= LEAST_BLOCKS and -(-blocks_of_k // length) == splits:
                yield Tile(bm, bn, tile.bk, wm, wn, stages, blocks, sm, *widths, splits)


def _reaches(op: Op, p: Problem, tile: Tile) -> bool:
    """Whether the kernel's 32-bit indices suffice."""
    tiles = -(-p.m // tile.bm) * -(-p.n // tile.bn) * p.count
    lines = max(tile.bm, tile.bn, tile.bk)
    steps = [abs(stride) * itemsize(op.dtype) // tile.width(role) for role in "ab" for stride in p.strides[role]]
    vectors = p.count * p.m * -(-p.n // 2)
    return tiles < 2**31 and max(steps) * lines < 2**31 and (tile.splits == 1 or vectors < 2**31)


def _clocks(op: Op, p: Problem, tile: Tile, sms: int, rate: int, shared_sm: int) -> float:
    """The estimate of the module's docstring."""
    m, count = (ROWS_OF_A_BATCH, 1) if op.param("deterministic") == "batch" else (p.m, p.count)
    tiles = -(-m // tile.bm) * -(-p.n // tile.bn) * count * tile.splits
    blocks_of_k = max(-(-p.k // tile.bk), 1) / tile.splits
    copied = tile.stage_bytes(op.dtype)
    read = tile.threads // 32 * (tile.rows + tile.columns) * tile.bk * itemsize(op.dtype)
    busy = max(tile.bm * tile.bn * tile.bk / rate, (copied + read) / SHARED, copied / L2)
    resident = max(min(tile.blocks, shared_sm // tile.shared_bytes(op.dtype)), 1)
    throughput = -(-tiles // sms) * blocks_of_k * busy
    latency = -(-tiles // (sms * resident)) * (blocks_of_k * max(LATENCY, busy) + START)
    clocks = max(throughput + START, latency)
    if tile.splits > 1:
        clocks += START + 2 * tile.splits * count * m * p.n * 4 / (DRAM * sms)
    return clocks


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """The text of the chosen family."""
    if config.name == "ffma":
        return ffma.kernels(op_class, config)
    if config.name != "mma":
        return gemv.kernels(op_class, config)
    tile = Tile.of(config)
    second = (splitk.kernel(op_class, tile.sm),) if tile.splits > 1 else ()
    return (mma.kernel(op_class, tile), *second)


def schedule(op: Op, config: Config) -> Schedule:
    """The launches of the chosen family; none for an empty result."""
    p = problem(op)
    if p.empty:
        return Schedule(())
    if config.name == "ffma":
        return ffma.schedule(op, p, config)
    if config.name != "mma":
        return gemv.schedule(op, p, config)
    return _schedule(op, p, Tile.of(config))


def _schedule(op: Op, p: Problem, tile: Tile) -> Schedule:
    op_class = OPERATORS[op.name].classify(op)
    tiles_m, tiles_n = -(-p.m // tile.bm), -(-p.n // tile.bn)
    whole = tile.splits == 1
    results = results_of(op, p)
    pitches = [
        p.strides[spec.role][0 if spec.layout == "row" else 1] for spec in op_class.inputs if spec.role in ("a", "b")
    ]
    length = -(-max(-(-p.k // tile.bk), 1) // tile.splits)
    arguments: tuple[Argument, ...] = (
        In(0),
        In(1),
        *((Out(0), *results.bias) if whole else (Scratch(0),)),
        *map(I32, (p.m, p.n, p.k, tiles_m, tiles_n)),
        *(() if whole else (I32(p.count), I32(length))),
        *map(I64, pitches),
        *((I64(p.strides["out"][0]), *results.numbers) if whole else ()),
        *batch.arguments(p.batch, p.batch_strides, mma.roles(op_class, tile)),
    )
    grid = (tiles_m * tiles_n * p.count, tile.splits, 1)
    first = Launch(0, grid, (tile.threads, 1, 1), arguments, tile.shared_bytes(op.dtype))
    if whole:
        return Schedule((first,))
    return Schedule((first, splitk.launch(op, p, tile.splits, 1)), splitk.partial_bytes(op, p, tile.splits))
