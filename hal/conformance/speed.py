"""Speed of a device beside NumPy on the same machine: milestone M6. Reported; nothing passes or fails by it.

Operands lie in the device's memory, a plan is made once, and what is timed is calls up to `synchronize`. Rounds of the
device and of NumPy take turns; the figure is a median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hal.conformance.case import make_op
from hal.conformance.layout import contiguous
from hal.device import Device
from hal.errors import HalError
from hal.op import Op

ROUNDS = 7
LONG_ENOUGH = 0.02  # seconds of a round


@dataclass(frozen=True)
class Speed:
    """One operator: median seconds of a call on the device and in NumPy, and what the call amounts to."""

    what: str
    unit: str  # "GFLOP/s" or "GB/s"
    amount: float  # of a call, in 1e9 operations or bytes
    device: float
    numpy: float

    def line(self) -> str:
        """`matmul float32 512x512x512   153.2 GFLOP/s   1.10 x NumPy`"""
        return (
            f"{self.what:<32} {self.amount / self.device:9.1f} {self.unit:<8} {self.numpy / self.device:6.2f} x NumPy"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds of a call."""
        return {"what": self.what, "unit": self.unit, "amount": self.amount, "device": self.device, "numpy": self.numpy}


def softmax(x: np.ndarray[Any, Any]) -> Any:
    """As a user of NumPy writes it."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def measure(device: Device) -> list[Speed]:
    """matmul and softmax in float32, where the device has them."""
    rng = np.random.default_rng(0)
    n, rows, row = 512, 1024, 1024
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    x = rng.standard_normal((rows, row), np.float32)
    matrix = contiguous("float32", (n, n))
    products = make_op("matmul", {"a": matrix, "b": matrix})
    weights = make_op("softmax", {"x": contiguous("float32", (rows, row))})
    asked: list[tuple[str, str, float, Op, list[Any], Callable[[], Any]]] = [
        (f"matmul float32 {n}x{n}x{n}", "GFLOP/s", 2 * n**3 / 1e9, products, [a, b], lambda: a @ b),
        (f"softmax float32 {rows}x{row}", "GB/s", 2 * x.nbytes / 1e9, weights, [x], lambda: softmax(x)),
    ]
    found = []
    for what, unit, amount, op, operands, peer in asked:
        try:
            found.append(Speed(what, unit, amount, *beside(device, op, operands, peer)))
        except HalError:
            continue  # the cases have said so
    return found


def beside(device: Device, op: Op, operands: list[Any], peer: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of a call on the device, and of `peer`."""
    plan = device.prepare(op)
    inputs = [(device.alloc(x.nbytes), 0) for x in operands]
    outputs = [(device.alloc(spec.size * spec.itemsize), 0) for _, spec in op.outputs]
    try:
        for (handle, _), x in zip(inputs, operands, strict=True):
            device.copy_in(handle, 0, x.reshape(-1).view(np.uint8))

        def call(times: int) -> None:
            for _ in range(times):
                plan(outputs, inputs)
            device.synchronize()

        return in_turn(call, lambda times: [peer() for _ in range(times)])
    finally:
        for handle, _ in (*inputs, *outputs):
            device.free(handle)


def in_turn(one: Callable[[int], Any], two: Callable[[int], Any]) -> tuple[float, float]:
    """Median seconds of a call of each, rounds in turn. The first of each is a warm-up."""
    both = (one, two)
    times = []
    for work in both:
        work(1)
        start = time.perf_counter()
        work(1)
        times.append(max(1, int(LONG_ENOUGH / max(time.perf_counter() - start, 1e-7))))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for work, count, found in zip(both, times, seconds, strict=True):
            start = time.perf_counter()
            work(count)
            found.append((time.perf_counter() - start) / count)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
