"""tools/setup.py, as far as it can be tried without installing anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("demo", "test", "test-full", "check", "format", "bench", "gpu", "wheel-check")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A place with what setup.py reads, and no .venv."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.py", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def load(checkout: Path) -> ModuleType:
    spec = spec_from_file_location("setup_of_a_checkout", checkout / "tools" / "setup.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "tools/setup.py", *arguments], cwd=checkout, capture_output=True, text=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_says_what_it_would_do_and_does_nothing(checkout: Path, target: str) -> None:
    before = sorted(checkout.rglob("*"))
    done = run(checkout, target, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "--no-build-isolation --editable" in done.stdout
    assert sorted(checkout.rglob("*")) == before


def test_the_demo_says_size_and_licence_before_it_installs_a_runtime(checkout: Path) -> None:
    setup = load(checkout)
    said = run(checkout, "demo", "--dry-run").stdout
    if setup.opencl_cpu_supported():
        assert said.index("0.85 GB") < said.index("opencl-cpu]")
        assert said.index("Intel End User License Agreement") < said.index("opencl-cpu]")
    assert "opencl-cpu]" not in run(checkout, "demo", "--dry-run", "--no-opencl-cpu").stdout
    assert said.rstrip().endswith("-m hal demo")


def test_every_extra_has_a_size_and_stands_in_pyproject(checkout: Path) -> None:
    setup = load(checkout)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[project")[0]
    assert set(setup.EXTRA_MB) <= set(re.findall(r"^([a-z-]+) = \[", section, re.MULTILINE))


def test_an_environment_of_somebody_else_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine.txt").write_text("mine")
    done = run(checkout, "check")
    assert done.returncode == 2
    assert "was not made by this program" in done.stderr
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("connection broken by 'NewConnectionError(...)'\nERROR: No matching distribution", "could not be reached"),
        ("ERROR: ResolutionImpossible", "pip could not install this"),
    ],
)
def test_a_failed_installation_shows_pips_words_and_says_what_to_do(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, output: str, advice: str
) -> None:
    setup = load(checkout)
    monkeypatch.setattr(setup, "run_quietly", lambda command, environment: (1, output))
    with pytest.raises(setup.SetupError) as caught:
        setup.Environment().require(["demo"])
    assert output in str(caught.value) and advice in str(caught.value)


def test_pip_is_asked_again_only_when_something_changed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = load(checkout)
    asked: list[str] = []

    def pip(command: list[object], environment: dict[str, str]) -> tuple[int, str]:
        asked.append(str(command[-1]))
        return 0, ""

    def fresh() -> setup.Environment:
        environment = setup.Environment()
        environment.read_notes()
        return environment

    monkeypatch.setattr(setup, "run_quietly", pip)
    (checkout / ".venv").mkdir()
    fresh().require(["demo"])
    assert asked[-1] == f"{checkout}[demo]"
    asked.clear()
    fresh().require(["demo"])
    assert asked == []
    fresh().require(["opencl"])
    assert asked == [f"{checkout}[demo,opencl]"]
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    fresh().require(["demo"])
    assert asked == [f"{checkout}[demo,opencl]"] * 2
    notes = checkout / ".venv" / "hal-setup.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "root": "/elsewhere"}))
    fresh().require(["demo"])
    assert asked[-1] == f"{checkout}[demo]", "a checkout that was moved is installed anew"
