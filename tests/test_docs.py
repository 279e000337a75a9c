"""The documents are true: their examples run, and the commands, variables, files and headings they name exist.

README.md and README.zh.md say the same: equal commands and code, and as many headings and table rows.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import hal

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
PAGES = [ENGLISH, CHINESE, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

# Reads the Python blocks of a page from standard input and runs them one after the other, as a reader would.
RUNNER = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "__main__"}, []
for line, code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(chr(10) * line + code, sys.argv[1], "exec"), namespace)
    printed.append(output.getvalue())
json.dump(printed, sys.stdout)
"""


class Block(NamedTuple):
    """A fenced block: its language, its text, the line it begins after, the packages it needs, and what it prints."""

    language: str
    text: str
    line: int
    needs: tuple[str, ...]
    output: str | None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks; an ```output block belongs to the one before it."""
    found: list[Block] = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:^<!-- needs: (.*?) -->\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        needs, language, content = tuple((match[1] or "").split()), match[2], match[3]
        if language == "output":
            found[-1] = found[-1]._replace(output=content)
        else:
            found.append(Block(language, content, text.count("\n", 0, match.start(3)), needs, None))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[tuple[int, str]]:
    """(level, text) of each heading."""
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.*)$", prose(page), re.MULTILINE)]


def tables(page: Path) -> list[list[str]]:
    """The rows of each table."""
    found: list[list[str]] = [[]]
    for line in prose(page).splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


def in_code(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", text)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every command, in shell blocks and between backquotes."""
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return [words for line in [*lines, *in_code(prose(page))] if (words := split(line))]


def split(line: str) -> list[str]:
    """A line as the shell reads it, without a prompt; empty where it is no shell line."""
    try:
        return shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return []


# ---- examples


def run(name: str, chosen: list[Block]) -> None:
    """Run the blocks in an interpreter of their own and hold what each prints against the page."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, name],
        input=json.dumps([(block.line, block.text) for block in chosen]),
        env={**os.environ, "HAL_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for block, printed in zip(chosen, json.loads(done.stdout), strict=True):
        assert block.output in (None, printed), f"{name}:{block.line}"


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run_and_print_what_the_page_says(name: str) -> None:
    run(name, [block for block in blocks(ROOT / name) if block.language == "python" and not block.needs])


OPTIONAL = [(name, block) for name, page in zip(NAMES, PAGES, strict=True) for block in blocks(page) if block.needs]


@pytest.mark.parametrize(("name", "block"), OPTIONAL, ids=[f"{name}:{block.line}" for name, block in OPTIONAL])
def test_the_examples_with_other_packages_run(name: str, block: Block) -> None:
    for package in block.needs:
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    run(name, [block])


def test_there_are_examples() -> None:
    assert all(
        any(block.language == "python" for block in blocks(page)) for page in (ENGLISH, ROOT / "docs/interop.md")
    )


# ---- what they name


def anchor(heading: str) -> str:
    """The name by which a heading is linked to, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name}: {target}"
        if fragment:
            assert fragment in [anchor(text) for _, text in headings(there)], f"{name}: {target}"


@functools.cache
def help_text(*command: str) -> str:
    """What `python … --help` prints."""
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)} --help: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str) -> None:
    targets = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    makeable = {target for line in targets for target in line.split()}
    for words in command_lines(ROOT / name):
        if words[0] == "make" and len(words) > 1:
            assert set(words[1:]) <= makeable, f"{name}: {shlex.join(words)}"
        elif words[:2] == ["python", "tools/setup.py"]:
            known = help_text("tools/setup.py")
            assert all(word in known for word in words[2:]), f"{name}: {shlex.join(words)}"
        elif words[0] == "hal" and len(words) > 1:
            assert words[1] in help_text("-m", "hal"), f"{name}: {shlex.join(words)}"
            known = help_text("-m", "hal", words[1])
            options = [word for word in words[2:] if word.startswith("-")]
            assert all(option in known for option in options), f"{name}: {shlex.join(words)}"


def variables_in_code() -> set[str]:
    """HAL_… that the code reads from the environment."""
    sources = [path for folder in ("hal", "backends") for path in (ROOT / folder).rglob("*.py")]
    reads = re.compile(
        r"(?:environ|getenv)[^\n]*?[\"'](HAL_[A-Z_]+)[\"']|[\"'](HAL_[A-Z_]+)[\"'] (?:not )?in os\.environ"
    )
    return {a or b for path in sources for a, b in reads.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: str(page.name))
def test_the_table_of_variables_is_that_of_the_code(page: Path) -> None:
    rows = [row for table in tables(page) for row in table]
    assert {m[1] for row in rows if (m := re.match(r"\| `(HAL_[A-Z_]+)` \|", row))} == variables_in_code()


@pytest.mark.parametrize("name", NAMES)
def test_no_variable_is_named_that_nobody_reads(name: str) -> None:
    in_c = set(re.findall(r"\bHAL_[A-Z_]+\b", (ROOT / "hal/include/hal_backend.h").read_text(encoding="utf-8")))
    named = set(re.findall(r"\bHAL_[A-Z_]+\b", (ROOT / name).read_text(encoding="utf-8")))
    assert named - in_c <= variables_in_code()


@pytest.mark.parametrize("name", NAMES)
def test_files_named_in_code_style_exist(name: str) -> None:
    for span in in_code(prose(ROOT / name)):
        if re.fullmatch(r"(?:hal|backends|tests|tools|docs|examples|bench)/[\w./]+", span):
            assert (ROOT / span).exists(), f"{name}: {span}"


@pytest.mark.parametrize("name", NAMES)
def test_names_of_hal_exist(name: str) -> None:
    for span in in_code(prose(ROOT / name)):
        if match := re.match(r"hal(\.[A-Za-z_]\w*)+", span):
            pkgutil.resolve_name(match[0])  # AttributeError, ImportError


def test_nobody_is_told_to_install_somebody_elses_package() -> None:
    """`hal` and `backends` on the public index are not ours."""
    files = [*PAGES, *(path for folder in ("hal", "backends", "tools") for path in (ROOT / folder).rglob("*.py"))]
    wrong = re.compile(r"pip install (?:-\S+ )*['\"]?(?:hal|backends)(?![\w-])(?!/)")
    assert [path.name for path in files if wrong.search(path.read_text(encoding="utf-8"))] == []


def test_the_wheel_is_called_by_the_present_version() -> None:
    assert f"hal_kernels-{hal.__version__}-py3-none-any.whl" in ENGLISH.read_text(encoding="utf-8")


# ---- two languages


def test_both_readmes_show_the_two_commands_as_lines() -> None:
    for page in (ENGLISH, CHINESE):
        shown = re.findall(r"^\s*(?:\$ )?make (demo|test)\b", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert {"demo", "test"} <= set(shown)


def test_both_readmes_have_the_same_headings() -> None:
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(CHINESE)]


def test_both_readmes_have_the_same_code() -> None:
    """But for comments, which are translated."""
    for ours, theirs in zip(blocks(ENGLISH), blocks(CHINESE), strict=True):
        assert ours.language == theirs.language
        if ours.language == "python":
            assert ast.unparse(ast.parse(ours.text)) == ast.unparse(ast.parse(theirs.text))
        else:
            assert list(map(split, ours.text.splitlines())) == list(map(split, theirs.text.splitlines()))


def test_both_readmes_name_the_same_things() -> None:
    """Commands, options, variables, files: all that stands between backquotes."""
    assert sorted(set(in_code(prose(ENGLISH)))) == sorted(set(in_code(prose(CHINESE))))


def test_both_readmes_have_the_same_tables() -> None:
    """As many rows and columns, and in each row the same names and numbers."""
    for ours, theirs in zip(tables(ENGLISH), tables(CHINESE), strict=True):
        assert len(ours) == len(theirs)
        for row, other in zip(ours, theirs, strict=True):
            assert row.count("|") == other.count("|")
            assert in_code(row) == in_code(other)
            assert re.findall(r"\b(?:float|bfloat|int)\d+\b", row) == re.findall(r"\b(?:float|bfloat|int)\d+\b", other)
