"""One thing that the doctor has to say, and how things that may crash are tried."""

from __future__ import annotations

import enum
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

TIMEOUT = 60.0  # seconds for one trial in a child process
# The child finds modules where this process does, and nowhere else: not in the folder it happens to be started in.
PRELUDE = "import sys; sys.path[:] = {path!r}\n"


class State(enum.Enum):
    """How things are. Only `broken` makes the doctor's exit code 1."""

    GOOD = "good"
    NOTE = "note"  # a fact, neither good nor bad
    MISSING = "missing"  # not installed, and nobody has to install it
    BROKEN = "broken"  # installed, and does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is a command, or what to do in words. `extra`: the extra of hal that brings what is missing."""

    section: str
    name: str
    state: State
    detail: str = ""
    fix: str = ""
    extra: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state.value}


def install(*requirements: str, options: str = "") -> str:
    """The command that installs these in the environment that hal runs in."""
    pip = [sys.executable, "-m", "pip", "install"]
    if find_spec("pip") is None and shutil.which("uv"):  # an environment that uv made
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*pip, *options.split(), *requirements])


@dataclass(frozen=True, slots=True)
class Trial:
    """What a child process printed, or how it ended otherwise."""

    output: str
    problem: str  # empty if it ended well


def attempt(code: str, arguments: Sequence[str] = (), timeout: float = TIMEOUT) -> Trial:
    """Run Python text in a child process, which may crash or hang."""
    command = [sys.executable, "-c", PRELUDE.format(path=sys.path) + code, *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return Trial("", f"does not answer within {timeout:.0f} seconds")
    except (OSError, ValueError) as error:
        return Trial("", f"cannot be tried: {error}")
    if done.returncode < 0:
        return Trial(done.stdout, f"ends the process by {signal_name(-done.returncode)}{last_words(done.stderr)}")
    if done.returncode:
        return Trial(done.stdout, f"fails{last_words(done.stderr)}")
    return Trial(done.stdout, "")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_words(stderr: str) -> str:
    """The last line a process said, which is the one about why it ended."""
    lines = stderr.strip().splitlines()
    return f": {lines[-1]}" if lines else ""
