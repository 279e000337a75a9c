"""From PTX to a function of one device: assembled offline where ptxas is installed, else by the driver's compiler.

Cubins are kept on disk under all that they depend on; what the driver's own compiler makes is kept by the driver. The
first cubin that a driver refuses (it is older than the assembler) ends offline assembling for the device: from then
on its own compiler gets the text.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any

from hal.cache import Cache, key_of
from hal.device import DeviceInfo
from hal.errors import BackendUnavailable, CompileError, DeviceError, UnsupportedError
from hal.kernel import Kernel
from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.context import Context
from hal_nvidia_ptx.errors import NOT_LOADABLE, OUT_OF_MEMORY, STICKY, UNSUPPORTED_PTX_VERSION, describe

FORMAT = "1"  # of what is kept; a change makes old entries unreachable
LOG_BYTES = 1 << 16
_SHOWN = 8  # errors of a log beside which their line is shown
_log = logging.getLogger("hal.cuda")


@dataclass(eq=False)
class Compiled:
    """A function of one context and its limits. `dynamic`: bytes of dynamic shared memory it was allowed so far."""

    module: Any
    function: Any
    entry: str
    threads: int  # of a block, at most
    shared: int  # bytes, static
    dynamic: int = field(default=48 << 10)  # what every function may have unasked, static and dynamic together


class Modules:
    """Compiles for one device; loads into its context."""

    def __init__(self, context: Context, info: DeviceInfo, cache: Cache | None) -> None:
        self._context, self._info, self._cache = context, info, cache
        self._loaded: list[Any] = []
        self._assembler = _assembler_version()

    def compile(self, kernel: Kernel) -> Compiled:
        """Raises CompileError with the compiler's log; UnsupportedError where driver or GPU are too old for the text.

        The context has to be current.
        """
        module = self._offline(kernel) if self._assembler else None
        if module is None:
            module = self._by_driver(kernel)
        self._loaded.append(module)
        return self._describe(module, kernel.entry)

    def allow_shared(self, compiled: Compiled, nbytes: int) -> None:
        """Let launches ask for this much dynamic shared memory. Raises UnsupportedError beyond the GPU's limit."""
        limit = int(self._info.props.get("shared_block", 48 << 10))
        if compiled.shared + nbytes > limit:
            raise UnsupportedError(
                f"{compiled.entry}: {compiled.shared + nbytes} bytes of shared memory, {self._info.name} has {limit}"
            )
        if compiled.shared + nbytes > compiled.dynamic:
            attribute = self._context.cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._context.call("cuFuncSetAttribute", compiled.function, attribute, nbytes)
            compiled.dynamic = compiled.shared + nbytes

    def close(self) -> None:
        """Unload everything."""
        for module in self._loaded:
            self._context.call("cuModuleUnload", module)
        self._loaded.clear()

    # ---- offline

    def _offline(self, kernel: Kernel) -> Any:
        """A module from a cubin, or None where the driver does not take it."""
        target = str(self._info.props["target"])
        identity = (FORMAT, target, str(self._info.props["driver"]), self._assembler)
        key = key_of((*identity, "\0".join(kernel.options), kernel.source))
        cubin = self._cache.get(key) if self._cache else None
        kept = cubin is not None
        if cubin is None:
            try:
                cubin = assembler.assemble(kernel.source, target, options=kernel.options).cubin
            except CompileError as error:
                _log.info("ptxas %s does not assemble %s, the driver may: %s", self._assembler, kernel.entry, error.log)
                return None
        code, module = self._context.cuda.cuModuleLoadDataEx(cubin, 0, [], [])
        if not code:
            if self._cache and not kept:
                self._cache.put(key, cubin)
            return module
        if int(code) in STICKY or int(code) == OUT_OF_MEMORY:
            raise self._context.error("cuModuleLoadDataEx", code, f"kernel {kernel.entry}")
        _log.info("%s takes no code of ptxas %s: %s", self._info.name, self._assembler, describe(code))
        self._assembler = ""
        return None

    # ---- by the driver

    def _by_driver(self, kernel: Kernel) -> Any:
        cuda = self._context.cuda
        names = cuda.CUjit_option
        error_log, info_log = bytearray(LOG_BYTES), bytearray(LOG_BYTES)
        options = {
            names.CU_JIT_ERROR_LOG_BUFFER: error_log,
            names.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: LOG_BYTES,
            names.CU_JIT_INFO_LOG_BUFFER: info_log,
            names.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: LOG_BYTES,
        }
        image = kernel.source.encode() + b"\0"
        code, module = cuda.cuModuleLoadDataEx(image, len(options), list(options), list(options.values()))
        if code:
            raise self._refusal(kernel, code, _text(error_log) or _text(info_log))
        remarks = _text(info_log)
        if remarks:
            _log.info("%s, kernel %s: %s", self._info.name, kernel.entry, remarks)
        return module

    def _refusal(self, kernel: Kernel, code: Any, log: str) -> Exception:
        """The error for a text that the driver did not take."""
        named = {key: re.search(rf"^\s*\.{key}\s+(\S+)", kernel.source, re.MULTILINE) for key in ("version", "target")}
        version, target = (match[1].rstrip(",") if match else "?" for match in named.values())
        props = self._info.props
        if int(code) == UNSUPPORTED_PTX_VERSION:
            return UnsupportedError(
                f"{self._info.name}: kernel {kernel.entry} is PTX {version}, the driver (for CUDA {props['driver']}) "
                f"takes up to {props['ptx']}: {describe(code)}"
            )
        if int(code) in NOT_LOADABLE:
            return UnsupportedError(
                f"{self._info.name} ({props['target']}): kernel {kernel.entry} is for {target}: {describe(code)}"
            )
        if not log:
            return self._context.error("cuModuleLoadDataEx", code, f"kernel {kernel.entry}")
        message = f"{self._info.name}: kernel {kernel.entry} does not compile: {describe(code)}"
        return CompileError(message + lines_meant(log, kernel.source), log=log, source=kernel.source)

    def _describe(self, module: Any, entry: str) -> Compiled:
        context = self._context
        code, function = context.cuda.cuModuleGetFunction(module, entry.encode())
        if code:
            raise DeviceError(f"{self._info.name}: this PTX has no entry {entry}: {describe(code)}")
        names = context.cuda.CUfunction_attribute
        threads = context.call("cuFuncGetAttribute", names.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function)
        shared = context.call("cuFuncGetAttribute", names.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
        return Compiled(module, function, entry, int(threads), int(shared))


def lines_meant(log: str, source: str) -> str:
    """The lines of the source that a compiler's log names, each below a line break; empty if none."""
    lines, shown = source.splitlines(), ""
    for number in list(dict.fromkeys(map(int, re.findall(r"\bline (\d+)", log))))[:_SHOWN]:
        if 0 < number <= len(lines):
            shown += f"\n  line {number}: {lines[number - 1].strip()}"
    return shown


def _text(log: bytearray) -> str:
    return bytes(log).split(b"\0")[0].decode("utf-8", "replace").strip()


def _assembler_version() -> str:
    """Of ptxas where it is installed, else empty."""
    try:
        return assembler.version()
    except BackendUnavailable:
        return ""
