"""softmax and the norms on OpenCL: what the suite cannot see from outside.

That one is judged on each device as it comes; here both ways of sharing a row (a work-item, a work-group) are, whatever
the device, and what the kernels stand on: the error of exponentials, logarithms and roots. Each implementation runs in
a process of its own, which is this file as a program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.bound import Allowance
from hal.conformance import run_case, select
from hal.conformance.case import Case, make_op
from hal.conformance.values import normal
from hal.device import DeviceInfo, Operand
from hal.errors import UnsupportedError
from hal.kernel import I64, Algorithm, Config, In, Kernel, KernelDevice, KernelPlan, Launch, Out, Schedule
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal_opencl.kernels import norms, rows, softmax
from hal_opencl.kernels.source import read, render

ALGORITHMS: dict[str, Algorithm] = {
    "softmax": softmax,
    "log_softmax": softmax,
    "layernorm": norms,
    "rmsnorm": norms,
}
CPU = DeviceInfo("a CPU", frozenset({"float32"}), 1 << 30, props={"type": "cpu"})
GPU = DeviceInfo("a GPU", frozenset({"float32"}), 1 << 30, props={"type": "gpu"})


def an_op(name: str, shape: tuple[int, ...], dtype: str = "float32", **options: Any) -> Op:
    """x alone, contiguous."""
    return make_op(name, {"x": TensorSpec.contiguous(dtype, shape)}, **options)


def scattered(shape: tuple[int, ...]) -> TensorSpec:
    """A gap after each stretch of each axis, so that no two axes merge."""
    strides = [2]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * length + 1)
    return TensorSpec("float32", shape, tuple(strides), 4)


# ---- without a device


def text(op: Op, config: Config, **changes: Any) -> Kernel:
    """The kernel of an Op, with changes to its class."""
    (made,) = ALGORITHMS[op.name].kernels(replace(OPERATORS[op.name].classify(op), **changes), config)
    return made


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("info", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_way_of_a_row_depends_on_its_length_alone(name: str, info: DeviceInfo) -> None:
    for n in (1, 33, 257, 5000):
        found = {tuple(ALGORITHMS[name].configs(an_op(name, (count, n)), info)) for count in (1, 2, 1000, 10**6)}
        assert len(found) == 1


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_text_knows_no_sizes(name: str) -> None:
    config = rows.configs(an_op(name, (4, 300)), CPU)[0]
    assert {text(an_op(name, shape), config) for shape in ((4, 300), (1000, 301), (7, 123457))} == {
        text(an_op(name, (4, 300)), config)
    }


def test_a_scale_has_no_text_of_its_own() -> None:
    config = rows.configs(an_op("softmax", (4, 300)), CPU)[0]
    assert text(an_op("softmax", (4, 300), scale=0.3), config) == text(an_op("softmax", (4, 300)), config)


def every_operand(row_axes: int, batch_axes: int) -> Op:
    """A layernorm with all operands and results, none of whose axes merge."""
    shape = (2,) * (batch_axes + row_axes)
    operands = {"x": scattered(shape), "residual": scattered(shape), "weight": scattered(shape[batch_axes:])}
    operands["bias"] = operands["weight"]
    return make_op("layernorm", operands, axis=tuple(range(-row_axes, 0)), return_stats=True)


def test_the_arguments_of_the_most_scattered_call_fit_every_device() -> None:
    op = every_operand(rows.MAXIMUM_ROW_AXES, 8)
    (launch,) = norms.schedule(op, rows.configs(op, CPU)[0]).launches
    assert sum(16 if isinstance(argument, (In, Out)) else 8 for argument in launch.arguments) <= 1024
    assert len(launch.arguments) == len(text(op, rows.configs(op, CPU)[0]).parameters)


def test_more_axes_than_that_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match="axes of a row remain"):
        rows.configs(every_operand(rows.MAXIMUM_ROW_AXES + 1, 1), CPU)
    with pytest.raises(UnsupportedError, match="batch axes remain"):
        rows.configs(every_operand(1, 9), CPU)


def test_a_row_too_long_for_a_device_that_ends_loops_is_refused() -> None:
    info = replace(CPU, props={"type": "cpu", "loop_limit": 65_535})
    assert rows.configs(an_op("softmax", (4, 1000)), info)
    with pytest.raises(UnsupportedError, match="65535 rounds"):
        rows.configs(an_op("softmax", (4, 10**8)), info)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_nothing_is_launched_where_nothing_is_written(shape: tuple[int, ...]) -> None:
    op = an_op("layernorm", shape)
    assert norms.schedule(op, norms.configs(op, CPU)[0]) == Schedule(())


def test_statistics_of_empty_rows_are_written() -> None:
    op = an_op("layernorm", (5, 0), return_stats=True)
    assert len(norms.schedule(op, norms.configs(op, CPU)[0]).launches) == 1


# ---- on a device, in a process of its own: each check yields what is wrong


class Forced:
    """An algorithm with one of its configs chosen."""

    def __init__(self, algorithm: Algorithm, lanes: int) -> None:
        self.kernels, self.schedule = algorithm.kernels, algorithm.schedule
        self._algorithm, self._lanes = algorithm, lanes

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        """That with the most lanes up to the given number."""
        kind = {"type": "cpu" if self._lanes == 1 else "gpu"}
        found = self._algorithm.configs(op, replace(info, props={**info.props, **kind}))
        return [config for config in found if config["lanes"] <= self._lanes]


CASES = (
    *("*/float32/size/*", "*/float64/size/*", "*/float16/rows-alone/257", "*/bfloat16/rows-alone/257"),
    *("*/float32/mask-bool/*", "*/float32/residual*", "*/bfloat16/residual", "*/float32/axis/-2*"),
    *("*/float32/edge/not-finite", "*/float32/layout/x-fortran", "*/float32/shared/in-place-contiguous"),
)
FEW_CASES = ("*/float32/size/5x33", "*/float16/size/5x17", "softmax/float32/mask-bool/edges", "*/float32/axis/-2*")


def judged(device: KernelDevice, cases: Sequence[Case], lanes: int) -> Iterator[str]:
    device.algorithms = {name: Forced(algorithm, lanes) for name, algorithm in ALGORITHMS.items()}
    allow = Allowance(flush=bool(device.info.props["flushes_subnormals"]))
    for case in cases:
        if case.dtype in device.info.dtypes:
            result = run_case(device, case, allow=allow)
            if result.status != "passed":
                yield f"{case.name} with {lanes} lanes: {result.status}: {result.message}"


def some_cases(device: KernelDevice) -> list[Case]:
    patterns = FEW_CASES if device.info.props["checker"] else CASES  # a checker interprets: a second for a hundred rows
    chosen = {c.name: c for pattern in patterns for c in select("smoke", tuple(ALGORITHMS), pattern)}
    return list(chosen.values())


def rows_of_work_items(device: KernelDevice) -> Iterator[str]:
    if not device.info.props["loop_limit"]:
        yield from judged(device, some_cases(device), 1)


def rows_of_small_work_groups(device: KernelDevice) -> Iterator[str]:
    yield from judged(device, some_cases(device), 32)


def rows_of_large_work_groups(device: KernelDevice) -> Iterator[str]:
    if not device.info.props["loop_limit"] and not device.info.props["checker"]:
        cases = [case for case in some_cases(device) if case.op.inputs[0][1].shape[-1] > 256]
        yield from judged(device, cases, 256)


def scattered_axes(device: KernelDevice) -> Iterator[str]:
    shallow = Case("scattered", every_operand(2, 3), normal())
    yield from judged(device, [shallow], 1 if not device.info.props["loop_limit"] else 32)
    if not device.info.props["checker"]:
        yield from judged(device, [Case("most scattered", every_operand(5, 8), normal())], 32)


def statistics_of_nothing(device: KernelDevice) -> Iterator[str]:
    cases = [
        Case(f"nothing, {name}", an_op(name, (5, 0), return_stats=True), normal()) for name in ("layernorm", "rmsnorm")
    ]
    yield from judged(device, cases, 32)


def indices_of_64_bits(device: KernelDevice) -> Iterator[str]:
    """The text for huge operands gives the bits of the other."""
    x = np.random.default_rng(0).standard_normal((3, 1000), np.float32)
    for name, algorithm in ALGORITHMS.items():
        op = an_op(name, x.shape)
        config = algorithm.configs(op, replace(device.info, props={"type": "gpu"}))[-2]
        plans = [
            KernelPlan(device, op, config, (text(op, config, wide=wide),), algorithm.schedule(op, config), ())
            for wide in (False, True)
        ]
        narrow, wide = (run(device, partial(on_one, plan), x) for plan in plans)
        if not np.array_equal(narrow, wide):
            yield f"{name}: other bits"


FUNCTIONS = """
__kernel void functions(__global uchar *y_memory, long y_offset, __global uchar *x_memory, long x_offset, long which)
{
    __global ACC *x = (__global ACC *)(x_memory + x_offset), *y = (__global ACC *)(y_memory + y_offset);
    long i = get_global_id(0) * VW;
    ACCV v = VLOAD(i, x);
    if (which == 0) VSTORE(exponential(v), i, y);
    else
        for (int k = 0; k < VW; ++k)
            y[i + k] = which == 1 ? logarithm(x[i + k]) : which == 2 ? reciprocal_root(x[i + k]) : reciprocal(x[i + k]);
}
"""


def functions(device: KernelDevice) -> Iterator[str]:
    """Errors before what the bounds allow: exp 2 units in the last place, log 4 u (1 + |log|), roots to 0.51 units."""
    rng, count = np.random.default_rng(0), 64 if device.info.props["checker"] else 1 << 14
    exponents = np.concatenate(
        [-rng.random(count) * 87.3, -np.exp(rng.uniform(-20, math.log(87.3), count)), np.zeros(8)]
    )
    sums, positive = np.exp(rng.uniform(0, 20, exponents.size)), np.exp(rng.uniform(-80, 80, exponents.size))
    source = "\n".join([render("rows.cl", {}, {"LANES": 1}, "float32", 4), read("exponential.cl"), FUNCTIONS])
    kernel = device.compiled(Kernel("functions", source, options=("-cl-std=CL1.2",)))
    tried: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("exponential", exponents, np.exp),
        ("logarithm", sums, np.log),
        ("reciprocal_root", positive, lambda v: 1 / np.sqrt(v)),
        ("reciprocal", positive, lambda v: 1 / v),
    ]
    for which, (name, given, exact) in enumerate(tried):
        x = given.astype(np.float32)
        want = exact(x.astype(np.float64))
        unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
        allowed = {"exponential": unit, "logarithm": 2.0**-22 * (1 + np.abs(want))}.get(name, 0.51 * unit)
        launch = Launch(0, (x.size // 4, 1, 1), (1, 1, 1), (Out(0), In(0), I64(which)))
        got = run(device, partial(launched, device, kernel, launch, I64(which)), x)
        error = np.abs(got - want) / allowed
        if not error.max() <= 1.0:
            yield f"{name}({x[np.argmax(error)]}): {error.max()} of what is allowed"


def launched(device: KernelDevice, kernel: Any, launch: Launch, number: I64, out: Operand, into: Operand) -> None:
    device.launch(kernel, launch, [out, into, number], None)


def on_one(plan: KernelPlan, out: Operand, into: Operand) -> None:
    plan([out], [into])


def run(
    device: KernelDevice, enqueue: Callable[[Operand, Operand], None], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One result of x's size, from one operand."""
    result = np.empty_like(x)
    into, out = device.alloc(x.nbytes), device.alloc(x.nbytes)
    device.copy_in(into, 0, x.reshape(-1).view(np.uint8))
    enqueue((out, 0), (into, 0))
    device.copy_out(result.reshape(-1).view(np.uint8), out, 0)
    device.free(into)
    device.free(out)
    return result


CHECKS: dict[str, Callable[[KernelDevice], Iterator[str]]] = {
    check.__name__: check
    for check in (
        rows_of_work_items,
        rows_of_small_work_groups,
        rows_of_large_work_groups,
        scattered_axes,
        statistics_of_nothing,
        indices_of_64_bits,
        functions,
    )
}


def main() -> None:
    """All checks on the one device of this process; a line of JSON each."""
    from hal_opencl import Backend

    backend = Backend()
    (info,) = backend.devices()
    device = backend.open(info)  # opened once: Oclgrind begins its log anew with each context
    assert isinstance(device, KernelDevice)
    for name, check in CHECKS.items():
        print(json.dumps({"check": name, "wrong": list(check(device))}), flush=True)
    device.close()


@pytest.mark.parametrize("check", [*CHECKS, "the checker's log"])
def test_on_each_implementation(verdicts: dict[str, list[str]], check: str) -> None:
    assert not verdicts[check], "\n".join(verdicts[check])


if __name__ == "__main__":
    main()
