"""matmul on OpenCL: what the suite cannot see from outside.

That one is judged on each device as it comes; here all three families of kernels are, with each way of packing,
whatever the device. Each implementation runs in a process of its own, which is this file as a program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.bound import Allowance
from hal.conformance import run_case, select
from hal.conformance.case import Case, make_op
from hal.conformance.runner import execute
from hal.conformance.values import integers, normal
from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import Config, In, Kernel, KernelDevice, KernelPlan, Out, Schedule, Scratch
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.ops.problem import problem
from hal_opencl.kernels import matmul
from hal_opencl.kernels.panel import KC

CPU = DeviceInfo(
    "a CPU", frozenset({"float32"}), 1 << 30, props={"type": "cpu", "vector_width": 16, "compute_units": 8}
)
GPU = DeviceInfo("a GPU", frozenset({"float32"}), 1 << 30, props={"type": "gpu", "max_work_group": 256})


def an_op(m: int, n: int, k: int, dtype: str = "float32", batch: tuple[int, ...] = (), **options: Any) -> Op:
    """Both operands contiguous; b without batch axes."""
    return make_op(
        "matmul",
        {"a": TensorSpec.contiguous(dtype, (*batch, m, k)), "b": TensorSpec.contiguous(dtype, (k, n))},
        **options,
    )


def transposed(m: int, n: int, k: int, **options: Any) -> Op:
    """b as weights are often kept, [n][k]."""
    b = TensorSpec.contiguous("float32", (n, k)).permute((1, 0))
    return make_op("matmul", {"a": TensorSpec.contiguous("float32", (m, k)), "b": b}, **options)


def texts(op: Op, config: Config, **changes: Any) -> tuple[Kernel, ...]:
    """The kernels of an Op, with changes to its class."""
    return matmul.kernels(replace(OPERATORS["matmul"].classify(op), **changes), config)


# ---- without a device


def test_a_cpu_gets_panels_and_dot_products_other_devices_tiles() -> None:
    assert matmul.configs(an_op(64, 64, 64), CPU)[0].name == "panel"
    assert matmul.configs(transposed(4, 512, 512), CPU)[0].name == "dot"
    assert matmul.configs(transposed(4, 512, 512), GPU)[0].name == "tile"


def test_tiles_fit_the_work_groups_of_a_device() -> None:
    small = replace(GPU, props={"type": "gpu", "max_work_group": 32})
    assert [c["size"] for c in matmul.configs(an_op(2048, 2048, 64), small) if c.name == "tile"] == [16]
    assert matmul.configs(an_op(2048, 2048, 64), GPU)[0]["size"] == 64


@pytest.mark.parametrize("info", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_batch_invariant_config_looks_neither_at_m_nor_at_the_batch(info: DeviceInfo, dtype: str) -> None:
    options = {"deterministic": "batch"}
    for n, k in ((8, 64), (100, 64), (3000, 1000)):
        found = {
            tuple(matmul.configs(an_op(m, n, k, dtype, batch, **options), info))
            for m in (1, 2, 5, 64, 5000)
            for batch in ((), (3,))
        }
        assert len(found) == 1
    assert all(
        {c.name for c in matmul.configs(transposed(m, 64, 512, **options), info)} == {"panel", "tile"} for m in (1, 9)
    )


def test_a_text_knows_no_sizes_nor_what_it_does_not_use() -> None:
    config = matmul.configs(an_op(64, 640, 640), CPU)[0]
    assert texts(an_op(64, 640, 640), config) == texts(an_op(99, 641, 1234), config)
    assert texts(an_op(64, 640, 640), config) == texts(an_op(64, 640, 640, alpha=0.5), config)
    assert texts(an_op(64, 640, 640), config) == texts(an_op(64, 640, 640), config, wide=True)
    assert texts(transposed(64, 640, 640), config) == texts(an_op(64, 640, 640), config)


def test_a_batch_that_shares_its_weights_is_one_matrix() -> None:
    op = an_op(128, 1536, 384, batch=(16,))
    assert (problem(op).m, problem(op).count) == (16 * 128, 1)
    pack, main = matmul.schedule(op, matmul.configs(op, CPU)[0]).launches
    assert pack.grid[2] == main.grid[2] == 1
    many = an_op(1, 1536, 384, batch=(16,))
    assert (problem(many).m, problem(many).count) == (16, 1)


def scattered(batch_axes: int) -> Op:
    """None of the axes merge."""
    shape = (2,) * (batch_axes + 2)
    strides = [2]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * length + 1)
    spec = TensorSpec("float32", shape, tuple(strides), 4)
    return make_op("matmul", {"a": spec, "b": spec, "bias": spec}, out="sliced")


@pytest.mark.parametrize("info", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_arguments_of_the_most_scattered_call_fit_every_device(info: DeviceInfo) -> None:
    op = scattered(8)
    for config in every_config(op, info):
        kernels, schedule = texts(op, config), matmul.schedule(op, config)
        for launch in schedule.launches:
            names = kernels[launch.kernel].parameters
            assert len(launch.arguments) == len(names)
            assert sum(16 if isinstance(x, (In, Out, Scratch)) else 8 for x in launch.arguments) <= 1024
    with pytest.raises(UnsupportedError, match="9 batch axes remain"):
        matmul.configs(scattered(9), info)


@pytest.mark.parametrize("sizes", [(0, 5, 3), (5, 0, 3), (0, 0, 0)])
def test_nothing_is_launched_where_nothing_is_written(sizes: tuple[int, int, int]) -> None:
    op = an_op(*sizes)
    for config in every_config(op, CPU):
        assert matmul.schedule(op, config) == Schedule(())


def test_an_empty_sum_is_written_without_packing() -> None:
    op = an_op(5, 3, 0)
    assert all(len(matmul.schedule(op, config).launches) == 1 for config in every_config(op, CPU))


def test_a_sum_too_long_for_a_device_that_ends_loops_is_refused() -> None:
    info = replace(CPU, props={**CPU.props, "loop_limit": 65_535})
    assert {config.name for config in matmul.configs(an_op(4, 4, 4096), info)} == {"tile"}
    with pytest.raises(UnsupportedError, match="more rounds of loops than the 65535"):
        matmul.configs(an_op(4, 4, 100_000), info)


# ---- on a device, in a process of its own: each check yields what is wrong


def every_config(op: Op, info: DeviceInfo) -> list[Config]:
    """Tiles of each size, dot products where they are possible, panels with every way of packing."""
    p = problem(op)
    found = [Config("tile", (("size", size),)) for size in (64, 32, 16)] + matmul.dot.configs(op, p, info)
    (panel,) = matmul.panel.configs(op, p, info)
    in_place = p.strides["b"][1] == 1 and p.n >= panel["nv"] * panel["vector"]
    for pack, convert in product((0, 1) if in_place else (1,), (0, 1)):
        found.append(Config("panel", tuple({**dict(panel.values), "pack": pack, "convert": convert}.items())))
    return found


class Forced:
    """The algorithm with one config."""

    def __init__(self, config: Config) -> None:
        self.kernels, self.schedule, self._config = matmul.kernels, matmul.schedule, config

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        return [self._config]


def takes(device: KernelDevice, op: Op, config: Config) -> bool:
    """Whether a device takes a config: a tile may need more work-items than a kernel may have there, and a device that
    ends loops without a word is given none but tiles, except where nothing is long."""
    if config.name != "tile":
        return not device.info.props["loop_limit"] or op.inputs[0][1].shape[-1] <= 64
    try:
        device.prepare_config(op, matmul, config)
    except UnsupportedError:
        return config["size"] == 16  # that one every device takes
    return True


def judged(device: KernelDevice, cases: Iterable[Case], family: str, every: bool = True) -> Iterator[str]:
    """What is wrong with the cases by the configs of one family; not `every`: one config a case, in turn, since each
    is a program to compile."""
    allow = Allowance(flush=bool(device.info.props["flushes_subnormals"]))
    own = device.algorithms
    for number, case in enumerate(cases):
        if case.dtype not in device.info.dtypes:
            continue
        configs = [c for c in every_config(case.op, device.info) if c.name == family and takes(device, case.op, c)]
        for config in configs if every else configs[number % len(configs) :][:1] if configs else []:
            device.algorithms = {"matmul": Forced(config)}
            result = run_case(device, case, allow=allow)
            if result.status != "passed":
                yield f"{case.name} by {config}: {result.status}: {result.message}"
    device.algorithms = own


PATTERNS = ("*/float32/layout/*", "*/float32/batch/b*", "*/float32/bias/*", "*/float32/empty/3x5x0*")
PATTERNS += ("*/float32/edge/*inf*", "*/float32/integers/*", "*/bfloat16/integers/33*", "*/int8/integers/*")


def some_cases(device: KernelDevice) -> list[Case]:
    if device.info.props["checker"]:  # it interprets: a few small ones
        names = ("15x17x16", "2x3x7", "empty/3x5x0+bias", "bias/row")
        return [c for c in select("smoke", ("matmul",), "*/float32/*") if c.name.endswith(names)]
    chosen = {c.name: c for pattern in PATTERNS for c in select("smoke", ("matmul",), pattern)}
    # rusticl's programs take long to build, too
    return list(chosen.values())[:: 4 if device.info.props["loop_limit"] else 1]


def panels(device: KernelDevice) -> Iterator[str]:
    yield from judged(device, some_cases(device), "panel")


def dot_products(device: KernelDevice) -> Iterator[str]:
    yield from judged(device, [*some_cases(device), *few_rows(device)], "dot")


def tiles(device: KernelDevice) -> Iterator[str]:
    yield from judged(device, some_cases(device), "tile", every=False)


def few_rows(device: KernelDevice) -> Iterator[Case]:
    """Around the vectors and tiles of the dot products, with weights kept [n][k]."""
    sizes = [(1, 5, 15), (3, 7, 16)]
    if not device.info.props["checker"]:
        sizes += [(1, 9, 17), (4, 4, 160), (5, 13, 129), (31, 3, 257)]
    for (m, n, k), activation in product(sizes, (None, "gelu")):
        name = f"few rows {m}x{n}x{k} {activation}"
        yield Case(name, transposed(m, n, k, activation=activation), normal())


def activations(device: KernelDevice) -> Iterator[str]:
    """Every activation from one tail to the other, in each family. k = 1 leaves the bound little else to allow for."""
    count = 64 if device.info.props["checker"] else 1024
    for activation, dtype in product(("relu", "gelu", "gelu_tanh", "silu"), ("float32", "float64")):
        rng = np.random.default_rng(0)
        tails = np.concatenate([rng.uniform(-12, 12, count), rng.uniform(-800, 800, 32), [0.0, 1e30, -1e30, 1e-40]])
        a = TensorSpec.contiguous(dtype, (tails.size, 1))
        op = make_op("matmul", {"a": a, "b": TensorSpec.contiguous(dtype, (1, 17))}, activation=activation)
        values = [tails[:, None], np.ones((1, 17))]
        case = Case(f"{activation} {dtype}", op, lambda op, rng, values=values: values)
        for family in ("panel", "tile"):
            yield from judged(device, [case], family, every=False)


def same_bits(device: KernelDevice) -> Iterator[str]:
    """Panels and tiles add in one order, so that all their configs give the same bits, and a row those that it has
    alone: also across the blocks of k, and where panels are shifted."""
    k = 40 if device.info.props["checker"] or device.info.props["loop_limit"] else 2 * KC + 3
    many, one = an_op(29, 70, k), an_op(1, 70, k)
    images = Case("same bits", many, normal()).inputs()
    first_row = [replace(images[0], spec=one.inputs[0][1]), images[1]]
    wanted: NDArray[Any] | None = None
    for op, operands in ((many, images), (one, first_row)):
        for config in every_config(op, device.info):
            if config.name != "dot" and takes(device, op, config):
                plan = device.prepare_config(op, matmul, config)
                (got,), _ = execute(device, plan, op, operands, (), 0xFF)
                wanted = got if wanted is None else wanted
                if not np.array_equal(got, wanted[: len(got)]):
                    yield f"{config}, {len(got)} rows: other bits"


def exact_int8(device: KernelDevice) -> Iterator[str]:
    """The most extreme products over more than one block, where a float32 sum is at its limit."""
    if device.info.props["checker"] or device.info.props["loop_limit"]:
        return
    op = an_op(7, 33, 2500, "int8")
    for low, high in ((-128, -128), (-128, 127)):
        yield from judged(device, [Case(f"int8 from {low} to {high}", op, integers(low, high))], "panel")


def indices_of_64_bits(device: KernelDevice) -> Iterator[str]:
    """The tile's text for huge operands gives the bits of the other."""
    op, config = an_op(33, 31, 40), Config("tile", (("size", 16),))
    images = Case("wide", op, normal()).inputs()
    results = []
    for wide in (False, True):
        plan = KernelPlan(device, op, config, texts(op, config, wide=wide), matmul.schedule(op, config), ())
        results.append(execute(device, plan, op, images, (), 0xFF)[0][0])
    if not np.array_equal(*results):
        yield "other bits"


def scattered_axes(device: KernelDevice) -> Iterator[str]:
    case = Case("scattered", scattered(2 if device.info.props["checker"] else 8), normal())
    for family in ("panel", "dot", "tile"):
        yield from judged(device, [case], family, every=False)


CHECKS: dict[str, Callable[[KernelDevice], Iterator[str]]] = {
    check.__name__: check
    for check in (
        panels,
        dot_products,
        tiles,
        activations,
        same_bits,
        exact_int8,
        indices_of_64_bits,
        scattered_axes,
    )
}


def main() -> None:
    """All checks on the one device of this process; a line of JSON each."""
    from hal_opencl import Backend

    backend = Backend()
    (info,) = backend.devices()
    device = backend.open(info)
    assert isinstance(device, KernelDevice)
    for name, check in CHECKS.items():
        print(json.dumps({"check": name, "wrong": list(check(device))}), flush=True)
    device.close()


@pytest.mark.parametrize("check", [*CHECKS, "the checker's log"])
def test_on_each_implementation(verdicts: dict[str, list[str]], check: str) -> None:
    assert not verdicts[check], "\n".join(verdicts[check])


if __name__ == "__main__":
    main()
