from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hal.cli import main
from hal.errors import OptionError
from hal.porting import FUNCTIONS, VENDORS, Simulator
from hal.scaffold.kinds import KINDS
from hal.scaffold.names import check_name
from hal.scaffold.package import render, write

WITH_DRIVER = [kind for kind in KINDS if "hal_acme/driver.py" in render("acme", kind)]
MARK = re.compile(r"@[A-Z_]+@")


def installed(folder: Path, package: Path) -> dict[str, str]:
    """An environment in which the package is found as if pip had installed it into `folder`."""
    points = re.search(
        r'entry-points\."hal\.backends"\]\n((?:\w+ = ".*"\n)+)', (package / "pyproject.toml").read_text()
    )
    assert points
    info = folder / f"{package.name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.2\nName: {package.name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[hal.backends]\n" + points[1].replace('"', ""))
    if (package / "csrc").is_dir():
        compiled(package)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, package)))}


def compiled(package: Path) -> None:
    """What hatch_build.py does, warnings being errors."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    strict = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1"]
    target = package / "hal_acme" / "libacme.so"
    sources = map(str, (package / "csrc").glob("*.c"))
    command = ["cc", *strict, "-shared", "-fPIC", "-fvisibility=hidden", *sources, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def hal(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hal", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_mark_is_replaced(kind: str) -> None:
    for path, text in render("acme", kind).items():
        assert not MARK.search(path + text), path


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_tidy(kind: str) -> None:
    """Python parses, lines are short, and each file ends with one newline."""
    for path, text in render("acme", kind).items():
        assert not text or text[-1] == "\n" != text[-2], path
        assert path.endswith(".md") or max(map(len, text.splitlines()), default=0) <= 120, path
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("kind", WITH_DRIVER)
def test_every_function_of_the_driver_has_its_names_and_arguments(kind: str) -> None:
    text = render("acme", kind)["hal_acme/driver.py"]
    functions = KINDS[kind].functions
    for number, function in enumerate(functions, 1):
        assert f"# TODO {number} of {len(functions)}: {function.does}" in text
        assert f"    {function.name} = Simulator.{function.name}\n" in text
        assert re.search(rf"# def {function.name}\(self.*\) -> .*:\n", text)
        for vendor, call in zip(VENDORS, function.calls, strict=True):
            assert f"{vendor} {call}" in text


def test_the_twelve_functions_are_the_simulators() -> None:
    assert len(FUNCTIONS) == 12
    public = {name for name, value in vars(Simulator).items() if callable(value) and not name.startswith("_")}
    assert public == {function.name for function in FUNCTIONS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_judged_before_a_line_of_it_is_changed(kind: str, tmp_path: Path) -> None:
    package = tmp_path / "hal-acme"
    write("acme", kind, package)
    environment = installed(tmp_path, package)
    done = hal(environment, "conformance", "acme:0", "--ops", "matmul,softmax", "-k", "float32", "--json")
    report = json.loads(done.stdout)
    assert report["counts"].keys() == {"passed"}
    simulated = report["device"]["props"]["simulated"]
    assert len(simulated) == report["device"]["props"]["functions"] >= 12
    assert report["verdict"] == f"SIMULATED (0 of {len(simulated)} functions yours)"
    assert done.returncode == 3


def test_functions_in_c_count_once_they_are_replaced(tmp_path: Path) -> None:
    package = tmp_path / "hal-acme"
    write("acme", "c", package)
    driver = package / "csrc" / "driver.c"
    own = """static hal_status acme_synchronize(hal_device *device) { (void)device; return HAL_OK; }"""
    driver.write_text(driver.read_text().replace("#define acme_synchronize simulated_synchronize", own))
    done = hal(installed(tmp_path, package), "conformance", "acme:0", "--ops", "softmax", "-k", "float64/size")
    assert done.returncode == 3
    assert "SIMULATED (1 of 12 functions yours)" in done.stdout


def test_a_fault_of_ones_own_is_a_failure_and_ends_nothing(tmp_path: Path) -> None:
    package = tmp_path / "hal-acme"
    write("acme", "c", package)
    driver = package / "csrc" / "driver.c"
    own = "static hal_status acme_copy_in(hal_device *d, uint64_t t, uint64_t o, const void *s, uint64_t n) {"
    own += " (void)d, (void)s, (void)n; *(volatile char *)(t + o) = *(volatile char *)8; return HAL_OK; }"
    driver.write_text(driver.read_text().replace("#define acme_copy_in simulated_copy_in", own))
    done = hal(installed(tmp_path, package), "conformance", "acme:0", "--ops", "softmax", "-k", "float64/size/5x1")
    assert done.returncode == 1
    assert "FAILS" in done.stdout and "signal 11" in done.stdout


def test_a_blas_has_the_first_word_about_matmul(tmp_path: Path) -> None:
    """Kind mixed: what it does not take is left to hal's kernels, and nothing else is asked of it."""
    package = tmp_path / "hal-acme"
    write("acme", "mixed", package)
    code = """
from hal.conformance.cases import select
from hal.porting import Simulator, pointers
from hal_acme import blas, device

class Driver(Simulator):
    def load(self, image): return image
    def function(self, module, entry): return entry
    def launch(self, function, grid, block, shared_bytes, arguments): pass

device.Device.build = lambda self, kernel: kernel.entry.encode()
opened = device.Device(Driver().properties(0), Driver())
asked = []
blas.matmul = lambda device, op: asked.append(op.name) or (None if len(asked) > 1 else "the library's plan")
matmul, softmax = (select("smoke", [name], "float32")[0].op for name in ("matmul", "softmax"))
print(opened.prepare(matmul), opened.prepare(matmul).config.name, opened.prepare(softmax).config.name, asked)
"""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "the library's plan tile group ['matmul', 'matmul']\n", done.stderr


