"""The cases of layernorm and rmsnorm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import Case
from hal.conformance.cases.common import EDGES, FLOATS, SHORT, make, spec
from hal.conformance.layout import OF_INPUTS, OF_OUTPUTS
from hal.conformance.values import boundaries, filled, first, given, integers, normal, ordinary, peaks, planted
from hal.op import Op, TensorSpec

OPERATORS = ("layernorm", "rmsnorm")
INF, NAN = float("inf"), float("nan")
SIZES_SMOKE = {"float32": (1, 2, 3, 7, 17, 33, 64, 65, 129, 256, 257, 1000), "other": (1, 17, 129, 1025)}
SIZES_FULL = (*EDGES, 768, 1000, 1023, 1024, 1025, 2047, 2049, 4096, 4097)
LARGE = {"float32": 1e30, "bfloat16": 1e30, "float16": 60000.0, "float64": 1e200}


def cases() -> Iterator[Case]:
    """All of them; the smoke level's are marked."""
    for operator in OPERATORS:
        for dtype in FLOATS:
            yield from sizes(operator, dtype)
            yield from layouts(operator, dtype)
            yield from parameters(operator, dtype)
            yield from residuals(operator, dtype)
            yield from witnesses(operator, dtype)
            yield from edges(operator, dtype)
            yield from not_finite(operator, dtype)
            yield from consistency(operator, dtype)


def operands(
    operator: str, dtype: str, shape: tuple[int, ...], layout: str = "contiguous", kind: str = "", depth: int = 1
) -> dict[str, TensorSpec]:
    """x, weight and, for layernorm, bias; `kind` is the dtype of the latter two."""
    row = shape[len(shape) - depth :]
    weight = {"x": spec(dtype, shape, layout), "weight": spec(kind or dtype, row)}
    return {**weight, "bias": spec(kind or dtype, row)} if operator == "layernorm" else weight


def plain(dtype: str, shape: tuple[int, ...], layout: str = "contiguous") -> dict[str, TensorSpec]:
    """x alone."""
    return {"x": spec(dtype, shape, layout)}


def sizes(operator: str, dtype: str) -> Iterator[Case]:
    few = SIZES_SMOKE.get(dtype, SIZES_SMOKE["other"])
    for n in dict.fromkeys((*few, *SIZES_FULL)):
        given_level = "smoke" if n in few else "full"
        yield make(operator, f"size/5x{n}", operands(operator, dtype, (5, n)), normal(2.0, 0.5), given_level)
        yield make(operator, f"size/5x{n}/bare", plain(dtype, (5, n)), normal(2.0, 0.5))
    for rows in (1, 2, 7, 64, 129, 1000):
        level = "smoke" if rows == 129 else "full"
        yield make(operator, f"rows/{rows}x33", operands(operator, dtype, (rows, 33)), normal(), level)
    for shape in ((0, 5), (5, 0), (0, 0), (0, 3, 5)):
        label = "x".join(map(str, shape))
        yield make(operator, f"empty/{label}", operands(operator, dtype, shape), normal(), "smoke")
    level = "smoke" if dtype == "float32" else "full"
    yield make(operator, "empty/0x5/statistics", operands(operator, dtype, (0, 5)), normal(), level, return_stats=True)
    yield make(operator, "empty/5x0/statistics", operands(operator, dtype, (5, 0)), normal(), level, return_stats=True)
    yield make(operator, "size/one-axis", operands(operator, dtype, (33,)), normal(), level)
    if dtype == "float32":
        yield make(operator, "size/2x50257", operands(operator, dtype, (2, 50257)), normal(2.0, 0.5))
        yield make(operator, "size/1x1000003", plain(dtype, (1, 1000003)), normal(2.0, 0.5))
    elif dtype != "float64":
        yield make(operator, "size/1x50257", plain(dtype, (1, 50257)), normal(2.0, 0.5))


