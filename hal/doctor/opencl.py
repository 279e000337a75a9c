"""OpenCL: which loader, where it looks, and whether each library it is told of loads.

The loader (ocl-icd in pyopencl's wheels) says nothing of a library that does not load: its platform is just not there.
Here each library is loaded in a child process and the dynamic linker's own words are shown.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

from hal.doctor.finding import Finding, State, attempt, install
from hal.doctor.packages import INTEL_PARTNER

SECTION = "OpenCL"
VARIABLES = ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH", "PYOPENCL_HOME", "RUSTICL_ENABLE")
SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
LOAD = """
import ctypes
try:
    library = ctypes.CDLL(sys.argv[1])
except OSError as error:
    sys.exit(str(error))
if not hasattr(library, "clGetExtensionFunctionAddress"):
    sys.exit("loads, but is no OpenCL implementation")
"""
INTEL_PARTS = re.compile(r"lib(imf|svml|irng|intlc)\b")  # what Intel's other wheel has


@dataclass(frozen=True, slots=True)
class Icd:
    """One implementation that the loader is told of: the file that says so, and the library it names."""

    file: Path
    library: str

    def candidates(self) -> list[str]:
        """The library, and one of that name beside the file, where pyopencl's own are."""
        beside = self.file.parent / self.library
        return [self.library, str(beside)] if "/" not in self.library and beside.exists() else [self.library]


def examine(home: str | None) -> Iterator[Finding]:
    """Args: home: PYOPENCL_HOME as it is once hal's OpenCL backend has been asked for devices."""
    yield loader()
    for name in VARIABLES:
        value = os.environ.get(name)
        if value is not None:
            yield Finding(SECTION, name, State.NOTE, f"is set: {value}")
    seen: dict[Path, Path] = {}  # without links -> as listed
    for place, why in places(home):
        if not place.exists() and (place.suffix == ".icd" or "/" in str(place)):
            yield absent(place, why)
            continue
        icds = sorted(place.glob("*.icd")) if place.is_dir() else [place]
        count = f"{len(icds)} .icd file{'' if len(icds) == 1 else 's'}" if place.is_dir() else "one implementation"
        yield Finding(SECTION, str(place), State.NOTE, f"{why}: {count}")
        for path in icds:
            if path.resolve() not in seen:
                seen[path.resolve()] = path
                yield from examine_icd(path)
    yield from nvidia_unlisted(seen.values())


def loader() -> Finding:
    """The library that finds implementations: the one in pyopencl's wheel, else the system's."""
    if find_spec("pyopencl") is None:
        return Finding(SECTION, "loader", State.NOTE, "none, since pyopencl is not installed")
    try:
        recorded = files("pyopencl") or []
    except PackageNotFoundError:
        recorded = []
    for file in recorded:
        if re.match(r"libOpenCL|OpenCL.*\.dll$", file.name):
            return Finding(SECTION, "loader", State.GOOD, f"that of pyopencl's wheel: {Path(str(file.locate()))}")
    return Finding(SECTION, "loader", State.GOOD, "the system's, which this pyopencl was built for")


def places(home: str | None) -> Iterator[tuple[Path, str]]:
    """Folders (or one file) that the loader reads, and why. Elsewhere than on Linux it asks the system instead."""
    if not sys.platform.startswith("linux"):
        return
    chosen = next((name for name in VARIABLES[:2] if os.environ.get(name)), None)
    if chosen is None:
        yield SYSTEM_VENDORS, "the system's"
    else:
        value = Path(os.environ[chosen])  # a folder, an .icd file (of the system's folder, if only a name), a library
        in_system = len(value.parts) == 1 and value.suffix == ".icd" and not value.exists()
        yield SYSTEM_VENDORS / value if in_system else value, f"from {chosen}, instead of the system's"
    spec = find_spec("pyopencl")
    own = Path(spec.origin).parent if spec and spec.origin else None
    in_force = Path(home) if home else own
    if in_force is not None and (in_force / ".libs").is_dir():
        yield in_force / ".libs", "pyopencl's own" if in_force == own else "added by PYOPENCL_HOME"


