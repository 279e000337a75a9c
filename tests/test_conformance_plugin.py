"""The pytest plugin, as a third party uses it: from the command line, in a folder without tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """pytest with the plugin in a process of its own: exit code and output."""
    command = [sys.executable, "-m", "pytest", "-p", "hal.conformance.plugin", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_cases_are_tests_without_a_test_file(tmp_path: Path) -> None:
    (tmp_path / "test_unrelated.py").write_text("def test_unrelated(): assert False\n")
    code, text = run(tmp_path, "--hal-device", "cpu", "-k", "softmax/float16/size or any-call", "-v")
    assert code == 0, text
    assert "hal-conformance::softmax/float16/size/5x129 PASSED" in text
    assert "hal-conformance::any-call PASSED" in text
    assert "unrelated" not in text


def test_without_a_device_the_plugin_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    code, text = run(tmp_path, "-v")
    assert code == 0, text
    assert "1 passed" in text


def test_an_unknown_device_is_a_usage_error(tmp_path: Path) -> None:
    code, text = run(tmp_path, "--hal-device", "nosuch")
    assert code == 4
    assert "no backend 'nosuch'" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_a_profile_skips_and_expects(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(
        "[[unsupported]]\ncases = 'rmsnorm/float64/*'\nreason = 'no 64-bit unit'\n"
        "[[expected_failures]]\ncases = 'rmsnorm/float32/eps/*'\nreason = 'ticket 17'\n"
    )
    code, text = run(tmp_path, "--hal-device", "cpu", "--hal-profile", "device.toml", "-k", "rmsnorm and eps", "-rs")
    assert code == 1
    assert "no 64-bit unit" in text
    assert "passes, but the profile expects a failure (ticket 17)" in text
    assert "Traceback" not in text
