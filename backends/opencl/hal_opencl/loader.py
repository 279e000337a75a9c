"""pyopencl, with Intel's CPU runtime made known to its loader where pip installed it.

The loader of pyopencl's wheels (ocl-icd) reads /etc/OpenCL/vendors, or the folder that OCL_ICD_VENDORS or
OPENCL_VENDOR_PATH names, *and always* `$PYOPENCL_HOME/.libs/*.icd`. Intel's wheel has an .icd file, but the path inside
is one of the machine it was built on. So an .icd file with the right path is written below hal's cache folder, and
PYOPENCL_HOME is pointed there, before the first question for platforms: this adds to the system's implementations and
needs no root. Where the user chose the folder by one of the two variables, nothing is written or changed.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from hal.cache import cache_folder, private_folder

INTEL_PACKAGE, INTEL_LIBRARY = "intel-opencl-rt", "libintelocl.so"
SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
_log = logging.getLogger("hal.opencl")
_lock = threading.Lock()
_prepared = False


def load() -> Any:
    """The module pyopencl. Raises ImportError where it is not installed, or its library does not load."""
    global _prepared
    with _lock:
        pyopencl = importlib.import_module("pyopencl")
        if not _prepared:
            _prepared = True
            try:
                _add_intel(Path(str(pyopencl.__file__)).parent)
            except (OSError, ValueError) as error:  # whatever the files say, the other implementations remain
                _log.warning("Intel's OpenCL runtime was not made known to the loader: %s", error)
        return pyopencl


def intel_library() -> Path | None:
    """Intel's runtime as pip installed it, wherever that is (user site, --target, a virtual environment)."""
    try:
        recorded = files(INTEL_PACKAGE) or []
    except PackageNotFoundError:
        return None
    for file in recorded:
        if file.name == INTEL_LIBRARY:
            path = Path(str(file.locate())).resolve()
            if path.exists():
                return path
    return None


def _add_intel(pyopencl_folder: Path) -> None:
    if sys.platform != "linux" or "OCL_ICD_VENDORS" in os.environ or "OPENCL_VENDOR_PATH" in os.environ:
        return
    library = intel_library()
    if library is None or _system_has(INTEL_LIBRARY):
        return
    home = _folder()
    icds = home / ".libs"
    icds.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(icds / "intel.icd", str(library))
    # What came with pyopencl (PoCL's wheel puts its .icd there) would be hidden: it is copied, with full paths.
    for own in sorted((pyopencl_folder / ".libs").glob("*.icd")):
        name = os.fsdecode(own.read_bytes()).strip()
        beside = own.parent / name
        _write(icds / own.name, str(beside) if beside.exists() else name)
    os.environ["PYOPENCL_HOME"] = str(home)


def _system_has(library: str) -> bool:
    """Whether the system lists this library itself: the same runtime twice in one process is one too many."""
    return any(library in icd.read_text(encoding="utf-8", errors="replace") for icd in SYSTEM_VENDORS.glob("*.icd"))


def _folder() -> Path:
    """A folder that no one else can write to: what is listed there is loaded as code."""
    home = cache_folder() / "icd"
    if private_folder(home.parent) and private_folder(home):
        return home
    temporary = Path(tempfile.mkdtemp(prefix="hal-icd-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _write(icd: Path, line: str) -> None:
    """Replace the file unless it says so already: another process may be reading it. Bytes, as it may be damaged."""
    content = os.fsencode(line) + b"\n"
    if icd.exists() and icd.read_bytes() == content:
        return
    handle, temporary = tempfile.mkstemp(dir=icd.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, icd)
