"""The emulator's arithmetic against rational arithmetic, element by element."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import numerics
from hal_nvidia_ptx.emulator.exact import Mode

Array = NDArray[Any]
MODES: tuple[Mode, ...] = ("rn", "rz", "rm", "rp")
FORMATS = {  # bits of precision, exponent of the smallest normal, largest finite value
    np.float64: (53, -1022, Fraction(np.finfo(np.float64).max)),
    np.float32: (24, -126, Fraction(float(np.finfo(np.float32).max))),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with numerics.quiet():
        yield


def exponent(x: Fraction) -> int:
    """floor(log2 |x|)."""
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return e if abs(x) >= Fraction(2) ** e else e - 1


def round_fraction(x: Fraction, precision: int, lowest: int, largest: Fraction, mode: str) -> Fraction | float:
    """x rounded to a binary format with subnormals; an infinity beyond `largest` as IEEE 754 says."""
    if x == 0:
        return Fraction(0)
    quantum = Fraction(2) ** (max(exponent(x), lowest) - precision + 1)
    below = x / quantum
    whole = below.numerator // below.denominator
    rest = below - whole
    up = {"rm": False, "rp": rest > 0, "rz": rest > 0 and x < 0}.get(mode)
    if up is None:
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and (whole % 2 == 1 or mode == "rna" and x > 0))
    result = (whole + up) * quantum
    if abs(result) > largest:
        stays = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
        return (largest if x > 0 else -largest) if stays else (np.inf if x > 0 else -np.inf)
    return result


def hard_values(dtype: type, count: int, seed: int) -> Array:
    """Every kind of finite float: few bits, many bits, near a power of two, subnormal, huge, zero of both signs."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    few = rng.integers(-64, 64, count) * 2.0 ** rng.integers(-30, 30, count)
    spread = rng.standard_normal(count) * 2.0 ** rng.integers(info.minexp, info.maxexp - 2, count)
    edge = 2.0 ** rng.integers(-24, 24, count) * (1 + rng.integers(-2, 3, count) * float(info.eps))
    tiny = rng.integers(-9, 9, count) * float(info.smallest_subnormal)
    huge = rng.choice([-1.0, 1.0], count) * float(info.max) * (1 - rng.integers(0, 4, count) * float(info.eps))
    plain = rng.standard_normal(count)
    kinds = np.stack([few, spread, edge, tiny, huge, plain, np.copysign(0.0, plain)])
    return kinds[rng.integers(0, len(kinds), count), np.arange(count)].astype(dtype)


def exact_of(op: str, values: list[Fraction]) -> Fraction:
    if op == "fma":
        return values[0] * values[1] + values[2]
    if op == "mul":
        return values[0] * values[1]
    if op in ("add", "sub"):
        return values[0] + (values[1] if op == "add" else -values[1])
    return values[0] / values[1] if op == "div" else 1 / values[0]


def assert_exact(op: str, mode: Mode, args: list[Array], got: Array) -> None:
    precision, lowest, largest = FORMATS[got.dtype.type]
    for i in range(got.size):
        values = [float(a[i]) for a in args]
        divisor = values[-1] if op in ("div", "rcp") else 1.0
        if not np.isfinite(values).all() or divisor == 0:
            continue
        exact = exact_of(op, [Fraction(v) for v in values])
        expected = round_fraction(exact, precision, lowest, largest, mode)
        assert float(got[i]) == float(expected), (op, mode, values, float(got[i]), float(expected))
        if expected == 0 and exact != 0:
            assert bool(np.signbit(got[i])) == (exact < 0)


