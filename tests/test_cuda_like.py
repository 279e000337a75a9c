"""hal's kernels for GPUs as C++: by g++ as host code, and by NVRTC as PTX that the emulator runs."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal.conformance.cases import select
from hal.device import DeviceInfo
from hal.errors import UnsupportedError
from hal.ops import OPERATORS
from hal.scaffold.package import write
from hal_opencl import portable

TESTS = Path(__file__).resolve().parent
FIBRE = TESTS / "third_party" / "cuda_like"
INFO = DeviceInfo("any", frozenset(("float32",)), 1 << 30, props={"type": "cpu", "vector_width": 16})
# A few cases of each operator: vectors and what is left of them, strides, 16-bit dtypes, masks, statistics, epilogues.
FEW = (
    ("matmul", "float32/shape"),
    ("matmul", "int8/shape"),
    ("softmax", "float16/mask"),
    ("layernorm", "bfloat16/size"),
    ("rmsnorm", "float64/layout"),
)

compiles = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")


def has_nvrtc() -> bool:
    try:
        importlib.metadata.version("nvidia-cuda-nvrtc")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="no NVRTC: pip install --no-deps nvidia-cuda-nvrtc==13.5.37")


def entry_point(folder: Path, name: str, package: str) -> None:
    """What pip would write about a package, into a folder of PYTHONPATH."""
    info = folder / f"hal_{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.2\nName: hal-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[hal.backends]\n{name} = {package}:Backend\n")


def conformance(environment: dict[str, str], device: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "hal", "conformance", device, *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def few(environment: dict[str, str], device: str) -> None:
    """Some cases of every operator pass."""
    for operator, pattern in FEW:
        code, report = conformance(environment, device, "--ops", operator, "-k", pattern)
        failures = [(case["name"], case["reason"]) for case in report["cases"] if case["status"] != "passed"]
        assert (code, failures[:3]) == (0, [])
        assert report["verdict"] == "passes" and report["cases"]


@pytest.fixture(scope="module")
def fibre(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Processes that find the stranger's package whose compiler is g++."""
    folder = tmp_path_factory.mktemp("fibre")
    entry_point(folder, "fibre", "hal_fibre")
    path = os.pathsep.join(map(str, (folder, FIBRE)))
    return {**os.environ, "PYTHONPATH": path, "HAL_CACHE_DIR": str(folder / "cache")}


@pytest.fixture
def chip(tmp_path: Path, stand_in: Any) -> dict[str, str]:
    """Processes with a generated package of kind cuda-like whose functions are those of NVIDIA's driver."""
    package = tmp_path / "hal-chip"
    write("chip", "cuda-like", package)
    for name in ("driver.py", "device.py"):
        shutil.copy(TESTS / "ported" / name, package / "hal_chip" / name)
    entry_point(tmp_path, "chip", "hal_chip")
    environment = stand_in.environment(ptx=9.9)  # of NVRTC's PTX
    path = os.pathsep.join((str(tmp_path), str(package), environment["PYTHONPATH"]))
    return {**environment, "PYTHONPATH": path}


def test_the_door_needs_no_pyopencl() -> None:
    code = "import sys; from hal_opencl import portable; portable.algorithms(); sys.exit('pyopencl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_kernels_for_gpus_go_through_the_door() -> None:
    """Whatever a device says of itself: the header has no vectors of more than four."""
    algorithms = portable.algorithms("#define SOMETHING_BEFORE")
    for case in select("smoke", [], "float32"):
        algorithm = algorithms[case.operator]
        configs = algorithm.configs(case.op, INFO)
        assert configs and {config.name for config in configs} <= {"tile", "group"}
        (kernel,) = algorithm.kernels(OPERATORS[case.operator].classify(case.op), configs[0])
        assert kernel.source.startswith("#define SOMETHING_BEFORE\n/* hal_cuda_like.h")
        assert kernel.options == ()


def test_facts_that_the_door_knows_are_heeded() -> None:
    algorithms = portable.algorithms()
    small = DeviceInfo("small", INFO.dtypes, 1 << 30, props={"max_work_group": 16})
    (case, *_) = select("smoke", ["matmul"], "float32/shape")
    assert [dict(config.values)["size"] for config in algorithms["matmul"].configs(case.op, small)] == [16]
    short = DeviceInfo("short", INFO.dtypes, 1 << 30, props={"loop_limit": 3})
    with pytest.raises(UnsupportedError, match="rounds"):
        algorithms["matmul"].configs(case.op, short)


