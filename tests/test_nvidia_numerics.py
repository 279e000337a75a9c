"""The emulator's arithmetic and number formats against rational arithmetic, its approximations against their bounds."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import approximate, formats, half, numerics
from hal_nvidia_ptx.emulator.exact import Mode

Array = NDArray[Any]
MODES: tuple[Mode, ...] = ("rn", "rz", "rm", "rp")
FORMATS = {  # bits of precision, exponent of the smallest normal, largest finite value
    np.float64: (53, -1022, Fraction(np.finfo(np.float64).max)),
    np.float32: (24, -126, Fraction(float(np.finfo(np.float32).max))),
}

SHAPES = {  # bits of precision, exponent of the smallest normal, largest finite value
    "f16": (11, -14, Fraction(65504)),
    "bf16": (8, -126, Fraction(255) * 2**120),
    "tf32": (11, -126, Fraction(2047) * 2**117),
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
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and (x > 0 if mode == "rna" else whole % 2 == 1))
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
    assert numerics.fma32(three, np.full(4, 2, np.float32), three, out) is out
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


def value(bits: Any, kind: str) -> float:
    return float(formats.widen(np.atleast_1d(bits), kind)[0])  # type: ignore[arg-type]


def near(kind: str, dtype: type, count: int, seed: int) -> Array:
    """Values on and beside the format's values and midpoints, besides hard ones of `dtype`."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << (32 if kind == "tf32" else 16), count).astype(formats.BITS[kind])
    exact = formats.widen(bits, kind).astype(np.float64)  # type: ignore[arg-type]
    middle = exact * (1 + 2.0 ** -SHAPES[kind][0] * rng.integers(-1, 2, count))
    middle *= 1 + rng.integers(-1, 2, count) * 2.0 ** (-50 if dtype is np.float64 else -22)
    return np.concatenate([middle.astype(dtype), hard_values(dtype, count, seed)])


