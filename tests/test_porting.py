from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal.device import Bytes, DeviceInfo
from hal.errors import BackendUnavailable, CompileError, DeviceError, DeviceMemoryError
from hal.kernel import F32, F64, I32, I64, Config, In, Kernel, Launch, Out, Schedule
from hal.op import Op, OpClass, TensorSpec
from hal.porting import (
    DriverBackend,
    DriverDevice,
    DriverKernelDevice,
    OperatorDevice,
    SharedLibrary,
    Simulator,
    compile_with,
    packed,
    pointers,
    simulate,
    simulated,
    values,
)

VECTOR = TensorSpec.contiguous("float32", (4,))
DOUBLE = Op("double", (("out", VECTOR),), (("x", VECTOR),), ())


class Counting(Simulator):
    """Memory of one's own that knows how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def open(self, ordinal: int) -> None:
        self.calls.append(f"open {ordinal}")

    def alloc(self, nbytes: int) -> int:
        self.calls.append("alloc")
        return super().alloc(nbytes)

    def free(self, address: int) -> None:
        self.calls.append("free")
        super().free(address)


class Kernels(DriverKernelDevice):
    """No algorithm."""


def device(driver: Simulator, kind: Any = Kernels) -> Any:
    return kind(driver.properties(0), driver)


def test_replaced_functions_no_longer_count_as_simulated() -> None:
    assert len(simulated(Simulator)) == 12
    assert len(simulated(Counting)) == 9
    assert not {"open", "alloc", "free"} & set(simulated(Counting))


def test_the_backend_says_what_is_simulated() -> None:
    class Backend(DriverBackend):
        name = "acme"
        driver = Counting
        device = Kernels

    (info,) = Backend().devices()
    assert (info.props["functions"], len(info.props["simulated"]), info.priority) == (12, 9, -1)


def test_operators_count_as_functions_of_a_library() -> None:
    class Device(OperatorDevice):
        operators = {"matmul": simulate, "softmax": lambda device, op: simulate(device, op)}  # noqa: RUF012

    names, count = Device.unwritten(Counting)
    assert count == 9 + 2
    assert "matmul" in names and "softmax" not in names and "load" not in names


def test_two_devices_of_one_name_are_told_apart() -> None:
    class Twins(Simulator):
        def find(self) -> int:
            return 2

        def properties(self, ordinal: int) -> DeviceInfo:
            return DeviceInfo("Acme 7", frozenset(("float32",)), 1 << 20)

    class Backend(DriverBackend):
        name = "acme"
        driver = Twins
        device = Kernels

    assert [info.name for info in Backend().devices()] == ["Acme 7 #0", "Acme 7 #1"]


def test_discovery_keeps_the_reason_and_never_raises() -> None:
    class Absent(Simulator):
        def find(self) -> int:
            SharedLibrary("libnowhere_acme.so").call("acmeInit")
            return 1

    class Backend(DriverBackend):
        name = "acme"
        driver = Absent
        device = Kernels
        what_to_do = "install the driver of Acme"

    backend = Backend()
    assert list(backend.devices()) == []
    assert "libnowhere_acme.so" in backend.why_none() and "install the driver of Acme" in backend.why_none()
    with pytest.raises(BackendUnavailable, match="libnowhere_acme"):
        backend.open(DeviceInfo("x", frozenset(), 1))


def test_freed_memory_is_given_out_again() -> None:
    driver = Counting()
    one = device(driver)
    first = one.alloc(1000)
    one.free(first)
    assert one.alloc(900) == first
    assert driver.calls == ["open 0", "alloc"]


def test_the_pool_is_given_back_where_memory_is_short() -> None:
    class Small(Counting):
        def alloc(self, nbytes: int) -> int:
            if len(self._blocks) == 1:
                raise DeviceMemoryError("full")
            return super().alloc(nbytes)

    one = device(Small())
    one.free(one.alloc(1000))
    kept = one.alloc(100_000)
    with pytest.raises(DeviceMemoryError, match="full"):
        one.alloc(1000)
    one.close()
    one.free(kept)  # an array that outlives the device
    assert one.driver._blocks == {}


def test_a_copy_of_ones_own_address_by_the_simulator_is_refused() -> None:
    simulator = Simulator()
    address = simulator.alloc(64)
    simulator.copy_in(address + 32, np.zeros(32, np.uint8))
    for at, size in ((address + 33, 32), (address - 1, 1), (0x1000, 1)):
        with pytest.raises(DeviceError, match="belong together: write all five"):
            simulator.copy_in(at, np.zeros(size, np.uint8))
    with pytest.raises(DeviceError, match="write all five"):
        simulator.free(address + 1)


def test_copies_that_overlap_go_through_the_host() -> None:
    one = device(Simulator())
    memory = one.alloc(64)
    one.copy_in(memory, 0, np.arange(64, dtype=np.uint8))
    one.copy(memory, 8, memory, 0, 32)
    found = np.empty(64, np.uint8)
    one.copy_out(found, memory, 0)
    assert found[8:40].tolist() == list(range(32))


def test_arguments_in_the_forms_that_drivers_take() -> None:
    given = values([(0x1000, 8), I32(-1), I64(2), F32(0.5), F64(0.25)])
    assert [type(x) for x in given] == [
        ctypes.c_uint64,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_float,
        ctypes.c_double,
    ]
    assert given[0].value == 0x1008
    assert [x.value for x in values([(0x1000, 8)], split=True)] == [0x1000, 8]
    assert len(packed(given)) == 8 + 4 + 4 + 8 + 4 + 4 + 8
    array = pointers(given)
    assert ctypes.c_int32.from_address(array[1] or 0).value == -1


class Doubling(Simulator):
    """Runs Python "code": a stand-in for a chip whose three functions are written."""

    def load(self, image: bytes) -> Any:
        names: dict[str, Any] = {}
        exec(image, {"np": np, "ctypes": ctypes}, names)
        return names

    def function(self, module: Any, entry: str) -> Any:
        return module[entry]

    def launch(self, function: Any, grid: Any, block: Any, shared_bytes: int, arguments: Sequence[Any]) -> None:
        function(*(argument.value for argument in arguments))


class DoubleAlgorithm:
    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        return [Config("only")]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        text = """
