"""The end of a matmul: alpha, bias, activation, in the accumulator's type, before the one rounding into the output.

gelu = t P(t), silu = t S(t), gelu_tanh = t S(2 inner), with P the normal distribution and S the logistic function: no
cancellation, no overflow. The bound of the activations has 4 u |t| for their arithmetic. In float32 e^-x comes from
ex2.approx (2 units in the last place at most, by the PTX ISA document): with quotients that are right to the last bit
or nearly, S and P stay below half of that.
"""

from __future__ import annotations

from hal_nvidia_ptx.kernels.values import literal
from hal_nvidia_ptx.ptx import Entry, Register

LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.69314718036912382, 1.9082149292705877e-10  # fdlibm's e_exp.c: n * LN2_HIGH is exact
LARGEST_EXPONENT = {"f32": 87.0, "f64": 708.0}  # below e^-x the results would be subnormal: taken as 0
LARGEST_TAIL = {"f32": 13.0, "f64": 37.0}  # the upper tail of the normal distribution is 0 from there
SQRT_2_OVER_PI, CUBIC = 0.7978845608028654, 0.044715  # Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016

# e^r by its Taylor series, |r| <= ln(2)/2, from the highest power down: degree 13 leaves 2^-57 of it.
EXP = (
    1.60590438368216146e-10, 2.087675698786809898e-9, 2.505210838544171878e-8, 2.755731922398589065e-7,
    2.755731922398589065e-6, 0.00002480158730158730159, 0.0001984126984126984127, 0.001388888888888888889,
    0.008333333333333333333, 0.04166666666666666667, 0.1666666666666666667, 0.5, 1.0, 1.0,
)  # fmt: skip

# (x + 4) Q(x) e^(x x / 2), Q the upper tail of the normal distribution, as a polynomial in (x - 4) / (x + 4): it is
# nearly flat (M. Shepherd, J. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981). Fitted at
# Chebyshev nodes in 50 digits, on [0, 38] and on [0, 13]; relative error 4e-17 and 2e-9.
TAIL = {
    "f64": (
        -9.29610552411400904e-10, 1.62268565223351499e-10, 1.38733755572451973e-8, 1.42983759702724165e-8,
        -7.64296684455120437e-8, -1.53891919795552534e-7, 2.63844221939081531e-7, 1.01953348514889732e-6,
        -6.25289633815107653e-7, -5.91877330945121604e-6, 7.15087015872470668e-7, 0.0000351441487267285358,
        -1.90789129348843226e-6, -0.000231094812961477023, 0.000133344258490337253, 0.00163081844137903808,
        -0.00347969236269969402, -0.0075401889655676717, 0.0603965748907229828, -0.186521857959694697,
        0.387137400742218413, -0.607896641971891756, 0.755285130415751481,
    ),
    "f32": (
        -5.608146317e-5, -0.0002439457899, 0.0001628381163, 0.001648768562, -0.003484075702, -0.007544893283,
        0.06039662311, -0.1865214252, 0.3871374174, -0.6078966529, 0.7552851302,
    ),
}  # fmt: skip


def finish(
    k: Entry, total: Register, alpha: Register | None, bias: Register | None, activation: str | None
) -> Register:
    """activation(alpha * total + bias) in `total`'s type; alpha and bias may be absent. Integers wrap."""
    if total.type == "s32":
        if bias is not None:
            k("add.s32", total, total, bias)
        return total
    if alpha is not None:
        k(f"mul.rn.{total.type}", total, total, alpha)
    if bias is not None:
        k(f"add.rn.{total.type}", total, total, bias)
    return activate(k, total, activation)


def activate(k: Entry, t: Register, activation: str | None) -> Register:
    """The activation of t (f32 or f64), in a new register unless there is none."""
    if activation is None:
        return t
    type = t.type
    y = k.reg(type, f"{t.name}_active")
    if activation == "relu":
        negative = k.let("pred", "negative", f"setp.lt.{type}", t, 0.0, note="NaN is not")
        k(f"selp.{type}", y, literal(type, 0.0), t, negative)
        return y
    if activation == "gelu":
        factor = _distribution(k, t)
    elif activation == "silu":
        factor = _logistic(k, t)
    else:
        factor = _logistic(k, _twice_inner(k, t))
    k(f"mul.rn.{type}", y, t, factor)
    lowest = k.let("pred", "lowest", f"setp.eq.{type}", t, literal(type, float("-inf")))
    k(f"selp.{type}", y, literal(type, 0.0), y, lowest, note="the limit; -inf * 0 is NaN")
    return y


def _twice_inner(k: Entry, t: Register) -> Register:
    """2 sqrt(2/pi) (t + 0.044715 t^3), twice the argument of gelu_tanh's tanh."""
    type = t.type
    cube = k.let(type, "cube", f"mul.rn.{type}", t, CUBIC)
    k(f"mul.rn.{type}", cube, cube, t)
    k(f"fma.rn.{type}", cube, cube, t, t)
    k(f"mul.rn.{type}", cube, cube, 2 * SQRT_2_OVER_PI)
    return cube


