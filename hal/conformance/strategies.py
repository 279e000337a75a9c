"""Hypothesis strategies over Ops: calls that no list has thought of.

    @given(strategies.cases())
    def test_any_call(case):
        assert run_case(device, case).status == "passed"

Operators, dtypes, shapes (with axes of length 0 and 1), layouts of every operand and result, options, masks, and data
from several makers. Needs hypothesis; nothing else here does.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hal.conformance.case import Case, Values, defaults
from hal.conformance.cases.common import FLOATS, SHORT, make, spec
from hal.conformance.layout import OF_INPUTS, OF_OUTPUTS
from hal.conformance.values import integers, normal, ordinary
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS

SIZES = st.one_of(st.integers(0, 9), st.sampled_from((15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257)))
MOST = 20000  # elements of one operand: cases are small, and many


def shapes(least: int = 1, most: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of `least` to `most` axes and no more than MOST elements."""
    return st.lists(SIZES, min_size=least, max_size=most).map(tuple).filter(lambda shape: math.prod(shape) <= MOST)


def operand(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[TensorSpec]:
    """An operand in any layout."""
    return st.sampled_from(OF_INPUTS).map(lambda layout: spec(dtype, shape, layout))


def broadcastable(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """A shape that broadcasts to `shape`: some axes of length 1, some leading ones left out."""
    ones = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    cut = st.integers(0, len(shape))
    return st.builds(lambda one, at: tuple(1 if o else n for o, n in zip(one, shape, strict=True))[at:], ones, cut)


def floats(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Normal values with a few infinities, NaN, zeros and subnormal numbers among them.

    Not in weights: 0 times infinity is NaN, but the deviation of a constant row need not be exactly 0.
    """
    made = []
    for role, s in op.inputs:
        values = ordinary(role, s, rng)
        if role != "weight" and s.dtype not in ("bool", "int8", "int32") and s.size:
            special = rng.choice((math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-40, 1e4), s.shape)
            values = np.where(rng.random(s.shape) < 1.5 / max(s.shape[-1], 1), special, values)
        made.append(values)
    return made


VALUES: st.SearchStrategy[Values] = st.sampled_from(
    (normal(), normal(10.0), normal(1.0, 50.0), normal(1e-3), integers(-3, 3), floats)
)


@st.composite
def cases(draw: st.DrawFn, operators: Collection[str] = (), dtypes: Collection[str] = ()) -> Case:
    """Any case of these operators and dtypes (none: all)."""
    operator = draw(st.sampled_from(sorted(operators or OPERATORS)))
    known = (*FLOATS, "int8") if operator == "matmul" else FLOATS
    allowed = [dtype for dtype in known if not dtypes or dtype in dtypes]
    dtype = draw(st.sampled_from(allowed or known))
    family = {"matmul": matmul, "softmax": softmax, "log_softmax": softmax}.get(operator, norm)
    given, options = draw(family(dtype, operator))
    seed = draw(st.integers(0, 2**16))
    out = draw(st.sampled_from(OF_OUTPUTS))
    made = make(operator, f"hypothesis/{seed}", given, draw(VALUES), out=out, **options)
    return Case(f"{made.name}/{made.op}", made.op, made.values)


@st.composite
def matmul(draw: st.DrawFn, dtype: str, operator: str) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """Operands and options of matmul."""
    m, n, k = (draw(SIZES) for _ in range(3))
    batch = draw(shapes(0, 2).filter(lambda b: math.prod(b) * max(m * n, m * k, n * k) <= MOST))
    one_axis = draw(st.sampled_from(("neither", "a", "b", "both")))
    a = (k,) if one_axis in ("a", "both") else (*draw(broadcastable(batch)), m, k)
    b = (k,) if one_axis in ("b", "both") else (*draw(broadcastable(batch)), k, n)
    given = {"a": draw(operand(dtype, a)), "b": draw(operand(dtype, b))}
    options: dict[str, Any] = {"deterministic": draw(st.sampled_from(("run", "batch")))}
    if dtype in SHORT:
        options["out_dtype"] = draw(st.sampled_from((None, "float32")))
    if dtype != "int8":
        options["alpha"] = draw(st.sampled_from((1.0, 1.0, 0.5, -3.0, 0.1, 0.0)))
        options["activation"] = draw(st.sampled_from((None, None, "relu", "gelu", "gelu_tanh", "silu")))
    if draw(st.booleans()):
        shape = OPERATORS[operator].infer(given, {**defaults(operator), **options})[0].shape
        kind = "int32" if dtype == "int8" else draw(st.sampled_from((dtype, options.get("out_dtype") or dtype)))
        given["bias"] = draw(operand(kind, draw(broadcastable(shape))))
    return given, options


@st.composite
def softmax(draw: st.DrawFn, dtype: str, operator: str) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """Operands and options of softmax and log_softmax."""
    shape = draw(shapes())
    given = {"x": draw(operand(dtype, shape))}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(("bool", dtype, "float32" if dtype != "float64" else dtype)))
        given["mask"] = draw(operand(kind, draw(broadcastable(shape))))
    options = {
        "axis": draw(st.integers(-len(shape), len(shape) - 1)),
        "scale": draw(st.sampled_from((1.0, 1.0, 0.125, 0.3, -2.0))),
        "out_dtype": draw(st.sampled_from((None, "float32"))) if dtype in SHORT else None,
    }
    return given, options


@st.composite
def norm(draw: st.DrawFn, dtype: str, operator: str) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """Operands and options of layernorm and rmsnorm."""
    shape = draw(shapes())
    axis = draw(st.integers(-len(shape), -1))
    given = {"x": draw(operand(dtype, shape))}
    kind = draw(st.sampled_from((dtype, "float32" if dtype != "float64" else dtype)))
    for role in ("weight", "bias") if operator == "layernorm" else ("weight",):
        if draw(st.booleans()):
            given[role] = draw(operand(kind, shape[axis:]))
    if draw(st.booleans()):
        given["residual"] = draw(operand(dtype, shape))
    options = {
        "axis": axis,
        "eps": draw(st.sampled_from((1e-5, 1e-6, 1e-3, 1.0))),
        "return_stats": draw(st.booleans()),
        "out_dtype": draw(st.sampled_from((None, "float32"))) if dtype in SHORT else None,
    }
    return given, options
