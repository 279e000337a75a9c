"""Backends in C: the header, the loader, and the smallest example judged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hal.capi import header, include

STRICT = ("-Wall", "-Wextra", "-pedantic", "-Werror")
USER = """
#include "hal_backend.h"
static hal_status count(int32_t *count) { *count = 0; return HAL_OK; }
const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {
    static hal_backend table;
    (void)host_major;
    (void)host_minor;
    table.struct_size = sizeof(hal_backend);
    table.device_count = count;
    return &table;
}
"""


@pytest.mark.parametrize(
    ("compiler", "suffix", "standard"), [("cc", ".c", "c99"), ("cc", ".c", "c17"), ("c++", ".cpp", "c++11")]
)
def test_the_header_compiles_without_a_warning(
    c_plugins: Any, tmp_path: Path, compiler: str, suffix: str, standard: str
) -> None:
    source = tmp_path / f"user{suffix}"
    source.write_text(USER, encoding="utf-8")
    command = [compiler, f"-std={standard}", *STRICT, f"-I{include()}", "-c", str(source), "-o", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_the_compiler_and_cffi_agree_on_every_member(c_plugins: Any, tmp_path: Path) -> None:
    """Name, offset and size: what hal reads is what the library wrote."""
    ffi = header.ffi()
    structs = [name for name in ffi.list_types()[0] if ffi.typeof(name).kind == "struct" and ffi.typeof(name).fields]
    assert len(structs) == 9
    wanted, lines = [], []
    for struct in structs:
        for member, _ in ffi.typeof(struct).fields:
            wanted.append(f"{struct}.{member} {ffi.offsetof(struct, member)} {ffi.sizeof(struct)}")
            lines.append(f'printf("{struct}.{member} %zu %zu\\n", offsetof({struct}, {member}), sizeof({struct}));')
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(f'#include <stdio.h>\n#include "hal_backend.h"\nint main(void) {{ {"".join(lines)} return 0; }}')
    subprocess.run(["cc", f"-I{include()}", str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], capture_output=True, text=True).stdout.split("\n")[:-1] == wanted


def test_the_minimal_example_passes_with_its_profile(c_plugins: Any) -> None:
    profile = str(c_plugins.examples / "minimal.toml")
    done = c_plugins.hal("conformance", "minimal:0", "--profile", profile, plugins=(c_plugins.minimal(),))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "minimal (minimal) passes" in done.stdout


def test_the_minimal_example_is_as_small_as_promised(c_plugins: Any) -> None:
    assert len((c_plugins.examples / "minimal.c").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("level", ["smoke", pytest.param("full", marks=pytest.mark.slow)])
def test_the_arena_example_passes_without_a_profile(c_plugins: Any, level: str) -> None:
    done = c_plugins.hal("conformance", "arena:0", "--level", level, "--json", "-", plugins=(c_plugins.arena(),))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed, 0 skipped" in done.stderr


def test_the_arena_example_exports_one_symbol(c_plugins: Any) -> None:
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    done = subprocess.run(["nm", "-g", "--defined-only", str(c_plugins.arena())], capture_output=True, text=True)
    assert [line.split()[-1].lstrip("_") for line in done.stdout.splitlines()] == ["hal_get_backend"]
