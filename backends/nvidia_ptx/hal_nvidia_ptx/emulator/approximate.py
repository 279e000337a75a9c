"""PTX's .approx instructions: the function in float64, rounded to float32, which is one of the results PTX permits.

Hardware's bits differ. `perturbed` moves every result by a random part of the error that PTX permits, so that a test
can see whether a kernel's tolerance leaves room for real hardware. Runs under `numerics.quiet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hal_nvidia_ptx.emulator import numerics
from hal_nvidia_ptx.emulator.exact import Array


@dataclass(frozen=True, slots=True)
class Approximation:
    """A function on float64 and the error that PTX documents for its .approx.f32 form.

    relative: times the result; absolute: where that is more.
    """

    function: Callable[[Array], Array]
    relative: float = 0.0
    absolute: float = 0.0


# The documented bounds of the PTX ISA ("Floating Point Instructions"), full range.
FUNCTIONS = {
    "ex2": Approximation(np.exp2, relative=2.0**-22),
    "lg2": Approximation(np.log2, relative=2.0**-22, absolute=2.0**-22),
    "rcp": Approximation(np.reciprocal, relative=2.0**-23),
    "rsqrt": Approximation(lambda x: 1.0 / np.sqrt(x), relative=2.0**-22.9),
    "sqrt": Approximation(np.sqrt, relative=2.0**-23),
    "sin": Approximation(np.sin, absolute=2.0**-20.5),
    "cos": Approximation(np.cos, absolute=2.0**-20.5),
    "tanh": Approximation(np.tanh, relative=2.0**-11),
}
DIVISION = Approximation(lambda x: x, relative=2.0**-22)  # div.approx and div.full: 2 ulp

_random: np.random.Generator | None = None


@contextmanager
def perturbed(seed: int) -> Iterator[None]:
    """Within it, approximate results err by a uniformly random part of what is permitted."""
    global _random
    before, _random = _random, np.random.default_rng(seed)
    try:
        yield
    finally:
        _random = before


def approximate(name: str, x: Array, ftz: bool = False) -> Array:
    """NAME.approx.f32 of float32 `x`; ftz flushes subnormal inputs and results."""
    kind = FUNCTIONS[name]
    value = kind.function((numerics.flush(x) if ftz else x).astype(np.float64))
    return _finished(value, kind, ftz)


def divide(a: Array, b: Array, ftz: bool = False) -> Array:
    """div.full.f32 and div.approx.f32, where the divisor is in the range that the latter is defined for."""
    if ftz:
        a, b = numerics.flush(a), numerics.flush(b)
    return _finished(np.divide(a, b, dtype=np.float64), DIVISION, ftz)


def reciprocal64(x: Array, root: bool = False) -> Array:
    """rcp.approx.ftz.f64 and rsqrt.approx.ftz.f64: the upper 32 bits of the result, the lower ones zero."""
    x = numerics.flush(x)
    value: Array = 1.0 / (np.sqrt(x) if root else x)
    upper: Array = numerics.flush(value).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)
    return upper.view(np.float64)


def _finished(value: Array, kind: Approximation, ftz: bool) -> Array:
    if _random is not None:
        share = _random.uniform(-1.0, 1.0, value.shape)
        value = value + np.where(
            np.isfinite(value), share * np.maximum(np.abs(value) * kind.relative, kind.absolute), 0.0
        )
    result: Array = value.astype(np.float32)
    return numerics.flush(result) if ftz else result
