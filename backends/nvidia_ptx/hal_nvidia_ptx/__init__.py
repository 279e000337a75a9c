"""NVIDIA by hand-written PTX, over the driver alone; and the same PTX on a CPU.

    discovery.py driver.py   the GPUs, over cuda.bindings.driver
    kernels/ ptx.py          algorithms that write PTX, and what they write it with
    assembly/ figures/       PTX to machine code without a GPU, and what that code is worth
    emulator/                PTX on the CPU, with checks
    launch.py                `load`: one's own PTX, run anywhere
    replacement.py           `replace`: one's own kernel behind a hal operator
    checking.py              `check`: any PTX under the emulator's checks

Importing this package imports neither cuda.bindings nor the emulator; asking the Backend for devices does the former.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hal_nvidia_ptx.discovery import Backend

if TYPE_CHECKING:
    from hal_nvidia_ptx.checking import check
    from hal_nvidia_ptx.launch import load
    from hal_nvidia_ptx.replacement import replace

__all__ = ["Backend", "check", "load", "replace"]

# No module has its function's name: once imported it would stand in the function's place.
_HOMES = {"check": "checking", "load": "launch", "replace": "replacement"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
