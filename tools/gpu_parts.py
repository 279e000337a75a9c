"""Parts of `make gpu`: is every result right, how near is the emulator to the hardware, what does a launch cost."""

from __future__ import annotations

import time
import timeit
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hal
from hal.conformance import Case, run_case, select
from hal.conformance.memory import NAN_FILL
from hal.conformance.runner import execute
from hal.errors import HalError, UnsupportedError
from hal.kernel import KernelDevice, KernelPlan
from hal.ops import judge

MOST_SHOWN = 40
EVERY = 5  # of the smoke cases, one in so many is a sample of bits


def conformance(name: str, quick: bool, seconds: float) -> dict[str, Any]:
    """Every case of the judge, or those that the time allows."""
    device = hal.device(name)
    cases = select("smoke", pattern="/float32/")[::10] if quick else select("full")
    end = time.monotonic() + seconds
    count: Counter[str] = Counter()
    wrong: list[str] = []
    worst: dict[tuple[str, str], float] = {}
    for done, case in enumerate(cases):
        if time.monotonic() > end:
            wrong.append(f"time was up after {done} of {len(cases)} cases")
            break
        result = run_case(device, case)
        undeclared = result.status == "unsupported" and result.dtype in device.info.dtypes
        count[result.status] += 1
        if result.status == "failed" or undeclared:
            wrong.append(f"{case.name}: {result.status}: {result.message}"[:500])
        key = case.operator, case.dtype
        worst[key] = max(worst.get(key, 0.0), result.ratio)
    rows = [
        {"operator": operator, "dtype": dtype, "largest error / bound": ratio}
        for (operator, dtype), ratio in worst.items()
    ]
    return {"rows": rows, "summary": dict(count), "wrong": wrong[:MOST_SHOWN]}


def bits(name: str, quick: bool, seconds: float) -> dict[str, Any]:
    """The same kernels on the same data, on the GPU and emulated.

    Bits may differ where an instruction is approximate (ex2, rcp …) or where hardware sums in an order of its own
    (mma): then both have to lie in the bound, and how far apart they are is the finding.
    """
    device = hal.device(name)
    assert isinstance(device, KernelDevice)
    emulated = hal.device(f"ptx:{device.info.props['target']}")
    assert isinstance(emulated, KernelDevice)
    end = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    wrong, skipped = [], []
    cases = select("smoke", pattern="/float32/")[::20] if quick else select("smoke")[::EVERY]
    for done, case in enumerate(cases):
        if time.monotonic() > end:
            skipped.append(f"time was up after {done} of {len(cases)} cases")
            break
        try:
            rows.append(compare(device, emulated, case))
        except UnsupportedError as error:
            skipped.append(f"{case.name}: {error}"[:200])
        except HalError as error:
            wrong.append(f"{case.name}: {error}"[:500])
    wrong += [f"{row['case']}: one of the two left the bound" for row in rows if not row["both right"]]
    same = sum(row["differ"] == 0 for row in rows)
    summary = {"cases": len(rows), "the same bits": same}
    return {"rows": [row for row in rows if row["differ"]], "summary": summary, "wrong": wrong, "skipped": skipped}


def compare(device: KernelDevice, emulated: KernelDevice, case: Case) -> dict[str, Any]:
    """One case by one config on both."""
    plan = device.prepare(case.op)
    assert isinstance(plan, KernelPlan)
    twin = emulated.prepare_config(case.op, emulated.algorithms[case.operator], plan.config)
    images = case.inputs()
    inputs = [image.elements.copy() for image in images]
    results = []
    for where, planned in ((device, plan), (emulated, twin)):
        results.append(execute(where, planned, case.op, images, case.shared, NAN_FILL)[0])
    right = all(judge(case.op, inputs, outputs).ok for outputs in results)
    differ, total, apart = distance(*results)
    config = str(plan.config)
    return {
        "case": case.name,
        "config": config,
        "elements": total,
        "differ": differ,
        "ulps apart": apart,
        "both right": right,
    }


def distance(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> tuple[int, int, int]:
    """How many elements differ, of how many, and the largest distance in units of the last place."""
    differ = total = apart = 0
    for x, y in zip(first, second, strict=True):
        whole = np.dtype(f"i{x.dtype.itemsize}")
        raw = [np.ascontiguousarray(z).view(whole) for z in (x, y)]
        one, two = map(ordered, raw)
        unequal = raw[0] != raw[1]
        differ += int(np.count_nonzero(unequal))
        total += x.size
        if unequal.any():
            apart = max(apart, max(abs(int(a) - int(b)) for a, b in zip(one[unequal], two[unequal], strict=True)))
    return differ, total, apart


def ordered(raw: NDArray[Any]) -> NDArray[Any]:
    """The bits of floats (or integers) as integers in the order of the values."""
    return np.where(raw < 0, np.iinfo(raw.dtype).min - raw, raw)


def launch(name: str, quick: bool, seconds: float) -> dict[str, Any]:
    """CPU time of a launch of a small softmax, the queue being emptied now and then."""
    device = hal.device(name)
    x = hal.asarray(np.ones((4, 128), np.float32), device=name)
    y = hal.empty((4, 128), dtype="float32", device=name)
    held = hal.plan("softmax", x)
    plan, outputs, inputs = held._plan, [y.operand()], [x.operand()]
    ways = {
        "plan, held": lambda: plan(outputs, inputs),
        "hal.plan, held": lambda: held(x, y),
        "hal.softmax(out=)": lambda: hal.softmax(x, out=y),
        "hal.softmax": lambda: hal.softmax(x),
    }
    rows = []
    number = 10 if quick else 500  # fewer than fill the queue, where launches wait for the GPU
    for label, way in ways.items():
        times = []
        for _ in range(3 if quick else 50):
            times.append(timeit.timeit(way, number=number) / number * 1e6)
            device.synchronize()
        rows.append({"call": label, "us": float(np.median(times)), "least": min(times)})
    return {"rows": rows}
