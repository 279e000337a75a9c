"""Exponential and root, as softmax and rmsnorm show them, in units in the last place of the exact value."""

from __future__ import annotations

import numpy as np

from hal.conformance.probe.finding import Answer, Array, Probe, call, operator
from hal.device import Device

POINTS = 2048
WIDE = ("float32", "float64")


def worst_units(got: Array, exact: Array, dtype: str) -> float:
    """The largest error in units in the last place. `exact` is in long double, which has bits to spare for float64."""
    unit = np.spacing(np.abs(exact).astype(dtype))
    return float(np.max(np.abs(got.astype(np.longdouble) - exact) / unit))


def exponential(device: Device, dtype: str) -> Answer:
    """Error of e^x, in softmax.

    A row (0, -x): the second result is e^-x / (1 + e^-x). For x from 8 to 60 the sum is nearly 1, and what is left is
    the exponential's own error and one rounding of the division.
    """
    x = np.linspace(8.0, 60.0, POINTS).astype(dtype)
    rows = np.stack([np.zeros_like(x), -x], axis=1)
    got = call(device, operator("softmax", dtype, {"x": rows.shape}), rows)[0][:, 1]
    weight = np.exp(-x.astype(np.longdouble))
    units = worst_units(got, weight / (1 + weight), dtype)
    return (f"{units:.2f} ulp", f"{POINTS} points, 8 to 60")


def logarithm(device: Device, dtype: str) -> Answer:
    """Error of log x, in log_softmax.

    A row of n equal numbers: the result is -log n.
    """
    worst = 0.0
    for n in (2, 3, 5, 7, 11, 100, 1000, 1001):
        got = call(device, operator("log_softmax", dtype, {"x": (1, n)}), np.zeros((1, n)))[0][:, 0]
        worst = max(worst, worst_units(got, -np.log(np.longdouble(n)).reshape(1), dtype))
    return (f"{worst:.2f} ulp", "rows of equal numbers")


def root(device: Device, dtype: str) -> Answer:
    """Error of 1/sqrt x, in rmsnorm.

    Rows of one element: rstd is 1 / sqrt(x^2 + eps), off by half a unit for the square and one for root and division.
    """
    x = np.linspace(0.5, 8.0, POINTS).astype(dtype).reshape(-1, 1)
    eps = 2.0**-10
    op = operator("rmsnorm", dtype, {"x": x.shape}, axis=-1, eps=eps, return_stats=True)
    got = dict(zip((role for role, _ in op.outputs), call(device, op, x), strict=True))["rstd"].reshape(-1)
    exact = 1 / np.sqrt(x.reshape(-1).astype(np.longdouble) ** 2 + np.longdouble(eps))
    return (
        f"{worst_units(got, exact, dtype):.2f} ulp",
        f"{POINTS} points",
    )


def maximum(device: Device, dtype: str) -> Answer:
    """NaN in a row of softmax."""
    row = np.zeros((4, 65))
    row[:, 33] = np.nan
    got = call(device, operator("softmax", dtype, {"x": row.shape}), row)[0]
    return ("kept" if np.isnan(got.astype(np.float64)).all() else "lost", "one of 65")


PROBES: tuple[tuple[str, Probe, tuple[str, ...]], ...] = (
    ("error of e^x, in softmax", exponential, WIDE),
    ("error of log x, in log_softmax", logarithm, WIDE),
    ("error of 1/sqrt x, in rmsnorm", root, WIDE),
    ("NaN in a row of softmax", maximum, ("float32", "float16", "bfloat16", "float64")),
)
