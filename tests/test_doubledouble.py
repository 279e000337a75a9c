"""Double-double arithmetic against mpmath: each function has some 100 bits, whatever the arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal import doubledouble as dd
from hal.doubledouble import DoubleDouble

mpmath = pytest.importorskip("mpmath")
mpmath.mp.prec = 400

BITS = 2.0**-98
moderate = st.floats(1e-60, 1e60).flatmap(lambda x: st.sampled_from((x, -x)))


def exact(x: DoubleDouble) -> Any:
    """The value of a scalar double-double."""
    return mpmath.mpf(float(x.hi)) + mpmath.mpf(float(x.lo))


def number(hi: float, fraction: float = 0.0) -> DoubleDouble:
    """hi + lo with a low part of up to half a unit in the last place."""
    return DoubleDouble(np.float64(hi), np.float64(fraction * math.ulp(hi) / 2))  # type: ignore[arg-type]


fractions = st.floats(-0.99, 0.99)


@given(moderate, fractions, moderate, fractions)
def test_arithmetic_has_a_hundred_bits(a: float, da: float, b: float, db: float) -> None:
    x, y = number(a, da), number(b, db)
    for got, want in (
        (x * y, exact(x) * exact(y)),
        (x / y, exact(x) / exact(y)),
    ):
        assert abs(exact(got) - want) <= BITS * abs(want)
    for got, want in ((x + y, exact(x) + exact(y)), (x - y, exact(x) - exact(y))):
        assert abs(exact(got) - want) <= BITS * (abs(exact(x)) + abs(exact(y))) * 2.0**-4


@given(moderate, fractions)
def test_a_result_is_normalised(a: float, da: float) -> None:
    got = number(a, da) * number(3.0, 0.3) + number(1.0, -0.7)
    assert float(got.hi) == float(got.hi) + float(got.lo)


def check(
    function: Callable[[Any], Any], wanted: Callable[[Any], Any], a: float, da: float, *, absolute: float
) -> None:
    x = number(a, da)
    want = wanted(exact(x))
    assert abs(exact(function(x)) - want) <= BITS * abs(want) + absolute


@given(st.floats(-600, 600), fractions)
def test_exp(a: float, da: float) -> None:
    # The argument's own error, k times that of ln 2, is relative in the result.
    check(dd.exp, mpmath.exp, a, da, absolute=2.0**-106 * abs(a) * mpmath.exp(a))


@given(st.floats(-745, -600))
def test_exp_near_the_smallest_numbers(a: float) -> None:
    x = DoubleDouble(np.float64(a))  # type: ignore[arg-type]
    assert abs(exact(dd.exp(x)) - mpmath.exp(a)) <= 2.0**-1074 + 2.0**-96 * mpmath.exp(a)


@given(st.floats(1e-30, 1e30), fractions)
def test_log(a: float, da: float) -> None:
    check(dd.log, mpmath.log, a, da, absolute=2.0**-100)


@given(st.floats(1e-100, 1e100), fractions)
def test_sqrt(a: float, da: float) -> None:
    check(dd.sqrt, mpmath.sqrt, a, da, absolute=0)


@given(st.floats(-50, 50), fractions)
def test_tanh(a: float, da: float) -> None:
    check(dd.tanh, mpmath.tanh, a, da, absolute=2.0**-96)


@given(st.floats(-40, 40), fractions)
def test_normal_cdf(a: float, da: float) -> None:
    check(dd.normal_cdf, mpmath.ncdf, a, da, absolute=1e-22)


@given(st.lists(st.floats(-1e10, 1e10), max_size=40))
def test_total(values: list[float]) -> None:
    got = dd.total(DoubleDouble(np.array(values, np.float64)))
    want = mpmath.fsum(map(mpmath.mpf, values))
    assert abs(exact(got[0]) - want) <= BITS * sum(map(abs, values))


def test_matmul() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 4, 17)), rng.standard_normal((17, 5))
    got = dd.matmul(DoubleDouble(a), DoubleDouble(b))
    assert got.shape == (3, 4, 5)
    for i, j, k in np.ndindex(got.shape):
        want = mpmath.fdot(map(mpmath.mpf, a[i, j]), map(mpmath.mpf, b[:, k]))
        assert abs(exact(got[i, j, k]) - want) <= BITS * float(np.abs(a[i, j]) @ np.abs(b[:, k]))


def test_largest_looks_at_the_low_part_among_equal_high_parts() -> None:
    x = DoubleDouble(np.array([[1.0, 1.0, 0.5]]), np.array([[-1e-20, 1e-20, 1e-17]]))
    top = dd.largest(x)
    assert (float(top.hi[0, 0]), float(top.lo[0, 0])) == (1.0, 1e-20)


@pytest.mark.parametrize("operation", [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b])
@pytest.mark.parametrize("a", [math.inf, -math.inf, math.nan, 0.0, -0.0, 1.5, 1e308, -1e308])
@pytest.mark.parametrize("b", [math.inf, -math.inf, math.nan, 0.0, 2.5, 1e308])
def test_infinities_and_nan_are_those_of_float64(operation: Callable[[Any, Any], Any], a: float, b: float) -> None:
    with np.errstate(all="ignore"):
        plain = operation(np.float64(a), np.float64(b))
        got = operation(DoubleDouble(np.float64(a)), DoubleDouble(np.float64(b)))  # type: ignore[arg-type]
    assert np.array_equal(got.hi, plain, equal_nan=True)
    assert np.isfinite(got.lo)


@pytest.mark.parametrize(
    ("function", "argument", "wanted"),
    [
        (dd.exp, -math.inf, 0.0),
        (dd.exp, math.inf, math.inf),
        (dd.exp, math.nan, math.nan),
        (dd.exp, 1000.0, math.inf),
        (dd.exp, -1000.0, 0.0),
        (dd.exp, 0.0, 1.0),
        (dd.log, 0.0, -math.inf),
        (dd.log, math.inf, math.inf),
        (dd.log, -1.0, math.nan),
        (dd.log, 1.0, 0.0),
        (dd.sqrt, 0.0, 0.0),
        (dd.sqrt, math.inf, math.inf),
        (dd.sqrt, -1.0, math.nan),
        (dd.tanh, math.inf, 1.0),
        (dd.tanh, -math.inf, -1.0),
        (dd.tanh, math.nan, math.nan),
        (dd.normal_cdf, math.inf, 1.0),
        (dd.normal_cdf, -math.inf, 0.0),
        (dd.normal_cdf, math.nan, math.nan),
    ],
)
def test_functions_at_the_ends(function: Callable[[Any], Any], argument: float, wanted: float) -> None:
    with np.errstate(all="ignore"):
        got = function(DoubleDouble(np.float64(argument)))  # type: ignore[arg-type]
    assert np.array_equal(got.hi, wanted, equal_nan=True)
    assert abs(float(got.lo)) < 2.0**-100


@given(st.floats(-40, 40))
def test_the_float64_branches_are_those_of_math(a: float) -> None:
    x = np.array(a)
    want = float(mpmath.ncdf(a))  # whose relative condition number is about a^2
    assert abs(float(dd.nearest(dd.normal_cdf(x))) - want) <= (2 + a * a) * 2.0**-52 * want + 1e-320
    assert float(dd.nearest(dd.tanh(x))) == pytest.approx(math.tanh(a), rel=1e-15)
