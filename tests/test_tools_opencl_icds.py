"""tools/opencl_icds.py: each implementation that it lists is the one platform of a process that is given its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "opencl_icds.py"
PLATFORMS = "import pyopencl; print([platform.name for platform in pyopencl.get_platforms()])"


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)


def listed(*arguments: str) -> list[dict[str, object]]:
    done = run_tool(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_each_implementation_is_the_only_one_in_its_folder(tmp_path: Path) -> None:
    """In processes of their own: loaders look once, and an implementation may end the process."""
    pytest.importorskip("pyopencl")
    rows = listed("--dir", str(tmp_path), "--each")
    if not rows:
        pytest.skip("no OpenCL implementation on this machine")
    seen = {}
    for row in rows:
        assert isinstance(row["environment"], dict)
        variables = {**os.environ, **row["environment"]}
        done = subprocess.run([sys.executable, "-c", PLATFORMS], env=variables, capture_output=True, text=True)
        seen[row["platform"]] = done.stdout.strip() or done.stderr
    assert seen == {platform: str([platform]) for platform in seen}


def test_an_icd_file_holds_the_full_path_of_a_library_that_is_there(tmp_path: Path) -> None:
    rows = listed("--dir", str(tmp_path / "icds"))
    written = {path.stem: path.read_text().strip() for path in (tmp_path / "icds").glob("*.icd")}
    assert written == {row["name"]: row["library"] for row in rows}
    assert all(Path(library).is_absolute() and Path(library).exists() for library in written.values())
    assert "clover" not in str(written).lower() and "libMesaOpenCL" not in str(written)


def test_a_name_that_is_unknown_is_refused_with_those_known() -> None:
    done = run_tool("--only", "nonesuch")
    assert done.returncode == 2
    assert "oclgrind" in done.stderr and "nonesuch" in done.stderr
