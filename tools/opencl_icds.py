"""Which OpenCL implementations this machine has, each reachable alone: their libraries, and folders of .icd files.

    python tools/opencl_icds.py                            list them
    python tools/opencl_icds.py --dir D                    D/<name>.icd, and D as OCL_ICD_VENDORS shows all of them
    python tools/opencl_icds.py --dir D --each             D/<name>/<name>.icd: a folder for each
    python tools/opencl_icds.py --dir D --only pocl --env  besides, shell lines that make it the only one

Tests run each implementation in a process of its own, since a crash then costs one verdict and not all. For this the
loader is given a folder by OCL_ICD_VENDORS, *before* the process starts: it looks once, at the first question.

What makes it more than a copy of /etc/OpenCL/vendors:

- The .icd files in Intel's wheel hold a path of the machine they were built on. Its library is found by the list of
  files that pip recorded, so this program must run in the environment that the tests run in.
- Debian's Oclgrind has no .icd file at all.
- Debian's rusticl comes with Clover, which can end the process by an assertion: it is never listed.
- rusticl shows a device only when told of one (RUSTICL_ENABLE), again before the process starts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")


@dataclass(frozen=True, slots=True)
class Implementation:
    """One OpenCL implementation: a short name, its platform's name, its library, and what else it wants to be told."""

    name: str
    platform: str
    library: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self, vendors: Path) -> dict[str, str]:
        """The variables that make it the only implementation, given the folder that its .icd file was written to."""
        return {"OCL_ICD_VENDORS": str(vendors.resolve()), **self.settings}

    def write(self, folder: Path) -> Path:
        """Write `<name>.icd` into the folder, made if need be; the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        icd = folder / f"{self.name}.icd"
        icd.write_text(f"{self.library}\n", encoding="utf-8")
        return icd


def library_folders() -> Iterator[Path]:
    """Where the system's libraries lie, in the order of the dynamic linker's own search as far as that can be told."""
    yield from (Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry)
    multiarch = sysconfig.get_config_var("MULTIARCH")
    for base in ("/usr/local/lib", "/usr/lib", "/lib"):
        if multiarch:
            yield Path(base) / str(multiarch)
        yield Path(f"{base}64")
        yield Path(base)


def linker_cache() -> dict[str, Path]:
    """Library name -> path from `ldconfig -p`, which ordinary users find only by its full path."""
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if program is None:
        return {}
    listed = subprocess.run([program, "-p"], capture_output=True, text=True).stdout
    found: dict[str, Path] = {}
    for name, path in re.findall(r"^\s+(\S+) \([^)]*\) => (\S+)$", listed, re.MULTILINE):
        found.setdefault(name, Path(path))
    return found


def full_path(library: str) -> Path | None:
    """The file that a line of an .icd file means: a path, or a name that the dynamic linker knows."""
    if "/" in library:
        return Path(library) if Path(library).exists() else None
    for folder in library_folders():
        if (folder / library).exists():
            return folder / library
    return linker_cache().get(library)


def system_library(pattern: str) -> Path | None:
    """The library whose name begins like this: as an .icd file of the system says, or else by a search."""
    if SYSTEM_VENDORS.is_dir():
        for icd in sorted(SYSTEM_VENDORS.glob("*.icd")):
            lines = icd.read_text(encoding="utf-8", errors="replace").split()
            if lines and re.match(pattern, Path(lines[0]).name):
                found = full_path(lines[0])
                if found:
                    return found
    for folder in library_folders():
        for candidate in sorted(folder.glob("lib*.so*")) if folder.is_dir() else ():
            if re.match(pattern, candidate.name):
                return candidate
    return None


def intel() -> Path | None:
    """Intel's CPU runtime, from its wheel in the running environment, else installed in the system."""
    try:
        recorded = files("intel-opencl-rt") or []
    except PackageNotFoundError:
        recorded = []
    for file in recorded:
        if file.name == "libintelocl.so":
            path = Path(str(file.locate())).resolve()
            if path.exists():
                return path
    return system_library(r"libintelocl\.so")


