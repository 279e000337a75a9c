"""The cases of softmax and log_softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import Case
from hal.conformance.cases.common import EDGES, FLOATS, SHORT, make, spec
from hal.conformance.layout import OF_INPUTS, OF_OUTPUTS
from hal.conformance.values import boundaries, filled, first, given, normal, peaks, planted
from hal.op import Op, TensorSpec

OPERATORS = ("softmax", "log_softmax")
INF, NAN = float("inf"), float("nan")
SIZES_SMOKE = {"float32": (1, 2, 3, 7, 17, 33, 64, 65, 129, 256, 257, 1000), "other": (1, 17, 129, 1025)}
SIZES_FULL = (*EDGES, 1000, 1023, 1024, 1025, 2047, 2049, 4096, 4097)


def cases() -> Iterator[Case]:
    """All of them; the smoke level's are marked."""
    for operator in OPERATORS:
        for dtype in FLOATS:
            yield from sizes(operator, dtype)
            yield from layouts(operator, dtype)
            yield from options(operator, dtype)
            yield from masks(operator, dtype)
            yield from witnesses(operator, dtype)
            yield from not_finite(operator, dtype)
            yield from consistency(operator, dtype)
        yield from edges_of_one_dtype(operator)


def x(dtype: str, shape: tuple[int, ...], layout: str = "contiguous") -> dict[str, TensorSpec]:
    """The one operand that must be there."""
    return {"x": spec(dtype, shape, layout)}


def sizes(operator: str, dtype: str) -> Iterator[Case]:
    few = SIZES_SMOKE.get(dtype, SIZES_SMOKE["other"])
    for n in dict.fromkeys((*few, *SIZES_FULL)):
        yield make(operator, f"size/5x{n}", x(dtype, (5, n)), normal(3.0), "smoke" if n in few else "full")
    for rows in (1, 2, 7, 64, 129, 1000):
        yield make(operator, f"rows/{rows}x33", x(dtype, (rows, 33)), normal(3.0), "smoke" if rows == 129 else "full")
    for shape in ((0, 5), (5, 0), (0, 0), (3, 0, 5)):
        label = "x".join(map(str, shape))
        level = "smoke" if dtype == "float32" or len(shape) == 2 else "full"
        yield make(operator, f"empty/{label}", x(dtype, shape), normal(), level)
    yield make(operator, "size/one-axis", x(dtype, (33,)), normal(3.0), "smoke" if dtype == "float32" else "full")
    if dtype == "float32":
        yield make(operator, "size/2x50257", x(dtype, (2, 50257)), normal(3.0))
        yield make(operator, "size/1x1000003", x(dtype, (1, 1000003)), normal(3.0))
    elif dtype != "float64":
        yield make(operator, "size/1x50257", x(dtype, (1, 50257)), normal(3.0))


def layouts(operator: str, dtype: str) -> Iterator[Case]:
    main = dtype == "float32" and operator == "softmax"
    for layout in OF_INPUTS:
        level = "smoke" if main or (layout == "sliced" and operator == "softmax") else "full"
        yield make(operator, f"layout/x-{layout}", x(dtype, (7, 65), layout), normal(3.0), level)
        yield make(operator, f"layout/x-{layout}-of-3-axes", x(dtype, (3, 5, 33), layout), normal(3.0))
    for layout in OF_OUTPUTS:
        level = "smoke" if main else "full"
        yield make(operator, f"layout/out-{layout}", x(dtype, (7, 65)), normal(3.0), level, out=layout)
        yield make(operator, f"layout/both-{layout}", x(dtype, (7, 65), layout), normal(3.0), out=layout)
    for layout in ("contiguous", "fortran", "transposed", "sliced", "reversed"):
        for axis in (0, 1, -1):
            level = "smoke" if main and layout == "contiguous" else "full"
            label = f"layout/axis{axis}-{layout}"
            yield make(operator, label, x(dtype, (9, 17, 5), layout), normal(3.0), level, axis=axis)
    level = "smoke" if operator == "softmax" else "full"
    yield make(operator, "layout/axis0-of-two", x(dtype, (129, 33)), normal(3.0), level, axis=0)
    yield make(operator, "layout/axis-short-output", x(dtype, (17, 9)), normal(3.0), axis=0, out="transposed")
    # In place: the result lies in x's memory.
    for layout in ("contiguous", "padded", "sliced"):
        in_place: dict[str, Any] = {"out": layout, "shared": (("x", "out"),)}
        level = "smoke" if layout == "contiguous" else "full"
        yield make(operator, f"shared/in-place-{layout}", x(dtype, (5, 129), layout), normal(3.0), level, **in_place)