def absent(place: Path, why: str) -> Finding:
    """A place that is not there: nothing special for the system's, fatal where a variable names it."""
    if place == SYSTEM_VENDORS and "from" not in why:
        return Finding(SECTION, str(place), State.NOTE, f"{why}: not there")
    variable = why.split()[1].rstrip(",")
    detail = f"{why}: not there, so no implementation is found at all"
    return Finding(SECTION, str(place), State.BROKEN, detail, f"unset {variable}")


def examine_icd(path: Path) -> Iterator[Finding]:
    """Whether the library that an .icd file names loads."""
    name = str(path)
    try:
        library = first_line(path)
    except OSError as error:
        yield Finding(SECTION, name, State.BROKEN, f"cannot be read: {error.strerror}", f"mend or delete {name}")
        return
    if not library:
        yield Finding(SECTION, name, State.BROKEN, "names no library in its first line", f"mend or delete {name}")
        return
    problem = try_loading(Icd(path, library))
    if problem:
        detail = problem if problem.startswith(library) else f"{library}: {problem}"
        yield Finding(SECTION, name, State.BROKEN, detail, advice(path, library, problem))
    else:
        yield Finding(SECTION, name, State.GOOD, f"{library} loads{remark(library)}")


def first_line(path: Path) -> str:
    """The library that an .icd file names; any other file is taken for a library itself, as OCL_ICD_VENDORS may."""
    if path.suffix != ".icd":
        return str(path)
    return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()


def try_loading(icd: Icd) -> str:
    """Empty if it loads, else the dynamic linker's words."""
    problems = []
    for candidate in icd.candidates():
        trial = attempt(LOAD, [candidate])
        if not trial.problem:
            return ""
        problems.append(trial.problem.removeprefix("fails: "))  # the linker's words begin with what is missing
    return problems[-1]


def advice(path: Path, library: str, problem: str) -> str:
    """What mends a library that does not load."""
    missing = re.match(r"([^:\s]+): cannot open shared object file", problem)
    soname = missing[1] if missing else ""
    if INTEL_PARTS.match(Path(soname).name):
        return install(INTEL_PARTNER)
    if soname and soname != library:
        return f"install the system's package that has {soname}"
    if soname and "/" in library and not Path(library).exists():
        return f"there is no such file: install the driver again, or rm {shlex.quote(str(path))}"
    if soname:
        return f"install the driver that has {soname} again, or rm {shlex.quote(str(path))}"
    return f"install the driver again, or rm {shlex.quote(str(path))}"


def remark(library: str) -> str:
    """What is known of an implementation and would surprise."""
    if "RusticlOpenCL" in library and not os.environ.get("RUSTICL_ENABLE"):
        return "; it shows a device only where RUSTICL_ENABLE (such as llvmpipe) is set before the process starts"
    if "MesaOpenCL" in library:
        return "; this is Clover, which hal never opens: it can end the process"
    return ""


def nvidia_unlisted(icds: Iterable[Path]) -> Iterator[Finding]:
    """NVIDIA's library without an .icd file: what its container images usually have."""
    soname = "libnvidia-opencl.so.1"
    listed = any(
        "nvidia" in path.name or "nvidia-opencl" in first_line(path) for path in icds if os.access(path, os.R_OK)
    )
    if listed or not sys.platform.startswith("linux") or attempt(LOAD, [soname]).problem:
        return
    fix = f"mkdir -p {SYSTEM_VENDORS} && echo {soname} > {SYSTEM_VENDORS}/nvidia.icd    (as root)"
    yield Finding(SECTION, "NVIDIA", State.MISSING, f"{soname} is there, but no .icd file names it", fix)
