"""The OpenCL backend where something else goes on: collections, threads, other filters, damaged files, no memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hal.device import Device
from hal.errors import DeviceError, DeviceMemoryError
from hal.kernel import Kernel
from hal_opencl import Backend, loader
from hal_opencl.kernels.source import OPTIONS

MIB = 1 << 20


@pytest.fixture
def device() -> Iterator[Any]:
    """A device of the test's own, and of the class with a pool."""
    pytest.importorskip("pyopencl")
    backend = Backend()
    found = [info for info in backend.devices() if info.priority >= 0]
    if not found:
        pytest.skip(f"no OpenCL device: {backend.why_none()}")
    opened = backend.open(found[0])
    yield opened
    opened.close()


def at_once(works: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- memory


COLLECTED_WHILE_ALLOCATING = """
import faulthandler, gc, sys
import hal
faulthandler.dump_traceback_later(60, exit=True)
found = [entry.name for entry in hal.devices() if entry.backend == "opencl"]
for name in found:
    device = hal.device(name)
    take = device._take
    def collect_and_take(nbytes):
        gc.collect()  # as pyopencl's pool does when memory is short
        return take(nbytes)
    device._take = collect_and_take
    gc.disable()
    cycle = [hal.empty((4,), "float32", device=device)]
    cycle.append(cycle)
    del cycle
    hal.empty((4,), "float32", device=device)
print("done")
"""


def test_a_collection_while_memory_is_allocated_does_not_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED_WHILE_ALLOCATING], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "done", done.stderr


def test_free_waits_for_no_lock(device: Any) -> None:
    block = device.alloc(64)
    with device._memory_lock:
        device.free(block)


def test_freed_memory_is_given_out_again(device: Any) -> None:
    for _ in range(10):
        device.free(device.alloc(MIB))
    device.synchronize()
    assert device._pool.active_bytes == 0
    assert device._pool.managed_bytes < 2 * MIB


def test_threads_allocate_and_free_at_once(device: Any) -> None:
    def work() -> None:
        blocks: list[Any] = []
        for size in range(1, 300):
            blocks.append(device.alloc(size * 64))
            if size % 3 == 0:
                device.free(blocks.pop(0))
        for block in blocks:
            device.free(block)

    at_once([work] * 4)
    device.synchronize()
    assert device._pool.active_bytes == 0


def test_more_than_a_cpu_has_is_refused_before_its_driver_is_asked(device: Any) -> None:
    if device.info.props["type"] != "cpu":
        pytest.skip("the driver refuses in time")
    device.info = replace(device.info, memory=8 * MIB)
    kept = [device.alloc(3 * MIB), device.alloc(3 * MIB)]
    with pytest.raises(DeviceMemoryError, match=f"no memory for {3 * MIB} bytes"):
        device.alloc(3 * MIB)
    device.free(kept.pop())
    for size in (2, 3, 1, 4):  # none fits beside what the pool keeps of the last
        device.free(device.alloc(size * MIB))
    device.free(kept.pop())


def test_arrays_in_dead_cycles_are_collected_before_memory_is_refused(device: Any) -> None:
    if device.info.props["type"] != "cpu":
        pytest.skip("the driver refuses in time")
    device.info = replace(device.info, memory=8 * MIB)

    class Owner:
        def __init__(self, device: Device) -> None:
            self.device, self.handle, self.cycle = device, device.alloc(3 * MIB), self

        def __del__(self) -> None:
            self.device.free(self.handle)

    for _ in range(10):
        Owner(device)


def test_a_closed_device_says_why_and_what_helps(device: Any) -> None:
    device.close()
    with pytest.raises(DeviceError, match=r"close\(\) was called.*new process"):
        device.alloc(64)


# ---- warnings


def remarkable(name: str) -> Kernel:
    """A kernel that builds, and of which compilers say that a variable is not used."""
    source = f"#warning {name}\n__kernel void {name}(__global int *x) {{ int unused = 1; x[0] = 1; }}"
    return Kernel(name, source, options=OPTIONS)


def test_builds_in_two_threads_leave_the_warnings_on(device: Any) -> None:
    def work() -> None:
        for i in range(5):
            device._programs._build(remarkable(f"k{threading.get_ident()}_{i}"))

    at_once([work] * 3)
    assert ("ignore", None, Warning, None, 0) not in warnings.filters
    with pytest.warns(UserWarning, match="still seen"):
        warnings.warn("still seen", UserWarning, stacklevel=1)


def test_a_compilers_remark_is_no_error_where_warnings_are(device: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device._programs._build(remarkable("remarkable"))
        device._programs._build(remarkable("remarkable_too"))


# ---- the list of implementations


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"", b"/nowhere/libintelocl.so\n", b"a\0b"])
def test_a_damaged_list_is_written_again(tmp_path: Path, content: bytes) -> None:
    icd = tmp_path / "intel.icd"
    icd.write_bytes(content)
    loader._write(icd, "/a/library.so")
    assert icd.read_bytes() == b"/a/library.so\n"


def test_a_list_that_cannot_be_made_leaves_pyopencl_usable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyopencl")

    def fail(folder: Path) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(loader, "_prepared", False)
    monkeypatch.setattr(loader, "_add_intel", fail)
    assert loader.load().__name__ == "pyopencl"
    assert "not made known" in caplog.text