def test_a_simulated_device_is_never_the_default(tmp_path: Path) -> None:
    package = tmp_path / "hal-acme"
    write("acme", "source", package)
    listed = json.loads(hal(installed(tmp_path, package), "devices", "--json").stdout)["devices"]
    assert [entry["priority"] for entry in listed if entry["backend"] == "acme"] == [-1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Acme", "for example acme"),
        ("my-chip", "for example my_chip"),
        ("3d", "for example d"),
        ("class", "for example acme"),
        ("", "for example acme"),
        ("a/b", "for example a_b"),
        ("cpu", "hal's own"),
        ("opencl", "hal's own"),
        ("examples", "hal_examples is installed already"),
    ],
)
def test_bad_names_are_refused_with_what_to_do(name: str, text: str) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        check_name(name)


def test_a_name_that_an_installed_backend_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hal.registry.backends", lambda: ["cpu", "acme"])
    with pytest.raises(OptionError, match="taken by an installed backend; choose another, or uninstall"):
        check_name("acme")


def test_what_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hal-acme").mkdir()
    assert main(["new-backend", "acme", "--kind", "source", "--dir", str(tmp_path)]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert list((tmp_path / "hal-acme").iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-backend", "acme", "--kind", "source", "--dir", str(tmp_path / "none")]) == 2
    assert "is no folder; make it first" in capsys.readouterr().err


def test_nothing_is_left_of_a_package_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path.write_text

    def full(self: Path, *arguments: object, **options: object) -> int:
        if self.name == "profile.toml":
            raise OSError(28, "No space left on device")
        return whole(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["new-backend", "acme", "--kind", "source", "--dir", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-backend", "acme", "--kind", "library", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"pip install {tmp_path}/hal-acme" in out
    assert "hal conformance acme:0" in out
    assert os.access(tmp_path / "hal-acme" / "ci.sh", os.X_OK)
    assert main(["new-backend", "beta", "--kind", "c", "--dir", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["next"] == [f"pip install {tmp_path}/hal-beta", "hal conformance beta:0"]
    assert set(document["files"]) >= {"csrc/driver.c", "csrc/hal_backend.h", "README.md"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_package_installs_with_pip_and_every_case_is_within_its_bound(kind: str, tmp_path: Path) -> None:
    package = tmp_path / "hal-acme"
    write("acme", kind, package)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = hal(environment, "conformance", "acme:0", "--level", "full", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["counts"].keys() == {"passed"}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")]
    assert "1 skipped" in subprocess.run(tests, env=environment, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_packages_keep_to_the_types_of_what_they_use(tmp_path: Path) -> None:
    for kind in KINDS:
        write(kind.replace("-", "_"), kind, tmp_path / kind)
    folders = [str(path) for path in tmp_path.glob("*/hal_*")]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
