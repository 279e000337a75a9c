"""rcp, sqrt, and the approximate functions of one argument."""

from __future__ import annotations

from typing import cast

import numpy as np

from hal_nvidia_ptx.emulator import approximate, formats
from hal_nvidia_ptx.emulator.instructions.floating import HALVES, Parts, halves, rounded
from hal_nvidia_ptx.emulator.instructions.scalar import Simple, simple
from hal_nvidia_ptx.emulator.lanes import Array

EXACT = ("rcp", "sqrt")  # these exist exactly rounded, too


@simple("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _function(parts: Parts) -> Simple:
    name, kind, ftz = parts[0], parts[-1], "ftz" in parts
    if "approx" not in parts:
        if name not in EXACT:
            raise ValueError(f"{name} is .approx")
        return rounded(name, parts, 1, None)
    if kind in HALVES:
        narrow = cast(formats.Narrow, HALVES[kind])

        def narrowed(bits: Array) -> Array:
            return formats.narrow(approximate.approximate(name, formats.widen(bits, narrow), False), narrow)

        return Simple(halves(narrowed, kind), kind, (kind,), faith="approximate")
    if kind == "f64":
        root = name == "rsqrt"
        return Simple(
            lambda a, out: np.copyto(out, approximate.reciprocal64(a, root)), kind, (kind,), faith="approximate"
        )
    return Simple(
        lambda a, out: np.copyto(out, approximate.approximate(name, a, ftz)), kind, (kind,), faith="approximate"
    )
