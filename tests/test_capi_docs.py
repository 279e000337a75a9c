"""docs/c_backend.md, followed as a reader would: its files are written, its commands run, what they print compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "c_backend.md"


def blocks() -> list[tuple[str, str]]:
    """(language, text) in the page's order."""
    return re.findall(r"^```(c|sh|output)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def replaced(library: str, part: str) -> str:
    """The library with the functions of `part` in the place of its own op_prepare and op_launch."""
    head, found, tail = library.partition("static hal_status op_prepare(")
    assert found
    return head + part + "\n" + tail[tail.index("const hal_backend *hal_get_backend") :]


def test_the_page_does_what_it_says(c_plugins: Any, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HAL_")}
    hal = tmp_path / "hal"
    hal.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hal "$@"\n', encoding="utf-8")
    hal.chmod(0o755)
    variables = {**kept, "PATH": f"{tmp_path}{os.pathsep}{kept.get('PATH', '')}"}
    source, printed, compile_line = tmp_path / "acme.c", "", ""

    def shell(script: str) -> str:
        done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ran = 0
    for language, text in blocks():
        if language == "c" and text.startswith("/* acme.c */"):
            source.write_text(text, encoding="utf-8")
        elif language == "c":
            source.write_text(replaced(source.read_text(encoding="utf-8"), text), encoding="utf-8")
            assert "rmsnorm      yes      no" in shell(f"{compile_line} -Wall -Wextra -Werror -lm; hal abi libacme.so")
        elif language == "sh":
            compile_line = compile_line or text.splitlines()[0]
            printed = shell(text)
            ran += 1
        elif language == "output" and ran == 1:
            assert printed == text
    assert ran == 2 and " passes: " in printed
