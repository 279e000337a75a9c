"""What the wheel holds: the packages with their data, the old metadata version, the entry points, and no tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "hal": ROOT / "hal",
    "hal_nvidia_ptx": ROOT / "backends/nvidia_ptx/hal_nvidia_ptx",
    "hal_opencl": ROOT / "backends/opencl/hal_opencl",
    "hal_cpu_reference": ROOT / "backends/cpu_reference/hal_cpu_reference",
    "hal_examples": ROOT / "examples/hal_examples",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (member for member in wheel.namelist() if member.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def headers(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(metadata(wheel, "METADATA"))


def sources(folder: Path) -> set[str]:
    """The files of a package as the wheel should name them."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix() for path in files}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_there_with_every_file(wheel: zipfile.ZipFile, package: str) -> None:
    """Kernels (.cl), tables (.toml), headers (.h) and py.typed are files of the package like any other."""
    inside = {name for name in wheel.namelist() if name.startswith(f"{package}/")}
    assert inside == sources(PACKAGES[package])
    assert f"{package}/__init__.py" in inside
    assert f"{package}/py.typed" in inside


def test_the_kernels_are_shipped_as_files(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.startswith("hal_opencl/") and name.endswith(".cl")]


def test_nothing_else_is_there(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert not [name for name in wheel.namelist() if "/tests/" in name or name.endswith("conftest.py")]


def test_metadata_is_of_a_version_that_old_mirrors_take(wheel: zipfile.ZipFile) -> None:
    found = headers(wheel)
    assert (found["Metadata-Version"], found["Name"], found["Requires-Python"]) == ("2.2", "hal-kernels", ">=3.10")


def test_what_every_user_gets_is_three_packages(wheel: zipfile.ZipFile) -> None:
    required = [line for line in headers(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.partition(">=")[0].lower().replace("-", "_") for line in required) == [
        "ml_dtypes",
        "numpy",
        "platformdirs",
    ]


def test_licence_and_types_travel_along(wheel: zipfile.ZipFile) -> None:
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    parser = ConfigParser()
    parser.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(parser["console_scripts"]) == {"hal": "hal.cli:main"}
    backends = dict(parser["hal.backends"])
    assert backends["cpu"] == "hal_cpu_reference:Backend"
    assert backends["opencl"] == "hal_opencl:Backend"
    assert backends["cuda"] == "hal_nvidia_ptx:Backend"
    assert "pytest11" not in parser
