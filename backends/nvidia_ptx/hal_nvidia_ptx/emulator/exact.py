"""Exactly rounded float64 arithmetic, element by element through rationals: slow (about 5 us each), and plainly right.

For the elements and rounding modes that vectorised error-free transforms do not cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Mode: TypeAlias = Literal["rn", "rz", "rm", "rp"]


def correct(result: Array, at: Sequence[Array], op: str, mode: Mode, args: Sequence[Array]) -> None:
    """Put the exactly rounded op(args) into the float64 `result` at the indices `at` (as from np.nonzero).

    op: "add", "sub", "mul", "fma", "div", "sqrt" or "rcp". Elements whose result is infinite, NaN or a quotient by zero
    by IEEE 754's special cases have to be right in `result` already, and are left.
    """
    for index in zip(*at, strict=True):
        values = [float(x[index]) for x in args]
        divisor = values[-1] if op in ("div", "rcp") else 1.0
        if np.isfinite(values).all() and divisor != 0 and not (op == "sqrt" and values[0] <= 0):
            result[index] = _rounded(op, mode, values)


def _rounded(op: str, mode: Mode, values: list[float]) -> float:
    if op == "sqrt":
        root = float(np.sqrt(values[0]))
        return _step(root, Fraction(root) ** 2 - Fraction(values[0]), mode)
    exact, zero = _exact_sum(op, mode, values) if op in ("add", "sub", "fma") else _exact_product(op, values)
    if exact == 0:
        return zero
    try:
        nearest = exact.numerator / exact.denominator  # correctly rounded, subnormals included
    except OverflowError:
        nearest = np.inf if exact > 0 else -np.inf
        return _step(nearest, Fraction(1 if exact > 0 else -1), mode)
    return _step(nearest, Fraction(nearest) - exact, mode)


def _exact_sum(op: str, mode: Mode, values: list[float]) -> tuple[Fraction, float]:
    """The exact sum, and the zero to give if that is zero: -0 under rm unless both terms are +0."""
    first = values[0] * values[1] if op == "fma" else values[0]
    second = -values[1] if op == "sub" else values[-1]
    exact = (Fraction(values[0]) * Fraction(values[1]) if op == "fma" else Fraction(first)) + Fraction(second)
    if exact != 0:
        return exact, 0.0
    return exact, -0.0 if mode == "rm" and (np.signbit(first) or np.signbit(second)) else first + second


def _exact_product(op: str, values: list[float]) -> tuple[Fraction, float]:
    """The exact product or quotient, and the zero to give if that is zero."""
    if op == "mul":
        return Fraction(values[0]) * Fraction(values[1]), values[0] * values[1]
    above, below = (1.0, values[0]) if op == "rcp" else (values[0], values[1])
    return Fraction(above) / Fraction(below), above / below


def _step(nearest: float, excess: Fraction, mode: Mode) -> float:
    """Move a result that is `excess` above the exact value to the neighbour that `mode` asks for."""
    too_high = excess > 0 and (mode == "rm" or (mode == "rz" and nearest > 0))
    too_low = excess < 0 and (mode == "rp" or (mode == "rz" and nearest < 0))
    if too_high or too_low:
        return float(np.nextafter(nearest, -np.inf if too_high else np.inf))
    return nearest