@compiles
def test_the_headers_half_is_that_of_ieee_754(tmp_path: Path) -> None:
    """Every half to float; to half, every half, the middles between two, and their neighbours."""
    dialect = (FIBRE / "hal_fibre" / "dialect.h").read_text()
    doors = """
extern "C" void to_float(const ushort *from, float *to, long n)
{
    for (long i = 0; i < n; i++) to[i] = vload_half(i, (const hal_half *)from);
}
extern "C" void to_half(const float *from, ushort *to, long n)
{
    for (long i = 0; i < n; i++) vstore_half_rte(from[i], i, (hal_half *)to);
}
"""
    source = tmp_path / "half.cpp"
    source.write_text(f"{dialect}\n{portable.header()}\n{doors}")
    library = tmp_path / "half.so"
    strict = ["-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(["g++", *strict, "-O1", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    def call(name: str, given: Any, dtype: Any) -> Any:
        found = np.empty(len(given), dtype)
        getattr(loaded, name)(ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(found.ctypes.data), len(given))
        return found

    halves = np.arange(1 << 16, dtype=np.uint16)
    floats = halves.view(np.float16).astype(np.float32)
    assert np.array_equal(call("to_float", halves, np.float32), floats, equal_nan=True)
    finite = np.sort(floats[np.isfinite(floats)])
    middles = (finite[1:] + finite[:-1]) / 2
    edges = np.array([65519.99, 65520, 65536, 1e30, np.inf, -np.inf, 1e-40, -1e-40], np.float32)
    given = np.concatenate([finite, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), edges])
    with np.errstate(over="ignore"):
        wanted = given.astype(np.float16).view(np.uint16)
    assert np.array_equal(call("to_half", given, np.uint16), wanted)
    assert np.isnan(call("to_half", np.array([np.nan], np.float32), np.uint16).view(np.float16)).all()


@compiles
def test_host_code_is_judged_right(fibre: dict[str, str]) -> None:
    few(fibre, "fibre:0")


@nvrtc
def test_a_generated_package_passes_once_its_functions_are_those_of_a_driver(chip: dict[str, str]) -> None:
    few(chip, "chip:0")


@nvrtc
def test_memory_of_ones_own_is_judged_before_there_is_a_launch(chip: dict[str, str], tmp_path: Path) -> None:
    driver = tmp_path / "hal-chip" / "hal_chip" / "driver.py"
    later = "".join(f"    {name} = Simulator.{name}\n" for name in ("load", "function", "launch"))
    driver.write_text(f"{driver.read_text()}\n\nWhole = Driver\n\n\nclass Driver(Whole):\n{later}")
    code, report = conformance(chip, "chip:0", "--ops", "matmul", "-k", "float32/shape")
    assert (code, report["verdict"]) == (3, "SIMULATED (9 of 12 functions yours)")
    assert report["counts"].keys() == {"passed"}


@nvrtc
def test_the_example_of_kind_source_is_right(tmp_path: Path, stand_in: Any) -> None:
    """Its rmsnorm, with and without weight, over rows of every length of the suite."""
    package = tmp_path / "hal-chip"
    write("chip", "source", package)
    for name in ("driver.py", "device.py"):
        shutil.copy(TESTS / "ported" / name, package / "hal_chip" / name)
    device = package / "hal_chip" / "device.py"
    text = device.read_text().replace("portable.algorithms()", '{"rmsnorm": rmsnorm}').replace("= True", "= False")
    device.write_text(text.replace("from hal_opencl import portable", "from hal_chip import rmsnorm"))
    entry_point(tmp_path, "chip", "hal_chip")
    environment = stand_in.environment(ptx=9.9)
    path = os.pathsep.join((str(tmp_path), str(package), environment["PYTHONPATH"]))
    code, report = conformance(
        {**environment, "PYTHONPATH": path}, "chip:0", "--ops", "rmsnorm", "-k", "rmsnorm/float32/size"
    )
    failures = [(case["name"], case["reason"]) for case in report["cases"] if case["status"] != "passed"]
    assert (code, failures) == (0, []) and len(report["cases"]) > 9


@nvrtc
def test_a_text_that_does_not_compile_says_why(chip: dict[str, str]) -> None:
    code = """
import hal
from hal.kernel import Kernel
hal.device("chip:0").compile(Kernel("k", "no C++ at all"))
"""
    done = subprocess.run([sys.executable, "-c", code], env=chip, capture_output=True, text=True)
    assert "CompileError: kernel k does not compile" in done.stderr and "identifier" in done.stderr


@pytest.mark.slow
@compiles
def test_every_smoke_case_passes_as_host_code(fibre: dict[str, str]) -> None:
    code, report = conformance(fibre, "fibre:0")
    assert (code, report["counts"].keys()) == (0, {"passed"})


@pytest.mark.slow
@nvrtc
def test_every_smoke_case_passes_on_the_emulator(chip: dict[str, str]) -> None:
    code, report = conformance(chip, "chip:0")
    assert (code, report["counts"].keys()) == (0, {"passed"})
