"""The tiles of the tensor-core kernel, and which of them suit a call, by an estimate of time in clocks of an SM.

A block of k of a tile takes the longest of these, and OVERLAP of the others, since they overlap imperfectly:

    tensor      BM BN BK / multiply-adds a clock
    shared      (bytes copied + bytes read as fragments) / 128
    L2          bytes copied / 28 (16)

and never less than LATENCY where a block has its SM for itself. A call takes as many of them one after the other as
there are tiles for an SM, and START once a round. Splitting k adds the second kernel: its START and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from hal.device import DeviceInfo
from hal.kernel import Config
from hal.op import Op
from hal.ops import OPERATORS
from hal.ops.problem import Problem
from hal_nvidia_ptx.kernels.fragments import instructions
from hal_nvidia_ptx.kernels.tile import Tile, along_k
from hal_nvidia_ptx.kernels.values import itemsize
from hal_nvidia_ptx.target import TARGETS, Target

HALF = ("float16", "bfloat16")
LINE = 16  # bytes
LARGE = 128 << 10  # bytes of shared memory that tell the data centre's chips from others

# Multiply-adds a clock and SM: 16-bit (float32 sums), int8, tf32, float64. NVIDIA's peak rates over clock and SMs, on
# sm_90 what mma.sync reaches of them; GeForce's where they differ. float64: nothing where ffma.py is as fast.
RATES = {
    75: (512, 1024, 0, 0),
    80: (1024, 2048, 512, 64),
    86: (256, 1024, 128, 0),
    87: (512, 1024, 256, 0),
    89: (256, 1024, 128, 0),
    90: (1228, 2457, 614, 128),
    100: (1024, 2048, 512, 64),
    120: (256, 1024, 128, 0),
}
LATENCY = 400  # clocks of a block of k at least: a barrier, fragments, a chain of multiplications
START = 2500  # clocks of a kernel without work: launch, first copies, results
SHARED, DRAM = 128, 16  # bytes a clock and SM
L2 = {True: 28, False: 16}  # the same, of chips with large shared memory and of others
OVERLAP = 0.3
SPLITS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
LEAST_BLOCKS = 4  # of k, of a slice
ROWS_OF_A_BATCH = 256  # what is assumed of m where the choice must not depend on it

# bm, bn, bytes of k, warps along m and n, stages, blocks of an SM.
Shape = tuple[int, int, int, int, int, int, int]
SMALL: tuple[Shape, ...] = ((64, 64, 128, 2, 2, 3, 2), (32, 64, 128, 1, 4, 3, 2), (32, 32, 128, 2, 2, 3, 4))
WIDE: tuple[Shape, ...] = ((128, 256, 128, 2, 4, 3, 1), (256, 128, 128, 4, 2, 3, 1))
SQUARE: tuple[Shape, ...] = ((128, 128, 64, 2, 2, 4, 2),)  # 64 x 64 a warp, two blocks an SM
EIGHT_WARPS: tuple[Shape, ...] = ((128, 128, 128, 2, 4, 3, 1),)  # less code, fewer registers
FOUR_WARPS: tuple[Shape, ...] = ((128, 128, 128, 2, 2, 3, 1),)  # fewer instructions
# Narrow copies need more registers. All of one length of k: see `_menu`.
NARROW: tuple[Shape, ...] = ((128, 128, 64, 2, 4, 4, 1), (64, 64, 64, 2, 2, 4, 2), (32, 32, 64, 2, 2, 4, 4))
DOUBLE: tuple[Shape, ...] = ((64, 64, 128, 2, 2, 3, 2), (32, 32, 128, 2, 2, 3, 4))
TURING_WIDE: tuple[Shape, ...] = ((256, 128, 64, 4, 2, 2, 1),)
TURING: tuple[Shape, ...] = ((128, 128, 64, 2, 4, 2, 1), (64, 64, 64, 2, 2, 2, 2), (32, 32, 64, 2, 2, 2, 4))


def configs(op: Op, p: Problem, info: DeviceInfo) -> list[Config]:
    """Best first; empty where the tensor cores cannot take the call. k is split in the first at most."""
    target = TARGETS[info.props["target"]]
    levels = (75, 80, 90, 100) if op.dtype == "float64" else (75, 80, 100)  # what makes a text differ
    sm = max(level for level in levels if level <= target.sm)
    rate, sms = _rate(op.dtype, target), int(info.props["sms"])
    if not rate or not instructions(op.dtype, sm) or not _suits(op, p):
        return []
    timed = [
        (_clocks(op, p, tile, target, sms, rate), tile)
        for tile in _tiles(op, p, target, sm, sms)
        if _reaches(op, p, tile)
    ]
    timed.sort(key=lambda pair: pair[0])
    return [tile.config() for i, (_, tile) in enumerate(timed) if i == 0 or tile.splits == 1]


def _rate(dtype: str, target: Target) -> int:
    row = RATES[max(sm for sm in RATES if sm <= target.sm)]
    return row[0] if dtype in HALF else row[("int8", "float32", "float64").index(dtype) + 1]


def _suits(op: Op, p: Problem) -> bool:
    """Layouts: one axis of each operand contiguous, rows of the result too."""
    if op.dtype == "float32" and op.param("precision") != "tf32":
        return False
    op_class = OPERATORS[op.name].classify(op)
    a_layout, b_layout = (operand.layout for operand in op_class.inputs[:2])
    a, b, out = (p.strides[role] for role in ("a", "b", "out"))
    if a_layout == "row":
        a_fits = a[1] == 1 or p.k <= 1
    else:
        # A single row may have any stride along k, several rows may not: so batch-invariance needs another kernel.
        a_fits = a_layout == "column" and op.param("deterministic") != "batch" and (a[0] == 1 or p.m == 1)
    b_fits = {"row": b[1] == 1 or p.n == 1, "column": b[0] == 1 or p.k <= 1}.get(b_layout, False)
    return a_fits and b_fits and op_class.outputs[0].layout == "row" and (out[1] == 1 or p.n == 1)


def width(op: Op, p: Problem, role: str) -> int:
    """Bytes by which an operand is copied: as many as divide its addresses and the length of its contiguous axis."""
    spec = OPERATORS[op.name].classify(op).input(role)
    assert spec is not None
    extent = p.k if along_k(role, spec.layout) else p.m if role == "a" else p.n
    found = min(LINE, spec.align)
    while extent * itemsize(op.dtype) % found:
        found //= 2
    return max(found, min(itemsize(op.dtype), 4))


def _menu(op: Op, target: Target, narrow: bool) -> tuple[Shape, ...]:
    """Where rows must not depend on their number, neither may the order of blocks of k: their length is one and the
    same then, whatever the width of copies, which a single row has otherwise than several."""
    half = op.dtype in HALF
    if op.dtype == "float64":
        return DOUBLE
    if target.sm < 80:
        return TURING if narrow or not half else (*TURING_WIDE, *TURING)
    if narrow:
        return NARROW
    if op.param("deterministic") == "batch":
        return (*SQUARE, *NARROW)
    if target.shared_block > LARGE:
        return (*WIDE, *SQUARE, *SMALL) if half else (*SQUARE, *SMALL)
    return (*(FOUR_WARPS if half and target.sm >= 120 else EIGHT_WARPS), *SMALL)


def _tiles(op: Op, p: Problem, target: Target, sm: int, sms: int) -> Iterator[Tile]:
    """The target's tiles, each with the ways to split k."""
    widths = width(op, p, "a"), width(op, p, "b")
    splits = () if op.param("deterministic") == "batch" else SPLITS
    for bm, bn, k_bytes, wm, wn, stages, blocks in _menu(op, target, min(widths) < LINE):
        bk = k_bytes // itemsize(op.dtype)
        tile = Tile(bm, bn, bk, wm, wn, stages, blocks, sm, *widths, 1)
        if tile.shared_bytes(op.dtype) > target.shared_block:
            continue
        yield tile
        if -(-p.m // bm) * -(-p.n // bn) * p.count > sms:
            continue  # enough to do for every SM
        blocks_of_k = -(-p.k // bk)
        for number in splits:
            length = -(-blocks_of_k // number)
            if length >= LEAST_BLOCKS and -(-blocks_of_k // length) == number:
                yield Tile(bm, bn, bk, wm, wn, stages, blocks, sm, *widths, number)


def _reaches(op: Op, p: Problem, tile: Tile) -> bool:
    """Whether the kernel's 32-bit numbers suffice: of tiles, of the distance of lines, of vectors of results."""
    tiles = -(-p.m // tile.bm) * -(-p.n // tile.bn) * p.count
    lines = max(tile.bm, tile.bn, tile.bk)
    steps = [abs(stride) * itemsize(op.dtype) // tile.width(role) for role in "ab" for stride in p.strides[role]]
    vectors = p.count * p.m * -(-p.n // 2)
    return tiles < 2**31 and max(steps) * lines < 2**31 and (tile.splits == 1 or vectors < 2**31)


def _clocks(op: Op, p: Problem, tile: Tile, target: Target, sms: int, rate: int) -> float:
    """The estimate of the module's docstring."""
    m, count = (ROWS_OF_A_BATCH, 1) if op.param("deterministic") == "batch" else (p.m, p.count)
    tiles = -(-m // tile.bm) * -(-p.n // tile.bn) * count * tile.splits
    blocks_of_k = max(-(-p.k // tile.bk), 1) / tile.splits
    copied = tile.stage_bytes(op.dtype)
    read = tile.threads // 32 * (tile.rows + tile.columns) * tile.bk * itemsize(op.dtype)
    parts = (tile.bm * tile.bn * tile.bk / rate, (copied + read) / SHARED, copied / L2[target.shared_block > LARGE])
    busy = max(parts) + OVERLAP * (sum(parts) - max(parts))
    resident = max(min(tile.blocks, target.shared_sm // tile.shared_bytes(op.dtype)), 1)
    throughput = -(-tiles // sms) * blocks_of_k * busy + START
    latency = -(-tiles // (sms * resident)) * (blocks_of_k * max(LATENCY, busy) + START)
    clocks = max(throughput, latency)
    if tile.splits > 1:
        clocks += START + 2 * tile.splits * count * m * p.n * 4 / (DRAM * sms)
    return clocks
