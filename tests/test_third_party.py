"""Packages as strangers write them: built as wheels, installed beside hal's in a clean environment, judged.

What they have in common: no file of theirs is in the tree's own packages, and none imports what hal keeps to itself.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hal.capi import Backend
from hal.conformance.cases import select
from hal.errors import DeviceError, DeviceMemoryError, UnsupportedError

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "tests" / "third_party"
PUBLIC = {"device", "kernel", "op", "ops", "errors", "dtypes", "bound", "configs", "cache", "porting"}  # of hal


class Package(NamedTuple):
    """Folder, device to judge, the module that has profile.toml beside it, and C sources that are copied to csrc."""

    folder: str
    device: str
    profile: str = ""
    sources: str = ""


PACKAGES = [
    Package("arena", "arena:0", sources="examples/vendor_c/arena"),
    Package("aclnn", "aclnn:0", profile="hal_aclnn"),
]


# ---- in an environment of their own


class Market:
    """An environment with hal's wheel, where others' wheels are built and installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.empty = folder, folder / "empty"
        self.empty.mkdir()
        self.python = folder / "venv" / "bin" / "python"
        self.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")], ROOT)
        self.run([sys.executable, "-m", "venv", str(folder / "venv")], self.empty)
        (wheel,) = (folder / "dist").glob("hal_kernels-*.whl")
        self.pip("install", f"{wheel}[capi]", "hatchling")

    def run(self, command: Sequence[str], folder: Path) -> str:
        """What the command prints; it has to end well. Nothing of the checkout is on its path."""
        away = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET")
        kept = {key: value for key, value in os.environ.items() if key not in away and not key.startswith("HAL_")}
        kept["HAL_CACHE_DIR"] = str(self.folder / "cache")
        done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def pip(self, *words: str) -> None:
        """Of the environment."""
        self.run([str(self.python), "-m", "pip", "-q", "--disable-pip-version-check", *words], self.empty)

    def sell(self, package: Package) -> Path:
        """Build the package's wheel from a copy of its folder and install it; the wheel."""
        source, dist = self.folder / package.folder, self.folder / f"{package.folder}-dist"
        shutil.copytree(HOME / package.folder, source, ignore=shutil.ignore_patterns("__pycache__"))
        if package.sources:
            shutil.copytree(ROOT / package.sources, source / "csrc")
        self.pip("wheel", "--no-build-isolation", "--no-deps", "-w", str(dist), str(source))
        (wheel,) = dist.glob("*.whl")
        self.pip("install", "--no-deps", str(wheel))
        return wheel


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Linux or macOS with a C compiler."""
    if os.name == "nt" or not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    return Market(tmp_path_factory.mktemp("market"))


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.folder))
def test_a_strangers_wheel_passes(market: Market, package: Package) -> None:
    wheel = market.sell(package)
    if package.folder in ("arena", "aclnn"):
        assert "none-any" not in wheel.name  # compiled: for this platform
    profile = []
    if package.profile:
        where = market.run(
            [str(market.python), "-c", f"import {package.profile} as p; print(p.__file__)"], market.empty
        )
        profile = ["--profile", str(Path(where.strip()).with_name("profile.toml"))]
    report = market.run([str(market.python), "-m", "hal", "conformance", package.device, *profile], market.empty)
    assert " passes: " in report and " 0 failed" in report


# ---- what they may import


def python_files() -> list[Path]:
    return sorted(path for path in HOME.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> set[str]:
    """The parts of hal that a file imports: `from hal.device import Plan` is "device.Plan"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.partition(".")[2] for name in found if name.partition(".")[0] == "hal"}


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(HOME).as_posix())
def test_no_package_imports_what_hal_keeps_to_itself(path: Path) -> None:
    names = imported(path)
    assert [name for name in names if name.partition(".")[0] not in PUBLIC] == []
    assert [name for name in names if any(part.startswith("_") for part in name.split("."))] == []


def test_the_backends_in_c_include_one_header_of_hal() -> None:
    files = [*HOME.rglob("*.[ch]"), *(ROOT / "examples" / "vendor_c").rglob("*.[ch]")]
    assert len(files) > 10
    own = {path.name for path in files}
    system = re.compile(r"<\w+(?:/\w+)?\.h>")
    for path in files:
        for header in re.findall(r"^#include\s+(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert system.fullmatch(header) or header.strip('"') in own | {"hal_backend.h"}, f"{path.name}: {header}"


# ---- aclnn: executors, workspaces, numbers


@pytest.fixture
def aclnn(c_plugins: Any) -> Any:
    backend = Backend(c_plugins.build("aclnn", *sorted((HOME / "aclnn" / "csrc").glob("*.c"))))
    return backend.open(backend.devices()[0])


def test_the_library_of_executors_passes(c_plugins: Any, aclnn: Any) -> None:
    profile = str(HOME / "aclnn" / "hal_aclnn" / "profile.toml")
    done = c_plugins.hal("conformance", "aclnn:0", "--profile", profile, plugins=(aclnn.library.path,))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_call_has_an_executor_and_a_workspace(aclnn: Any) -> None:
    case = select("smoke", ["softmax"], "softmax/float32")[0]
    plan = aclnn.prepare(case.op)
    described = plan.describe()
    assert described["single_use"] and described["workspace_bytes"] >= 3 * 512
    executor = plan._fresh[0]
    x = (aclnn.alloc(case.op.inputs[0][1].size * 4), 0)
    plan([x], [x])
    assert executor.pointer is None  # given back at once
    plan([x], [x])


def test_errors_are_numbers(aclnn: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        aclnn.copy_in(12345, 0, np.zeros(4, np.uint8))
    assert str(caught.value) == "aclnn: copy_in of 4 bytes: the library does not say why (status 507015)"
    with pytest.raises(DeviceMemoryError, match="HAL_OUT_OF_MEMORY"):
        aclnn.alloc(1 << 40)
    with pytest.raises(UnsupportedError, match=r"matmul.*float64.*HAL_UNSUPPORTED"):
        aclnn.prepare(select("smoke", ["matmul"], "matmul/float64/shape")[0].op)
