"""What an author writes into device.py of a generated package whose compiler is a library, NVRTC."""

from __future__ import annotations

import ctypes
import importlib.metadata

from hal.errors import BackendUnavailable, CompileError
from hal.kernel import Kernel
from hal.porting import DriverKernelDevice, SharedLibrary
from hal_opencl import portable


def library() -> str:
    """Where pip put NVRTC."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.startswith("libnvrtc.so"):
            return str(file.locate())
    raise BackendUnavailable("no NVRTC: pip install nvidia-cuda-nvrtc")


COMPILER = SharedLibrary(library())


class Device(DriverKernelDevice):
    """One device."""

    algorithms = portable.algorithms()
    split_addresses = True

    def build(self, kernel: Kernel) -> bytes:
        options = (f"--gpu-architecture={self.info.props['target']}", "--fmad=false", "--diag-suppress=161,177")
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        program = ctypes.c_void_p()
        COMPILER.call("nvrtcCreateProgram", ctypes.byref(program), kernel.source.encode(), None, 0, None, None)
        try:
            failed = COMPILER.library.nvrtcCompileProgram(program, len(options), given)
            if failed:
                log = self.text(program, "ProgramLog").decode()
                raise CompileError(f"kernel {kernel.entry} does not compile", log=log, source=kernel.source)
            return self.text(program, "PTX")
        finally:
            COMPILER.call("nvrtcDestroyProgram", ctypes.byref(program))

    def text(self, program: ctypes.c_void_p, what: str) -> bytes:
        """nvrtcGetPTX or nvrtcGetProgramLog: how long it is, then the text."""
        size = ctypes.c_size_t()
        COMPILER.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        COMPILER.call(f"nvrtcGet{what}", program, text)
        return text.value
