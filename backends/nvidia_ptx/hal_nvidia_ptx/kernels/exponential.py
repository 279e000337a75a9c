"""e^d, ln s and 1/s for softmax, in float32 and float64.

float32: the approximations of the machine, ex2 within 2^-22 of the value and lg2 within 2^-22 (PTX ISA document): what
softmax's bound has for them. `.ftz`: an exponential below the smallest normal number is 0, which the bound has too.
float64: polynomials; an exponential below the smallest normal number is 0.
"""

from __future__ import annotations

from math import factorial, log

from hal_nvidia_ptx.ptx import Entry, Register, f64

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
LN2_HIGH, LN2_LOW = 0.69314718036912382, 1.9082149292705877e-10  # fdlibm's e_exp.c: n * LN2_HIGH is exact
SMALLEST = -1022 * log(2)  # e^d below is less than the smallest normal float64
EXP_TERMS = 13  # of the Taylor series: leaves 2^-57 of e^r, |r| <= ln(2)/2
LOG_TERMS = 10  # of the series of artanh t / t - 1, |t| <= 0.1716: leaves 2^-57
SQRT2_HIGH_BITS = 0x3FF6A09E  # upper half of the float64 sqrt(2)


def exponential(k: Entry, d: Register) -> None:
    """d := e^d for d <= 1. NaN stays."""
    if d.type == "f32":
        k("mul.rn.f32", d, d, LOG2E)
        k("ex2.approx.ftz.f32", d, d)
    else:
        _exponential_f64(k, d)


def _exponential_f64(k: Entry, d: Register) -> None:
    """d = n ln 2 + r with an integer n; e^r by its Taylor series, times 2^n made of exponent bits."""
    vanishes = k.let("pred", "vanishes", "setp.lt.f64", d, SMALLEST, note="e^d for d = n ln 2 + r")
    bounded = k.let("f64", "bounded", "selp.f64", SMALLEST, d, vanishes)
    n = k.let("f64", "n", "mul.rn.f64", bounded, LOG2E)
    k("cvt.rni.f64.f64", n, n)
    r = k.let("f64", "r", "fma.rn.f64", n, -LN2_HIGH, bounded)
    k("fma.rn.f64", r, n, -LN2_LOW, r)
    power = k.let("f64", "power", "mov.f64", 1 / factorial(EXP_TERMS), note="e^r, by Horner's rule")
    for term in reversed(range(EXP_TERMS)):
        k("fma.rn.f64", power, power, r, 1 / factorial(term))
    exponent = k.let("s32", "exponent", "cvt.rni.s32.f64", n)
    k("add.s32", exponent, exponent, 1023)
    k("shl.b32", exponent, exponent, 20)
    scale = k.let("f64", "scale", "mov.b64", ["0", exponent], note="2^n")
    k("mul.rn.f64", d, power, scale)
    k("selp.f64", d, 0.0, d, vanishes)


def logarithm(k: Entry, s: Register) -> Register:
    """ln s for a normal s > 0 or for 0 (-inf), in a new register. NaN stays."""
    if s.type == "f32":
        result = k.let("f32", "log", "lg2.approx.f32", s)
        k("mul.rn.f32", result, result, LN2)
        return result
    return _logarithm_f64(k, s)


def _logarithm_f64(k: Entry, s: Register) -> Register:
    """s = 2^e m with m near 1, from the bits; ln m = 2 artanh t = 2 (t + t^3/3 + t^5/5 + …), t = (m - 1) / (m + 1)."""
    low, high = k.reg("b32", "low"), k.reg("b32", "high")
    k("mov.b64", [low, high], s)
    exponent = k.let("s32", "exponent", "shr.s32", high, 20)
    k("and.b32", high, high, "0xFFFFF")
    k("or.b32", high, high, "0x3FF00000", note="1 <= m < 2")
    large = k.let("pred", "large", "setp.gt.s32", high, SQRT2_HIGH_BITS, note="m > sqrt(2): take m / 2")
    k("add.s32", high, high, -0x100000, when=large)
    k("add.s32", exponent, exponent, 1, when=large)
    k("add.s32", exponent, exponent, -1023)
    m = k.let("f64", "m", "mov.b64", [low, high])
    above, below = k.let("f64", "above", "add.rn.f64", m, 1.0), k.let("f64", "below", "add.rn.f64", m, -1.0)
    t = k.let("f64", "t", "div.rn.f64", below, above)
    square = k.let("f64", "square", "mul.rn.f64", t, t)
    series = k.let("f64", "series", "mov.f64", 1 / (2 * LOG_TERMS + 1))
    for term in reversed(range(1, LOG_TERMS)):
        k("fma.rn.f64", series, series, square, 1 / (2 * term + 1))
    k("mul.rn.f64", series, series, square)
    k("add.rn.f64", t, t, t)
    result = k.let("f64", "log", "fma.rn.f64", t, series, t)
    e = k.let("f64", "e", "cvt.rn.f64.s32", exponent)
    k("fma.rn.f64", result, e, LN2_LOW, result)
    k("fma.rn.f64", result, e, LN2_HIGH, result)
    nothing = k.let("f64", "nothing", "sub.rn.f64", s, s, note="0, or NaN")
    k("add.rn.f64", result, result, nothing)
    zero = k.let("pred", "zero", "setp.eq.f64", s, 0.0)
    k("selp.f64", result, f64(float("-inf")), result, zero)
    return result


def reciprocal(k: Entry, s: Register) -> Register:
    """1 / s, in a new register: for 1 exactly 1."""
    if s.type == "f64":
        return k.let("f64", "reciprocal", "rcp.rn.f64", s)
    near = k.let("f32", "reciprocal", "rcp.approx.ftz.f32", s)
    minus = k.let("f32", "minus", "neg.f32", s)
    residue = k.let("f32", "residue", "fma.rn.f32", minus, near, 1.0, note="a Newton step")
    k("fma.rn.f32", near, residue, near, near)
    return near
