"""matmul by tensor cores, on the emulator: every tile, layout and width of copies on small odd shapes."""

from typing import Any

import pytest

from hal.conformance import run_case
from hal.conformance.case import Case, make_op
from hal.conformance.values import integers, normal
from hal.device import DeviceInfo
from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass, TensorSpec
from hal.ops import OPERATORS
from hal.ops.problem import problem
from hal_nvidia_ptx.emulator import Backend
from hal_nvidia_ptx.emulator.counters import Counted
from hal_nvidia_ptx.emulator.device import EmulatedDevice
from hal_nvidia_ptx.emulator.machine import launch
from hal_nvidia_ptx.emulator.shape import Options, Shape
from hal_nvidia_ptx.kernels import matmul, tiles
from hal_nvidia_ptx.kernels.fragments import shared
from hal_nvidia_ptx.kernels.regroup import Block
from hal_nvidia_ptx.kernels.tile import Tile

LAYOUTS = ("rr", "rc", "cr", "cc")
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1, "float64": 8}
HALVES = (*tiles.WIDE, *tiles.SQUARE, *tiles.EIGHT_WARPS, *tiles.FOUR_WARPS, *tiles.NARROW, *tiles.SMALL)
OTHERS = (*tiles.SQUARE, *tiles.EIGHT_WARPS, *tiles.NARROW, *tiles.SMALL)
TURING = (*tiles.TURING_WIDE, *tiles.TURING)
SMALL = (32, 32, 128, 2, 2, 3, 4)


def info(target: str) -> DeviceInfo:
    return next(each for each in Backend().devices() if each.name == target)


