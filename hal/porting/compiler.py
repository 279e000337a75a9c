"""A vendor's compiler as a program: source text in, a file of code out, kept on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hal.cache import Cache, key_of
from hal.errors import CompileError
from hal.kernel import Kernel


def compile_with(command: Sequence[str], kernel: Kernel, *, suffix: str = ".cu", seconds: float = 600.0) -> bytes:
    """The file that `command` makes of the kernel's text.

    Args:
        command: program and arguments, `{source}` and `{output}` in place of the two files: ("mcc", "{source}", "-o",
            "{output}", …). The kernel's own options come behind.
        suffix: of the source file, by which many compilers tell languages apart.
        seconds: after which the compiler is ended.

    Raises:
        CompileError: the program is not there, fails, or takes too long; with its text.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CompileError(f"kernel {kernel.entry}: no program {command[0]!r} in PATH", source=kernel.source)
    found = os.stat(program)
    command = [program, *command[1:], *kernel.options]
    key = key_of([*command, str(found.st_size), str(found.st_mtime_ns), suffix, kernel.source])
    cache = Cache()
    code = cache.get(key)
    if code is None:
        code = _compile(command, kernel, suffix, seconds)
        cache.put(key, code)
    return code


def _compile(command: Sequence[str], kernel: Kernel, suffix: str, seconds: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hal-") as folder:
        source, output = Path(folder, f"kernel{suffix}"), Path(folder, "kernel.out")
        source.write_text(kernel.source, encoding="utf-8")
        words = [word.replace("{source}", str(source)).replace("{output}", str(output)) for word in command]
        try:
            done = subprocess.run(words, cwd=folder, capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise CompileError(
                f"kernel {kernel.entry}: {words[0]} took over {seconds} s", source=kernel.source
            ) from None
        log = (done.stderr + done.stdout).decode(errors="replace")
        if done.returncode or not output.is_file():
            raise CompileError(f"kernel {kernel.entry}: {words[0]} failed", log=log, source=kernel.source)
        return output.read_bytes()