@pytest.mark.parametrize(("kind", "mode"), [*product(SHAPES, MODES), ("tf32", "rna")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_narrowing_rounds_once(kind: str, mode: Any, dtype: type) -> None:
    x = near(kind, dtype, 400, 7)
    x = x[np.isfinite(x)]
    for source, bits in zip(x, formats.narrow(x, kind, mode), strict=True):  # type: ignore[arg-type]
        expected = float(round_fraction(Fraction(float(source)), *SHAPES[kind], mode))
        assert value(bits, kind) == expected, (float(source), kind, mode)


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_special_values_relu_and_satfinite(kind: Any) -> None:
    x = np.array([np.inf, -np.inf, np.nan, -np.nan, -0.0, -3.0, 3e38, 1.0], np.float32)
    top = float(SHAPES[kind][2])
    plain = formats.narrow(x, kind)
    assert plain[2] == plain[3] == formats.NAN[kind]
    assert value(plain[0], kind) == np.inf and value(plain[1], kind) == -np.inf and np.signbit(value(plain[4], kind))
    held = formats.narrow(x, kind, satfinite=True)
    assert (value(held[0], kind), value(held[1], kind), held[2]) == (top, -top, formats.NAN[kind])
    positive = formats.narrow(x, kind, relu=True)
    assert positive[1] == positive[4] == positive[5] == 0 and positive[2] == formats.NAN[kind]


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_fp8_is_that_of_ml_dtypes_and_saturates(kind: Any) -> None:
    dtype: Any = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[kind]
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(formats.widen(every, kind), every.view(dtype).astype(np.float32))
    finite = every[np.isfinite(every.view(dtype).astype(np.float32))]
    values = np.sort(formats.widen(finite, kind))
    middles = (values[1:].astype(np.float64) + values[:-1]) / 2
    for x in (middles, np.nextafter(middles, 1e9), np.nextafter(middles, -1e9), middles.astype(np.float32)):
        got = formats.widen(formats.narrow(x, kind), kind).astype(np.float64)
        assert (np.abs(got - x) <= np.abs(values[:, None] - x).min(axis=0)).all()
    ties = formats.narrow(middles, kind)
    assert (ties & 1 == 0).all()
    x = np.array([1e9, -1e9, np.inf, -np.inf, np.nan, -1.0], np.float32)
    top = {"e4m3": 448.0, "e5m2": 57344.0}[kind]
    got = formats.widen(formats.narrow(x, kind, satfinite=True), kind)
    assert got[:4].tolist() == [top, -top, top, -top] and np.isnan(got[4])
    assert formats.narrow(x, kind, relu=True)[-1] == 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("mode", MODES)
def test_floats_become_integers_clamped(dtype: Any, mode: Mode) -> None:
    info = np.iinfo(dtype)
    for source in (np.float16, np.float32, np.float64):
        x = np.concatenate(
            [hard_values(np.float32, 300, 9), [info.max, info.min, 0.5, -0.5, 1.5, 2.5, np.inf, -np.inf]]
        )
        x = x.astype(source)
        got = formats.to_integer(x, dtype, mode)
        for before, after in zip(x, got, strict=True):
            if np.isinf(before):
                assert int(after) == (info.max if before > 0 else info.min)
                continue
            whole = round_fraction(Fraction(float(before)), 2000, 1999, Fraction(2) ** 4000, mode)
            assert int(after) == min(max(int(whole), info.min), info.max), (float(before), mode)
        top_bit_alone = source is np.float64 or info.bits == 64
        expected = (info.min if info.min else (info.max >> 1) + 1) if top_bit_alone else 0
        assert int(formats.to_integer(np.array([np.nan], source), dtype, mode)[0]) == expected


@pytest.mark.parametrize("target", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_integers_become_floats_rounded_once(target: Any, mode: Mode) -> None:
    shape = {"f32": (24, -126, Fraction(2) ** 127), "f64": (53, -1022, Fraction(2) ** 1000)}.get(target) or SHAPES[
        target
    ]
    rng = np.random.default_rng(11)
    for dtype in (np.int32, np.uint32, np.int64, np.uint64):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, 200, dtype=dtype, endpoint=True) >> rng.integers(0, 40, 200).astype(dtype)
        x[:4] = [info.max, info.min, info.max - dtype(1), 0]
        got = formats.from_integer(x, target, mode)
        for before, after in zip(x, got, strict=True):
            expected = float(round_fraction(Fraction(int(before)), *shape, mode))
            assert (value(after, "bf16") if target == "bf16" else float(after)) == expected, (int(before), target, mode)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "fma"])
def test_half_arithmetic_rounds_once(kind: Any, op: str) -> None:
    rng = np.random.default_rng(12)
    args = [rng.integers(0, 1 << 16, 1500).astype(np.uint16) for _ in range(3 if op == "fma" else 2)]
    args[-1][:500] = args[0][:500]
    args[-1][500:1000] = (args[0][500:1000] & 0xFC00) - (rng.integers(0, 8, 500) << 10)
    got = half.arithmetic(op, kind, *args)
    for i, bits in enumerate(got):
        x = [value(a[i], kind) for a in args]
        if not np.isfinite(x).all():
            continue
        f = [Fraction(v) for v in x]
        exact = {"add": f[0] + f[1], "sub": f[0] - f[1], "mul": f[0] * f[1], "fma": f[0] * f[1] + f[-1]}[op]
        assert value(bits, kind) == float(round_fraction(exact, *SHAPES[kind], "rn")), (op, x)


def test_half_modifiers_and_extremes() -> None:
    x = np.array([0x0001, 0x8001, 0x3C00, 0xBC00, 0x7E00], np.uint16)  # +-subnormal, +-1, NaN
    one = np.full(5, 0x3C00, np.uint16)
    assert half.arithmetic("mul", "f16", x, one, ftz=True)[:2].tolist() == [0, 0x8000]
    assert half.arithmetic("mul", "f16", x, one, relu=True).tolist() == [1, 0, 0x3C00, 0, 0x7FFF]
    assert half.arithmetic("add", "f16", x, one, sat=True).tolist() == [0x3C00, 0x3C00, 0x3C00, 0, 0]
    assert half.extremum("max", "f16", x, one).tolist() == [0x3C00] * 5
    assert half.extremum("min", "bf16", x, one, nan=False).tolist()[:2] == [1, 0x8001]
    assert half.extremum("max", "f16", x, one, nan=True)[4] == 0x7FFF