class Forced:
    """matmul with one config."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        return [self.config]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        return matmul.kernels(op_class, config)

    def schedule(self, op: Op, config: Config) -> Schedule:
        return matmul.schedule(op, config)


class Counting(EmulatedDevice):
    """Counts the accesses of its last launch."""

    def run(self, program: Any, shape: Shape, arguments: Any) -> None:
        self.counted = Counted()
        outcome = launch(program, self.arena, shape, arguments, Options("late", None, self.counted))
        assert not list(outcome.findings)


def an_op(
    m: int,
    n: int,
    k: int,
    dtype: str = "bfloat16",
    layouts: str = "rr",
    bias: str = "",
    batch: int = 0,
    pad: int = 0,
    **options: object,
) -> Op:
    """layouts: of a and b, r(ow) or c(olumn), lines `pad` elements longer than they need be."""
    lead = (batch,) if batch else ()

    def operand(rows: int, columns: int, layout: str) -> TensorSpec:
        lines, length = (rows, columns) if layout == "r" else (columns, rows)
        whole = TensorSpec.contiguous(dtype, (*lead, lines, length + pad), 256)
        spec = TensorSpec(dtype, (*lead, lines, length), whole.strides, 256)
        axes = (*range(len(lead)), len(lead) + 1, len(lead))
        return spec if layout == "r" else spec.permute(axes)

    shapes = {"row": (n,), "column": (m, 1), "full": (*lead, m, n), "one": (1,)}
    out = "int32" if dtype == "int8" else dtype
    extra = TensorSpec.contiguous(out, shapes[bias], 256) if bias else None
    operands = {"a": operand(m, k, layouts[0]), "b": operand(k, n, layouts[1]), "bias": extra}
    if dtype == "float32":
        options = {"precision": "tf32", **options}
    return make_op("matmul", operands, **options)


def tile(op: Op, shape: tiles.Shape, sm: int = 80, splits: int = 1) -> Tile:
    """The tile with the widths that suit the call."""
    bm, bn, k_bytes, wm, wn, stages, blocks = shape
    widths = [tiles.width(op, problem(op), role) for role in "ab"]
    return Tile(bm, bn, k_bytes // SIZES[op.dtype], wm, wn, stages, blocks, sm, *widths, splits)


def check(op: Op, chosen: Tile, target: str = "sm_80", mode: str = "late", exact: bool = False) -> EmulatedDevice:
    device = Counting(info(target)) if mode == "count" else EmulatedDevice(info(target), mode)  # type: ignore[arg-type]
    device.algorithms = {"matmul": Forced(chosen.config())}
    result = run_case(device, Case("case", op, integers(-8, 8) if exact else normal()))
    assert result.status == "passed", result.message
    return device


def exactly(op: Op, shape: tiles.Shape, sm: int = 80, target: str = "sm_80", splits: int = 1) -> None:
    """Integers: every bit, unless operands are rounded."""
    check(op, tile(op, shape, sm, splits), target, exact=op.dtype != "float32")


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("shape", HALVES, ids=str)
def test_every_tile_for_halves(shape: tiles.Shape, layouts: str) -> None:
    """More than a tile along m and n; with a whole block of k, and a bit of another."""
    exactly(an_op(shape[0] + 8, shape[1] + 24, shape[2] // 2 + 8, layouts=layouts), shape)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shape", OTHERS, ids=str)
def test_every_tile_for_tf32_and_int8(shape: tiles.Shape, dtype: str, layouts: str) -> None:
    exactly(an_op(shape[0] + 16, shape[1] + 16, shape[2] // SIZES[dtype] + 16, dtype, layouts), shape)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("sm, target", [(80, "sm_80"), (90, "sm_90"), (100, "sm_100a")])
@pytest.mark.parametrize("shape", tiles.DOUBLE, ids=str)
def test_every_tile_for_doubles(shape: tiles.Shape, sm: int, target: str, layouts: str) -> None:
    exactly(an_op(shape[0] + 2, shape[1] + 4, shape[2] // 8 * 3 - 2, "float64", layouts), shape, sm, target)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("shape", TURING, ids=str)
def test_every_tile_without_asynchronous_copies(shape: tiles.Shape, dtype: str, layouts: str) -> None:
    op = an_op(shape[0] + 16, shape[1] + 16, 3 * shape[2] // SIZES[dtype] + 16, dtype, layouts)
    exactly(op, shape, 75, "sm_75")


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("unit", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", SIZES)
def test_every_width_of_copies(dtype: str, unit: int, layouts: str) -> None:
    """Lines of an odd multiple of `unit` elements: copies of as many bytes, up to 16."""
    op = an_op(unit * 5, unit * 7, unit * 19, dtype, layouts)
    assert tile(op, SMALL).a_width == min(16, SIZES[dtype] * unit)
    exactly(op, SMALL)


@pytest.mark.parametrize("layouts", ["rr", "cc"])
@pytest.mark.parametrize("pad", [1, 2, 4, 8])
def test_lines_longer_than_their_matrix(pad: int, layouts: str) -> None:
    """The lines are aligned, their ends are not: nothing behind an end is read."""
    exactly(an_op(36, 44, 100, layouts=layouts, pad=pad), SMALL)


@pytest.mark.parametrize("layouts", ["rr", "cc"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("unit", [1, 2, 4])
def test_every_width_of_copies_on_sm_75(dtype: str, unit: int, layouts: str) -> None:
    exactly(an_op(unit * 5, unit * 7, unit * 19, dtype, layouts), TURING[-1], 75, "sm_75")


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 40, 0), (32, 32, 64), (33, 31, 65), (5, 7, 640)], ids=str)
def test_sizes_round_the_tile(size: tuple[int, int, int]) -> None:
    exactly(an_op(*size, bias="row"), SMALL)


@pytest.mark.parametrize("blocks", range(1, 9))
def test_any_number_of_blocks_in_the_ring(blocks: int) -> None:
    exactly(an_op(32, 32, 32 * blocks), tiles.NARROW[-1])


@pytest.mark.parametrize("bias", ["row", "column", "full", "one", ""])
@pytest.mark.parametrize("n", [40, 37])
def test_biases(bias: str, n: int) -> None:
    for dtype in ("bfloat16", "int8", "float64"):
        options = {} if dtype == "int8" else {"alpha": -0.5}
        op = an_op(35, n, 48, dtype, bias=bias, batch=2, **options)
        check(op, tile(op, SMALL))


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("out", ["bfloat16", "float32"])
def test_activations(activation: str, out: str) -> None:
    for n in (40, 43):
        op = an_op(34, n, 48, bias="row", activation=activation, out_dtype=out)
        check(op, tile(op, SMALL))


@pytest.mark.parametrize("dtype", SIZES)
def test_split_k(dtype: str) -> None:
    """Slices of one and two blocks, ends of k and n inside."""
    for n in (32, 41):
        op = an_op(33, n, 5 * 128 // SIZES[dtype] + 8, dtype, bias="full", batch=2)
        check(op, tile(op, SMALL, splits=3))


def test_batches_of_any_strides() -> None:
    """Two axes that cannot be merged, one of them broadcast in a, the other in b."""
    a = TensorSpec("bfloat16", (3, 1, 40, 24), (40 * 24, 0, 24, 1), 256)
    b = TensorSpec("bfloat16", (1, 2, 24, 48), (0, 24 * 48, 48, 1), 256)
    op = make_op("matmul", {"a": a, "b": b, "bias": TensorSpec.contiguous("bfloat16", (2, 1, 48), 256)})
    check(op, tile(op, SMALL))
    check(op, tile(op, SMALL, splits=1), "sm_90")


@pytest.mark.parametrize("mode", ["early", "races"])
@pytest.mark.parametrize("layouts", ["rr", "cc"])
@pytest.mark.parametrize("dtype", SIZES)
def test_copies_early_and_without_races(dtype: str, layouts: str, mode: str) -> None:
    op = an_op(40, 48, 6 * 128 // SIZES[dtype], dtype, layouts)
    check(op, tile(op, SMALL), mode=mode)
    odd = an_op(40, 47, 2 * 128 // SIZES[dtype] + 1, dtype, layouts)
    check(odd, tile(odd, SMALL), mode=mode)


@pytest.mark.parametrize("mode", ["early", "races"])
def test_staged_copies_and_rounds_of_sums_without_races(mode: str) -> None:
    op = an_op(256, 128, 160, "float16")
    chosen = tile(op, tiles.TURING_WIDE[0], 75)
    assert chosen.rounds("float16") == 4
    check(op, chosen, "sm_75", mode)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize(
    "dtype, shape",
    [
        ("bfloat16", tiles.WIDE[0]),
        ("bfloat16", tiles.SQUARE[0]),
        ("bfloat16", SMALL),
        ("float32", tiles.SQUARE[0]),
        ("int8", tiles.SQUARE[0]),
        ("float64", tiles.DOUBLE[0]),
    ],
)
def test_no_bank_is_met_twice_and_no_byte_moved_in_vain(dtype: str, shape: tiles.Shape, layouts: str) -> None:
    op = an_op(shape[0], shape[1], 2 * shape[2] // SIZES[dtype], dtype, layouts)
    device = check(op, tile(op, shape), mode="count")
    assert isinstance(device, Counting)
    memory, sectors = device.counted.shared.result("wavefronts"), device.counted.memory.result("sectors")
    assert memory["wavefronts"] == memory["least"]
    assert sectors["sectors"] == sectors["least"]


def test_a_text_knows_no_sizes_and_is_always_the_same() -> None:
    first, second = an_op(40, 40, 40), an_op(72, 136, 1000, alpha=2.0)
    classes = [OPERATORS["matmul"].classify(op) for op in (first, second)]
    texts = [matmul.kernels(op_class, tile(first, SMALL).config()) for op_class in (*classes, classes[0])]
    assert texts[0] == texts[1] == texts[2]


def test_numbers_of_slices_share_their_text() -> None:
    op = an_op(40, 40, 4000)
    op_class = OPERATORS["matmul"].classify(op)
    two, three = (matmul.kernels(op_class, tile(op, SMALL, splits=n).config()) for n in (2, 3))
    assert two == three
    assert [kernel.entry for kernel in two] == ["mma_partial", "mma_sum"]


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize("role", ["a", "b"])
def test_a_swizzle_moves_chunks_within_their_line(role: str, along: bool, dtype: str) -> None:
    for pitch in (32, 64, 128, 512):
        memory = shared(role, dtype, along, 64, pitch)
        for line in range(64):
            places = {chunk ^ memory.swizzled(line) for chunk in range(pitch // 16)}
            assert places == set(range(pitch // 16))


@pytest.mark.parametrize("columns", [32, 64, 256])
@pytest.mark.parametrize("type", ["f32", "f64"])
def test_sums_have_a_place_each(columns: int, type: str) -> None:
    block = Block(32, columns, 16, 16, 128, type)
    chunks = range(block.pitch // 16)
    for row in range(8):
        assert {block.position(chunk) ^ block.turn(row) for chunk in chunks} == set(chunks)
