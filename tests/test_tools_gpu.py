"""`make gpu`, on a stand-in for the GPU: that it runs from end to end, and writes nothing where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
PROGRAM = TOOLS / "gpu.py"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_writes_nothing(stand_in: Any, tmp_path: Path) -> None:
    done = stand_in.python(str(PROGRAM), "--out", str(tmp_path), targets=[])
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("make gpu: no device cuda:0: ") and "nothing was measured" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = stand_in.python(str(PROGRAM), "--out", str(tmp_path), "--device", "cuda:3", kernels="nothing")
    assert done.returncode == 2 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_runs_from_end_to_end(stand_in: Any, tmp_path: Path) -> None:
    done = stand_in.python(str(PROGRAM), "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    report = json.loads(path.read_text())
    assert path.name == "nvidia-stand-in-sm-80.json"
    assert report["device"] == "Stand-in sm_80" and report["driver"] == "13.0" and report["quick"] is True
    parts = report["parts"]
    assert set(parts) == {"conformance", "bits", "faults", "benchmarks", "launch"}
    assert parts["conformance"]["summary"]["passed"] > 20 and "failed" not in parts["conformance"]["summary"]
    summary = parts["bits"]["summary"]
    assert summary["cases"] == summary["the same bits"] > 5, "the stand-in is the emulator"
    assert {row["what"] for row in parts["benchmarks"]["rows"]} >= {"softmax float32 4 64"}
    assert all(row["hal us"] > 0 for row in parts["benchmarks"]["rows"])
    assert "GPU-" not in path.read_text(), "no serial number"


def test_wrong_results_are_told(stand_in: Any, tmp_path: Path) -> None:
    """A device whose kernels do nothing."""
    done = stand_in.python(str(PROGRAM), "--quick", "--only", "conformance", "--out", str(tmp_path), kernels="nothing")
    assert done.returncode == 1 and "WRONG: softmax/float32/" in done.stdout


@pytest.mark.slow
def test_a_part_that_fails_costs_only_itself(stand_in: Any, tmp_path: Path) -> None:
    parts = ["--only", "launch", "--only", "faults"]
    setup = {"kernels": "nothing", "fail": {"cuStreamSynchronize": 719}}
    done = stand_in.python(str(PROGRAM), "--quick", *parts, "--out", str(tmp_path), **setup)
    assert done.returncode == 1 and "WRONG: ended with exit code 1" in done.stdout and "719" in done.stderr
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["parts"]["faults"]["rows"]


def test_every_fault_is_found_by_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = load("gpu_faults")
    monkeypatch.setattr(faults.shutil, "which", lambda name: None)
    found = faults.faults("cuda:0", False, 60.0)
    assert found["wrong"] == [] and len(found["rows"]) == len(faults.FAULTS)
    assert found["skipped"] == ["compute-sanitizer is not on PATH: its column is empty"]


def test_the_sanitizer_s_summary_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = load("gpu_faults")

    def said(text: str) -> str:
        done = subprocess.CompletedProcess([], 0, text, "")
        monkeypatch.setattr(faults.subprocess, "run", lambda *_, **__: done)
        return str(faults.sanitized("compute-sanitizer", "memcheck", "none", "cuda:0"))

    assert said("========= ERROR SUMMARY: 0 errors\n") == "nothing"
    assert said("========= ERROR SUMMARY: 3 errors\n") == "3 reported"
    assert said("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n") == "1 reported"
    assert said("") == "no summary (exit code 0)"


def test_distances_count_units_in_the_last_place() -> None:
    parts = load("gpu_parts")
    x = np.array([1.0, -1.0, 0.0, 2.0], np.float32)
    y = np.array([np.nextafter(np.float32(1), np.float32(2)), -1.0, -0.0, 2.0], np.float32)
    assert parts.distance([x], [x]) == (0, 4, 0)
    differ, total, apart = parts.distance([x], [y])
    assert (differ, total, apart) == (2, 4, 1)
