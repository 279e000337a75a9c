"""Which kernel computes a matmul, and that each one that may be chosen is right."""

import numpy as np
import pytest

from hal.conformance import run_case
from hal.conformance.case import Case, make_op
from hal.conformance.memory import NAN_FILL
from hal.conformance.runner import execute
from hal.conformance.values import normal
from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import Config, KernelDevice
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.emulator import Backend
from hal_nvidia_ptx.kernels import matmul
from hal_nvidia_ptx.target import CHECKED

DTYPES = ("bfloat16", "float16", "float32", "float64", "int8")


def info(target: str) -> DeviceInfo:
    return next(each for each in Backend().devices() if each.name == target)


def an_op(m: int, n: int, k: int, dtype: str = "bfloat16", batch: tuple[int, ...] = (), **options: object) -> Op:
    shapes = {"a": (*batch, m, k), "b": (*batch, k, n)}
    operands = {role: TensorSpec.contiguous(dtype, shape, 256) for role, shape in shapes.items()}
    return make_op("matmul", operands, **options)


def first(op: Op, target: str = "sm_80") -> Config:
    return matmul.configs(op, info(target))[0]


@pytest.mark.parametrize("target", CHECKED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_config_takes_everything(target: str, dtype: str) -> None:
    for op in (an_op(64, 64, 64, dtype), an_op(1, 64, 64, dtype), an_op(0, 64, 64, dtype)):
        assert matmul.configs(op, info(target))[-1].name == "ffma"


@pytest.mark.parametrize(
    "target, dtype, precision, family",
    [
        ("sm_75", "float16", None, "mma"),
        ("sm_75", "bfloat16", None, "ffma"),
        ("sm_75", "int8", None, "mma"),
        ("sm_75", "float32", "tf32", "ffma"),
        ("sm_80", "bfloat16", None, "mma"),
        ("sm_80", "float32", None, "ffma"),
        ("sm_80", "float32", "tf32", "mma"),
        ("sm_80", "float64", None, "mma"),
        ("sm_86", "float64", None, "ffma"),
        ("sm_90a", "float64", None, "mma"),
        ("sm_120", "int8", None, "mma"),
    ],
)
def test_tensor_cores_where_they_are_as_exact_as_asked(
    target: str, dtype: str, precision: str | None, family: str
) -> None:
    assert first(an_op(512, 512, 512, dtype, precision=precision), target).name == family


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_86", "sm_120"])
def test_large_calls_get_large_tiles_and_small_calls_small_ones(target: str) -> None:
    large, small = (first(an_op(n, n, n, "float16"), target) for n in (4096, 128))
    assert large["bm"] * large["bn"] >= 128 * 128
    assert small["bm"] * small["bn"] <= 64 * 64


def test_a_long_k_is_split_where_tiles_are_few() -> None:
    assert first(an_op(128, 128, 8192))["splits"] > 1
    assert first(an_op(4096, 4096, 8192))["splits"] == 1
    assert first(an_op(128, 128, 256))["splits"] == 1


def test_strided_operands_and_results_go_to_the_kernel_that_takes_them() -> None:
    wide = TensorSpec("bfloat16", (64, 32), (128, 2), 256)
    plain = TensorSpec.contiguous("bfloat16", (32, 64), 256)
    assert first(make_op("matmul", {"a": wide, "b": plain})).name == "ffma"
    assert first(make_op("matmul", {"a": plain, "b": wide})).name == "ffma"
    assert first(make_op("matmul", {"a": plain, "b": plain.permute((1, 0))}, out="fortran")).name == "ffma"


def test_folded_batches_are_looked_at_as_they_are() -> None:
    """One row a matrix, whose elements are apart: folded into rows, no axis of a is contiguous any more."""
    a = TensorSpec("bfloat16", (8, 1, 32), (256, 0, 3), 256)
    b = TensorSpec("bfloat16", (8, 32, 64), (0, 64, 1), 256)
    assert first(make_op("matmul", {"a": a, "b": b})).name in ("ffma", "axpy", "dot")


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_120"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_under_batch_invariance_neither_m_nor_the_batch_decide(target: str, dtype: str) -> None:
    def lists(m: int, batch: tuple[int, ...] = ()) -> list[Config]:
        return matmul.configs(an_op(m, 512, 4096, dtype, batch, deterministic="batch"), info(target))

    assert lists(1) == lists(64) == lists(5000)
    assert lists(64, (7,)) == lists(64)


@pytest.mark.parametrize("k", [192, 100, 99])
@pytest.mark.parametrize("target", ["sm_75", "sm_80"])
def test_a_row_has_the_same_bits_alone(target: str, k: int) -> None:
    """Rows of a matrix of longer lines: other widths of copies than a single row has, and the same sums."""
    device = Backend().open(info(target))
    rng = np.random.default_rng(1)
    values = [rng.normal(size=(40, k)), rng.normal(size=(k, 48))]
    results = []
    for rows in (slice(0, 40), slice(7, 8), slice(3, 30)):
        m = rows.stop - rows.start
        a = TensorSpec("float16", (m, k), (k + 9, 1), 2)
        op = make_op("matmul", {"a": a, "b": TensorSpec.contiguous("float16", (k, 48), 256)}, deterministic="batch")
        images = Case("rows", op, lambda op, rng, rows=rows: [values[0][rows], values[1]]).inputs()
        (out,), faults = execute(device, device.prepare(op), op, images, (), NAN_FILL)
        assert not faults
        results.append(out.view(np.uint16))
    np.testing.assert_array_equal(results[0][7:8], results[1])
    np.testing.assert_array_equal(results[0][3:30], results[2])


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_89", "sm_90"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_core_config_of_a_call_is_right(target: str, dtype: str) -> None:
    device = Backend().open(info(target))
    assert isinstance(device, KernelDevice)
    options = {"precision": "tf32"} if dtype == "float32" else {}
    op = an_op(24, 40, 1040 if dtype == "int8" else 528, dtype, **options)
    found = [config for config in matmul.configs(op, device.info) if config.name == "mma"]  # ffma has its own tests
    assert found or dtype in ("bfloat16", "float32", "float64")
    for config in found:
        device.algorithms = {"matmul": Only(config)}
        result = run_case(device, Case("config", op, normal()))
        assert result.status == "passed", f"{config}: {result.message}"


class Only:
    """matmul with one config."""

    kernels = staticmethod(matmul.kernels)
    schedule = staticmethod(matmul.schedule)

    def __init__(self, config: Config) -> None:
        self.config = config

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        return [self.config]


def test_axes_beyond_32_bits_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="an axis of"):
        matmul.configs(an_op(2**31 - 1, 16, 16), info("sm_80"))


@pytest.mark.slow
@pytest.mark.parametrize("target", CHECKED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_config_assembles_without_a_complaint(target: str, dtype: str) -> None:
    assembler.tool("ptxas")
    options = {"precision": "tf32"} if dtype == "float32" else {}
    for size in ((4096, 4096, 4096), (128, 128, 8192), (4095, 4093, 4097)):
        op = an_op(*size, dtype, **options)
        op_class = OPERATORS["matmul"].classify(op)
        for config in matmul.configs(op, info(target)):
            for kernel in matmul.kernels(op_class, config):
                done = assembler.assemble(kernel.source, target)
                assert not done.complaints, f"{config} {kernel.entry}: {done.complaints}"
