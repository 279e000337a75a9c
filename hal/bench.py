"""`hal bench dispatch`: what a call costs in Python beside the driver's own work, in microseconds.

Each figure is the least of several rounds' means: the interpreter's cost is what is asked for, not the machine's noise.
Nothing here is a test; results that are kept lie in bench/results/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import hal
from hal import calls
from hal.op import TensorSpec

ROUNDS = 7
# What DESIGN asks of each line; None where the line is there to compare with.
GOALS: dict[str, float | None] = {
    "numpy.matmul 4x4, whole": None,
    "torch.mm 4x4, whole": None,
    "NumPy: key and lookup": 0.6,
    "hal.Array: key and lookup": 0.6,
    "torch: key and lookup": 1.1,
    "held plan": 0.5,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal bench`."""
    parser.add_argument("what", choices=["dispatch"], help="dispatch: the cost of a call in Python, driver excluded")
    parser.add_argument("--device", default="cpu", help="device whose new-shape cost is measured (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print. 0: done; goals are shown beside the figures and do not change the exit code."""
    figures = call_costs()
    new_shape = new_shape_costs(args.device)
    if args.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "processor": platform.machine()}
        print(json.dumps({"machine": machine, "microseconds": figures, "new shape": new_shape}, indent=2))
        return 0
    print(f"{'microseconds':34} {'measured':>9} {'goal':>7}")
    for name, figure in figures.items():
        goal = GOALS.get(name)
        print(f"{name:34} {figure:9.2f} {goal if goal is not None else '':>7}")
    print(f"\na new shape of a known class on {args.device}, 1,000 random shapes each:")
    print(f"{'operator':34} {'median us':>9} {'p90 us':>7}  compiled by the second 1,000")
    for name, row in new_shape.items():
        print(f"{name:34} {row['median']:9.1f} {row['p90']:7.1f}  {row['compiled']:g}")
    return 0


def call_costs() -> dict[str, float]:
    """Microseconds of each kind of call, the device's work taken out."""
    figures: dict[str, float] = {}
    a, b = np.ones((4, 4), np.float32), np.ones((4, 4), np.float32)
    figures["numpy.matmul 4x4, whole"] = best(lambda: np.matmul(a, b))
    with hal.use("cpu"):
        x, y, out = hal.asarray(a), hal.asarray(b), hal.empty((4, 4), "float32")
        step = hal.plan("matmul", x, y)
        hal.matmul(a, b), hal.matmul(x, y)
        torch = sys.modules.get("torch") or _torch()
        if torch is not None:
            p, q = torch.ones(4, 4), torch.ones(4, 4)
            figures["torch.mm 4x4, whole"] = best(lambda: torch.mm(p, q))
            hal.matmul(p, q)
        original = calls.Call.__call__
        calls.Call.__call__ = lambda self, arrays, out: None  # type: ignore[method-assign]
        try:
            figures["NumPy: key and lookup"] = best(lambda: hal.matmul(a, b))
            figures["hal.Array: key and lookup"] = best(lambda: hal.matmul(x, y))
            if torch is not None:
                figures["torch: key and lookup"] = best(lambda: hal.matmul(p, q))
        finally:
            calls.Call.__call__ = original  # type: ignore[method-assign]
        step._plan = lambda outputs, inputs: None  # type: ignore[assignment]
        figures["held plan"] = best(lambda: step(x, y, out))
    return figures


def best(function: Callable[[], Any]) -> float:
    """Microseconds a call: the least of the rounds' means, the empty loop taken out."""
    number = 20_000

    def once(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in itertools.repeat(None, number):
            call()
        return (time.perf_counter() - start) / number * 1e6

    return min(once(function) for _ in range(ROUNDS)) - min(once(_nothing) for _ in range(ROUNDS))


def _nothing() -> None:
    return None


def new_shape_costs(device: str) -> dict[str, dict[str, float]]:
    """For each operator: microseconds from specs to a plan for shapes not seen before, and what they compiled."""
    opened, results = hal.device(device), {}
    for name, draw in SHAPES.items():
        generator, compiled, times = random.Random(1), [], []
        for _ in range(2):
            for _ in range(1000):
                specs = [TensorSpec.contiguous("float32", shape, 64) for shape in draw(generator)]
                start = time.perf_counter()
                hal.plan(name, *specs, device=opened)
                times.append((time.perf_counter() - start) * 1e6)
            compiled.append(opened.compilations() if hasattr(opened, "compilations") else 0)
        second = sorted(times[1000:])
        results[name] = {
            "median": statistics.median(second),
            "p90": second[900],
            "compiled": float(compiled[1] - compiled[0]),
        }
    return results


def _matmul_shapes(generator: random.Random) -> list[tuple[int, ...]]:
    m, n, k = (generator.randint(2, 300) for _ in range(3))
    return [(m, k), (k, n)]


def _row_shapes(generator: random.Random) -> list[tuple[int, ...]]:
    return [(generator.randint(2, 300), generator.randint(129, 256))]


SHAPES: dict[str, Callable[[random.Random], list[tuple[int, ...]]]] = {
    "matmul": _matmul_shapes,
    "softmax": _row_shapes,
    "layernorm": _row_shapes,
    "rmsnorm": _row_shapes,
}


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch
