"""NVIDIA's driver, hal's cache folder, and the environment variables that hal reads."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hal.cache import Cache
from hal.doctor.backends import Census
from hal.doctor.finding import Finding, State, attempt
from hal.errors import HalError
from hal.registry import find
from hal.settings import from_environment
from hal.terminal import size

KNOWN_VARIABLES = ("HAL_DEVICE", "HAL_FALLBACK", "HAL_CHECK", "HAL_CACHE_DIR", "HAL_OPENCL_DISABLE", "HAL_PTXAS")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
# Loading the library does not initialise the driver; cuDriverGetVersion may be called before cuInit.
NVIDIA = """
import ctypes
library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
number = ctypes.c_int()
library.cuDriverGetVersion(ctypes.byref(number))
print(f"{number.value // 1000}.{number.value % 1000 // 10}")
"""
PTXAS = """
import re, subprocess
said = subprocess.run([sys.argv[1], "--version"], capture_output=True, text=True).stdout
found = re.search(r"V(\\d+(?:\\.\\d+)+)", said)
print(found[1] if found else sys.exit("does not say a version"))
"""


def examine(census: Census) -> Iterator[Finding]:
    """All of them."""
    yield nvidia()
    yield from assembler()
    yield cache()
    yield from variables(census)


def nvidia() -> Finding:
    """Whether NVIDIA's driver library loads, and for which CUDA it is made."""
    trial = attempt(NVIDIA)
    if not trial.problem:
        return Finding("NVIDIA", "driver", State.GOOD, f"for CUDA up to {trial.output.strip()}{kernel_module()}")
    if "cannot open shared object file" in trial.problem or "Could not find module" in trial.problem:
        return Finding("NVIDIA", "driver", State.NOTE, "not installed")
    loaded = DRIVER_VERSION.exists()  # without the kernel's part there is no GPU to miss
    detail = f"its library {trial.problem}"
    fix = "install NVIDIA's driver again" if loaded else ""
    return Finding("NVIDIA", "driver", State.BROKEN if loaded else State.NOTE, detail, fix)


def kernel_module() -> str:
    """Which driver the kernel has loaded, where it says so: another than the library's does not start."""
    try:
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", DRIVER_VERSION.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return f"; the kernel's part is {found[1]}" if found else ""


def assembler() -> Iterator[Finding]:
    """NVIDIA's assembler, where the user named one: it has to start."""
    path = os.environ.get("HAL_PTXAS")
    if path is None:
        return
    trial = attempt(PTXAS, [path])
    if trial.problem:
        yield Finding("NVIDIA", "assembler", State.BROKEN, f"{path} {trial.problem}", "unset HAL_PTXAS")
    else:
        yield Finding("NVIDIA", "assembler", State.GOOD, f"{path}: {trial.output.strip()}")


def cache() -> Finding:
    """The folder of compiled kernels: is it there, is it safe, how full is it?"""
    kept = Cache()
    folder, name = kept.folder, "folder"
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return not_made(folder)
    except OSError as error:
        return Finding(
            "cache", name, State.BROKEN, f"{folder}: {error.strerror}", "set HAL_CACHE_DIR to another folder"
        )
    if not stat.S_ISDIR(status.st_mode):
        fix = f"rm {shlex.quote(str(folder))}"
        return Finding("cache", name, State.BROKEN, f"{folder} is no folder, so nothing is kept", fix)
    if os.name == "posix" and status.st_uid != os.geteuid():
        detail = f"{folder} is refused: it belongs to user {status.st_uid}, and what lies there is run as code"
        return Finding("cache", name, State.BROKEN, detail, "set HAL_CACHE_DIR to a folder of your own")
    if os.name == "posix" and status.st_mode & 0o022:
        detail = f"{folder} is refused: others can write to it, and what lies there is run as code"
        return Finding("cache", name, State.BROKEN, detail, f"chmod 700 {shlex.quote(str(folder))}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "cache", name, State.BROKEN, f"{folder} is not writable", f"chmod 700 {shlex.quote(str(folder))}"
        )
    entries = kept.entries()
    return Finding("cache", name, State.GOOD, f"{folder}: {len(entries)} entries, {size(sum(e.size for e in entries))}")


def not_made(folder: Path) -> Finding:
    """The folder is made on first use, if its parents let it."""
    above = next(parent for parent in folder.parents if parent.exists())
    try:  # whether it really can: permissions tell root nothing, nor of what is no file system to write to
        os.rmdir(tempfile.mkdtemp(prefix=".hal-", dir=above))
        return Finding("cache", "folder", State.NOTE, f"{folder}: not made yet")
    except OSError as error:
        why = f"nothing can be made in {above} ({error.strerror})"
    detail = f"{folder} cannot be made: {why}, so kernels are compiled in each process anew"
    return Finding("cache", "folder", State.BROKEN, detail, "set HAL_CACHE_DIR to a folder of your own")


def variables(census: Census) -> Iterator[Finding]:
    """Those set that are hal's, and whether their values mean something."""
    names = sorted(name for name in os.environ if name.startswith("HAL_"))
    prefixes = tuple(f"HAL_{backend.upper()}_" for backend in census.reports)
    for name in names:
        value = os.environ[name]
        problem = wrong(name, census)
        if problem:
            yield Finding("variables", name, State.BROKEN, f"{value}: {problem}", f"unset {name}")
        elif name in KNOWN_VARIABLES or name.startswith(prefixes):
            yield Finding("variables", name, State.NOTE, value)
        else:
            yield Finding("variables", name, State.NOTE, f"{value} (hal does not read a variable of this name)")
    if not names:
        yield Finding("variables", "HAL_*", State.NOTE, "none is set")


def wrong(name: str, census: Census) -> str:
    """What is wrong with the value of a variable; empty if nothing."""
    try:
        if name == "HAL_FALLBACK":
            from_environment()
        if name == "HAL_DEVICE" and not census.crashes and os.environ[name]:
            find(os.environ[name])
    except HalError as error:
        return str(error)
    return ""