def _logistic(k: Entry, z: Register) -> Register:
    """1 / (1 + e^-z), by e^-|z|, so that neither tail loses digits."""
    type = z.type
    size = k.let(type, "size", f"abs.{type}", z)
    e = _exponential(k, size)
    below = k.let(type, "below", f"add.rn.{type}", e, 1.0)
    positive = k.let("pred", "positive", f"setp.ge.{type}", z, 0.0)
    above = k.let(type, "above", f"selp.{type}", literal(type, 1.0), e, positive)
    return _quotient(k, above, below)


def _distribution(k: Entry, t: Register) -> Register:
    """The normal distribution function."""
    type = t.type
    x = k.let(type, "x", f"abs.{type}", t)
    k(f"min.{type}", x, x, LARGEST_TAIL[type])
    below, above = (k.let(type, name, f"add.rn.{type}", x, by) for name, by in (("x_less", -4.0), ("x_more", 4.0)))
    y = _quotient(k, below, above)
    polynomial = _horner(k, y, TAIL[type])
    half_square = k.let(type, "half_square", f"mul.rn.{type}", x, 0.5)
    k(f"mul.rn.{type}", half_square, half_square, x)
    tail = _quotient(k, polynomial, above)
    k(f"mul.rn.{type}", tail, tail, _exponential(k, half_square))
    outside = k.let("pred", "outside", f"setp.ge.{type}", x, LARGEST_TAIL[type])
    k(f"selp.{type}", tail, literal(type, 0.0), tail, outside)
    upper = k.let(type, "upper", f"sub.rn.{type}", literal(type, 1.0), tail)
    positive = k.let("pred", "positive", f"setp.gt.{type}", t, 0.0)
    k(f"selp.{type}", tail, upper, tail, positive)
    # min drops a NaN; the product with t, which the caller makes, brings it back.
    return tail


def _exponential(k: Entry, x: Register) -> Register:
    """e^-x for x >= 0; 0 from LARGEST_EXPONENT on; NaN stays."""
    type, limit = x.type, LARGEST_EXPONENT[x.type]
    if type == "f32":
        power = k.let("f32", "power", "mul.rn.f32", x, -LOG2E)
        k("ex2.approx.f32", power, power)
    else:
        power = _exponential_f64(k, x)
    vanished = k.let("pred", "vanished", f"setp.gt.{type}", x, limit)
    k(f"selp.{type}", power, literal(type, 0.0), power, vanished)
    return power


def _exponential_f64(k: Entry, x: Register) -> Register:
    """-x = n ln 2 + r; e^r by its series, times 2^n through the exponent's bits."""
    bounded = k.let("f64", "bounded", "min.f64", x, LARGEST_EXPONENT["f64"])
    n = k.let("f64", "n", "mul.rn.f64", bounded, -LOG2E)
    k("cvt.rni.f64.f64", n, n)
    r = k.let("f64", "r", "neg.f64", x)
    k("fma.rn.f64", r, n, -LN2_HIGH, r)
    k("fma.rn.f64", r, n, -LN2_LOW, r)
    power = _horner(k, r, EXP)
    exponent = k.let("s32", "exponent", "cvt.rni.s32.f64", n)
    k("add.s32", exponent, exponent, 1023)
    k("shl.b32", exponent, exponent, 20)
    scale = k.let("f64", "scale", "mov.b64", (0, exponent), note="2^n")
    k("mul.rn.f64", power, power, scale)
    return power


def _horner(k: Entry, x: Register, coefficients: tuple[float, ...]) -> Register:
    """The polynomial, highest power first."""
    type = x.type
    value = k.let(type, "series", f"mov.{type}", coefficients[0])
    for coefficient in coefficients[1:]:
        k(f"fma.rn.{type}", value, value, x, coefficient)
    return value


def _quotient(k: Entry, a: Register, b: Register) -> Register:
    """a / b for 1 <= b <= 2^60: a reciprocal, a Newton step, a correction of the quotient."""
    if a.type == "f64":
        return k.let("f64", "quotient", "div.rn.f64", a, b)
    r = k.let("f32", "reciprocal", "rcp.approx.f32", b)
    minus_b = k.let("f32", "minus_b", "neg.f32", b)
    residue = k.let("f32", "residue", "fma.rn.f32", minus_b, r, 1.0)
    k("fma.rn.f32", r, residue, r, r)
    q = k.let("f32", "quotient", "mul.rn.f32", a, r)
    k("fma.rn.f32", residue, minus_b, q, a)
    k("fma.rn.f32", q, residue, r, q)
    return q
