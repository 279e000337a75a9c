"""softmax and the norms in PTX: every way to share a row among lanes, judged on the emulator."""

from collections.abc import Iterator

import numpy as np
import pytest

import hal
from hal.conformance import run_case, select
from hal.conformance.case import Case, make_op
from hal.conformance.values import normal
from hal.device import DeviceInfo
from hal.kernel import Config, Kernel, KernelDevice, Schedule
from hal.op import Op, OpClass, TensorSpec
from hal.ops import OPERATORS
from hal_nvidia_ptx.emulator import Backend
from hal_nvidia_ptx.kernels import ALGORITHMS

ROWS = ("softmax", "log_softmax", "layernorm", "rmsnorm")


class Nth:
    """An algorithm's config number `n`, or the last there is."""

    def __init__(self, operator: str, n: int) -> None:
        self.own, self.n = ALGORITHMS[operator], n

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        found = self.own.configs(op, info)
        return [found[min(self.n, len(found) - 1)]]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        return self.own.kernels(op_class, config)

    def schedule(self, op: Op, config: Config) -> Schedule:
        return self.own.schedule(op, config)


@pytest.fixture(params=["sm_75", "sm_80"])
def device(request: pytest.FixtureRequest) -> Iterator[KernelDevice]:
    backend = Backend()
    opened = backend.open(next(info for info in backend.devices() if info.name == request.param))
    assert isinstance(opened, KernelDevice)
    yield opened
    opened.close()


def an_op(operator: str, rows: int, n: int, dtype: str = "float32", **options: object) -> Op:
    return make_op(operator, {"x": TensorSpec.contiguous(dtype, (rows, n))}, **options)


@pytest.mark.parametrize("operator", ROWS)
def test_the_second_choice_is_right_too(device: KernelDevice, operator: str) -> None:
    """`stream` takes the rows that others hold in registers: no device refuses those, so no other test comes here."""
    device.algorithms = {operator: Nth(operator, 1)}
    wrong = []
    for case in select("smoke"):
        if case.operator == operator and case.dtype in ("float64", "float32", "bfloat16"):
            result = run_case(device, case)
            if result.status != "passed":
                wrong.append(f"{case.name}: {result.status} {result.message}")
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_near_the_smallest_normal_number_are_kept_in_long_rows(device: KernelDevice, dtype: str) -> None:
    least = np.log(float(np.finfo(dtype).smallest_normal))

    def values(op: Op, rng: np.random.Generator) -> list[np.ndarray]:
        x = rng.uniform(least - 1, least + 1.5, op.inputs[0][1].shape)
        x[:, ::20_000] = 0.01  # rounded up to a whole number it is 1
        return [x.astype(dtype)]

    assert ways("softmax", dtype, device.info) >= {"stream"}
    result = run_case(device, Case("case", an_op("softmax", 1, 40_000, dtype), values))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("operator", ROWS)
@pytest.mark.parametrize("n", [1, 2, 31, 33, 127, 256, 1000, 1025, 4096, 8191, 32768, 33000])
def test_lengths_round_every_change_of_lanes(device: KernelDevice, operator: str, n: int) -> None:
    dtype = "bfloat16" if n % 2 else "float32"
    result = run_case(device, Case("case", an_op(operator, 3, n, dtype), normal()))
    assert result.status == "passed", result.message


def ways(operator: str, dtype: str, info: DeviceInfo) -> set[str]:
    return {
        ALGORITHMS[operator].configs(an_op(operator, 2, n, dtype), info)[0].name
        for n in (1, 64, 1000, 5000, 32768, 100_000)
    }


def test_each_way_has_its_lengths(device: KernelDevice) -> None:
    assert ways("softmax", "bfloat16", device.info) == {"warp", "block", "stream"}
    strided = TensorSpec("float32", (4, 100), (1, 4), 4)
    (only,) = ALGORITHMS["softmax"].configs(make_op("softmax", {"x": strided}), device.info)
    assert only.name == "gather"


@pytest.mark.parametrize("operator", ROWS)
@pytest.mark.parametrize("n", [40, 1000, 5000, 40_000])
def test_a_row_has_the_same_bits_in_any_company(operator: str, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((5, n), dtype=np.float32)
    together = getattr(hal, operator)(x, device="ptx:sm_80")
    for i in (0, 3):
        alone = getattr(hal, operator)(x[i : i + 1].copy(), device="ptx:sm_80")
        assert np.array_equal(alone[0], together[i])


@pytest.mark.parametrize("operator", ROWS)
def test_the_choice_looks_at_the_row_alone(device: KernelDevice, operator: str) -> None:
    for n in (5, 500, 50_000):
        found = {tuple(ALGORITHMS[operator].configs(an_op(operator, rows, n), device.info)) for rows in (1, 7, 10_000)}
        assert len(found) == 1


@pytest.mark.parametrize("operator", ROWS)
def test_a_text_knows_no_sizes(device: KernelDevice, operator: str) -> None:
    algorithm = ALGORITHMS[operator]
    first, second = an_op(operator, 3, 1000), an_op(operator, 8, 996)
    config = algorithm.configs(first, device.info)[0]
    texts = [algorithm.kernels(OPERATORS[operator].classify(op), config) for op in (first, second, first)]
    assert config == algorithm.configs(second, device.info)[0]
    assert texts[0] == texts[2]
    assert texts[0] == texts[1]
