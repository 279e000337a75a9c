"""What the contract promises of a device, on the first OpenCL device of this machine."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hal
from hal.kernel import KernelDevice
from hal.op import TensorSpec


@pytest.fixture(scope="module")
def device() -> Iterator[KernelDevice]:
    found = [entry for entry in hal.devices() if entry.backend == "opencl" and entry.priority >= 0]
    if not found:
        pytest.skip("no OpenCL device on this machine")
    opened = hal.device(found[0].name)
    assert isinstance(opened, KernelDevice)
    yield opened
    opened.synchronize()


def draw(name: str, generator: random.Random) -> list[TensorSpec]:
    """Operands of a random size, all of few classes."""
    if name == "matmul":
        m, n, k = (generator.randint(2, 300) for _ in range(3))
        return [TensorSpec.contiguous("float32", s, 64) for s in ((m, k), (k, n))]
    return [TensorSpec.contiguous("float32", (generator.randint(2, 300), generator.randint(129, 256)), 64)]


@pytest.mark.parametrize("name", ["matmul", "softmax", "layernorm", "rmsnorm"])
def test_a_thousand_new_shapes_of_known_classes_compile_nothing(device: KernelDevice, name: str) -> None:
    generator = random.Random(7)

    def thousand() -> set[Any]:
        kernels = set()
        for _ in range(1000):
            specs = draw(name, generator)
            plan = hal.explain(name, *specs, device=device).plan
            kernels |= {plan.kernels[launch.kernel] for launch in plan.schedule.launches}  # type: ignore[attr-defined]
        return kernels

    before = device.compilations()
    first = thousand()
    after = device.compilations()
    assert after - before <= len(first)
    assert thousand() <= first
    assert device.compilations() == after


def test_memory_is_given_back(device: KernelDevice) -> None:
    x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    pool = getattr(device, "_pool", None)
    if pool is None:
        pytest.skip("this device has no pool to ask")

    def work() -> None:
        array = hal.asarray(x, device=device)
        hal.layernorm(hal.matmul(array, array.T, activation="gelu"), residual=array, return_stats=True)
        hal.softmax(x, device=device)

    work()
    gc.collect()
    device.synchronize()  # what was freed reaches the pool
    before = pool.active_bytes
    for _ in range(20):
        work()
    gc.collect()
    device.synchronize()
    assert pool.active_bytes == before


def test_a_chain_of_operators_on_the_device_equals_one_by_the_host(device: KernelDevice) -> None:
    """Nobody waits between the steps, and buffers are reused as soon as they are free."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((48, 48), dtype=np.float32) for _ in range(2))
    on_device = y = hal.asarray(x, device=device)
    weights = hal.asarray(w, device=device)
    host = x
    for _ in range(10):
        y = hal.layernorm(hal.softmax(hal.matmul(y, weights)), residual=y)[0]
        host = hal.layernorm(
            hal.softmax(hal.matmul(host, w, device=device), device=device), residual=host, device=device
        )[0]
    np.testing.assert_array_equal(y.numpy(), host)
    np.testing.assert_array_equal(on_device.numpy(), x)


def test_asking_for_more_memory_than_there_is_is_an_error(device: KernelDevice) -> None:
    with pytest.raises(hal.DeviceMemoryError, match="bytes"):
        hal.empty((1 << 50,), "float32", device=device)
    hal.softmax(np.ones((2, 2), np.float32), device=device)  # and the device goes on
