"""A dense layer at full size: (tokens, K) @ (K, N), the weights (N, K) in memory, judged by sample and projection.

Of every panel of weights, the first and the last row of the result and COLUMNS of its columns are judged element by
element with matmul's own bound. Everything else is judged by projections: over each block of 16 columns with random
signs v, the error of got . v is a sum of v_j d_j where |d_j| <= b_j = e_j + half a unit of got_j, so that

    |got . v - exact . v| > sqrt(2 ln(2 / P) sum b_j^2)

happens to a right result with a probability of at most P (W. Hoeffding, "Probability inequalities for sums of bounded
random variables", 1963). What a projection can miss is what fits below: `Findings.blind` says how large a single wrong
element may be, in units of the result's root mean square.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hal.bound import U, Verdict
from hal.conformance.case import make_op
from hal.conformance.runner import Result
from hal.conformance.session import Outcome
from hal.conformance.shapes.weights import BOUND, panel, widen
from hal.conformance.subjects.functions import FunctionSubject
from hal.device import Device
from hal.dtypes import DTYPES, accumulator
from hal.errors import UnsupportedError
from hal.op import Op, TensorSpec
from hal.ops import judge

PANEL_ROWS = 1024  # weights are made and judged so many columns of the result at a time
BLOCK = 16  # columns of a projection
COLUMNS = 6  # of a panel, judged element by element
FALSE_ALARM = 1e-12  # probability that one projection accuses a right result


@dataclass(frozen=True)
class Layer:
    """One layer. `n` columns from column `first` of the model's layer are computed in one call."""

    name: str
    dtype: str
    tokens: int
    k: int
    n: int
    first: int = 0

    def op(self) -> Op:
        """The call: b is a transposed view of row-major weights."""
        a = TensorSpec.contiguous(self.dtype, (self.tokens, self.k), 64)
        return make_op("matmul", {"a": a, "b": TensorSpec(self.dtype, (self.k, self.n), (1, self.k), 64)})

    def panels(self) -> Iterator[tuple[int, int]]:
        """(first column within this call, columns) of each panel."""
        for start in range(0, self.n, PANEL_ROWS):
            yield start, min(PANEL_ROWS, self.n - start)

    def slices(self, limit: int) -> list[Layer]:
        """The layer as calls whose weights take at most `limit` bytes."""
        row = self.k * DTYPES[self.dtype].itemsize
        columns = max(limit // row // PANEL_ROWS, 1) * PANEL_ROWS
        return [replace(self, n=min(columns, self.n - start), first=start) for start in range(0, self.n, columns)]


@dataclass
class Findings:
    """What was found. blind: the largest single error that a projection misses, over the result's root mean square."""

    ratio: float = 0.0
    blind: float = 0.0
    elements: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, where: str) -> None:
        """The judgement of some elements."""
        self.ratio = max(self.ratio, verdict.ratio)
        self.elements += verdict.size
        if not verdict.ok:
            self.faults.append(f"{where}: {verdict.message}")


def judge_layer(device: Device, layer: Layer, limit: int, seed: int = 0) -> Outcome:
    """Run a layer in slices of at most `limit` bytes of weights and judge it."""
    start = time.perf_counter()
    slices, found = layer.slices(limit), Findings()

    def outcome(status: str, reason: str) -> Outcome:
        seconds = time.perf_counter() - start
        kind = "unsupported" if status == "skipped" else status
        ratio = float("inf") if status == "failed" and not found.faults else found.ratio
        return Outcome(Result(layer.name, "matmul", layer.dtype, kind, ratio, reason, seconds), status, reason)

    if isinstance(device, FunctionSubject) and (why := device.why_not(layer.op())):
        return outcome("skipped", why)
    try:
        for part in slices:
            judge_slice(device, part, found, seed)
    except UnsupportedError as error:
        return outcome("skipped" if layer.dtype not in device.info.dtypes else "failed", str(error))
    except Exception as error:  # a stranger's device may raise anything
        return outcome("failed", f"{type(error).__name__}: {error}")
    calls = f" in {len(slices)} calls" if len(slices) > 1 else ""
    size = f"{layer.tokens}x{layer.k}x{layer.n}{calls}"
    if found.faults:
        more = f"; and {len(found.faults) - 1} more panels" if len(found.faults) > 1 else ""
        return outcome("failed", f"{size}: {found.faults[0]}{more}")
    return outcome(
        "passed",
        f"{size}: {found.elements} elements judged one by one; a projection misses a single error below "
        f"{found.blind:.2g} of the root mean square",
    )


