"""The driver's shared library: built from its source at the first call, since a machine that has no g++ has no chip."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from hal.errors import BackendUnavailable
from hal.porting import SharedLibrary


@lru_cache(maxsize=1)
def vendor() -> SharedLibrary:
    """libfibre.so. Raises BackendUnavailable."""
    if shutil.which("g++") is None:
        raise BackendUnavailable("the fibre chip needs g++")
    folder = tempfile.mkdtemp(prefix="fibre-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, library = Path(folder, "fibre.cpp"), Path(folder, "libfibre.so")
    source.write_text(files("hal_fibre").joinpath("fibre.cpp").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["g++", "-std=c++11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    return SharedLibrary(str(library), text=error_name)


def error_name(library: ctypes.CDLL, status: int) -> str:
    """The driver's name of a status."""
    library.fbGetErrorName.restype = ctypes.c_char_p
    return str(library.fbGetErrorName(status).decode())
