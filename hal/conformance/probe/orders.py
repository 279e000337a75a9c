"""What the bits of a matmul's result depend on: the order of its terms, the run, the rows computed with it."""

from __future__ import annotations

import numpy as np

from hal.conformance.probe.finding import Answer, Array, Probe, call, operator
from hal.device import Device

FLOATS = ("float32", "float16", "bfloat16", "float64")
K, ROWS, COLUMNS = 1000, 64, 48
RUNS = 5


def operands() -> tuple[Array, Array]:
    """Normally distributed."""
    rng = np.random.default_rng(11)
    return rng.standard_normal((ROWS, K)), rng.standard_normal((K, COLUMNS))


def product(device: Device, dtype: str, a: Array, b: Array) -> Array:
    """In the widest dtype that shows the sum."""
    wide = "float64" if dtype == "float64" else "float32"
    op = operator("matmul", dtype, {"a": a.shape, "b": b.shape}, out_dtype=wide)
    return call(device, op, a, b)[0]


def terms(device: Device, dtype: str) -> Answer:
    """The order of the terms."""
    a, b = operands()
    order = np.random.default_rng(12).permutation(K)
    same = np.array_equal(product(device, dtype, a, b), product(device, dtype, a[:, order], b[order]))
    return ("no influence" if same else "changes bits", f"K = {K}")


def runs(device: Device, dtype: str) -> Answer:
    """The run."""
    a, b = operands()
    results = {product(device, dtype, a, b).tobytes() for _ in range(RUNS)}
    return ("no influence" if len(results) == 1 else "changes bits", f"{RUNS} runs")


def neighbours(device: Device, dtype: str) -> Answer:
    """Rows computed with it."""
    a, b = operands()
    whole = product(device, dtype, a, b)
    sizes = [n for n in (1, 2, 7, 33) if not np.array_equal(product(device, dtype, a[:n], b), whole[:n])]
    value = "no influence" if not sizes else f"changes bits ({', '.join(map(str, sizes))} of {ROWS} rows)"
    return (value, "1, 2, 7, 33 rows alone")


PROBES: tuple[tuple[str, Probe, tuple[str, ...]], ...] = (
    ("the order of a sum's terms", terms, FLOATS),
    ("the run", runs, FLOATS),
    ("the rows computed with it", neighbours, FLOATS),
)