@pytest.mark.parametrize("op", ["fma", "add", "sub", "mul", "div", "rcp"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_rounding_is_that_of_the_exact_value(op: str, mode: Mode, dtype: type) -> None:
    count = {"fma": 3, "rcp": 1}.get(op, 2)
    args = [hard_values(dtype, 700, 10 * i + len(op)) for i in range(count)]
    args[-1][:50] = args[0][:50]
    function = numerics.rounded32 if dtype is np.float32 else numerics.rounded64
    assert_exact(op, mode, args, function(op, mode, *args))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_square_roots_are_rounded_exactly(mode: Mode, dtype: type) -> None:
    x = np.abs(hard_values(dtype, 500, 3))
    got = (numerics.rounded32 if dtype is np.float32 else numerics.rounded64)("sqrt", mode, x)
    for value, root in zip(x, got, strict=True):
        exact, inf = Fraction(float(value)), dtype(np.inf)
        lower, upper = (Fraction(max(float(np.nextafter(root, s)), 0.0)) for s in (-inf, inf))
        middle = Fraction(float(root))
        if mode in ("rz", "rm"):
            assert middle**2 <= exact < upper**2
        elif mode == "rp":
            assert exact <= middle**2 and (exact == 0 or lower**2 < exact)
        else:
            assert ((lower + middle) / 2) ** 2 <= exact <= ((middle + upper) / 2) ** 2


def near_midpoint_fmas(count: int) -> tuple[Array, Array, Array]:
    """float32 a, b, c whose a*b + c lies within 2^-60 of a midpoint between two float32, relative to its size."""
    rng = np.random.default_rng(5)
    c = (rng.integers(1 << 23, 1 << 24, count) * 2.0 ** rng.integers(-20, 20, count)).astype(np.float32)
    half_ulp = np.spacing(c).astype(np.float64) / 2
    factor = 1 + rng.integers(-1, 2, count) * 2.0**-23
    return (factor * half_ulp).astype(np.float32), (1 + rng.integers(-1, 2, count) * 2.0**-23).astype(np.float32), c


def test_fma_near_midpoints_where_two_roundings_differ_from_one() -> None:
    a, b, c = near_midpoint_fmas(3000)
    got = numerics.fma32(a, b, c)
    assert_exact("fma", "rn", [a, b, c], got)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != got).any(), "the sample holds no case that float64 gets wrong"


def test_fma64_next_to_midpoints_and_in_cancellation() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal(400), rng.standard_normal(400)
    c = -(a * b)
    c[::2] = np.spacing(np.abs(a[::2] * b[::2])) * 2.0**53
    assert_exact("fma", "rn", [a, b, c], numerics.fma64(a, b, c))
    scale = 2.0 ** rng.integers(-540, 500, 400)
    assert_exact("fma", "rn", [a * scale, b * scale, c], numerics.fma64(a * scale, b * scale, c))


def test_special_values_of_fma() -> None:
    inf, nan, big = np.inf, np.nan, 1e300
    a = np.array([inf, 0.0, big, big, 1.0, -0.0, -0.0, 1.0, nan, 5e-324])
    b = np.array([0.0, inf, big, big, inf, 1.0, 1.0, 1.0, 1.0, 0.5])
    c = np.array([1.0, 1.0, -inf, -big, -inf, -0.0, 0.0, -1.0, 1.0, 0.0])
    expected = np.array([nan, nan, -inf, inf, nan, -0.0, 0.0, 0.0, nan, 0.0])
    got = numerics.fma64(a, b, c)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[5:8], [True, False, False])
    with np.errstate(over="ignore"):
        narrow = [x.astype(np.float32) for x in (a, b, c)]
    narrow[0][2:4] = narrow[1][2:4] = np.float32(1e30)
    narrow[2][3] = np.float32(-1e30)
    np.testing.assert_array_equal(numerics.fma32(*narrow), expected.astype(np.float32))


def test_an_exact_zero_sum_is_negative_under_rm_alone() -> None:
    one = np.ones(3, np.float32)
    zeros = [np.array([0.0, -0.0, 0.0], np.float32), np.array([0.0, -0.0, -0.0], np.float32)]
    for mode in MODES:
        cancelled = numerics.rounded32("sub", mode, one, one)
        assert np.signbit(cancelled).tolist() == [mode == "rm"] * 3
        for function, dtype in ((numerics.rounded32, np.float32), (numerics.rounded64, np.float64)):
            sums = function("add", mode, zeros[0].astype(dtype), zeros[1].astype(dtype))
            assert np.signbit(sums).tolist() == [False, True, mode == "rm"]


def test_fma32_writes_where_it_is_told() -> None:
    out = np.zeros(4, np.float32)
    three = np.full(4, 3, np.float32)
    assert numerics.fma32(three, np.float32(2), three, out) is out
    assert out.tolist() == [9.0] * 4


def test_flush_and_saturate() -> None:
    tiny = np.finfo(np.float32).smallest_normal
    x = np.array([tiny, -tiny, tiny / 2, -tiny / 2, 0, np.inf, np.nan], np.float32)
    flushed = numerics.flush(x)
    np.testing.assert_array_equal(flushed, np.array([tiny, -tiny, 0, 0, 0, np.inf, np.nan], np.float32))
    assert np.signbit(flushed)[:6].tolist() == [False, True, False, True, False, False]
    x = np.array([-1, -0.0, 0.25, 1, 7, np.inf, -np.inf, np.nan], np.float32)
    got = numerics.saturate(x)
    np.testing.assert_array_equal(got, np.array([0, 0, 0.25, 1, 1, 1, 0, 0], np.float32))
    assert not np.signbit(got).any()


def test_minimum_and_maximum_order_zeros_and_drop_nan_unless_told() -> None:
    a = np.array([0.0, -0.0, np.nan, 1.0, np.nan, -0.0], np.float32)
    b = np.array([-0.0, 0.0, 2.0, np.nan, np.nan, 3.0], np.float32)
    low, high = numerics.minimum(a, b), numerics.maximum(a, b)
    np.testing.assert_array_equal(low, np.array([0, 0, 2, 1, np.nan, 0], np.float32))
    np.testing.assert_array_equal(high, np.array([0, 0, 2, 1, np.nan, 3], np.float32))
    assert np.signbit(low)[[0, 1, 5]].all() and not np.signbit(high)[:2].any()
    assert np.isnan(numerics.minimum(a, b, nan=True)).tolist() == [False, False, True, True, True, False]
    assert np.isnan(numerics.maximum(a, b, nan=True)).tolist() == [False, False, True, True, True, False]
