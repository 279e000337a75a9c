"""Strangers' packages, each built as a wheel, installed beside hal's wheel in an environment of its own, and judged.

The environments see hal's dependencies through a path file that leads to this one's packages; hal itself, and whatever
else has an entry point, comes from the wheels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "tests" / "third_party"
PUBLIC = re.compile(r"^hal(\.(porting|device|kernel|op|ops|ops\.rows|errors|dtypes|cache))?$")
PUBLIC_OF_BACKENDS = re.compile(r"^hal_opencl(\.portable|\.kernels)?$")


def built(folder: Path, target: Path) -> Path:
    """The wheel of a project, built without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return max(target.glob("*.whl"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def hal_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("hal"))


@pytest.fixture
def environment(tmp_path: Path, hal_wheel: Path) -> Path:
    """The Python of an environment with hal's wheel."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install(python, hal_wheel)
    here = sysconfig.get_path("purelib")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(here)
    return python


def install(python: Path, wheel: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """hal in that environment, from a folder where nothing of the checkout can be imported by accident."""
    away = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    kept["HAL_CACHE_DIR"] = str(python.parent.parent / "cache")
    command = [str(python), "-m", "hal", *arguments]
    return subprocess.run(command, cwd=python.parent, env=kept, capture_output=True, text=True)


@pytest.mark.parametrize("package", ["cuda_like", "opencl_vendor", "arena", "aclnn"])
def test_strangers_import_only_what_is_public(package: str) -> None:
    for path in (PACKAGES / package).rglob("*.py"):
        for module in re.findall(r"^(?:from|import) (hal[\w.]*)", path.read_text(), re.MULTILINE):
            own = module.partition(".")[0] == path.parent.name
            assert own or PUBLIC.match(module) or PUBLIC_OF_BACKENDS.match(module), f"{path}: {module}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "device", "program"),
    [
        ("cuda_like", "fibre:0", "g++"),
        ("opencl_vendor", "pocket:0", ""),
        ("arena", "arena:0", "cc"),
        ("aclnn", "aclnn:0", "cc"),
    ],
)
def test_a_strangers_wheel_is_judged_beside_hals(
    package: str, device: str, program: str, environment: Path, tmp_path: Path
) -> None:
    if program and not shutil.which(program):
        pytest.skip(f"no {program}")
    source = tmp_path / package
    shutil.copytree(PACKAGES / package, source, ignore=shutil.ignore_patterns("__pycache__"))
    if package == "arena":  # the example's C, made a package
        shutil.copytree(ROOT / "examples" / "vendor_c" / "arena", source / "csrc")
    install(environment, built(source, tmp_path / "dist"))
    listed = json.loads(run(environment, "devices", "--json").stdout)["devices"]
    if package == "opencl_vendor" and not any(entry["backend"] == "opencl" for entry in listed):
        pytest.skip("no OpenCL device")
    profile = [f"--profile={path}" for path in (environment.parent.parent / "lib").glob("*/*/hal_*/profile.toml")]
    done = run(environment, "conformance", device, "--json", *profile)
    report = json.loads(done.stdout)
    failures = [(case["name"], case["reason"]) for case in report["cases"] if case["status"] == "failed"]
    assert (done.returncode, failures[:3], report["verdict"]) == (0, [], "passes")
    assert report["counts"]["passed"] > 700
    command = [str(environment), "-c", "import hal; print(hal.__file__)"]
    where = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert str(tmp_path) in where.stdout
