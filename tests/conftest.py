"""Fixtures that several test files use."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

# torch's tests import setuptools, which does not work once something has imported the standard library's distutils.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

from hal.capi import include
from hal_cpu_reference.device import Backend, Device


class Distant(Device):
    """The reference with memory of its own: host arrays have to be copied to it and back, as to a GPU."""

    fork_safe = False

    def wrap(self, address: int, nbytes: int) -> Any:
        return None


@pytest.fixture
def distant() -> Distant:
    """A device that does not share the host's memory."""
    device = Distant(Backend().devices()[0])
    device.name = "distant"
    return device


class Strangers:
    """Packages with backends of their own, and processes that find them. No OpenCL device is in their way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "packages"
        self.cache = folder / "cache"
        self.icds = folder / "icds"
        for path in (self.folder, self.icds):
            path.mkdir()

    def add(self, distribution: str, backend: str, source: str) -> None:
        """Install a distribution of one module, whose class Backend is the backend of this name."""
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[hal.backends]\n{backend} = {module}:Backend\n", encoding="utf-8")

    def environment(self, **variables: str) -> dict[str, str]:
        """None of the variables that hal or OpenCL read, but for those given."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HAL_", "OCL_", "OPENCL_", "PYOPENCL_"))}
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            "HAL_CACHE_DIR": str(self.cache),
            "OCL_ICD_VENDORS": str(self.icds),
        }
        return {**kept, **own, **variables}

    def run(self, *arguments: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )

    def code(self, source: str, **variables: str) -> str:
        """What this Python text prints; it has to end well."""
        done = self.run("-c", source, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hal(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the program hal."""
        return self.run("-m", "hal", *arguments, **variables)


@pytest.fixture
def strangers(tmp_path: Path) -> Strangers:
    """A folder to install backends into, and processes that find them."""
    return Strangers(tmp_path)


# ---- backends in C


class CPlugins:
    """Builds backends in C, and runs processes that find them."""

    examples = Path(__file__).resolve().parent.parent / "examples" / "vendor_c"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._built: dict[tuple[Any, ...], Path] = {}

    def build(self, name: str, *sources: Path | str, flags: tuple[str, ...] = ()) -> Path:
        """The library lib<name>.so of these C files, or of this C text; built once a session."""
        known = self._built.get((name, sources, flags))
        if known is not None:
            return known
        folder = self.folder / str(len(self._built))
        folder.mkdir()
        files = []
        for i, source in enumerate(sources):
            files.append(source if isinstance(source, Path) else folder / f"{i}.c")
            if isinstance(source, str):
                files[-1].write_text(source, encoding="utf-8")
        strict = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-pedantic", "-Werror"]
        command = [
            "cc",
            *strict,
            "-O2",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            f"-I{include()}",
            *flags,
            *map(str, files),
        ]
        target = folder / f"lib{name}.so"
        done = subprocess.run([*command, "-o", str(target), "-lm", "-lpthread"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self._built[name, sources, flags] = target
        return target

    def minimal(self) -> Path:
        """The smallest example."""
        return self.build("minimal", self.examples / "minimal.c")

    def arena(self) -> Path:
        """The complete example."""
        return self.build("arena", *sorted((self.examples / "arena").glob("*.c")))

    def variant(self, name: str, edit: str, functions: str = "") -> Path:
        """The smallest example with its table `t` edited by C statements; `functions` stand before, at file level."""
        source = f"""
#define hal_get_backend original
#include "{self.examples / "minimal.c"}"
#undef hal_get_backend
HAL_EXPORT const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor);
{functions}
const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {{
    static struct {{ hal_backend known; void *later[4]; }} room;
    hal_backend *t = &room.known;
    *t = *original(host_major, host_minor);
    {edit}
    return t;
}}
"""
        return self.build(name, source)

    def python(
        self, *arguments: str, plugins: Sequence[Path | str] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run Python where HAL_PLUGIN_PATH lists these libraries."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HAL_")}
        variables = {**kept, "HAL_PLUGIN_PATH": os.pathsep.join(map(str, plugins))}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=timeout)

    def hal(
        self, *arguments: str, plugins: Sequence[Path | str] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run the program hal where HAL_PLUGIN_PATH lists these libraries."""
        return self.python("-m", "hal", *arguments, plugins=plugins, timeout=timeout)


@pytest.fixture(scope="session")
def c_plugins(tmp_path_factory: pytest.TempPathFactory) -> CPlugins:
    """Backends in C. Needs cffi and a C compiler."""
    pytest.importorskip("cffi")
    if os.name == "nt" or not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    return CPlugins(tmp_path_factory.mktemp("c"))


# ---- NVIDIA's driver, stood in for

STAND_IN = Path(__file__).resolve().parent / "stand_in"


class StandIn:
    """Processes in which tests/stand_in is NVIDIA's driver."""

    def __init__(self, library: Path, cache: Path) -> None:
        self.library, self.cache = library, cache

    def environment(self, **setup: Any) -> dict[str, str]:
        """Of such a process; `setup` as in stand_in_driver.Setup."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HAL_")}
        paths = [str(STAND_IN), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"STAND_IN": json.dumps(setup), "STAND_IN_LIBRARY": str(self.library), "HAL_CACHE_DIR": str(self.cache)}
        return {**kept, **own, "PYTHONPATH": os.pathsep.join(paths)}

    def python(self, *arguments: str, **setup: Any) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment(**setup), capture_output=True, text=True, timeout=300
        )

    def __call__(self, body: Callable[[], None], **setup: Any) -> str:
        """Run the function's source; what it printed. It has to end well, and sees nothing from outside itself."""
        source = f"{textwrap.dedent(inspect.getsource(body))}\n{body.__name__}()"
        done = self.python("-c", source, **setup)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """Runs a function where NVIDIA's driver is the stand-in. Needs a C compiler and cuda-bindings."""
    pytest.importorskip("cuda.bindings")
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("the stand-in needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("stand-in")
    command = "import sys, stand_in_library as s, pathlib; s.build(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", command, str(folder)], check=True, cwd=STAND_IN)
    return StandIn(folder / "libcuda.so.1", folder / "cache")


