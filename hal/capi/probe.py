"""What a library provides, found out in a child process: one that crashes or hangs ends the child and nothing else.

The child is `python -m hal.capi.probe PATH`. It writes lines of JSON: the C call that it is in, and last what it found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hal.capi.device import Backend, Device
from hal.capi.library import listen
from hal.device import DeviceInfo
from hal.dtypes import DTYPES
from hal.errors import HalError, UnsupportedError
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS

TIMEOUT = 60.0  # seconds: drivers may take long to find their devices


@dataclass(frozen=True)
class Probe:
    """`problem` is empty if the library can be used; `found` is what is known of it, as plain values for JSON."""

    problem: str
    found: dict[str, Any] = field(default_factory=dict)


def probe(path: Path, timeout: float = TIMEOUT, *, opening: bool = True) -> Probe:
    """Ask a library, in a child process, for all that it provides; without `opening`, no more than what devices say."""
    command = [sys.executable, "-m", "hal.capi.probe", str(path), *(["open"] if opening else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        out, err = child.communicate(timeout=timeout)
        end = ending(child.returncode)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        end = f"did not return within {timeout:g} seconds"
    return _read(out, err, end)


def ending(code: int) -> str:
    """How a process ended that should not have: "ended by signal SIGSEGV"."""
    if code >= 0:
        return f"ended the process with exit code {code}"
    names = {int(each): each.name for each in signal.Signals}
    return f"ended by signal {names.get(-code, -code)}"


def _read(out: str, err: str, end: str) -> Probe:
    call, found = "loading the library", dict[str, Any]()
    for line in out.splitlines():
        if not line.startswith('{"'):  # a driver may print
            continue
        said = json.loads(line)
        call = said.get("call", call)
        found = said.get("found", found)
        if "done" in said:
            return Probe(said["done"], found)
    last = err.strip().splitlines()[-1:]  # what a library says before it gives up
    return Probe(f"{call or 'outside of any call'}: {end}{f' ({last[0]})' if last else ''}", found)


# ---- the child


def main(path: str, *, opening: bool) -> None:
    """Load, ask, and if asked to open every device and prepare a call of every operator and dtype."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a driver prints goes to standard error

    def say(**words: Any) -> None:
        print(json.dumps(words), file=out, flush=True)

    listen(lambda call: say(call=call))
    problem = ""
    try:
        for found in _ask(Backend(path), opening):
            say(found=found)
    except HalError as error:
        problem = str(error)
    say(done=problem)


def _ask(backend: Backend, opening: bool) -> Iterator[dict[str, Any]]:
    """What is known so far, more each time."""
    library = backend.library
    found: dict[str, Any] = {
        "name": library.name,
        "abi": f"{library.table.abi_major}.{library.minor}",
        "version": library.version,
        "functions": library.functions(),
        "devices": [],
    }
    yield found
    infos = backend.devices()
    found["devices"] = [_plain(info) for info in infos]
    if not infos:
        found["why_none"] = backend.why_none()
    yield found
    for info, shown in zip(infos, found["devices"], strict=True) if opening else ():
        device = Device(library, info)
        shown["operators"] = {name: _support(device, name) for name in OPERATORS}
        yield found
        device.close()


def _plain(info: DeviceInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "vendor": info.vendor,
        "dtypes": sorted(info.dtypes, key=list(DTYPES).index),
        "memory": info.memory,
        "dlpack_type": info.dlpack_type,
        "torch_type": info.torch_type,
        "host_memory": info.props["host_memory"],
    }


def _support(device: Device, operator: str) -> dict[str, str]:
    """For each dtype that the device lists: empty if a plain call is prepared, else the reason why not."""
    answers = {}
    for dtype in sorted(device.info.dtypes, key=list(DTYPES).index):
        if dtype == "int8" and operator != "matmul":
            continue
        try:
            device.prepare(plain_op(operator, dtype))
            answers[dtype] = ""
        except UnsupportedError as error:
            answers[dtype] = str(error)
    return answers


def plain_op(name: str, dtype: str) -> Op:
    """The smallest call of an operator that is not special: two square matrices, or rows without options."""
    operator = OPERATORS[name]
    spec = TensorSpec.contiguous(dtype, (8, 8))
    operands = dict.fromkeys(operator.roles[: operator.required], spec)
    options = {**operator.options, "deterministic": "run"}
    results = [TensorSpec.contiguous(each.dtype, each.shape) for each in operator.infer(operands, options)]
    return operator.build(operands, results, options)


if __name__ == "__main__":
    main(sys.argv[1], opening="open" in sys.argv[2:])