def double(out, x, n):
    view = lambda at: np.ctypeslib.as_array((ctypes.c_float * n).from_address(at))
    view(out)[:] = 2 * view(x)
"""
        return (Kernel("double", text),)

    def schedule(self, op: Op, config: Config) -> Schedule:
        return Schedule((Launch(0, (1, 1, 1), (1, 1, 1), (Out(0), In(0), I64(4))),))


class AnyOperator:
    def classify(self, op: Op) -> OpClass:
        return OpClass(op.name, (), ())


def test_kernels_run_once_load_function_and_launch_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device(DriverKernelDevice):
        algorithms = {"double": DoubleAlgorithm()}  # noqa: RUF012

    monkeypatch.setitem(__import__("hal.ops").ops.OPERATORS, "double", AnyOperator())
    one = device(Doubling(), Device)
    x, out = one.alloc(16), one.alloc(16)
    one.copy_in(x, 0, np.arange(4, dtype=np.float32).view(np.uint8))
    one.prepare(DOUBLE)([(out, 0)], [(x, 0)])
    found: Bytes = np.empty(16, np.uint8)
    one.copy_out(found, out, 0)
    assert found.view(np.float32).tolist() == [0, 2, 4, 6]


def test_a_closed_device_says_so() -> None:
    one = device(Simulator(), DriverKernelDevice)
    one.close()
    with pytest.raises(DeviceError, match="closed"):
        one.alloc(1)


def test_each_thread_opens_the_device_once() -> None:
    import threading

    driver = Counting()
    one = device(driver)
    one.alloc(1)
    thread = threading.Thread(target=one.synchronize)
    thread.start()
    thread.join()
    one.synchronize()
    assert driver.calls.count("open 0") == 2


def test_a_libraries_status_becomes_an_error_with_its_text() -> None:
    libc = SharedLibrary("libnowhere_acme.so", "libc.so.6", text=lambda library, code: f"ACME_{code}")
    libc.call("abs", 0)
    with pytest.raises(DeviceError, match="abs failed: 7 ACME_7"):
        libc.call("abs", -7)
    with pytest.raises(DeviceMemoryError, match="abs failed: 2"):
        libc.call("abs", 2)
    with pytest.raises(BackendUnavailable, match="no function acmeInit"):
        libc.call("acmeInit")


def test_a_compiler_is_a_program_whose_failures_carry_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAL_CACHE_DIR", str(tmp_path))
    count = tmp_path / "count"
    script = f"""
import pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
with open({str(count)!r}, "a") as file: file.write("x")
if "bad" in text: sys.exit("line 1: bad word")
pathlib.Path(sys.argv[2]).write_text(text.upper())
"""
    command = (sys.executable, "-c", script, "{source}", "{output}")
    for _ in range(2):
        assert compile_with(command, Kernel("k", "good text")) == b"GOOD TEXT"
    assert count.read_text() == "x"  # kept on disk
    with pytest.raises(CompileError, match="bad word"):
        compile_with(command, Kernel("k", "bad text"))
    with pytest.raises(CompileError, match="no program 'acmecc' in PATH"):
        compile_with(("acmecc",), Kernel("k", ""))


def test_memory_functions_of_ones_own_are_used_by_simulated_operators() -> None:
    """What is not yet launched still goes through the device's memory."""

    class Watched(Simulator):
        seen = 0

        def copy_in(self, address: int, source: Bytes) -> None:
            Watched.seen += source.nbytes
            super().copy_in(address, source)

    spec = TensorSpec.contiguous("float32", (2, 2))
    names = ("alpha", "activation", "precision", "deterministic")
    op = Op(
        "matmul", (("out", spec),), (("a", spec), ("b", spec)), tuple(zip(names, (1.0, None, None, "run"), strict=True))
    )
    one = device(Watched())
    a, out = one.alloc(16), one.alloc(16)
    one.copy_in(a, 0, np.eye(2, dtype=np.float32).reshape(-1).view(np.uint8))
    one.prepare(op)([(out, 0)], [(a, 0), (a, 0)])
    found = np.empty(16, np.uint8)
    one.copy_out(found, out, 0)
    assert found.view(np.float32).tolist() == [1, 0, 0, 1]
    assert Watched.seen == 32
    assert isinstance(one, DriverDevice)
