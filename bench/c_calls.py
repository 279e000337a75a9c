"""What a call into a backend in C costs beside the library's own work, in microseconds.

The library here does nothing when it is launched, so that what is left is Python, cffi and the call itself.
`python bench/c_calls.py [--json FILE]`; needs cffi and a C compiler named cc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hal
from hal.capi import include

MINIMAL = Path(__file__).resolve().parent.parent / "examples" / "vendor_c" / "minimal.c"
SOURCE = f"""
#define hal_get_backend original
#include "{MINIMAL}"
#undef hal_get_backend
HAL_EXPORT const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor);
static hal_status nothing(hal_plan *plan, const hal_buffer *operands, const hal_buffer *space, hal_stream *stream) {{
    return (void)plan, (void)operands, (void)space, (void)stream, HAL_OK;
}}
const hal_backend *hal_get_backend(uint32_t host_major, uint32_t host_minor) {{
    static hal_backend table;
    table = *original(host_major, host_minor);
    table.op_launch = nothing;
    return &table;
}}
"""
CALLS, ROUNDS = 50_000, 9
GOALS = {"bound C call": 0.2, "plan(outputs, inputs)": 1.2}  # the other lines add what hal checks for every backend


def build(folder: Path) -> Path:
    """The library that does nothing."""
    (folder / "idle.c").write_text(SOURCE, encoding="utf-8")
    target = folder / "libidle.so"
    command = ["cc", "-O2", "-D_GNU_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{include()}"]
    subprocess.run([*command, str(folder / "idle.c"), "-o", str(target)], check=True)
    return target


def best(function: Callable[[], Any]) -> float:
    """Microseconds a call: the least of the rounds' means, the empty loop taken out."""

    def once(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in itertools.repeat(None, CALLS):
            call()
        return (time.perf_counter() - start) / CALLS * 1e6

    return min(once(function) for _ in range(ROUNDS)) - min(once(lambda: None) for _ in range(ROUNDS))


def measure(device: Any) -> dict[str, float]:
    """Microseconds of each kind of call, the library's own work being nothing."""
    with hal.use(device.name):
        x, y, z = (hal.asarray(np.ones((4, 4), np.float32)) for _ in range(3))
        step = hal.plan("matmul", x, y)
        plan = device.prepare(step.op)
    outputs, inputs = [z.operand()], [x.operand(), y.operand()]
    launch, pointer, null = device.library.launch, plan._plan, device.library.ffi.NULL
    packed = plan._pack(*z.operand(), *x.operand(), *y.operand())
    return {
        "bound C call": best(lambda: launch(pointer, packed, null, null)),
        "plan(outputs, inputs)": best(lambda: plan(outputs, inputs)),
        "held plan: step(x, y, z)": best(lambda: step(x, y, z)),
        "hal.matmul(x, y, out=z)": best(lambda: hal.matmul(x, y, out=z)),
        "hal.matmul(x, y)": best(lambda: hal.matmul(x, y)),
    }


def main() -> None:
    """Measure, print, and keep if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    file = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        (name,) = hal.load_plugin(build(Path(folder)))
        figures = {key: round(value, 3) for key, value in measure(hal.device(name)).items()}
    for key, value in figures.items():
        print(f"{key:28} {value:6.2f} us{f'   goal {GOALS[key]}' if key in GOALS else ''}")
    if file:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "processor": platform.machine()}
        file.write_text(json.dumps({"machine": machine, "microseconds": figures, "goals": GOALS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
