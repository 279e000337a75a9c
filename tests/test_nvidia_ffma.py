"""The matmul kernels without tensor cores: every config on shapes round its tile, judged on the emulator."""

from collections.abc import Sequence
from types import ModuleType

import pytest

from hal.conformance import run_case
from hal.conformance.case import Case, make_op
from hal.conformance.values import integers, normal
from hal.device import DeviceInfo
from hal.kernel import Config, Kernel, KernelDevice, Schedule
from hal.op import Op, OpClass, TensorSpec
from hal.ops import OPERATORS
from hal.ops.problem import problem
from hal_nvidia_ptx.emulator import Backend
from hal_nvidia_ptx.kernels import ffma, gemv

TILES = ((32, 32, 8, 4, 4), (64, 64, 8, 4, 4), (128, 128, 8, 8, 8))


def tile(numbers: Sequence[int], sm: int) -> Config:
    return Config("ffma", tuple(zip(("bm", "bn", "bk", "wm", "wn", "sm"), (*numbers, sm), strict=True)))


class Forced:
    """A family's algorithm with one config."""

    def __init__(self, family: ModuleType, config: Config) -> None:
        self.family, self.config = family, config

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        return [self.config]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        found: tuple[Kernel, ...] = self.family.kernels(op_class, config)
        return found

    def schedule(self, op: Op, config: Config) -> Schedule:
        found: Schedule = self.family.schedule(op, problem(op), config)
        return found


def device(target: str) -> KernelDevice:
    backend = Backend()
    opened = backend.open(next(info for info in backend.devices() if info.name == target))
    assert isinstance(opened, KernelDevice)
    return opened


@pytest.fixture(scope="module")
def sm_75() -> KernelDevice:
    return device("sm_75")


@pytest.fixture(scope="module")
def sm_80() -> KernelDevice:
    return device("sm_80")


def an_op(
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    layouts: str = "rr",
    bias: str = "",
    batch: int = 0,
    **options: object,
) -> Op:
    """layouts: of a and b, r(ow), c(olumn) or s(trided). bias: "row", "column", "full", "one" or none."""
    lead = (batch,) if batch else ()

    def operand(rows: int, columns: int, layout: str) -> TensorSpec:
        if layout == "c":
            axes = (*range(len(lead)), len(lead) + 1, len(lead))
            return TensorSpec.contiguous(dtype, (*lead, columns, rows)).permute(axes)
        if layout == "s":
            wide = TensorSpec.contiguous(dtype, (*lead, rows, 2 * columns))
            return TensorSpec(dtype, (*lead, rows, columns), (*wide.strides[:-1], 2), wide.align)
        return TensorSpec.contiguous(dtype, (*lead, rows, columns))

    shapes = {"row": (n,), "column": (m, 1), "full": (*lead, m, n), "one": (1,)}
    out = "int32" if dtype == "int8" else dtype
    extra = TensorSpec.contiguous(out, shapes[bias]) if bias else None
    operands = {"a": operand(m, k, layouts[0]), "b": operand(k, n, layouts[1]), "bias": extra}
    return make_op("matmul", operands, **options)


def check(on: KernelDevice, family: ModuleType, config: Config, op: Op, exact: bool = False) -> None:
    on.algorithms = {"matmul": Forced(family, config)}
    result = run_case(on, Case("case", op, integers(-8, 8) if exact else normal()))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("numbers", TILES, ids=str)
@pytest.mark.parametrize("layouts", ["rr", "rc", "cr", "cc", "ss"])
def test_every_tile_takes_every_layout(sm_80: KernelDevice, numbers: tuple[int, ...], layouts: str) -> None:
    check(sm_80, ffma, tile(numbers, 80), an_op(numbers[0] + 3, numbers[1] + 1, 21, layouts=layouts))


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 7, 3), (32, 32, 8), (33, 31, 0), (64, 40, 16)], ids=str)
def test_sizes_round_the_tile(sm_80: KernelDevice, size: tuple[int, int, int]) -> None:
    check(sm_80, ffma, tile(TILES[0], 80), an_op(*size, bias="row"), exact=True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("sm", [75, 80])
def test_every_dtype(sm_75: KernelDevice, sm_80: KernelDevice, dtype: str, sm: int) -> None:
    check(sm_75 if sm == 75 else sm_80, ffma, tile(TILES[0], sm), an_op(40, 36, 24, dtype, bias="full", batch=3))


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_keep_the_bound(sm_80: KernelDevice, dtype: str, activation: str) -> None:
    op = an_op(32, 32, 5, dtype, bias="column", activation=activation, alpha=3.0)
    check(sm_80, ffma, tile(TILES[0], 80), op)


@pytest.mark.parametrize("bias", ["row", "column", "full", "one"])
def test_biases(sm_80: KernelDevice, bias: str) -> None:
    check(sm_80, ffma, tile(TILES[0], 80), an_op(35, 37, 9, bias=bias, batch=2, alpha=-0.5))


@pytest.mark.parametrize("layouts", ["rr", "rc", "cr", "cc"])
@pytest.mark.parametrize("few", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_few_rows_and_few_columns(sm_80: KernelDevice, dtype: str, few: int, layouts: str) -> None:
    ways = 0
    for m, n in ((few, 37), (37, few)):
        for k in (200, 203):  # aligned lines, and not
            op = an_op(m, n, k, dtype, layouts, bias="row")
            for config in gemv.configs(op, problem(op), sm_80.info):
                check(sm_80, gemv, config, op)
                ways += 1
    assert ways >= 2 or layouts in ("cr",), "each layout has its kernel for rows or for columns"


def test_few_rows_below_sm_80(sm_75: KernelDevice) -> None:
    op = an_op(2, 70, 33, "bfloat16", "rc", bias="full", activation="silu", batch=2)
    (config,) = gemv.configs(op, problem(op), sm_75.info)
    check(sm_75, gemv, config, op)


def test_rows_that_must_not_depend_on_their_number_take_no_kernel_for_few(sm_80: KernelDevice) -> None:
    op = an_op(1, 64, 64, deterministic="batch")
    assert gemv.configs(op, problem(op), sm_80.info) == []
    found = {
        tuple(ffma.configs(o, problem(o), sm_80.info))
        for o in (an_op(m, 64, 64, deterministic="batch") for m in (1, 5000))
    }
    assert len(found) == 1


@pytest.mark.parametrize("family", [ffma, gemv])
def test_a_text_knows_no_sizes(sm_80: KernelDevice, family: ModuleType) -> None:
    first, second = an_op(2, 64, 64, layouts="rc"), an_op(2, 96, 128, layouts="rc", alpha=2.0)
    (config, *_) = family.configs(first, problem(first), sm_80.info)
    classes = [OPERATORS["matmul"].classify(op) for op in (first, second)]
    assert family.kernels(classes[0], config) == family.kernels(classes[1], config)
    assert family.kernels(classes[0], config) == family.kernels(classes[0], config)