def oclgrind() -> Path | None:
    """Oclgrind's library for loaders, which lies beside the program and is not registered."""
    prefixes = [Path("/usr"), Path("/usr/local")]
    program = shutil.which("oclgrind")
    if program:
        prefixes.insert(0, Path(program).resolve().parent.parent)
    for prefix in prefixes:
        for found in sorted(prefix.glob("lib*/**/liboclgrind-rt-icd.so")):
            return found
    return None


# Name, platform's name, how its library is found, what it wants in the environment.
KNOWN: tuple[tuple[str, str, Callable[[], Path | None], Mapping[str, str]], ...] = (
    ("intel", "Intel(R) OpenCL", intel, {}),
    ("pocl", "Portable Computing Language", lambda: system_library(r"libpocl\.so"), {}),
    ("rusticl", "rusticl", lambda: system_library(r"libRusticlOpenCL\.so"), {"RUSTICL_ENABLE": "llvmpipe"}),
    # From a cached binary Oclgrind has no source to show in its reports. It stops reporting after the first kernels
    # unless the limit is raised.
    ("oclgrind", "Oclgrind", oclgrind, {"PYOPENCL_NO_CACHE": "1", "OCLGRIND_MAX_ERRORS": "1000"}),
)
NAMES = tuple(name for name, *_ in KNOWN)


def find(only: Iterable[str] = NAMES) -> list[Implementation]:
    """The implementations of this machine, of those named."""
    wanted = set(only)
    found = []
    for name, platform, search, settings in KNOWN:
        library = search() if name in wanted else None
        if library is not None:
            found.append(Implementation(name, platform, library, settings))
    return found


def write(folder: Path, implementations: Iterable[Implementation], each: bool = False) -> dict[str, dict[str, str]]:
    """Write the .icd files; for each implementation the variables that make a process see what lies in its folder."""
    environments = {}
    for implementation in implementations:
        place = folder / implementation.name if each else folder
        implementation.write(place)
        environments[implementation.name] = implementation.environment(place)
    return environments


def main(arguments: Sequence[str] | None = None) -> int:
    """List or write; exit code 1 when one that was asked for by name is not there."""
    parser = argparse.ArgumentParser(
        description="Lists this machine's OpenCL implementations and writes .icd files for them.",
        epilog="Example: python tools/opencl_icds.py --dir build/icds --each",
    )
    parser.add_argument("--dir", type=Path, help="write .icd files into this folder")
    parser.add_argument("--each", action="store_true", help="a folder below it for each implementation")
    parser.add_argument("--only", action="append", choices=NAMES, help="this one (may be repeated)")
    parser.add_argument("--env", action="store_true", help="print shell lines that choose what was written")
    parser.add_argument("--json", action="store_true", help="print names, libraries and variables as JSON")
    options = parser.parse_args(arguments)
    if options.env and (options.dir is None or (options.each and len(options.only or NAMES) > 1)):
        parser.error("--env needs --dir, and with --each a single --only")

    found = find(options.only or NAMES)
    environments = write(options.dir, found, options.each) if options.dir else {}
    missing = sorted(set(options.only or ()) - {implementation.name for implementation in found})
    if options.json:
        rows = [
            {
                "name": implementation.name,
                "platform": implementation.platform,
                "library": str(implementation.library),
                "environment": environments.get(implementation.name, dict(implementation.settings)),
            }
            for implementation in found
        ]
        print(json.dumps(rows, indent=1))
    elif options.env:
        together = {name: value for variables in environments.values() for name, value in variables.items()}
        for name, value in together.items():
            print(f"export {name}={shlex.quote(value)}")
    else:
        for implementation in found:
            print(f"{implementation.name:9} {implementation.platform:28} {implementation.library}")
        if not found:
            print("no OpenCL implementation found")
    for name in missing:
        print(f"{name}: not found on this machine", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
