"""Fixtures that several test files use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