# ---- each OpenCL implementation of this machine, alone in a process

ROOT = Path(__file__).resolve().parent.parent
IMPLEMENTATIONS = ("intel", "pocl", "rusticl", "oclgrind")


@lru_cache(maxsize=1)
def environments() -> dict[str, dict[str, str]]:
    """Of each implementation of this machine: the variables that make it the only one of a process."""
    folder = tempfile.mkdtemp(prefix="hal-icds-")
    command = [sys.executable, str(ROOT / "tools" / "opencl_icds.py"), "--dir", folder, "--each", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {one["name"]: one["environment"] for one in found}


# These two are slow: `make test` judges the kernels they choose, `make test-full` every kernel, here.
SLOW = ("rusticl", "oclgrind")
PARAMETERS = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in IMPLEMENTATIONS]


@pytest.fixture(scope="module", params=PARAMETERS)
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each check of the test file, run as a program, found wrong on one OpenCL implementation."""
    name = str(request.param)
    pytest.importorskip("pyopencl")
    if name not in environments():
        pytest.skip(f"{name} is not on this machine")
    log = tmp_path_factory.mktemp(name) / "oclgrind.log"
    watched = {"OCLGRIND_LOG": str(log), "OCLGRIND_UNINITIALIZED": "1", "OCLGRIND_DATA_RACES": "1"}
    variables = {**os.environ, **environments()[name], **(watched if name == "oclgrind" else {})}
    script = str(request.module.__file__)  # which prints a line of JSON for each of its checks
    done = subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    found = {line["check"]: line["wrong"] for line in map(json.loads, done.stdout.splitlines())}
    found["the checker's log"] = log.read_text().splitlines()[:20] if log.exists() else []
    return found
