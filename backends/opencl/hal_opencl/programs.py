"""From source text to a program of one device: building, the compiler's log, binaries kept on disk.

A binary is kept only after the first launch, because PoCL compiles for a work-group size, at launch. The key has all
that a binary depends on: text, options, platform, device and driver with their versions, and for CPU devices the CPU
itself, since PoCL's device name tells only what its compiler knows of it. A binary that a driver refuses is built anew.
"""

from __future__ import annotations

import platform
import re
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hal.cache import Cache, key_of
from hal.device import DeviceInfo
from hal.errors import CompileError, DeviceError, UnsupportedError
from hal.kernel import Kernel
from hal_opencl import loader

cl = loader.load()

FORMAT = "1"  # of what is kept; a change makes old entries unreachable
_DOUBLE = """
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
__kernel void probe(__global double *x) { x[0] = fma(x[0], 3.0, 1e-300); }
"""


@dataclass(eq=False)
class Compiled:
    """A built program and the limits of its one entry. `unsaved`: the binary is to be kept after the first launch."""

    program: Any
    entry: str
    limit: int
    local_bytes: int
    key: str = field(default="", repr=False)
    unsaved: bool = False

    def check(self, work_items: int, info: DeviceInfo) -> None:
        """Raises UnsupportedError where a launch would be larger than the kernel or the device allow."""
        if work_items > self.limit:
            raise UnsupportedError(
                f"{self.entry}: {work_items} work-items in a group, this kernel takes {self.limit} on {info.name}"
            )
        memory = info.props.get("local_memory", self.local_bytes)
        if self.local_bytes > memory:
            raise UnsupportedError(f"{self.entry}: {self.local_bytes} bytes of local memory, {info.name} has {memory}")


class Programs:
    """Builds for one device, from source always where there is no cache or no binary should be kept."""

    def __init__(self, info: DeviceInfo, device: Any, context: Any, cache: Cache | None) -> None:
        self._info, self._device, self._context = info, device, context
        self._cache = cache if info.props.get("binaries", True) else None
        self._identity = (
            FORMAT,
            info.name,
            *(str(info.props.get(key)) for key in ("platform", "platform_version", "version", "driver")),
            cpu_model() if info.props.get("type") == "cpu" else "",
        )

    def compile(self, kernel: Kernel) -> Compiled:
        """The kernel's program, from the cache or built. Raises CompileError with the compiler's log."""
        key = key_of((*self._identity, kernel.entry, "\0".join(kernel.options), kernel.source)) if self._cache else ""
        compiled = self._from_cache(kernel, key)
        if compiled is None:
            compiled = self._describe(self._build(kernel), kernel, key)
            compiled.unsaved = self._cache is not None
        return compiled

    def save(self, compiled: Compiled) -> None:
        """Keep the binary, once."""
        compiled.unsaved = False
        binaries = compiled.program.get_info(cl.program_info.BINARIES)
        if self._cache is not None and binaries and binaries[0]:
            self._cache.put(compiled.key, bytes(binaries[0]))

    def builds_double(self) -> bool:
        """Whether the device compiles float64, whatever it lists."""
        try:
            self.compile(Kernel("probe", _DOUBLE, options=("-cl-std=CL1.2",)))
        except (CompileError, DeviceError):
            return False
        return True

    def _from_cache(self, kernel: Kernel, key: str) -> Compiled | None:
        binary = self._cache.get(key) if self._cache else None
        if binary is None:
            return None
        try:
            program = cl.Program(self._context, [self._device], [binary])
            ignore_remarks()
            program.build(list(kernel.options), cache_dir=False)
            return self._describe(program, kernel, key)
        except (cl.Error, DeviceError):
            assert self._cache is not None
            self._cache.drop(key)
            return None

    def _build(self, kernel: Kernel) -> Any:
        program = cl.Program(self._context, kernel.source)
        try:
            ignore_remarks()
            return program.build(list(kernel.options), cache_dir=False)
        except cl.Error as error:
            raise CompileError(
                f"{self._info.name}: kernel {kernel.entry} does not build",
                log=build_log(error),
                source=kernel.source,
            ) from error

    def _describe(self, program: Any, kernel: Kernel, key: str) -> Compiled:
        try:
            entry = cl.Kernel(program, kernel.entry)
            information = cl.kernel_work_group_info
            return Compiled(
                program,
                kernel.entry,
                int(entry.get_work_group_info(information.WORK_GROUP_SIZE, self._device)),
                int(entry.get_work_group_info(information.LOCAL_MEM_SIZE, self._device)),
                key,
            )
        except cl.Error as error:
            raise DeviceError(f"{self._info.name}: kernel {kernel.entry}: {error}") from error


def ignore_remarks() -> None:
    """Ignore what compilers say of programs that do build; pyopencl makes it a CompilerWarning.

    The filter is added and stays: warnings.catch_warnings restores the whole process's list, and where two threads
    build at once, one's restores the other's. It is added again only where the program has put filters before it since,
    because one of those may turn warnings into errors.
    """
    if not warnings.filters or warnings.filters[0][:3] != ("ignore", None, cl.CompilerWarning):
        warnings.filterwarnings("ignore", category=cl.CompilerWarning)


def build_log(error: Any) -> str:
    """The compiler's text in pyopencl's message: between what failed and pyopencl's own remarks."""
    text = str(error)
    found = re.search(r"^Build on .*?:\n(.*?)(?:^\(options:|^\(source saved as |\Z)", text, re.MULTILINE | re.DOTALL)
    return (found[1] if found else text).strip()


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """The CPU's name and abilities."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    first = text.split("\n\n")[0]
    return "\n".join(re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", first, re.MULTILINE))
