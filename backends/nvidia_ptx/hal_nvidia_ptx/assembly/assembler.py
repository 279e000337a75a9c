"""PTX to machine code with no GPU: NVIDIA's `ptxas` from its Python wheel, and what it says about the code.

`assemble` turns one text into a cubin with its registers, spills, stack, shared memory and barriers. What `ptxas` only
mentions in passing although it ruins a kernel (a directive ignored, wgmma serialized, spills) is kept as *complaints*.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from hal.errors import BackendUnavailable, CompileError

# The wheels' version that every figure in this tree was measured with; another one makes other code.
VERSION = "13.5.37"
WHEELS = {"ptxas": "nvidia-cuda-nvcc", "nvdisasm": "nvidia-cuda-nvdisasm"}
INSTALL = "pip install --no-deps " + " ".join(f"{wheel}=={VERSION}" for wheel in WHEELS.values())

WORKERS = 2  # programs at a time: more than the smallest machines have cores for
TIMEOUT = 300.0  # seconds; the slowest kernel known takes one
SHOWN_ERRORS = 8  # of one text; the rest are in the exception's log

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one entry or function takes: registers of a thread, the rest in bytes; barriers by count."""

    name: str
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0
    barriers: int = 0


@dataclass(frozen=True, slots=True)
class Assembled:
    """One assembled text. `messages` is all that ptxas said, `complaints` the part that no good kernel causes."""

    target: str
    cubin: bytes
    functions: tuple[Usage, ...]
    complaints: tuple[str, ...]
    messages: str
    seconds: float

    def entry(self, name: str) -> Usage:
        """The figures of one entry. Raises KeyError."""
        for usage in self.functions:
            if usage.name == name:
                return usage
        raise KeyError(f"{name}: not in this text; it has {', '.join(usage.name for usage in self.functions)}")

    @property
    def registers(self) -> int:
        """Of the entry that needs most; the properties below likewise."""
        return max((usage.registers for usage in self.functions), default=0)

    @property
    def shared(self) -> int:
        return max((usage.shared for usage in self.functions), default=0)

    @property
    def stack(self) -> int:
        return max((usage.stack for usage in self.functions), default=0)

    @property
    def spill_stores(self) -> int:
        return max((usage.spill_stores for usage in self.functions), default=0)

    @property
    def spill_loads(self) -> int:
        return max((usage.spill_loads for usage in self.functions), default=0)

    @property
    def barriers(self) -> int:
        return max((usage.barriers for usage in self.functions), default=0)


# ---------------------------------------------------------------- the programs


@cache
def _from_wheel(name: str) -> Path | None:
    """The program among the files of its wheel, by pip's own list: it is on nobody's PATH."""
    try:
        files = importlib.metadata.files(WHEELS[name]) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name in (name, f"{name}.exe"):
            path = Path(os.fspath(file.locate()))
            if path.is_file():
                return path
    return None


def tool(name: str) -> Path:
    """`ptxas` or `nvdisasm`: beside HAL_PTXAS where that is set, else from the wheel.

    Raises BackendUnavailable with the pip command.
    """
    override = os.environ.get("HAL_PTXAS")
    if override:
        path = Path(override) if name == "ptxas" else Path(override).with_name(name + Path(override).suffix)
        if path.is_file():
            return path
        if name == "ptxas":
            raise BackendUnavailable(f"HAL_PTXAS={override}: no such file; unset it, or give the path of a ptxas")
    found = _from_wheel(name)
    if found is None:
        raise BackendUnavailable(f"{name} is not installed (it comes in the wheel {WHEELS[name]}): {INSTALL}")
    return found


def version() -> str:
    """The assembler's version, as "13.5.37". Raises BackendUnavailable."""
    return _version(tool("ptxas"))


@cache
def _version(program: Path) -> str:
    text = _run([program, "--version"]).stdout
    found = re.search(r"V(\d+(?:\.\d+)+)", text)
    if found is None:
        raise BackendUnavailable(f"{program} --version does not say a version but: {text.strip()[:200]}")
    return found[1]


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a program; both streams as one text. Raises BackendUnavailable where it cannot be started."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
        )
    except OSError as error:
        raise BackendUnavailable(f"{command[0]} cannot be started: {error}; install it anew: {INSTALL}") from None


# ---------------------------------------------------------------- assembling