def layouts(operator: str, dtype: str) -> Iterator[Case]:
    main = dtype == "float32" and operator == "layernorm"
    for layout in OF_INPUTS:
        level = "smoke" if main or layout == "sliced" else "full"
        yield make(operator, f"layout/x-{layout}", operands(operator, dtype, (7, 65), layout), normal(), level)
        label = f"layout/x-{layout}-of-3-axes"
        yield make(operator, label, operands(operator, dtype, (3, 5, 33), layout), normal())
    for layout in OF_OUTPUTS:
        level = "smoke" if main or (layout == "sliced" and dtype == "float32") else "full"
        yield make(operator, f"layout/out-{layout}", operands(operator, dtype, (7, 65)), normal(), level, out=layout)
        both = operands(operator, dtype, (7, 65), layout)
        yield make(operator, f"layout/both-{layout}", both, normal(), out=layout, return_stats=True)
    for layout in ("offset", "sliced", "reversed", "broadcast"):
        row = {"weight": spec(dtype, (65,), layout)}
        if operator == "layernorm":
            row["bias"] = spec(dtype, (65,), layout)
        level = "smoke" if main else "full"
        yield make(operator, f"layout/weight-{layout}", {**plain(dtype, (7, 65)), **row}, normal(), level)
    for layout in ("contiguous", "padded", "sliced"):
        in_place: dict[str, Any] = {"out": layout, "shared": (("x", "out"),)}
        level = "smoke" if layout == "contiguous" else "full"
        data = operands(operator, dtype, (5, 129), layout)
        yield make(operator, f"shared/in-place-{layout}", data, normal(), level, **in_place)
    same = {"x": spec(dtype, (5, 65)), "residual": spec(dtype, (5, 65))}
    yield make(operator, "shared/residual-is-x", same, normal(), shared=(("x", "residual"),))


def parameters(operator: str, dtype: str) -> Iterator[Case]:
    roles = ("weight", "bias") if operator == "layernorm" else ("weight",)
    for role in roles:
        one = {**plain(dtype, (5, 65)), role: spec(dtype, (65,))}
        yield make(operator, f"only-{role}", one, normal(), "smoke" if dtype == "float32" else "full")
    yield make(operator, "bare", plain(dtype, (5, 65)), normal(), "smoke")
    if dtype in SHORT:
        mixed = operands(operator, dtype, (5, 129), kind="float32")
        yield make(operator, "float32-weight", mixed, normal(), "smoke")
        yield make(operator, "float32-weight/statistics", mixed, normal(), return_stats=True)
        yield make(operator, "out-float32", mixed, normal(), "smoke", out_dtype="float32")
        yield make(operator, "out-float32/bare", plain(dtype, (5, 65)), normal(), out_dtype="float32")
    for eps in (1e-5, 1e-6, 1e-12, 1e-1, 3.0, 0.0, None):
        if eps is None and operator == "layernorm":
            continue
        level = "smoke" if eps in (1e-6, 1e-1, None) else "full"
        data = operands(operator, dtype, (5, 65))
        yield make(operator, f"eps/{eps}", data, normal(), level, eps=eps)
        if eps:
            yield make(operator, f"eps/{eps}/variance-near-it", data, normal(eps**0.5), level, eps=eps)
    yield make(operator, "eps/default/variance-near-it", operands(operator, dtype, (5, 129)), near_eps, "smoke")
    yield make(operator, "statistics", operands(operator, dtype, (5, 65)), normal(2.0, 3.0), "smoke", return_stats=True)
    shape = (3, 5, 7, 9)
    for axis, depth in ((-1, 1), (-2, 2), (1, 3), (0, 4), ((-2, -1), 2), ((3, 2, 1), 3)):
        label = f"axis/{axis}".replace(" ", "").replace("(", "").replace(")", "").replace(",", "+")
        main = dtype == "float32"
        data = operands(operator, dtype, shape, depth=depth)
        level = "smoke" if axis == -2 or (axis == 0 and main) else "full"
        yield make(operator, label, data, normal(), level, axis=axis, return_stats=True)
        scattered = {**data, "x": spec(dtype, shape, "sliced")}
        level = "smoke" if axis == -2 and main else "full"
        yield make(operator, f"{label}/sliced", scattered, normal(), level, axis=axis)
        yield make(operator, f"{label}/fortran", {**data, "x": spec(dtype, shape, "fortran")}, normal(), axis=axis)