def judge_slice(device: Device, layer: Layer, found: Findings, seed: int) -> None:
    """One call, judged."""
    rng = np.random.default_rng([seed, layer.k, layer.first])
    a = rng.standard_normal((layer.tokens, layer.k)).astype(DTYPES[layer.dtype].numpy)
    got = run(device, layer, a, seed)
    wide_a = widen(a)
    for start, count in layer.panels():
        weights = panel(layer.name, layer.dtype, count, layer.k, layer.first + start, seed)
        part = got[:, start : start + count]
        where = f"columns {layer.first + start} to {layer.first + start + count - 1}"
        judge_samples(layer, a, weights, part, found, where, rng)
        project(layer, wide_a, weights, part, found, where, rng)


def run(device: Device, layer: Layer, a: NDArray[Any], seed: int) -> NDArray[Any]:
    """The result of a call, (tokens, n); the weights go to the device panel by panel."""
    op, dtype = layer.op(), DTYPES[layer.dtype].numpy
    row = layer.k * dtype.itemsize
    with ExitStack() as stack:

        def memory(nbytes: int) -> Any:
            handle = device.alloc(max(nbytes, 1))
            stack.callback(device.free, handle)
            return handle

        in_a, in_b, out = memory(a.nbytes), memory(layer.n * row), memory(layer.tokens * layer.n * dtype.itemsize)
        device.copy_in(in_a, 0, _bytes(a))
        for start, count in layer.panels():
            weights = panel(layer.name, layer.dtype, count, layer.k, layer.first + start, seed)
            device.copy_in(in_b, start * row, _bytes(weights))
        got = np.full(layer.tokens * layer.n * dtype.itemsize, 0xFF, np.uint8)
        device.copy_in(out, 0, got)
        device.prepare(op)([(out, 0)], [(in_a, 0), (in_b, 0)])
        device.synchronize()
        device.copy_out(got, out, 0)
    return got.view(dtype).reshape(layer.tokens, layer.n)


def judge_samples(
    layer: Layer, a: NDArray[Any], weights: NDArray[Any], got: NDArray[Any], found: Findings, where: str, rng: Any
) -> None:
    """The first and the last row, and some columns, each element against matmul's bound."""
    ends = sorted({0, layer.tokens - 1})
    count = len(weights)
    columns = np.unique(np.concatenate(([0, count - 1], rng.integers(0, count, COLUMNS - 2))))
    for rows, some, label in ((ends, slice(None), "rows"), (slice(None), columns, "columns")):
        left, right = a[rows], weights[some]
        small = replace(layer, tokens=len(left), n=len(right)).op()
        found.add(judge(small, [left, right.T], [got[rows][:, some]]), f"sampled {label} of {where}")


def project(
    layer: Layer,
    a: NDArray[np.float64],
    weights: NDArray[Any],
    got: NDArray[Any],
    found: Findings,
    where: str,
    rng: Any,
) -> None:
    """The projections of a panel."""
    wide, result = widen(weights), widen(got)
    kind = accumulator(layer.dtype)
    steps = (layer.k + 2) * U[kind]
    e = steps / (1 - steps) * BOUND * np.abs(a).sum(axis=1, keepdims=True)
    allowed = e + half_ulp(result, layer.dtype)
    signs = rng.integers(0, 2, len(weights)) * 2.0 - 1.0
    starts = np.arange(0, len(weights), BLOCK)
    exact = a @ np.add.reduceat(wide * signs[:, None], starts, axis=0).T
    with np.errstate(invalid="ignore"):
        off = np.abs(np.add.reduceat(result * signs, starts, axis=1) - exact)
    squares = np.add.reduceat(allowed * allowed, starts, axis=1)
    limit = np.sqrt(2 * math.log(2 / FALSE_ALARM) * squares)
    wrong = ~(off <= limit)  # NaN too
    if wrong.any():
        row, block = (int(i) for i in np.argwhere(wrong)[0])
        found.ratio = max(found.ratio, float(np.nan_to_num(off / limit, nan=np.inf).max()))
        found.faults.append(
            f"projection of row {row} over columns {layer.first + block * BLOCK} and following of {where} is off by "
            f"{off[row, block]:.3g}; a right result stays below {limit[row, block]:.3g}"
        )
        return
    scale = float(np.sqrt(np.mean(result * result))) or 1.0
    found.blind = max(found.blind, float(limit.max()) / scale)


def half_ulp(x: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """Half the distance between neighbours of `dtype` at x."""
    info = ml_dtypes.finfo(DTYPES[dtype].numpy)  # type: ignore[no-untyped-call]
    exponent = np.maximum(np.frexp(np.where(np.isfinite(x), x, 0.0))[1] - 1, int(info.minexp))
    return np.asarray(np.ldexp(0.5, exponent - int(info.nmant)), np.float64)


def _bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(x).view(np.uint8).reshape(-1)
