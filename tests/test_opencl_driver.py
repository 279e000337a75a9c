"""The OpenCL backend below the operators: finding devices, building, launching, memory, the cache of programs."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.cache import FOLDER, Cache
from hal.device import DeviceInfo
from hal.errors import BackendUnavailable, CompileError, DeviceError, DeviceMemoryError, UnsupportedError
from hal.kernel import F32, I32, I64, Argument, In, Kernel, KernelDevice, Launch, Out, Schedule, resolve
from hal_opencl import Backend, discovery, loader
from hal_opencl.kernels.source import OPTIONS

HEAD = "#define MEMORY(x) __global uchar *x##_memory, long x##_offset\n"
SCALE = HEAD + (
    "__kernel void scale(MEMORY(x), MEMORY(y), long n, float factor) {\n"
    "  __global float *x = (__global float *)(x_memory + x_offset), *y = (__global float *)(y_memory + y_offset);\n"
    "  long i = get_global_id(0);\n"
    "  if (i < n) y[i] = factor * x[i];\n"
    "}\n"
)


def info_of(backend: Backend) -> DeviceInfo:
    """The first device that is no checker."""
    pytest.importorskip("pyopencl")
    found = [info for info in backend.devices() if info.priority >= 0]
    if not found:
        pytest.skip(f"no OpenCL device: {backend.why_none()}")
    return found[0]


@pytest.fixture(scope="module")
def device() -> Iterator[KernelDevice]:
    backend = Backend()
    opened = backend.open(info_of(backend))
    assert isinstance(opened, KernelDevice)
    yield opened
    opened.close()


def scale_kernel(remark: str = "") -> Kernel:
    return Kernel("scale", f"{SCALE}// {remark}\n", ("x", "y", "n", "factor"), OPTIONS)


def run(device: KernelDevice, kernel: Kernel, x: NDArray[np.float32], *numbers: Argument) -> NDArray[np.float32]:
    """One launch with x in and a result of x's size out."""
    result = np.empty_like(x)
    into, out = device.alloc(x.nbytes), device.alloc(x.nbytes)
    device.copy_in(into, 0, x.view(np.uint8))
    launch = Launch(0, (-(-x.size // 16), 1, 1), (16, 1, 1), (In(0), Out(0), *numbers))
    device.launch(device.compiled(kernel), launch, resolve(launch, [(out, 0)], [(into, 0)], None), None)
    device.copy_out(result.view(np.uint8), out, 0)
    device.free(into)
    device.free(out)
    return result


X = np.arange(100, dtype=np.float32)


# ---- finding devices


def test_importing_the_backend_loads_no_opencl() -> None:
    source = "import sys, hal_opencl; hal_opencl.Backend(); sys.exit('pyopencl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0


def test_without_pyopencl_there_is_no_device_and_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    backend = Backend()
    assert backend.devices() == []
    assert "pip install 'hal-kernels[opencl]'" in backend.why_none()
    with pytest.raises(BackendUnavailable, match="hal-kernels"):
        backend.open(DeviceInfo("some device", frozenset(), 0))


def in_a_process(source: str, **variables: str) -> Any:
    """What this Python text prints, as JSON, with none of the variables that choose implementations but these."""
    pytest.importorskip("pyopencl")
    kept = {k: v for k, v in os.environ.items() if k not in ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH", "PYOPENCL_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", source], env={**kept, **variables}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


NAMES = """
import json, os, hal_opencl
backend = hal_opencl.Backend()
print(json.dumps([[info.name for info in backend.devices()], backend.why_none(), os.environ.get("PYOPENCL_HOME", "")]))
"""


def test_an_empty_folder_of_implementations_gives_no_device_and_says_so(tmp_path: Path) -> None:
    names, why, _ = in_a_process(NAMES, OCL_ICD_VENDORS=str(tmp_path), HAL_CACHE_DIR=str(tmp_path / "cache"))
    if names:
        pytest.skip("this pyopencl comes with an implementation of its own")
    assert "pip install 'hal-kernels[opencl-cpu]'" in why and "hal doctor" in why


def test_intels_runtime_from_pip_is_found_beside_the_systems(tmp_path: Path) -> None:
    library = loader.intel_library()
    if library is None or sys.platform != "linux":
        pytest.skip("intel-opencl-rt is not installed")
    names, _, home = in_a_process(NAMES, HAL_CACHE_DIR=str(tmp_path))
    assert any("Intel" in name for name in names)
    if home.startswith(str(tmp_path)):  # not where the system lists the same runtime
        icd = tmp_path / FOLDER / "icd" / ".libs" / "intel.icd"
        assert icd.read_text().strip() == str(library)
        assert in_a_process(NAMES, HAL_CACHE_DIR=str(tmp_path))[0] == names


def test_where_the_user_chose_the_implementations_nothing_is_written(tmp_path: Path) -> None:
    in_a_process(NAMES, OCL_ICD_VENDORS=str(tmp_path), HAL_CACHE_DIR=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


class Trap:
    """A platform that allows one question, its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AssertionError(f"{self.name} was asked for {attribute}")


def test_a_denied_platform_is_asked_for_nothing_but_its_name() -> None:
    pyopencl = SimpleNamespace(Error=RuntimeError, get_platforms=lambda: [Trap(name) for name in discovery.DENY])
    assert list(discovery._devices(pyopencl)) == []


def test_a_platform_that_fails_hurts_only_itself() -> None:
    def fail() -> list[Any]:
        raise RuntimeError("DEVICE_NOT_FOUND")

    good = SimpleNamespace(name="good", get_devices=lambda: ["device"])
    pyopencl = SimpleNamespace(
        Error=RuntimeError, get_platforms=lambda: [SimpleNamespace(name="bad", get_devices=fail), good]
    )
    assert list(discovery._devices(pyopencl)) == [("good", "device")]


def test_twins_get_names_of_their_own() -> None:
    cl = pytest.importorskip("pyopencl")
    info_of(Backend())
    platform = next(p for p in cl.get_platforms() if p.name.strip() not in discovery.DENY and p.get_devices())
    taken: dict[str, Any] = {}
    for _ in range(3):
        taken[discovery.describe(cl, platform.name.strip(), platform.get_devices()[0], taken).name] = None
    first, second, third = taken
    assert (second, third) == (f"{first} #2", f"{first} #3")


def test_disabled_abilities_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAL_OPENCL_DISABLE", "fp64, fp16")
    info = info_of(Backend())
    assert "float64" not in info.dtypes
    assert not {"cl_khr_fp64", "cl_khr_fp16"} & set(info.props["extensions"])


# ---- building and launching


def test_a_launch_computes_and_new_numbers_and_memory_are_seen(device: KernelDevice) -> None:
    for factor in (2.0, 3.0):
        for n in (100, 50):
            got = run(device, scale_kernel(), X, I64(n), F32(factor))
            np.testing.assert_array_equal(got[:n], np.float32(factor) * X[:n])


def test_the_same_launch_takes_other_memory_and_offsets(device: KernelDevice) -> None:
    compiled = device.compiled(scale_kernel())
    launch = Launch(0, (1, 1, 1), (16, 1, 1), (In(0), Out(0), I64(10), F32(2.0)))
    first, second = device.alloc(1024), device.alloc(1024)
    device.copy_in(first, 0, np.arange(256, dtype=np.float32).view(np.uint8))
    for source, target, start in ((first, second, 0), (first, second, 10), (second, first, 0)):
        operands = resolve(launch, [(target, 4 * start)], [(source, 4 * start)], None)
        gc.collect()
        device.launch(compiled, launch, operands, None)
    result = np.empty(20, np.float32)
    device.copy_out(result.view(np.uint8), first, 0)
    np.testing.assert_array_equal(result, [*(4.0 * np.arange(10)), *range(10, 20)])
    device.copy_out(result.view(np.uint8), second, 0)
    np.testing.assert_array_equal(result, 2.0 * np.arange(20))
    device.free(first)
    device.free(second)


def test_a_text_that_does_not_build_shows_the_compilers_log(device: KernelDevice) -> None:
    with pytest.raises(CompileError, match="kernel broken does not build") as caught:
        device.compiled(Kernel("broken", "__kernel void broken(__global int *x) { x[0] = nonsense; }"))
    assert "nonsense" in caught.value.log and "error" in caught.value.log.lower()
    assert caught.value.source.startswith("__kernel void broken")


def test_an_entry_that_is_not_there_is_an_error(device: KernelDevice) -> None:
    with pytest.raises(DeviceError, match="absent"):
        device.compiled(Kernel("absent", "__kernel void present(__global int *x) { x[0] = 1; }"))


def test_a_driver_error_names_call_number_and_status(device: KernelDevice) -> None:
    x = device.alloc(64)
    launch = Launch(0, (1, 1, 1), (1, 1, 1), (In(0), In(0), I32(1), F32(1.0)))  # n is a long
    with pytest.raises(DeviceError, match=r"kernel scale: clSetKernelArg failed: -51 INVALID_ARG_SIZE"):
        device.launch(device.compiled(scale_kernel()), launch, resolve(launch, [], [(x, 0)], None), None)
    device.free(x)


class TooLarge:
    """An algorithm that wants more work-items in a group than there can be."""

    def configs(self, op: Any, info: DeviceInfo) -> list[Any]:
        return []

    def kernels(self, op_class: Any, config: Any) -> tuple[Kernel, ...]:
        return (scale_kernel(),)

    def schedule(self, op: Any, config: Any) -> Schedule:
        return Schedule((Launch(0, (1, 1, 1), (1 << 20, 1, 1), (In(0), Out(0), I64(1), F32(1.0))),))


def test_too_large_a_work_group_is_refused_before_anything_runs(device: KernelDevice) -> None:
    from hal.conformance.case import make_op
    from hal.kernel import Config
    from hal.op import TensorSpec

    op = make_op("softmax", {"x": TensorSpec.contiguous("float32", (2, 2))})
    with pytest.raises(UnsupportedError, match="1048576 work-items in a group"):
        device.prepare_config(op, TooLarge(), Config("too large"))


def test_threads_share_a_kernel(device: KernelDevice) -> None:
    wrong: list[Any] = []

    def work(own: int) -> None:
        for _ in range(50):
            got = run(device, scale_kernel(), X, I64(100), F32(own))
            if not np.array_equal(got, own * X):
                wrong.append((own, got))

    threads = [threading.Thread(target=work, args=(own,)) for own in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- memory, time, the end


def test_copies_on_the_device_also_of_overlapping_regions(device: KernelDevice) -> None:
    first, second = device.alloc(400), device.alloc(400)
    device.copy_in(first, 0, X.view(np.uint8))
    device.copy(second, 0, first, 40, 360)
    device.copy(second, 4, second, 0, 40)
    result = np.empty(11, np.float32)
    device.copy_out(result.view(np.uint8), second, 0)
    np.testing.assert_array_equal(result, [10, *range(10, 20)])
    device.free(first)
    device.free(second)


def test_too_much_memory_is_an_error_that_says_how_much(device: KernelDevice) -> None:
    with pytest.raises(DeviceMemoryError, match=str(1 << 60)):
        device.alloc(1 << 60)


def test_marks_measure_time(device: KernelDevice) -> None:
    start = device.mark()
    run(device, scale_kernel(), X, I64(100), F32(1.0))
    assert 0 <= device.elapsed(start, device.mark()) < 60


def test_a_closed_device_says_so() -> None:
    backend = Backend()
    device = backend.open(info_of(backend))
    block = device.alloc(64)
    device.close()
    device.close()
    device.free(block)
    with pytest.raises(DeviceError, match="closed"):
        device.alloc(64)
    with pytest.raises(DeviceError, match="closed"):
        device.synchronize()


# ---- programs on disk


def opened(backend: Backend, cache: Cache) -> Any:
    """A device with a cache of its own."""
    info = info_of(backend)
    if not info.props["binaries"]:
        pytest.skip(f"no binaries of {info.name} are kept")
    from hal_opencl.driver import OpenCLDevice

    return OpenCLDevice(info, backend._found[info.name], cache)


def test_a_program_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, cache = Backend(), Cache(tmp_path / FOLDER)
    first = opened(backend, cache)
    kept = len(cache.entries())
    np.testing.assert_array_equal(run(first, scale_kernel(), X, I64(100), F32(2.0)), 2 * X)
    assert len(cache.entries()) == kept + 1
    second = opened(backend, cache)
    monkeypatch.setattr(second._programs, "_build", lambda kernel: pytest.fail("built again"))
    np.testing.assert_array_equal(run(second, scale_kernel(), X, I64(100), F32(2.0)), 2 * X)


@pytest.mark.parametrize("content", [b"", b"no binary at all", bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_binary_that_the_driver_refuses_is_built_again(tmp_path: Path, content: bytes) -> None:
    backend, cache = Backend(), Cache(tmp_path / FOLDER)
    first = opened(backend, cache)
    run(first, scale_kernel("a text of its own"), X, I64(100), F32(2.0))
    for entry in cache.entries():
        cache.put(entry.path.stem, content)
    second = opened(backend, cache)
    np.testing.assert_array_equal(run(second, scale_kernel("a text of its own"), X, I64(100), F32(2.0)), 2 * X)
    assert all(cache.get(entry.path.stem) != content for entry in cache.entries())