def options(operator: str, dtype: str) -> Iterator[Case]:
    for scale in (0.125, 0.3, -1.5, 0.0, 1e-3, 40.0):
        level = "smoke" if scale in (0.3, -1.5) else "full"
        yield make(operator, f"scale/{scale}", x(dtype, (5, 65)), normal(3.0), level, scale=scale)
    if dtype in SHORT:
        yield make(operator, "out-float32", x(dtype, (5, 65)), normal(3.0), "smoke", out_dtype="float32")
        yield make(operator, "out-float32/long", x(dtype, (2, 2560)), normal(3.0), out_dtype="float32")
        yield make(operator, "out-float32/sliced", x(dtype, (5, 65), "sliced"), normal(3.0), out_dtype="float32")


def masks(operator: str, dtype: str) -> Iterator[Case]:
    shape = (3, 4, 7, 33)
    main = dtype == "float32"
    kinds = dict.fromkeys(("bool", dtype, "float32")) if dtype != "float64" else ("bool", "float64")
    for kind in kinds:
        for label, mask in {
            "full": spec(kind, shape),
            "keys": spec(kind, (33,)),
            "causal": spec(kind, (7, 33)),
            "of-batch": spec(kind, (3, 1, 1, 33)),
            "of-rows": spec(kind, (7, 1)),
            "sliced": spec(kind, (7, 33), "sliced"),
            "transposed": spec(kind, (7, 33), "transposed"),
            "scalar": spec(kind, ()),
        }.items():
            operands = {**x(dtype, shape), "mask": mask}
            level = "smoke" if main and label in ("full", "keys", "of-rows") else "full"
            yield make(operator, f"mask-{kind}/{label}", operands, masked, level)
        operands = {**x(dtype, shape), "mask": spec(kind, (7, 33))}
        yield make(operator, f"mask-{kind}/scale", operands, masked, "smoke" if main else "full", scale=0.3)
        axis = {**x(dtype, (33, 9)), "mask": spec(kind, (33, 1))}
        yield make(operator, f"mask-{kind}/axis0", axis, masked, axis=0)
        pair = {**x(dtype, (9, 65)), "mask": spec(kind, (9, 65))}
        level = "smoke" if main or operator == "softmax" or kind == "bool" else "full"
        yield make(operator, f"mask-{kind}/edges", pair, awkward_masks, level)
        yield make(operator, f"mask-{kind}/last-only", pair, last_only, level)
        long = {**x(dtype, (3, 2560)), "mask": spec(kind, (3, 2560))}
        yield make(operator, f"mask-{kind}/long", long, masked)


