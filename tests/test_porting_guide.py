"""The porting guide is true: its commands run on a package that it makes, its excerpts are parts of judged packages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hal.porting import FUNCTIONS
from hal.scaffold.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ROOT / "docs" / "porting.md", ROOT / "docs" / "porting.zh.md"
PAGES = (ENGLISH, CHINESE)
# What tests/test_cuda_like.py puts into a generated package, and what `hal new-backend` writes.
SOURCES = (ROOT / "tests" / "ported", ROOT / "hal" / "scaffold" / "templates")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shape(page: Path) -> list[str]:
    """What both languages have alike: levels of headings, code, numbers of cells in tables."""
    found = []
    for line in re.sub(r"^```.*?^```$", "```", page.read_text(encoding="utf-8"), flags=re.M | re.S).splitlines():
        if heading := re.match(r"#+ ", line):
            found.append(heading[0])
        elif line.startswith("|"):
            found.append("|" * line.count("|"))
        elif line.startswith("```"):
            found.append(line)
    return found


def test_both_languages_say_the_same() -> None:
    for language in ("sh", "py", "text"):
        assert len(blocks(ENGLISH, language)) == len(blocks(CHINESE, language))
    assert blocks(ENGLISH, "sh") == blocks(CHINESE, "sh") and blocks(ENGLISH, "py") == blocks(CHINESE, "py")
    assert shape(ENGLISH) == shape(CHINESE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_excerpts_are_parts_of_packages_that_are_judged(page: Path) -> None:
    texts = [file.read_text(encoding="utf-8") for folder in SOURCES for file in folder.rglob("*") if file.is_file()]
    found = [block for block in blocks(page, "py") if "import hal\n" not in block]
    assert len(found) >= 6
    for block in found:
        assert any(block in text for text in texts), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table_has_the_twelve_functions_and_their_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for function in FUNCTIONS:
        (row,) = re.findall(rf"^\| `{function.name}` \|.*$", text, re.MULTILINE)
        for calls in function.calls:
            first = re.split(r"[,(]", calls)[0]
            assert first in row, f"{function.name}: {first}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_kind_has_a_chapter(page: Path) -> None:
    chapters = set(re.findall(r"^### ([\w-]+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(KINDS) <= chapters


def commands() -> list[list[str]]:
    """The commands of the guide in order, without those of pip."""
    lines = [line for block in blocks(ENGLISH, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line)) and words[0] == "hal"]


def installed(folder: Path) -> dict[str, str]:
    """An environment in which ./hal-acme is found as if pip had installed it."""
    info = folder / "hal_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.2\nName: hal-acme\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[hal.backends]\nacme = hal_acme:Backend\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(folder / "hal-acme")))}


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    """A package that nobody changed: conformance says SIMULATED (3), everything else is good (0)."""
    environment: dict[str, str] = dict(os.environ)
    for words in commands():
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        expected = 3 if words[1] == "conformance" else 0
        assert done.returncode == expected, textwrap.indent(done.stdout + done.stderr, shlex.join(words) + ": ")
        if words[1] == "new-backend":
            environment = installed(tmp_path)
    assert (tmp_path / "report.html").stat().st_size and (tmp_path / "report.json").stat().st_size
