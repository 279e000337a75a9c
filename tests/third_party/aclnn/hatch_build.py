"""Compiles csrc/*.c into the wheel, which then is one for this platform."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]


class CBackend(BuildHookInterface[Any]):
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say where the result belongs."""
        package = next(Path(self.root).glob("hal_*/__init__.py")).parent.name
        target = Path(tempfile.mkdtemp()) / f"lib{package.removeprefix('hal_')}.so"
        asked = [sys.executable, "-m", "hal", "abi", "--include"]
        include = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        sources = [str(path) for path in sorted(Path(self.root, "csrc").glob("*.c"))]
        subprocess.run(["cc", *FLAGS, f"-I{include}", *sources, "-o", str(target), "-lm", "-lpthread"], check=True)
        build_data["force_include"][str(target)] = f"{package}/{target.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
