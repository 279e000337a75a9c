"""Part of `make gpu`: kernels with a planted fault, shown to hal's emulator and to NVIDIA's compute-sanitizer.

Each fault is run on the GPU in a process of its own, under the tool of compute-sanitizer that should find it.
`python tools/gpu_faults.py NAME DEVICE` is that process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

THREADS = 64

# Each thread writes its number to shared memory, and after the barrier stores its neighbour's.
ROTATE = """\
.version 7.0
.target sm_75
.address_size 64
.visible .entry rotate(.param .u64 y, .param .u64 x)
{
    .reg .pred %p;
    .reg .s32 %thread, %at, %next, %v;
    .reg .s64 %x, %y, %offset;
    .shared .align 4 .b8 tile[256];
    mov.u32 %thread, %tid.x;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mul.wide.s32 %offset, %thread, 4;
    add.s64 %x, %x, %offset;
    add.s64 %y, %y, %offset;
    ld.global.s32 %v, [%x];
    mov.u32 %at, tile;
    mad.lo.s32 %next, %thread, 4, %at;
    st.shared.s32 [%next], %v;
    bar.sync 0;
    add.s32 %next, %thread, 1;
    and.b32 %next, %next, 63;
    mad.lo.s32 %next, %next, 4, %at;
    ld.shared.s32 %v, [%next];
    st.global.s32 [%y], %v;
    ret;
}
"""


@dataclass(frozen=True)
class Fault:
    """A replacement in the text, and the tool of compute-sanitizer that is made for it ("": none is)."""

    old: str
    new: str
    tool: str = "memcheck"
    unwritten: bool = False  # x is memory that nobody has written


FAULTS = {
    "none": Fault("", ""),
    "store past the end": Fault("add.s64 %y, %y, %offset;", "add.s64 %y, %y, %offset;\n    add.s64 %y, %y, 4;"),
    "load before the start": Fault("add.s64 %x, %x, %offset;", "add.s64 %x, %x, %offset;\n    sub.s64 %x, %x, 4;"),
    "wild pointer": Fault("add.s64 %x, %x, %offset;", "shl.b64 %x, %x, 8;"),
    "misaligned load": Fault("add.s64 %x, %x, %offset;", "add.s64 %x, %x, 2;"),
    "shared memory past the end": Fault("st.shared.s32 [%next], %v;", "st.shared.s32 [%next+4], %v;"),
    "missing barrier": Fault("    bar.sync 0;\n", "", "racecheck"),
    "two threads, one place": Fault("st.shared.s32 [%next], %v;", "st.shared.s32 [%at], %v;", "racecheck"),
    "unwritten global memory": Fault("", "", "initcheck", unwritten=True),
    "unwritten shared memory": Fault("    st.shared.s32 [%next], %v;\n", "", "initcheck"),
    "divergent barrier": Fault(
        "    bar.sync 0;\n", "    setp.lt.s32 %p, %thread, 40;\n    @%p bar.sync 0;\n", "synccheck"
    ),
    "race on global memory": Fault(
        "st.global.s32 [%y], %v;", "sub.s64 %y, %y, %offset;\n    st.global.s32 [%y], %v;", ""
    ),
}


def text_of(fault: Fault) -> str:
    if fault.old:
        assert ROTATE.count(fault.old) == 1, fault.old
    return ROTATE.replace(fault.old, fault.new) if fault.old else ROTATE


def faults(device: str, quick: bool, seconds: float) -> dict[str, Any]:
    """A row for each fault: did the emulator find it, did compute-sanitizer? Wrong only where the emulator did not."""
    sanitizer = shutil.which("compute-sanitizer")
    skipped = [] if sanitizer else ["compute-sanitizer is not on PATH: its column is empty"]
    end = time.monotonic() + seconds
    rows, wrong = [], []
    for name, fault in list(FAULTS.items())[:: 4 if quick else 1]:
        findings = emulated(fault)
        row: dict[str, Any] = {"fault": name, "emulator": findings[0] if findings else "nothing", "tool": fault.tool}
        if bool(findings) != (name != "none"):
            wrong.append(f"{name}: the emulator reports {row['emulator']}")
        if sanitizer and fault.tool:
            if time.monotonic() > end:
                skipped.append(f"{name}: time was up for compute-sanitizer")
            else:
                row["compute-sanitizer"] = sanitized(sanitizer, fault.tool, name, device)
        rows.append(row)
    return {"rows": rows, "skipped": skipped, "wrong": wrong}


def emulated(fault: Fault) -> list[str]:
    """Kinds and lines of the emulator's findings under all timings."""
    from hal_nvidia_ptx import check

    ints = np.arange(THREADS, dtype=np.int32)
    report = check(text_of(fault), 1, THREADS, [np.zeros_like(ints), f"x:s32[{THREADS}]" if fault.unwritten else ints])
    return [f"{finding.kind}, line {finding.line}" for finding in report.findings]


def sanitized(program: str, tool: str, name: str, device: str) -> str:
    """What compute-sanitizer says of the fault on the GPU."""
    command = [program, "--tool", tool, sys.executable, __file__, name, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be asked: {error}"
    said = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", done.stdout + done.stderr)
    if not said:
        return f"no summary (exit code {done.returncode})"
    count = int(said[-1][0] or said[-1][1])
    return f"{count} reported" if count else "nothing"


def plant(name: str, device: str) -> None:
    """Run a fault on a GPU. What comes of it is compute-sanitizer's to say."""
    import hal
    from hal_nvidia_ptx import load

    fault = FAULTS[name]
    y = hal.empty((THREADS,), dtype="float32", device=device)
    x = hal.empty((THREADS,), dtype="float32", device=device)
    if not fault.unwritten:
        x = hal.asarray(np.arange(THREADS, dtype=np.float32), device=device)
    load(text_of(fault))["rotate"](1, THREADS, y, x)
    hal.device(device).synchronize()


if __name__ == "__main__":
    plant(*sys.argv[1:])