def masked(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """A mask that keeps four fifths: False or -inf elsewhere, and small numbers where it is additive."""
    (_, spec_x), (_, spec_mask) = op.inputs
    keep = rng.random(spec_mask.shape) < 0.8
    numbers = np.where(keep, rng.standard_normal(spec_mask.shape), -np.inf)
    return [3.0 * rng.standard_normal(spec_x.shape), keep if spec_mask.dtype == "bool" else numbers]


def awkward_masks(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Rows of which a mask leaves nothing, the first, the last, half; NaN and infinities where it leaves nothing."""
    (_, spec_x), (_, spec_mask) = op.inputs
    data, keep = 3.0 * rng.standard_normal(spec_x.shape), np.zeros(spec_mask.shape, np.bool_)
    keep[1, 0] = keep[2, -1] = True
    keep[3, : keep.shape[1] // 2] = keep[4, 1:] = keep[5, :-1] = True
    keep[6] = keep[7] = True
    keep[7, 3] = keep[8, 4] = False
    if spec_mask.dtype == "bool":
        data[0, 7], data[1, 1], data[7, 3], data[8] = NAN, INF, NAN, NAN
        return [data, keep]
    data[8, 7] = NAN
    return [data, np.where(keep, 0.0, -np.inf)]


def last_only(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Masks that end one element before, at, and behind each multiple of eight: one off shows."""
    (_, spec_x), (_, spec_mask) = op.inputs
    lengths = (1, 7, 8, 9, 16, 31, 33, 63, 64)
    keep = np.arange(spec_mask.shape[1]) < np.array(lengths)[:, None]
    data = np.where(np.arange(spec_x.shape[1]) == np.array(lengths)[:, None], 9.0, rng.standard_normal(spec_x.shape))
    return [data, keep if spec_mask.dtype == "bool" else np.where(keep, 0.0, -np.inf)]


def witnesses(operator: str, dtype: str) -> Iterator[Case]:
    for n in (33, 257, 2560, 4097):
        level = "smoke" if n in (257, 2560) else "full"
        rows = len(boundaries(n))
        yield make(operator, f"peaks/{n}", x(dtype, (rows, n)), peaks(0.0, -20.0), level)
        yield make(operator, f"valleys/{n}", x(dtype, (rows, n)), peaks(-9.0, 1.0))
        yield make(operator, f"equal/{n}", x(dtype, (2, n)), filled(x=2.5), level)
    yield make(operator, "equal-but-large/2560", x(dtype, (2, 2560)), filled(x=1000.0), "smoke")
    yield make(operator, "large/65", x(dtype, (5, 65)), normal(300.0, 1000.0), "smoke")
    yield make(operator, "large/2560", x(dtype, (2, 2560)), normal(300.0, -2000.0))
    yield make(operator, "close/257", x(dtype, (5, 257)), normal(1e-3, 1.0))
    yield make(operator, "wide/257", x(dtype, (5, 257)), normal(30.0), "smoke")
    yield make(operator, "edge/1000-1001-1002", x(dtype, (2, 3)), given(x=[1000.0, 1001.0, 1002.0]), "smoke")
    yield make(operator, "edge/1000-and-0", x(dtype, (2, 2)), given(x=[1000.0, 0.0]), "smoke")
    yield make(operator, "edge/one-element", x(dtype, (5, 1)), normal(1000.0), "smoke")
    ramp = first(lambda op, s, rng: np.broadcast_to(-0.5 * np.arange(s.shape[-1]), s.shape))
    yield make(operator, "ramp/300", x(dtype, (2, 300)), ramp, "smoke")


def not_finite(operator: str, dtype: str) -> Iterator[Case]:
    points = (
        ((1, 3), -INF), ((2, 0), INF), ((3, 64), NAN), ((4, 0), NAN), ((4, 1), INF), ((5, 0), INF), ((5, 64), -INF),
        ((6, 0), -INF), ((6, 64), -INF), ((8, 64), INF), ((9, 9), -NAN),
    )  # fmt: skip
    yield make(operator, "edge/not-finite", x(dtype, (11, 65)), planted(normal(3.0), x=points), "smoke")
    yield make(operator, "edge/all-minus-inf", x(dtype, (2, 65)), filled(x=-INF), "smoke")
    mask = {**x(dtype, (11, 65)), "mask": spec("bool", (65,))}
    yield make(operator, "edge/not-finite-masked", mask, planted(normal(3.0), x=points))


def consistency(operator: str, dtype: str) -> Iterator[Case]:
    for n in (65, 257, 1000, 2560):
        level = "smoke" if n == 257 or (n == 1000 and dtype == "float32") else "full"
        if dtype != "float64" or n < 1000:
            yield make(operator, f"rows-alone/{n}", x(dtype, (129, n)), normal(3.0), level, check="batch")
    mask = {**x(dtype, (129, 65)), "mask": spec("bool", (129, 65))}
    yield make(operator, "rows-alone/mask", mask, masked, check="batch")
    level = "smoke" if dtype == "float32" else "full"
    yield make(operator, "two-threads", x(dtype, (33, 257)), normal(3.0), level, check="threads")


def edges_of_one_dtype(operator: str) -> Iterator[Case]:
    """What the rules say of single dtypes by number."""
    ends = np.array([[65504.0, -65504.0, 0.0], [-65504.0, -65504.0, -65504.0]])
    yield make(operator, "edge/65504", x("float16", (2, 3)), given(x=ends), "smoke")
    yield make(operator, "edge/70000-equal", x("float16", (1, 70000)), filled(x=1.0), "smoke")
    yield make(operator, "edge/finfo-min", x("float16", (2, 9)), planted(filled(x=-65504.0), x=(((0, 3), 0.0),)))
    for dtype in ("float32", "bfloat16"):
        huge = np.array([[3e38, -3e38, 0.0], [-3e38, -3e38, 3e38]])
        yield make(operator, "edge/3e38", x(dtype, (2, 3)), given(x=huge), "smoke")
    # float16 results that are subnormal are kept: e^-9 to e^-17.
    small = -np.arange(17.0).reshape(1, 17)
    yield make(operator, "edge/subnormal-results", x("float16", (1, 17)), given(x=small), "smoke")