def test_integer_dot_products_and_high_halves() -> None:
    rng = np.random.default_rng(13)
    a, b, c = (rng.integers(0, 1 << 32, 300, dtype=np.uint32) for _ in range(3))

    def parts(x: int, size: int, signed: bool) -> list[int]:
        return [int(v) for v in np.array([x], np.uint32).view(f"{'i' if signed else 'u'}{size}")]

    for sa in (False, True):
        for sb in (False, True):
            four, two = half.dot4(a, b, c, sa, sb), half.dot2(a, b, c, sa, sb, high=True)
            for i in range(300):
                bytes_b = parts(b[i], 1, sb)
                whole = sum(x * y for x, y in zip(parts(a[i], 1, sa), bytes_b, strict=True)) + int(c[i])
                assert int(four[i]) == whole % (1 << 32)
                pair = sum(x * y for x, y in zip(parts(a[i], 2, sa), bytes_b[2:], strict=True)) + int(c[i])
                assert int(two[i]) == pair % (1 << 32)
    for dtype in (np.int64, np.uint64):
        info = np.iinfo(dtype)
        p, q = (rng.integers(info.min, info.max, 300, dtype=dtype, endpoint=True) for _ in range(2))
        p[:3], q[:3] = [info.min, info.max, info.min], [info.min, info.max, info.max]
        got = half.multiply_high(p, q)
        assert [int(x) for x in got] == [(int(x) * int(y)) >> 64 for x, y in zip(p, q, strict=True)]


MPMATH = {
    "ex2": lambda x: mpmath.mpf(2) ** x,
    "lg2": lambda x: mpmath.log(x, 2),
    "rcp": lambda x: 1 / mpmath.mpf(x),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "sqrt": mpmath.sqrt,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
}


@pytest.mark.parametrize("name", sorted(MPMATH))
def test_approximations_stay_within_their_bound_and_use_it_when_perturbed(name: str) -> None:
    rng = np.random.default_rng(14)
    x = rng.uniform(-3, 3, 400).astype(np.float32)
    if name in ("lg2", "rsqrt", "sqrt"):
        x = np.abs(x) + np.float32(1e-6)
    kind = approximate.FUNCTIONS[name]
    exact = [MPMATH[name](mpmath.mpf(float(v))) for v in x]
    bound = [max(abs(e) * kind.relative, kind.absolute) for e in exact]

    def errors(got: Array) -> list[Any]:
        return [abs(float(g) - e) for g, e in zip(got, exact, strict=True)]

    rounding = [abs(e) * 2.0**-24 for e in exact]
    plain = errors(approximate.approximate(name, x))
    assert all(e <= 1.001 * r for e, r in zip(plain, rounding, strict=True))
    with approximate.perturbed(1):
        moved = errors(approximate.approximate(name, x))
    assert all(e <= 1.001 * (b + r) for e, b, r in zip(moved, bound, rounding, strict=True))
    assert max(e / b for e, b in zip(moved, bound, strict=True)) > 0.9


def test_approximate_division_flushes_and_reciprocal64_keeps_the_upper_word() -> None:
    a, b = np.array([6, 1e-39, 1], np.float32), np.array([3, 1, 1e39], np.float32)
    assert approximate.divide(a, b, ftz=True).tolist() == [2.0, 0.0, 0.0]
    x = np.array([3.0, 0.1, 1e300])
    got = approximate.reciprocal64(x)
    assert (np.abs(got * x - 1) < 2.0**-19).all() and (got.view(np.uint64) & 0xFFFFFFFF == 0).all()
    assert (np.abs(approximate.reciprocal64(x, root=True) ** 2 * x - 1) < 2.0**-18).all()