def near_eps(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Variances about the Op's own eps, where another eps shows."""
    made = [ordinary(role, s, rng) for role, s in op.inputs]
    made[0] = made[0] * float(op.param("eps")) ** 0.5
    return made


def residuals(operator: str, dtype: str) -> Iterator[Case]:
    for label, statistics in {"": False, "/statistics": True}.items():
        data = {**operands(operator, dtype, (5, 129)), "residual": spec(dtype, (5, 129))}
        level = "smoke" if statistics or dtype == "float32" else "full"
        yield make(operator, f"residual{label}", data, normal(), level, return_stats=statistics)
    long = {**operands(operator, dtype, (3, 1025)), "residual": spec(dtype, (3, 1025))}
    yield make(operator, "residual/long", long, normal())
    # The sum of a large and a small number is rounded before it is normalised.
    small = {**operands(operator, dtype, (5, 65)), "residual": spec(dtype, (5, 65))}
    yield make(operator, "residual/rounded", small, rounded_sum, "smoke", return_stats=True)
    for layout in ("sliced", "fortran", "broadcast", "reversed"):
        other = {**plain(dtype, (5, 65)), "residual": spec(dtype, (5, 65), layout)}
        out = layout if layout in OF_OUTPUTS else "padded"
        level = "smoke" if dtype == "float32" and layout == "sliced" else "full"
        yield make(operator, f"residual/{layout}", other, normal(), level, out=("contiguous", out))
    if dtype in SHORT:
        data = {**operands(operator, dtype, (5, 65), kind="float32"), "residual": spec(dtype, (5, 65))}
        yield make(operator, "residual/out-float32", data, normal(), out_dtype="float32", return_stats=True)


def rounded_sum(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """x of +-1 and a residual that mostly vanishes in the rounding of the sum."""
    digits = {"float32": 24, "float16": 11, "bfloat16": 8, "float64": 53}[op.dtype]
    sign = rng.choice((-1.0, 1.0), op.inputs[0][1].shape)
    others = [ordinary(role, s, rng) for role, s in op.inputs[1:-1]]
    return [sign, *others, rng.uniform(-1.5, 1.5, sign.shape) * 2.0 ** (1 - digits)]


def witnesses(operator: str, dtype: str) -> Iterator[Case]:
    for n in (33, 257, 2560, 4097):
        level = "smoke" if n in (257, 2560) else "full"
        rows = len(boundaries(n))
        # The weight of the sums lies on one element of each row.
        yield make(operator, f"peaks/{n}", plain(dtype, (rows, n)), peaks(100.0, 0.0), level)
        yield make(operator, f"valleys/{n}", plain(dtype, (rows, n)), peaks(-3.0, 1.0))
        yield make(operator, f"integers/{n}", operands(operator, dtype, (3, n)), integers(-8, 8))
    for n in (17, 257):
        mean = 4096.0 if dtype != "float16" else 1024.0
        for label, scale in (("", 1.0), ("-small-variance", 1e-2 if dtype == "float32" else 1.0)):
            level = "smoke" if n == 257 else "full"
            data = operands(operator, dtype, (5, n))
            yield make(operator, f"large-mean{label}/{n}", data, normal(scale, mean), level)
            yield make(operator, f"large-mean{label}/{n}/statistics", data, normal(scale, mean), return_stats=True)
    yield make(operator, "huge-mean/129", operands(operator, dtype, (5, 129)), normal(1.0, 3e4))
    yield make(operator, "first-element-apart/129", plain(dtype, (5, 129)), first(apart), "smoke")
    yield make(operator, "many-magnitudes/257", plain(dtype, (5, 257)), first(magnitudes))


def apart(op: Op, s: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    """The first element far from the others: bad for a mean taken about it."""
    x = rng.standard_normal(s.shape)
    x[:, 0] += 1000.0
    return x


def magnitudes(op: Op, s: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    """Values from 2^-8 to 2^8 of both signs."""
    return rng.standard_normal(s.shape) * 2.0 ** rng.integers(-8, 9, s.shape)


def edges(operator: str, dtype: str) -> Iterator[Case]:
    data = operands(operator, dtype, (5, 65))
    for label, value in {"zero": 0.0, "whole": 7.0, "other": 0.3}.items():
        yield make(operator, f"edge/constant-{label}", data, filled(x=value), "smoke", return_stats=True)
    if operator == "layernorm":
        yield make(operator, "edge/constant-eps-0", data, filled(x=7.0), "smoke", eps=0.0)
    else:
        yield make(operator, "edge/zero-eps-0", data, filled(x=0.0), "smoke", eps=0.0)
        signs = np.where(np.arange(64) % 2, -1000.0, 1000.0)
        yield make(operator, "edge/1000-and-minus-1000", plain(dtype, (2, 64)), given(x=signs), "smoke")
    yield make(operator, "edge/one-element", operands(operator, dtype, (5, 1)), normal(1000.0), "smoke")
    large = first(lambda op, s, rng: LARGE[dtype] * rng.uniform(0.5, 1.0, s.shape) * rng.choice((-1, 1), s.shape))
    yield make(operator, "edge/overflowing-squares", data, large, "smoke")
    tiny = {"float32": 1e-40, "bfloat16": 1e-40, "float16": 1e-7, "float64": 1e-310}[dtype]
    yield make(operator, "edge/subnormal-inputs", data, normal(tiny), "smoke")
    zero_weight = {**plain(dtype, (5, 65)), "weight": spec(dtype, (65,))}
    yield make(operator, "edge/zero-weight", zero_weight, filled(weight=0.0))
    yield make(operator, "edge/negative-eps", data, normal(), "smoke", eps=-1e-3)


def not_finite(operator: str, dtype: str) -> Iterator[Case]:
    points = (
        ((1, 3), -INF),
        ((2, 0), INF),
        ((3, 64), NAN),
        ((4, 0), NAN),
        ((5, 5), INF),
        ((5, 6), -INF),
        ((7, 64), INF),
    )
    data = operands(operator, dtype, (9, 65))
    yield make(operator, "edge/not-finite", data, planted(normal(), x=points), "smoke")
    yield make(operator, "edge/not-finite-statistics", data, planted(normal(), x=points), return_stats=True)
    weights = (((3,), INF), ((4,), NAN), ((64,), -INF))
    yield make(operator, "edge/not-finite-weight", data, planted(normal(), weight=weights))
    added = {**plain(dtype, (9, 65)), "residual": spec(dtype, (9, 65))}
    yield make(operator, "edge/not-finite-residual", added, planted(normal(), x=points, residual=(((1, 3), INF),)))


def consistency(operator: str, dtype: str) -> Iterator[Case]:
    for n in (65, 257, 1000, 2560):
        level = "smoke" if n == 257 or (n == 1000 and dtype == "float32") else "full"
        if dtype != "float64" or n < 1000:
            data = operands(operator, dtype, (129, n))
            yield make(operator, f"rows-alone/{n}", data, normal(), level, check="batch", return_stats=True)
    added = {**operands(operator, dtype, (129, 65)), "residual": spec(dtype, (129, 65))}
    yield make(operator, "rows-alone/residual", added, normal(), check="batch")
    level = "smoke" if dtype == "float32" else "full"
    yield make(operator, "two-threads", operands(operator, dtype, (33, 257)), normal(), level, check="threads")
