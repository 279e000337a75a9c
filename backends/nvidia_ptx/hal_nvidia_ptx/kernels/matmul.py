"""matmul: which kernel computes it.

    gemv.py     few rows or few columns: the other operand is read once
    mma.py      tensor cores: fp16, bf16, int8, float64 where it has full rate, float32 with precision="tf32"; splitk.py
                adds its partial sums where k is split
    ffma.py     every dtype, layout and target, by ordinary multiply-add; always at the end of the list

tiles.py has the tiles of mma.py, and chooses among them.
"""

from __future__ import annotations

from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import I32, I64, Argument, Config, In, Kernel, Launch, Out, Schedule, Scratch
from hal.op import Op, OpClass
from hal.ops import OPERATORS
from hal.ops.problem import Problem, problem
from hal_nvidia_ptx.kernels import batch, ffma, gemv, mma, splitk, tiles
from hal_nvidia_ptx.kernels.results import arguments as results_of
from hal_nvidia_ptx.kernels.tile import Tile

MARGIN = 1 << 12  # a tile may reach past the end of an axis by less than this


def configs(op: Op, info: DeviceInfo) -> list[Config]:
    """Best first."""
    p = problem(op)
    batch.check_axes(op.name, len(p.batch))
    if max(p.m, p.n, p.k) > 2**31 - MARGIN:
        raise UnsupportedError(f"matmul: an axis of {max(p.m, p.n, p.k)} elements is more than 2^31 - {MARGIN}")
    return [*gemv.configs(op, p, info), *tiles.configs(op, p, info), *ffma.configs(op, p, info)]


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
