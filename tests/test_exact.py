"""Each operator's exact result and bound, against the words of docs/operators.md written once more in mpmath.

Scalar by scalar, with 400 bits, on small cases: so neither the vectorised definitions in hal/ops nor the reference
device can be wrong in the same way by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.conformance import Case, select
from hal.conformance.case import make_op
from hal.conformance.layout import contiguous
from hal.doubledouble import DoubleDouble
from hal.dtypes import DTYPES, round_to
from hal.op import Op
from hal.ops import OPERATORS, judge
from hal_cpu_reference.operators import COMPUTE

mpmath = pytest.importorskip("mpmath")
mpmath.mp.prec = 400
mpf = mpmath.mpf

FLOATS = ("float64", "float32", "float16", "bfloat16")
U = {"float64": mpf(2) ** -53}  # else 2^-24
TINY = {"float64": mpf(2) ** -1074}  # else 2^-149
NORMAL = {"float64": mpf(2) ** -1022}  # else 2^-126
Numbers = list[Any]
Bounded = dict[str, list[tuple[Any, Any]]]  # (r, e) of every element, row-major, by role


def u_of(op: Op) -> Any:
    return U.get(op.dtype, mpf(2) ** -24)


def tiny_of(op: Op) -> Any:
    return TINY.get(op.dtype, mpf(2) ** -149)


def numbers(x: NDArray[Any]) -> Numbers:
    return [bool(v) if x.dtype == np.bool_ else mpf(float(v)) for v in x.ravel()]


def by_role(op: Op, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {role: x for (role, _), x in zip(op.inputs, inputs, strict=True)}


# ---- the definitions

ACTIVATIONS: dict[str | None, tuple[Callable[[Any], Any], float]] = {
    None: (lambda t: t, 1.0),
    "relu": (lambda t: max(t, mpf(0)), 1.0),
    "gelu": (lambda t: t * (1 + mpmath.erf(t / mpmath.sqrt(2))) / 2, 1.13),
    "gelu_tanh": (
        lambda t: t / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (t + mpf("0.044715") * t**3))),
        1.13,
    ),
    "silu": (lambda t: t / (1 + mpmath.exp(-t)), 1.10),
}


def matmul(op: Op, inputs: Sequence[NDArray[Any]]) -> Bounded:
    x, u, tiny = by_role(op, inputs), u_of(op), tiny_of(op)
    function, slope = ACTIVATIONS[op.param("activation")]
    alpha, (a, b) = mpf(op.param("alpha")), (x["a"], x["b"])
    found = []
    for at in np.ndindex(op.outputs[0][1].shape):
        row, column = numbers(a[at[:-1]]), numbers(b[at[:-2]][:, at[-1]])
        bias = numbers(x["bias"][at])[0] if "bias" in x else mpf(0)
        k = len(row)
        t = alpha * mpmath.fsum(p * q for p, q in zip(row, column, strict=True)) + bias
        size = mpmath.fsum(abs(alpha * p * q) for p, q in zip(row, column, strict=True))
        e = slope * ((k + 2) * u / (1 - (k + 2) * u) * (size + abs(bias)) + (k + 2) * max(1, abs(alpha)) * tiny)
        if op.param("precision") == "tf32":
            e += slope * (mpf(2) ** -9 + mpf(2) ** -20) * size
        if slope != 1.0:
            e += 4 * u * abs(t)
        found.append((function(t), e))
    return {"out": found}


def softmax(op: Op, inputs: Sequence[NDArray[Any]]) -> Bounded:
    x, u = by_role(op, inputs), u_of(op)
    scale = mpf(op.param("scale"))
    n = x["x"].shape[-1]
    additive = "mask" in x and x["mask"].dtype != np.bool_
    found = []
    for at in np.ndindex(x["x"].shape[:-1]):
        row = numbers(x["x"][at])
        mask = numbers(x["mask"][at]) if "mask" in x else [mpf(0)] * n
        scaled = [abs(scale * v) for v in row]
        if additive or "mask" not in x:
            z = [scale * v + m for v, m in zip(row, mask, strict=True)]
        else:
            z = [scale * v if keep else mpf("-inf") for v, keep in zip(row, mask, strict=True)]
        top = max(z)
        best = max(s for s, v in zip(scaled, z, strict=True) if v == top)
        total = mpmath.fsum(mpmath.exp(v - top) for v in z)
        p = [mpmath.exp(v - top) / total for v in z]
        power_of_two = mpmath.frexp(scale)[0] in (mpf("0.5"), mpf("-0.5"))
        d = []
        for i in range(n):
            scaling = 0 if power_of_two else scaled[i] + best
            d.append(u * (scaling + ((abs(z[i]) + abs(top)) if additive else 0) + 2 * abs(z[i] - top)))
        mean = mpmath.fsum(p[i] * d[i] for i in range(n) if p[i] > 0)
        c = min(n, 128)
        for i in range(n):
            y = z[i] - top - mpmath.log(total) if op.name == "log_softmax" else p[i]
            if z[i] == mpf("-inf") or n == 1:
                e = mpf(0)
            elif op.name == "softmax":
                e = y * mpmath.expm1(d[i] + mean + (c + 4 * 2 + 4) * u) + NORMAL.get(op.dtype, mpf(2) ** -126)
            else:
                e = d[i] + mean + (c + 2 * 2 + 2 * 2 + 4) * u
                e += u * (abs(z[i] - top) + 2 * 2 * abs(mpmath.log(total)) + abs(y))
            found.append((y, e))
    return {"out": found}


def normalised_rows(op: Op, x: dict[str, NDArray[Any]]) -> Iterator[Numbers]:
    whole = x["x"]
    if "residual" in x:
        exact = [p + q for p, q in zip(numbers(whole), numbers(x["residual"]), strict=True)]
        # Exact sums of two such numbers fit float64 here, but for float64 itself, whose own sum is the rounded one.
        rounded = (
            whole + x["residual"]
            if op.dtype == "float64"
            else round_to(np.array([float(v) for v in exact]).reshape(whole.shape), op.dtype)
        )
        whole = rounded
    n = int(np.prod(whole.shape[whole.ndim - op.param("row_ndim") :]))
    for row in whole.reshape(-1, n):
        yield numbers(row)


def norm(op: Op, inputs: Sequence[NDArray[Any]]) -> Bounded:
    x, u, tiny = by_role(op, inputs), u_of(op), tiny_of(op)
    found: Bounded = {"out": [], "sum": [], "mean": [], "rstd": []}
    for row in normalised_rows(op, x):
        n, eps = len(row), mpf(op.param("eps"))
        c = min(n, 128)
        mean = mpmath.fsum(row) / n if op.name == "layernorm" else mpf(0)
        d = [v - mean for v in row]
        r = 1 / mpmath.sqrt(mpmath.fsum(v * v for v in d) / n + eps)
        delta = (8 + mpmath.log(n, 2)) * u * abs(mean) + c * u * mpmath.fsum(map(abs, d)) / n
        w = numbers(x["weight"]) if "weight" in x else [mpf(1)] * n
        b = numbers(x["bias"]) if "bias" in x else [mpf(0)] * n
        relative = (c + 6) * u + (delta * r) ** 2
        for v, dv, wv, bv in zip(row, d, w, b, strict=True):
            y0 = wv * dv * r
            if op.name == "layernorm":
                e = abs(wv) * r * (delta + u * abs(dv)) + abs(y0) * relative + u * (abs(y0) + abs(bv))
            else:
                e = abs(y0) * (c + 8) * u
            found["out"].append((y0 + bv, e + (abs(wv) + 1) * tiny))
            found["sum"].append((v, mpf(0)))
        found["mean"].append((mean, delta))
        found["rstd"].append((r, r * (relative if op.name == "layernorm" else (c + 8) * u)))
    return found


DEFINITIONS = {"matmul": matmul, "softmax": softmax, "log_softmax": softmax, "layernorm": norm, "rmsnorm": norm}


# ---- the calls


def calls() -> Iterator[tuple[str, Op, Sequence[NDArray[Any]]]]:
    """Small calls of every operator, dtype and option; finite data of moderate size."""
    for dtype in FLOATS:
        for op in ops(dtype):
            rng = np.random.default_rng(len(str(op)))
            inputs = []
            for role, spec in op.inputs:
                if spec.dtype == "bool":
                    values: NDArray[Any] = rng.random(spec.shape) < 0.7
                    values[..., 0] = True
                else:
                    spread = 2.0 ** rng.integers(-3, 4, spec.shape)
                    values = rng.standard_normal(spec.shape) * spread + (1.0 if role == "weight" else 0.0)
                inputs.append(values.astype(DTYPES[spec.dtype].numpy))
            yield str(op), op, inputs


def ops(dtype: str) -> Iterator[Op]:
    other = "float64" if dtype == "float64" else "float32"
    a, b, bias = contiguous(dtype, (2, 3, 9)), contiguous(dtype, (2, 9, 4)), contiguous(other, (4,))
    wide = {"out_dtype": "float32"} if dtype in ("float16", "bfloat16") else {}
    yield make_op("matmul", {"a": a, "b": b})
    for activation in ACTIVATIONS:
        same = contiguous(dtype, (4,))
        yield make_op("matmul", {"a": a, "b": b, "bias": same}, activation=activation, alpha=-1.7)
    yield make_op("matmul", {"a": a, "b": b, "bias": bias}, **wide)
    if dtype == "float32":
        yield make_op("matmul", {"a": a, "b": b}, precision="tf32")
    x = contiguous(dtype, (3, 17))
    for name in ("softmax", "log_softmax"):
        for scale in (1.0, 0.25, 0.3, -2.0):
            yield make_op(name, {"x": x}, scale=scale)
        for kind in dict.fromkeys(("bool", dtype, other)):
            yield make_op(name, {"x": x, "mask": contiguous(kind, (3, 17))}, scale=0.7)
        yield make_op(name, {"x": x}, axis=0, **wide)
        yield make_op(name, {"x": contiguous(dtype, (2, 150))})  # longer than a chain
    for name in ("layernorm", "rmsnorm"):
        parameters = {"weight": contiguous(other, (17,))}
        if name == "layernorm":
            parameters["bias"] = contiguous(other, (17,))
        yield make_op(name, {"x": x}, return_stats=True)
        yield make_op(name, {"x": x, **parameters}, eps=0.1, **wide)
        yield make_op(name, {"x": x, **parameters, "residual": x}, return_stats=True)
        yield make_op(name, {"x": contiguous(dtype, (2, 3, 5))}, axis=-2)
        yield make_op(name, {"x": contiguous(dtype, (2, 150))}, return_stats=True)


CALLS = list(calls())


def to_mpf(value: Any) -> Numbers:
    if isinstance(value, DoubleDouble):
        return [mpf(float(h)) + mpf(float(v)) for h, v in zip(value.hi.ravel(), value.lo.ravel(), strict=True)]
    return [mpf(float(v)) for v in np.asarray(value).ravel()]


@pytest.mark.parametrize(("op", "inputs"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_exact_values_and_bounds_are_the_documented_ones(op: Op, inputs: Sequence[NDArray[Any]]) -> None:
    wanted = DEFINITIONS[op.name](op, inputs)
    for (role, _), exact in zip(op.outputs, OPERATORS[op.name].exact(op, inputs), strict=True):
        values, errors = to_mpf(exact.value), to_mpf(np.broadcast_to(exact.error, exact.value.shape))
        assert len(values) == len(wanted[role])
        for got_r, got_e, (r, e) in zip(values, errors, wanted[role], strict=True):
            # What r itself may be off by has to vanish beside e; e is a float64 sum of positive terms.
            assert got_r == r or abs(got_r - r) <= e * mpf(2) ** -20
            assert abs(got_e - e) <= e * mpf(2) ** -30


@pytest.mark.parametrize(("op", "inputs"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_the_reference_rounds_the_exact_result_once(op: Op, inputs: Sequence[NDArray[Any]]) -> None:
    outputs = COMPUTE[op.name](op, inputs)
    assert judge(op, inputs, outputs).ok
    wanted = DEFINITIONS[op.name](op, inputs)
    for (role, spec), got in zip(op.outputs, outputs, strict=True):
        r = [float(value) for value, _ in wanted[role]]  # mpmath rounds to nearest
        if spec.dtype == "float64":
            assert np.allclose(got.ravel(), r, rtol=1e-13, atol=1e-14)
        else:
            assert np.array_equal(got.ravel(), round_to(np.array(r), spec.dtype))


def test_integers_whose_sums_are_exact_have_no_error() -> None:
    for case in select("smoke", ["matmul"], "/integers/"):
        inputs = [image.elements for image in case.inputs()]
        (exact,) = OPERATORS["matmul"].exact(case.op, inputs)
        assert not np.any(exact.error), case.name


def test_int8_sums_are_those_of_python_modulo_2_to_the_32() -> None:
    op = make_op(
        "matmul",
        {"a": contiguous("int8", (2, 5)), "b": contiguous("int8", (5, 3)), "bias": contiguous("int32", (3,))},
    )
    rng = np.random.default_rng(2)
    a, b = rng.integers(-128, 128, (2, 5)), rng.integers(-128, 128, (5, 3))
    bias = np.broadcast_to(rng.integers(-(2**31), 2**31, 3), (2, 3))
    want = [
        [
            (sum(int(a[i, k]) * int(b[k, j]) for k in range(5)) + int(bias[i, j]) + 2**31) % 2**32 - 2**31
            for j in range(3)
        ]
        for i in range(2)
    ]
    inputs = [a.astype(np.int8), b.astype(np.int8), bias.astype(np.int32)]
    (exact,) = OPERATORS["matmul"].exact(op, inputs)
    assert np.asarray(exact.value).tolist() == want
    assert COMPUTE["matmul"](op, inputs)[0].tolist() == want


@pytest.mark.parametrize("case", select("smoke", pattern="edge/"), ids=lambda case: case.name)
def test_no_edge_case_is_left_to_chance(case: Case) -> None:
    """The bound is a number wherever r is one: an infinite e would accept anything."""
    inputs = [image.elements for image in case.inputs()]
    for exact in OPERATORS[case.operator].exact(case.op, inputs):
        value = exact.value.hi if isinstance(exact.value, DoubleDouble) else np.asarray(exact.value)
        error = np.broadcast_to(exact.error, value.shape)
        loose = np.isfinite(value) & ~np.isfinite(error)
        if exact.overflow is not None:
            loose &= ~exact.overflow
        assert not loose.any()
