"""When is a result right? One rule for every operator, device and dtype, and no other tolerance anywhere.

Each operator gives, for each element and from the data alone, the exact result r and what its error e may be before
the last rounding. A result is right if and only if

    RN(r - e) <= result <= RN(r + e)

where RN rounds to nearest even in the result's dtype. NaN is right where r is NaN and only there; where r is infinite
the result equals r. docs/operators.md derives each e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hal.doubledouble import DoubleDouble, Float64, Wide, nearest
from hal.dtypes import DTYPES, accumulator, round_to

CHAIN = 128  # a contract: no row is summed in a chain of more additions; longer sums go in lanes or blocks
U = {"float32": 2.0**-24, "float64": 2.0**-53, "int32": 0.0}  # unit roundoff of an accumulator
SMALLEST = {"float32": 2.0**-149, "float64": 2.0**-1074, "int32": 0.0}  # its smallest positive number
NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}  # its smallest normal number
MAXIMUM = {"float32": float(np.finfo(np.float32).max), "float64": float(np.finfo(np.float64).max)}


@dataclass(frozen=True)
class Allowance:
    """What a device declares of itself, with a reason, in a profile: it widens the bound, and the verdict says so.

    flush: float32 subnormals, given or computed, may be set to 0. ulp_exp, ulp_log: the error of its exponential and
    logarithm in units in the last place; every device has 2.
    """

    flush: bool = False
    ulp_exp: float = 2.0
    ulp_log: float = 2.0

    def tiny(self, kind: str) -> float:
        """What underflow may cost a single operation in accumulator `kind`."""
        return NORMAL[kind] if self.flush else SMALLEST[kind]


STRICT = Allowance()


@dataclass(frozen=True)
class Exact:
    """What one output may be.

    value: r. error: e >= 0. overflow: where an intermediate may exceed the accumulator, so that infinity and NaN are
    right too; there `alternative`, if given, is right as well (what a norm gives for an infinite variance).
    """

    dtype: str
    value: Wide
    error: Float64
    overflow: NDArray[np.bool_] | None = None
    alternative: Float64 | None = None


@dataclass(frozen=True)
class Verdict:
    """The judgement of one call.

    ratio: the largest error before the last rounding in units of e (<= 1 inside the bound; inf where nothing but r
    itself is right and the result is not r). message: empty, or the worst element in words.
    """

    ok: bool
    ratio: float
    message: str = ""
    wrong: int = 0
    size: int = 0


def interval(exact: Exact) -> tuple[NDArray[Any], NDArray[Any]]:
    """(RN(r - e), RN(r + e)) in the output's dtype."""
    error = np.where(np.isnan(exact.error), 0.0, exact.error)
    with np.errstate(invalid="ignore", over="ignore"):
        if isinstance(exact.value, DoubleDouble):
            low, high = nearest(exact.value - error), nearest(exact.value + error)
            return round_to(low, exact.dtype), round_to(high, exact.dtype)
        return round_to(exact.value - error, exact.dtype), round_to(exact.value + error, exact.dtype)


def judge_output(got: NDArray[Any], exact: Exact, *, flush: bool = False, role: str = "out") -> Verdict:
    """Hold one output against its bound. `flush`: the device declared that it sets float32 subnormals to 0."""
    value = nearest(exact.value)
    if got.size == 0:
        return Verdict(True, 0.0)
    if exact.dtype == "int32":
        right = got == exact.value
        distance = np.where(right, 0.0, np.inf)
        return _verdict(right, distance, got, value, value, value, role)
    low, high = interval(exact)
    with np.errstate(invalid="ignore", over="ignore"):
        wide_low, wide_high, result = (x.astype(np.float64) for x in (low, high, got))
        inside = (wide_low <= result) & (result <= wide_high)
        right = np.where(np.isinf(value), result == round_to(value, exact.dtype).astype(np.float64), inside)
        right |= np.isnan(value) & np.isnan(result)
        # The error before the last rounding is at least what lies beyond half a unit in the last place of `got`.
        before_rounding = np.maximum(np.abs(result - value) - _half_ulp(result, exact.dtype), 0.0)
        error = np.broadcast_to(np.where(exact.error > 0, exact.error, 0.0), result.shape)
        distance = np.where(error > 0, before_rounding / np.where(error > 0, error, 1.0), np.inf)
        if exact.overflow is not None:
            excused = ~np.isfinite(result)
            if exact.alternative is not None:
                excused |= got == round_to(np.broadcast_to(exact.alternative, got.shape), exact.dtype)
            right |= exact.overflow & excused
        if flush:
            tiny = NORMAL.get(accumulator(exact.dtype), 0.0)
            near_zero = (np.abs(wide_low) < tiny) | (np.abs(wide_high) < tiny)
            right |= near_zero & (result == 0)
    distance = np.where(right & ~(distance <= 1.0), 0.0, distance)  # NaN, infinities, exact and excused results
    distance = np.where(~right & (distance <= 1.0), np.nextafter(1.0, 2.0), distance)
    distance = np.where(np.isnan(distance), np.inf, distance)
    return _verdict(right, distance, got, value, wide_low, wide_high, role)


def _half_ulp(x: Float64, dtype: str) -> Float64:
    """Half the distance between neighbours of `dtype` at x."""
    info = ml_dtypes.finfo(DTYPES[dtype].numpy)  # type: ignore[no-untyped-call]
    exponent = np.maximum(np.frexp(np.where(np.isfinite(x), x, 0.0))[1] - 1, int(info.minexp))
    return np.asarray(np.ldexp(0.5, exponent - int(info.nmant)))


def _verdict(
    right: NDArray[np.bool_],
    distance: Float64,
    got: NDArray[Any],
    value: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    role: str,
) -> Verdict:
    ratio = float(np.max(distance))
    wrong = int(np.size(right) - np.count_nonzero(right))
    if not wrong:
        return Verdict(True, ratio, size=got.size)
    first = tuple(int(i) for i in np.argwhere(~right)[0])
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(right, -1.0, distance))), right.shape))

    def element(at: tuple[int, ...]) -> str:
        return (
            f"{role}[{', '.join(map(str, at))}] = {got[at]!s}, right is {value[at]!s} "
            f"within [{low[at]!s}, {high[at]!s}]"
        )

    message = f"{wrong} of {got.size} elements are wrong; worst {element(worst)} ({distance[worst]:.3g} x the bound)"
    if first != worst:
        message += f"; first {element(first)}"
    return Verdict(False, ratio, message, wrong, got.size)
