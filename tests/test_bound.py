"""The one rule: RN(r - e) <= got <= RN(r + e), with NaN, infinities, overflow and subnormals, in each dtype.

Rounding is held to exact rationals: the nearest of the dtype's own numbers, found by counting bits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hal.bound import Allowance, Exact, interval, judge_output
from hal.doubledouble import DoubleDouble
from hal.dtypes import DTYPES, round_to
from hal.op import Op, TensorSpec
from hal.ops import judge

# digits, smallest exponent (of the last bit of the smallest number), largest finite number
FORMATS = {
    "float16": (11, -24, Fraction(65504)),
    "bfloat16": (8, -133, (2 - Fraction(1, 2**7)) * 2**127),
    "float32": (24, -149, (2 - Fraction(1, 2**23)) * 2**127),
}


def nearest_even(x: Fraction, dtype: str) -> float:
    """x rounded to nearest, ties to even, as IEEE 754 defines it: overflow from half a unit above the largest."""
    digits, least, largest = FORMATS[dtype]
    if x == 0:
        return 0.0
    magnitude = abs(x)
    exponent = math.floor(math.log2(magnitude))
    while Fraction(2) ** exponent > magnitude:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= magnitude:
        exponent += 1
    unit = Fraction(2) ** max(exponent - digits + 1, least)
    rounded = round(magnitude / unit) * unit  # Python rounds Fractions to even
    if rounded > largest:
        return math.copysign(math.inf, x)
    return math.copysign(float(rounded), x)


floats = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-70000, 70000) | st.floats(-1e-6, 1e-6)


@pytest.mark.parametrize("dtype", FORMATS)
@given(x=floats)
@example(x=1.00390625)  # half a bfloat16 unit above 1: a tie, to even
@example(x=1.01171875)  # a tie, to even, upwards
@example(x=1.0039062500000002)  # just above: by way of float32 it would be a tie
@example(x=3.3961775292304957e38)  # largest bfloat16 plus half a unit: infinity
@example(x=65519.99)
@example(x=65520.0)
@example(x=2.0**-25)
@example(x=2.0**-134)
@example(x=1.5 * 2.0**-133)
def test_rounding_is_to_nearest_even_in_one_step(dtype: str, x: float) -> None:
    assert float(round_to(np.array(x), dtype)) == nearest_even(Fraction(x), dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_rounding_between_any_two_neighbours(dtype: str) -> None:
    """All 16-bit numbers (and as many of float32): the middle goes to the even one, its neighbours to theirs."""
    numpy = DTYPES[dtype].numpy
    unsigned = np.uint16 if numpy.itemsize == 2 else np.uint32
    top = int(np.array(ml_dtypes.finfo(numpy).max, numpy).view(unsigned))
    patterns = np.unique(np.linspace(0, top - 1, min(top, 1 << 16)).astype(np.int64)).astype(unsigned)
    low = patterns.view(numpy)
    high = (patterns + unsigned(1)).view(numpy)
    middle = (low.astype(np.float64) + high.astype(np.float64)) / 2
    even = np.where(patterns % 2 == 0, low.astype(np.float64), high.astype(np.float64))
    assert np.array_equal(round_to(middle, dtype).astype(np.float64), even)
    assert np.array_equal(round_to(np.nextafter(middle, -np.inf), dtype), low)
    assert np.array_equal(round_to(np.nextafter(middle, np.inf), dtype), high)
    assert np.array_equal(round_to(-middle, dtype).astype(np.float64), -even)


def verdict(got: Any, r: Any, e: Any, dtype: str = "float32", **more: Any) -> bool:
    """Whether one number is right."""
    value = r if isinstance(r, DoubleDouble) else np.array([r], np.float64)
    exact = Exact(dtype, value, np.array([e], np.float64), **more)
    return judge_output(np.array([got], DTYPES[dtype].numpy), exact).ok


@pytest.mark.parametrize("dtype", FORMATS)
@given(r=st.floats(-1e5, 1e5), e=st.floats(0, 10), steps=st.integers(-3, 3))
def test_right_is_what_lies_between_the_rounded_ends(dtype: str, r: float, e: float, steps: int) -> None:
    numpy = DTYPES[dtype].numpy
    low, high = (float(round_to(np.array(x), dtype)) for x in (r - e, r + e))
    got = np.array(high, numpy)
    for _ in range(abs(steps)):
        got = np.nextafter(got, np.array(math.copysign(math.inf, steps), numpy))
    assert verdict(got, r, e, dtype) == (low <= float(got) <= high)


def test_no_error_means_the_rounded_value_and_nothing_else() -> None:
    assert verdict(0.1, 0.1, 0.0)
    assert not verdict(np.nextafter(np.float32(0.1), np.float32(1)), 0.1, 0.0)


def test_nan_is_right_where_r_is_nan_and_only_there() -> None:
    assert verdict(math.nan, math.nan, 1.0)
    assert not verdict(0.0, math.nan, math.inf)
    assert not verdict(math.nan, 0.0, math.inf)
    assert not verdict(math.inf, math.nan, 1.0)


def test_an_infinite_r_is_met_exactly() -> None:
    assert verdict(math.inf, math.inf, math.inf)
    assert not verdict(-math.inf, math.inf, math.inf)
    assert not verdict(3e38, math.inf, math.inf)
    assert not verdict(math.nan, math.inf, math.nan)


def test_overflow_of_the_output_is_infinity_or_what_the_interval_reaches() -> None:
    assert verdict(math.inf, 120000.0, 1.0, "float16")
    assert not verdict(65504.0, 120000.0, 1.0, "float16")
    assert verdict(65504.0, 65510.0, 20.0, "float16")
    assert verdict(math.inf, 65510.0, 20.0, "float16")
    assert not verdict(math.inf, 65510.0, 1.0, "float16")


def test_overflow_of_an_intermediate_excuses_infinity_and_nan_and_the_alternative() -> None:
    where = np.array([True])
    for got in (math.inf, -math.inf, math.nan):
        assert verdict(got, 1.0, 0.0, overflow=where)
        assert not verdict(got, 1.0, 0.0, overflow=~where)
    assert not verdict(0.5, 1.0, 0.0, overflow=where)
    assert verdict(0.5, 1.0, 0.0, overflow=where, alternative=np.array([0.5]))
    assert not verdict(0.25, 1.0, 0.0, overflow=where, alternative=np.array([0.5]))


def test_signed_zeros_are_equal() -> None:
    assert verdict(-0.0, 0.0, 0.0)


def test_subnormals_are_kept_unless_flushing_is_declared() -> None:
    exact = Exact("float32", np.array([1e-40]), np.array([0.0]))
    zero = np.array([0.0], np.float32)
    assert not judge_output(zero, exact).ok
    assert judge_output(zero, exact, flush=True).ok
    normal = Exact("float32", np.array([1e-30]), np.array([0.0]))
    assert not judge_output(zero, normal, flush=True).ok
    # float16's subnormal numbers are normal in float32, where the sum was kept.
    assert not judge_output(np.zeros(1, np.float16), Exact("float16", np.array([1e-6]), np.zeros(1)), flush=True).ok


def test_a_flushing_device_may_take_subnormal_inputs_for_zero() -> None:
    spec = TensorSpec.contiguous("float32", (1, 1))
    params = (("activation", None), ("alpha", 1.0), ("precision", None), ("deterministic", "run"))
    op = Op("matmul", (("out", spec),), (("a", spec), ("b", spec)), params)
    inputs = [np.array([[1e-40]], np.float32), np.array([[1e30]], np.float32)]
    zero = [np.zeros((1, 1), np.float32)]
    assert not judge(op, inputs, zero).ok
    assert judge(op, inputs, zero, Allowance(flush=True)).ok


def test_float64_is_judged_beyond_float64() -> None:
    r = DoubleDouble(np.array([1.0]), np.array([0.4 * 2.0**-53]))
    assert verdict(1.0, r, 0.0, "float64")
    assert not verdict(1.0 + 2.0**-52, r, 0.0, "float64")
    assert verdict(1.0 + 2.0**-52, r, 2.0**-53, "float64")  # the upper end is above the tie
    assert not verdict(1.0 + 2.0**-52, r, 0.5 * 2.0**-53, "float64")


def test_the_ends_of_the_interval_are_in_the_outputs_dtype() -> None:
    low, high = interval(Exact("bfloat16", np.array([1.0]), np.array([0.01])))
    assert low.dtype == high.dtype == ml_dtypes.bfloat16
    assert (float(low[0]), float(high[0])) == (0.98828125, 1.0078125)


def test_the_ratio_is_the_error_before_rounding_in_units_of_e() -> None:
    exact = Exact("float32", np.array([1.0]), np.array([1e-3]))
    found = judge_output(np.array([1.0005], np.float32), exact)
    assert found.ok and found.ratio == pytest.approx(0.5, rel=1e-3)
    found = judge_output(np.array([1.004], np.float32), exact)
    assert not found.ok and found.ratio == pytest.approx(4.0, rel=1e-3)
    assert (found.wrong, found.size) == (1, 1)
    assert "1 of 1 elements are wrong" in found.message and "out[0] = 1.004" in found.message


def test_integers_are_equal_or_wrong() -> None:
    exact = Exact("int32", np.array([5], np.int32), np.array([0.0]))
    assert judge_output(np.array([5], np.int32), exact).ok
    assert not judge_output(np.array([6], np.int32), exact).ok


def test_an_empty_result_is_right() -> None:
    assert judge_output(np.empty((0, 3), np.float32), Exact("float32", np.empty((0, 3)), np.empty((0, 3)))).ok
