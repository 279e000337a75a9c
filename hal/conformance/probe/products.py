"""matmul: how sums are kept and rounded, what becomes of inputs, of subnormal numbers, and of integers that overflow.

Sums are watched by cancellation. In 1 + s - 1 the term s survives exactly as far as it was kept beside the 1. The terms
are tried in every order, since nobody says in which order a device adds: lanes and trees may put 1 and -1 together
first and lose nothing, but some order puts s beside the 1. All 16 x 16 results of a call are the same sum, and K has
only these terms, so that one step of a matrix unit gets them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from hal.conformance.probe.finding import Answer, Probe, call, operator
from hal.device import Device

FLOATS = ("float32", "float16", "bfloat16", "float64")
SIDE = 16  # rows and columns of a result
TOP = 30  # the largest term is 2**TOP where a dtype's range is short: so far down reach the products of its numbers
DIGITS = {"float16": 11, "bfloat16": 8}
DEEPEST = 58  # bits that are looked for: float64 has 53


def out_dtype(dtype: str) -> str:
    """The widest result that matmul gives."""
    return "float64" if dtype == "float64" else "float32"


def sums(device: Device, dtype: str, terms: Sequence[tuple[float, float]]) -> Iterator[float]:
    """The result of a sum of products, for each order of its terms."""
    op = operator("matmul", dtype, {"a": (SIDE, len(terms)), "b": (len(terms), SIDE)}, out_dtype=out_dtype(dtype))
    for order in sorted(set(permutations(terms))):
        left = np.array([[x for x, _ in order]] * SIDE)
        right = np.array([[y] * SIDE for _, y in order])
        yield float(call(device, op, left, right)[0][0, 0])


def power(exponent: int) -> tuple[float, float]:
    """2**exponent as a product of two numbers that every dtype has: exponents from -14 to 15."""
    half = exponent // 2
    return 2.0**half, 2.0 ** (exponent - half)


def times(factor: float, exponent: int) -> tuple[float, float]:
    """factor * 2**exponent as such a product."""
    x, y = power(exponent)
    return factor * x, y


def kept_bits(device: Device, dtype: str) -> int:
    """The p for which 2**TOP + 2**(TOP - p + 1) - 2**TOP survives in every order, and one bit less does not."""
    for depth in range(1, DEEPEST):
        small = 2.0 ** (TOP - depth)
        if any(got != small for got in sums(device, dtype, [power(TOP), power(TOP - depth), times(-1.0, TOP)])):
            return depth
    return DEEPEST


def accumulator(device: Device, dtype: str) -> Answer:
    """Bits of a sum."""
    bits = kept_bits(device, dtype)
    known = {11: "float16", 8: "bfloat16", 24: "float32", 53: "float64"}
    return (f"{bits}{f' ({known[bits]})' if bits in known else ''}", "1 + s - 1")


def rounding(device: Device, dtype: str) -> Answer:
    """What becomes of 3/4 of the last place: lost on both sides, on one, or rounded to a whole one."""
    exponent = TOP - kept_bits(device, dtype) + 1
    above = set(sums(device, dtype, [power(TOP), times(0.75, exponent), times(-1.0, TOP)]))
    below = set(sums(device, dtype, [times(-1.0, TOP), times(-0.75, exponent), power(TOP)]))
    lost = 0.0 in above, 0.0 in below
    names = {(False, False): "to nearest", (True, True): "toward zero", (False, True): "up", (True, False): "down"}
    return names[lost], f"1 + 3/4 unit gives {sorted(x / 2.0**exponent for x in above)} units above 1"


def inputs(device: Device, dtype: str) -> Answer:
    """Bits of an operand that count."""
    digits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype]
    for bits in range(digits, 1, -1):
        value = 1 + 2.0 ** (1 - bits)
        if set(sums(device, dtype, [(value, 1.0)])) == {value}:
            break
    names = {11: "tf32" if dtype == "float32" else "all", 8: "bfloat16" if dtype == "float32" else "all", digits: "all"}
    return (f"{bits} ({names.get(bits, 'fewer')})", "(1 + u) times 1")


def fused(device: Device, dtype: str) -> Answer:
    """Products before they are added."""
    digits = {"float64": 53, "float32": 24}[dtype]
    step = 2.0 ** -(digits // 2)  # (1 + step)^2 has a last digit that the dtype has no place for
    terms = [(1 + step, 1 + step), (-(1 + 2 * step), 1.0)]
    exact = step * step
    got = set(sums(device, dtype, terms))
    value = "exact (fused, or a wider sum)" if exact in got else "rounded (not fused)"
    return (value, f"(1 + s)^2 - (1 + 2 s) gives {sorted(got)}, s^2 is {exact:g}")


def subnormal_inputs(device: Device, dtype: str) -> Answer:
    """Subnormal operands."""
    small, large = {"float64": (2.0**-1060, 2.0**100), "float16": (2.0**-20, 2.0**10)}.get(dtype, (2.0**-130, 2.0**60))
    (got,) = set(sums(device, dtype, [(small, large)]))
    return (
        "kept" if got == small * large else "flushed to 0",
        f"{small:g} times {large:g} gives {got:g}",
    )


def subnormal_results(device: Device, dtype: str) -> Answer:
    """Subnormal results."""
    factor = 2.0**-520 if dtype == "float64" else 2.0**-66
    (got,) = set(sums(device, dtype, [(factor, factor * 0.5**8)]))
    wanted = factor * factor * 0.5**8
    return ("kept" if got == wanted else "flushed to 0", f"{got:g}, exactly {wanted:g}")


def result_rounding(device: Device, dtype: str) -> Answer:
    """Rounding of a result to 16 bits."""
    digits = DIGITS[dtype]
    unit = 2.0 ** (1 - digits)
    op = operator("matmul", dtype, {"a": (SIDE, 2), "b": (2, SIDE)})

    def of(part: float) -> float:
        left = np.array([[1.0, part]] * SIDE)
        right = np.array([[1.0] * SIDE, [unit] * SIDE])
        return (float(call(device, op, left, right)[0][0, 0]) - 1) / unit

    quarter, half, three = of(0.25), of(0.5), of(0.75)
    value = {
        (0.0, 0.0, 1.0): "to nearest, ties to even",
        (0.0, 1.0, 1.0): "to nearest, ties away",
        (0.0, 0.0, 0.0): "toward zero",
        (1.0, 1.0, 1.0): "up",
    }.get((quarter, half, three), "other")
    return (
        value,
        f"1/4, 1/2, 3/4 of a unit give {quarter:g}, {half:g}, {three:g}",
    )


def integer_overflow(device: Device, dtype: str) -> Answer:
    """int8: a sum beyond 32 bits."""
    terms = 2**31 // (128 * 128) + 1
    op = operator("matmul", dtype, {"a": (1, terms), "b": (terms, 1)})
    got = int(call(device, op, np.full((1, terms), -128), np.full((terms, 1), -128))[0][0, 0])
    exact = 128 * 128 * terms
    value = "wraps" if got == exact - 2**32 else "saturates" if got == 2**31 - 1 else "other"
    return (value, f"{exact} becomes {got}")


def integer_pairs(device: Device, dtype: str) -> Answer:
    """int8: pairs of the largest products."""
    op = operator("matmul", dtype, {"a": (SIDE, 4), "b": (4, SIDE)})
    got = int(call(device, op, np.full((SIDE, 4), -128), np.full((4, SIDE), -128))[0][0, 0])
    exact = 4 * 128 * 128
    value = "exact" if got == exact else "cut to 16 bits on the way"
    return (value, f"4 times 128 x 128 = {exact} becomes {got}")


def not_a_number(device: Device, dtype: str) -> Answer:
    """NaN and infinity in a product."""
    op = operator("matmul", dtype, {"a": (SIDE, 2), "b": (2, SIDE)})

    def of(x: float, y: float) -> float:
        return float(call(device, op, np.array([[x, 0.0]] * SIDE), np.array([[y] * SIDE, [1.0] * SIDE]))[0][0, 0])

    facts = {"NaN x 0": of(np.nan, 0.0), "inf x 0": of(np.inf, 0.0), "inf x 1": of(np.inf, 1.0)}
    good = np.isnan(facts["NaN x 0"]) and np.isnan(facts["inf x 0"]) and facts["inf x 1"] == np.inf
    return ("as in IEEE 754" if good else "lost", str(facts))


def signed_zero(device: Device, dtype: str) -> Answer:
    """The sign of a sum of negative zeros."""
    (got,) = set(sums(device, dtype, [(-0.0, 1.0)]))
    return ("-0" if np.signbit(got) else "+0", "-0 times 1, alone")


SIXTEEN = tuple(DIGITS)
PROBES: tuple[tuple[str, Probe, tuple[str, ...]], ...] = (
    ("bits of a sum", accumulator, FLOATS),
    ("rounding of a sum", rounding, FLOATS),
    ("bits of an operand that count", inputs, FLOATS),
    ("products before they are added", fused, ("float32", "float64")),
    ("rounding of a result to 16 bits", result_rounding, SIXTEEN),
    ("subnormal operands", subnormal_inputs, FLOATS),
    ("subnormal results", subnormal_results, ("float32", "bfloat16", "float64")),
    ("NaN and infinity in a product", not_a_number, FLOATS),
    ("a sum of negative zeros", signed_zero, FLOATS),
    ("pairs of the largest products", integer_pairs, ("int8",)),
    ("a sum beyond 32 bits", integer_overflow, ("int8",)),
)