def assemble(text: str, target: str, *, options: tuple[str, ...] = ()) -> Assembled:
    """Assemble one PTX text for a target such as "sm_80"; `options` go to ptxas.

    Raises CompileError with ptxas' errors beside the lines they mean; BackendUnavailable where ptxas is missing.
    """
    program = tool("ptxas")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hal-ptxas-") as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text, encoding="utf-8")
        try:
            done = _run([program, "-v", f"-arch={target}", *options, source, "-o", cubin])
        except subprocess.TimeoutExpired:
            raise CompileError(f"ptxas did not end within {TIMEOUT:.0f} s for {target}", source=text) from None
        messages = done.stdout.replace(str(source), "kernel.ptx")
        if done.returncode or not cubin.is_file():
            raise CompileError(_errors(messages, text, target), log=messages, source=text)
        code = cubin.read_bytes()
    functions = _usages(messages)
    complaints = _complaints(messages, functions)
    return Assembled(target, code, functions, complaints, messages, time.perf_counter() - start)


def assemble_all(jobs: Iterable[tuple[str, str]]) -> Iterator[Assembled | CompileError]:
    """Assemble many (text, target) pairs, two at a time, in order; what does not assemble is returned."""

    def one(job: tuple[str, str]) -> Assembled | CompileError:
        try:
            return assemble(*job)
        except CompileError as error:
            return error

    yield from in_order(one, jobs)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) of each, WORKERS at a time; items are taken from the iterable only a few ahead."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# ---------------------------------------------------------------- reading what ptxas says

_ERROR = re.compile(r"^ptxas .*?(?:, line (?P<line>\d+); )?(?P<kind>error|fatal) +: (?P<text>.*)$", re.MULTILINE)

# A warning is never right; an info is not when it says that something was ignored, injected, serialized or missing:
# C7506-C7519 are about setmaxnreg and wgmma, C7600-C7602 about registers.
_ABOUT = re.compile(r"\s*(Compiling entry function|Function properties for) ")  # these only name what others are about
_BAD_INFO = re.compile(r"\(C7[56]\d\d\)|Potential Performance Loss|ignored|injected|serialized|insufficient", re.I)


def _errors(messages: str, text: str, target: str) -> str:
    """ptxas' errors, each with the line of PTX that it is about."""
    lines = text.splitlines()
    found = [match for match in _ERROR.finditer(messages) if "aborted due to errors" not in match["text"]]
    shown = [f"PTX that ptxas does not assemble for {target}:"]
    for match in found[:SHOWN_ERRORS]:
        number = int(match["line"] or 0)
        where = f"line {number}: " if number else ""
        shown.append(f"  {where}{match['text'].strip()}")
        if 0 < number <= len(lines):
            shown.append(f"    | {lines[number - 1].strip()}")
    if len(found) > SHOWN_ERRORS:
        shown.append(f"  and {len(found) - SHOWN_ERRORS} more")
    return "\n".join(shown)


def _usages(messages: str) -> tuple[Usage, ...]:
    """The figures of every function from the output of `ptxas -v`."""
    usages = []
    for block in re.split(r"Function properties for ", messages)[1:]:
        counts = {what: int(number) for number, what in re.findall(r"(\d+) (?:bytes )?([a-z][a-z ]*)", block)}
        usages.append(
            Usage(
                name=block.split(None, 1)[0].strip("'"),
                registers=counts.get("registers", 0),
                stack=counts.get("stack frame", 0),
                spill_stores=counts.get("spill stores", 0),
                spill_loads=counts.get("spill loads", 0),
                shared=counts.get("smem", 0),
                barriers=counts.get("barriers", 0),
            )
        )
    return tuple(usages)


def _complaints(messages: str, functions: tuple[Usage, ...]) -> tuple[str, ...]:
    """What must not be heard of a good kernel, a line each."""
    found = []
    for line in messages.splitlines():
        kind, _, text = line.partition(":")
        if "warning" in kind or ("info" in kind and _BAD_INFO.search(text) and not _ABOUT.match(text)):
            found.append(re.sub(r"\s+", " ", line).strip())
    for usage in functions:
        if usage.spill_stores or usage.spill_loads:
            found.append(
                f"{usage.name}: {usage.spill_stores} bytes spill stores, {usage.spill_loads} bytes spill loads"
            )
        if usage.stack:
            found.append(f"{usage.name}: {usage.stack} bytes stack frame")
    return tuple(found)
