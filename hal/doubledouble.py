"""Numbers of twice double precision, to judge float64 results: a float64 reference is no better than its subject.

A `DoubleDouble` array is an unevaluated sum hi + lo of float64 arrays with |lo| <= ulp(hi)/2: some 106 bits. The
functions below (`exp`, `total`, `matmul` …) take either such arrays or plain float64 ones, so that each operator's
definition in hal/ops is written once and serves every dtype.

Sources: T. J. Dekker, "A floating-point technique for extending the available precision" (1971) for sum and product;
Y. Hida, X. Li, D. Bailey, "Library for double-double and quad-double arithmetic" (2000) for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float64: TypeAlias = NDArray[np.float64]
Wide: TypeAlias = "Float64 | DoubleDouble"

_SPLIT = 134217729.0  # 2^27 + 1
_LN2 = (0.6931471805599453, 2.3190468138462996e-17)
_TWO_OVER_SQRT_PI = (1.1283791670955126, 1.533545961316588e-17)
_SQRT_HALF = (0.7071067811865476, -4.833646656726457e-17)


class DoubleDouble:
    """hi + lo. Where hi is not finite, lo is 0 and hi alone carries infinity or NaN."""

    __array_ufunc__ = None  # so that `ndarray + DoubleDouble` comes here
    __slots__ = ("hi", "lo")

    def __init__(self, hi: Float64, lo: Float64 | float = 0.0) -> None:
        self.hi = np.asarray(hi, np.float64)
        self.lo = np.broadcast_to(np.asarray(lo, np.float64), self.hi.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hi.shape

    def __getitem__(self, index: Any) -> DoubleDouble:
        return DoubleDouble(self.hi[index], self.lo[index])

    def __neg__(self) -> DoubleDouble:
        return DoubleDouble(-self.hi, -self.lo)

    def __add__(self, other: Any) -> DoubleDouble:
        b = _lift(other)
        high, error = _two_sum(self.hi, b.hi)
        low, rest = _two_sum(self.lo, b.lo)
        high, error = _quick_two_sum(high, error + low)
        return _make(*_quick_two_sum(high, error + rest), self.hi + b.hi)

    def __sub__(self, other: Any) -> DoubleDouble:
        return self + -_lift(other)

    def __mul__(self, other: Any) -> DoubleDouble:
        b = _lift(other)
        product, error = _two_product(self.hi, b.hi)
        return _make(*_quick_two_sum(product, error + (self.hi * b.lo + self.lo * b.hi)), self.hi * b.hi)

    def __truediv__(self, other: Any) -> DoubleDouble:
        b = _lift(other)
        first = self.hi / b.hi
        rest = self - b * DoubleDouble(first)
        second = rest.hi / b.hi
        rest = rest - b * DoubleDouble(second)
        quotient, error = _quick_two_sum(first, second)
        return _make(*_quick_two_sum(quotient, error + rest.hi / b.hi), first)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> DoubleDouble:
        return _lift(other) - self

    def __rtruediv__(self, other: Any) -> DoubleDouble:
        return _lift(other) / self


def widen(x: NDArray[Any]) -> Wide:
    """float64 data as double-double, every narrower dtype as float64: exact, and wide enough to judge it."""
    return DoubleDouble(x) if x.dtype == np.float64 else x.astype(np.float64)


def nearest(x: Wide) -> Float64:
    """x rounded to float64."""
    return x.hi if isinstance(x, DoubleDouble) else x


def where(condition: NDArray[np.bool_], a: Wide | float, b: Wide | float) -> Wide:
    """np.where for either kind."""
    if isinstance(a, DoubleDouble) or isinstance(b, DoubleDouble):
        p, q = _lift(a), _lift(b)
        return DoubleDouble(np.where(condition, p.hi, q.hi), np.where(condition, p.lo, q.lo))
    return np.where(condition, a, b)


def reshape(x: Wide, shape: tuple[int, ...]) -> Wide:
    """np.reshape for either kind."""
    if isinstance(x, DoubleDouble):
        return DoubleDouble(x.hi.reshape(shape), x.lo.reshape(shape))
    return x.reshape(shape)


def constant(pair: tuple[float, float], like: Wide) -> float | DoubleDouble:
    """A number of twice double precision: whole where `like` is, else its high part."""
    return _constant(pair) if isinstance(like, DoubleDouble) else pair[0]


def total(x: Wide) -> Wide:
    """Sum over the last axis, which is kept with length 1."""
    if not isinstance(x, DoubleDouble):
        return np.asarray(np.sum(x, axis=-1, keepdims=True))
    if x.shape[-1] == 0:
        return DoubleDouble(np.zeros((*x.shape[:-1], 1)))
    while (n := x.shape[-1]) > 1:
        half = n // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = pairs if n % 2 == 0 else _append(pairs, x[..., 2 * half :])
    return x


def largest(x: Wide) -> Wide:
    """Maximum over the last axis, which is kept; NaN if the row has one, -inf for an empty row."""
    hi = nearest(x)
    if hi.shape[-1] == 0:
        return np.full((*hi.shape[:-1], 1), -np.inf)
    if not isinstance(x, DoubleDouble):
        return np.asarray(np.max(x, axis=-1, keepdims=True))
    # Among equal high parts the largest low part decides.
    top = np.max(hi, axis=-1, keepdims=True)
    low = np.max(np.where(hi == top, x.lo, -np.inf), axis=-1, keepdims=True)
    return DoubleDouble(top, np.where(np.isfinite(top), low, 0.0))


def matmul(a: Wide, b: Wide) -> Wide:
    """Matrix product over the last two axes."""
    if not (isinstance(a, DoubleDouble) or isinstance(b, DoubleDouble)):
        return np.asarray(np.matmul(a, b))
    p, q = _lift(a), _lift(b)
    shape = np.broadcast_shapes(p.shape[:-2], q.shape[:-2]) + (p.shape[-2], q.shape[-1])
    result = DoubleDouble(np.zeros(shape))
    for k in range(p.shape[-1]):
        result = result + p[..., :, k : k + 1] * q[..., k : k + 1, :]
    return result


def sqrt(x: Wide) -> Wide:
    """Square root."""
    if not isinstance(x, DoubleDouble):
        return np.sqrt(x)
    root = np.sqrt(x.hi)
    rest = x - DoubleDouble(root) * DoubleDouble(root)
    step = np.where((root > 0) & np.isfinite(root), rest.hi / (2 * np.where(root > 0, root, 1.0)), 0.0)
    return _make(*_quick_two_sum(root, step), root)


def exp(x: Wide) -> Wide:
    """e^x: x = k ln 2 + 64 r, a Taylor polynomial in r, six squarings."""
    if not isinstance(x, DoubleDouble):
        return np.exp(x)
    plain = np.exp(x.hi)
    usable = np.isfinite(x.hi) & (np.abs(x.hi) < 800)
    safe = DoubleDouble(np.where(usable, x.hi, 0.0), np.where(usable, x.lo, 0.0))
    k = np.rint(safe.hi / _LN2[0])
    r = (safe - _constant(_LN2) * k) * (1.0 / 64)
    series = DoubleDouble(np.ones_like(k))
    for i in range(12, 0, -1):
        series = DoubleDouble(np.ones_like(k)) + r * series / float(i)
    for _ in range(6):
        series = series * series
    # Two steps, so that results that are subnormal or near overflow keep their exponent.
    first = np.trunc(k / 2)
    scale_a, scale_b = np.ldexp(1.0, first.astype(np.int64)), np.ldexp(1.0, (k - first).astype(np.int64))
    scaled = DoubleDouble(series.hi * scale_a * scale_b, series.lo * scale_a * scale_b)
    return DoubleDouble(np.where(usable, scaled.hi, plain), np.where(usable & np.isfinite(scaled.hi), scaled.lo, 0.0))


def log(x: Wide) -> Wide:
    """Natural logarithm: one Newton step on exp."""
    if not isinstance(x, DoubleDouble):
        return np.log(x)
    first = np.log(x.hi)
    usable = np.isfinite(first)
    start = DoubleDouble(np.where(usable, first, 0.0))
    refined = start + (x * exp(-start) - 1.0)
    return DoubleDouble(np.where(usable, refined.hi, first), np.where(usable, refined.lo, 0.0))


def tanh(x: Wide) -> Wide:
    """Hyperbolic tangent."""
    if not isinstance(x, DoubleDouble):
        return np.tanh(x)
    clipped = where(np.abs(x.hi) < 40, x, np.copysign(40.0, x.hi))
    twice = exp(clipped + clipped)
    return where(np.isnan(x.hi), x, (twice - 1.0) / (twice + 1.0))


def normal_cdf(x: Wide) -> Wide:
    """The normal distribution function, (1 + erf(x / sqrt 2)) / 2.

    Double-double: erf by its series of positive terms, 2/sqrt(pi) e^(-t^2) sum 2^n t^(2n+1) / (2n+1)!!; an absolute
    error below 1e-22, which is what gelu needs.
    """
    if not isinstance(x, DoubleDouble):
        return _erfc_elementwise(np.asarray(x * -_SQRT_HALF[0])) * 0.5
    scaled = x * _constant(_SQRT_HALF)
    inside = np.abs(scaled.hi) < 7.2
    t = where(inside, scaled, 0.0)
    assert isinstance(t, DoubleDouble)
    square = t * t
    term, series = t, t
    for n in range(1, 260):
        term = term * square * 2.0 / (2.0 * n + 1.0)
        series = series + term
    erf = exp(-square) * series * _constant(_TWO_OVER_SQRT_PI)
    saturated = np.where(np.isnan(x.hi), np.nan, np.where(x.hi > 0, 1.0, 0.0))
    return where(inside, (erf + 1.0) * 0.5, saturated)


def _erfc_elementwise(x: Float64) -> Float64:
    function: Callable[[Float64], Any] = np.frompyfunc(math.erfc, 1, 1)  # NumPy has no erf of its own
    return np.asarray(function(x), np.float64)


def _lift(x: Any) -> DoubleDouble:
    return x if isinstance(x, DoubleDouble) else DoubleDouble(np.asarray(x, np.float64))


def _constant(pair: tuple[float, float]) -> DoubleDouble:
    return DoubleDouble(np.float64(pair[0]), np.float64(pair[1]))  # type: ignore[arg-type]


def _append(a: DoubleDouble, b: DoubleDouble) -> DoubleDouble:
    return DoubleDouble(np.concatenate([a.hi, b.hi], -1), np.concatenate([a.lo, b.lo], -1))


def _make(hi: Float64, lo: Float64, plain: Float64) -> DoubleDouble:
    """hi + lo where finite; else the plain float64 result, since the error terms of infinities are NaN."""
    good = np.isfinite(hi) & np.isfinite(lo)
    return DoubleDouble(np.where(good, hi, plain), np.where(good, lo, 0.0))


def _two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def _quick_two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    s = a + b
    return s, b - (s - a)


def _split(a: Float64) -> tuple[Float64, Float64]:
    t = _SPLIT * a
    high = t - (t - a)
    return high, a - high


def _two_product(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low
