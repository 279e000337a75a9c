"""Run cases in child processes, so that a crash, a hang or a lack of memory costs one case and not the run.

Parent and child talk in lines of JSON: the parent writes the names of cases and what their bounds allow, the child
answers with a line when it begins a case, one at each call of a library in C, and one when it ends it. A child that
dies or says nothing for too long is ended; its case has failed, and a new child goes on behind it.

The child is `python -m hal.conformance.isolate DEVICE`; tests give another command whose program calls `serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from hal.bound import Allowance
from hal.capi import listen
from hal.conformance.cases import every
from hal.conformance.contract import CHECKS
from hal.conformance.profile import Profile
from hal.conformance.runner import Result
from hal.conformance.session import Runner, Task, run_task
from hal.device import Device
from hal.errors import DeviceError
from hal.registry import open_device

OPENING = 300.0  # seconds until a device is open: a first compilation may belong to it


def worker(device: str) -> list[str]:
    """The command of a child for a device string."""
    return [sys.executable, "-m", "hal.conformance.isolate", device]


def run_apart(command: Sequence[str], timeout: float, seed: int = 0) -> Runner:
    """A runner whose cases run in children of `command`, each for at most `timeout` seconds."""

    def run(cases: Sequence[Task], profile: Profile) -> Iterator[Result]:
        at = 0
        while at < len(cases):
            with Child(command) as child:
                child.send([[c.name, asdict(profile.allowance(c.name)), seed] for c in cases[at:]])
                opened = False
                while at < len(cases):
                    answer = child.answer(timeout if opened else OPENING)
                    if isinstance(answer, dict) and "begin" in answer:
                        opened = True
                        continue
                    if isinstance(answer, str) and at == 0 and not opened:
                        raise DeviceError(f"the child process {' '.join(command)} did not begin: {answer}")
                    case = cases[at]
                    at += 1
                    if isinstance(answer, dict):
                        yield Result(**answer)
                        continue
                    yield Result(case.name, case.operator, case.dtype, "failed", float("inf"), answer)
                    break  # a new child goes on

    return run


class Child:
    """A child process and the lines it writes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._call = ""  # of a library in C that it is in
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def send(self, tasks: list[Any]) -> None:
        """Tell the child its cases. One that dies meanwhile is noticed when it does not answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(tasks) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any] | str:
        """The next line, or in words why there is none."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            return f"no answer for {timeout:g} seconds: it hangs{self._where()}"
        if line is not None:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        return f"the process died {f'of signal {-code}' if code < 0 else f'with exit code {code}'}{self._where()}"

    def _where(self) -> str:
        return f" in {self._call}" if self._call else ""

    def _read(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed while it is read
            for line in stream:
                if line.startswith('{"call"'):
                    self._call = json.loads(line)["call"]
                elif line.startswith('{"'):  # a driver may print
                    self._lines.put(line)
        self._lines.put(None)


def serve(device: Device) -> None:
    """The child's side: run the cases that standard input names, one answer a line on standard output."""
    tasks: list[Task] = [*CHECKS, *every()]
    known = {task.name: task for task in tasks}
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a driver prints goes to standard error
    for name, allow, seed in json.loads(sys.stdin.readline()):
        print(json.dumps({"begin": name}), file=out, flush=True)
        result = run_task(device, known[name], Allowance(**allow), seed)
        answer = {key: value for key, value in vars(result).items() if key != "outputs"}
        print(json.dumps(answer), file=out, flush=True)


def announce_calls() -> None:
    """Tell the parent of each call of a library in C before it is made: it may be the last."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    listen(lambda call: print(json.dumps({"call": call}), file=out, flush=True))


if __name__ == "__main__":
    announce_calls()
    serve(open_device(sys.argv[1]))
