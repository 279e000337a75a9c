"""No right result is called wrong: devices that are right in other ways than the reference pass the suite.

Float32 throughout: in NumPy's order of additions, in 32 lanes, with products fused into the sums, and by torch. Lanes
of one chain each are right up to n = 4096 where there are 32: chains of 128 additions are what the bounds allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.bound import STRICT, Allowance
from hal.conformance import Case, run_case, select
from hal.conformance.subject import Compute, Subject
from hal.dtypes import DTYPES
from hal.op import Op
from hal.ops.rows import row_length

Arrays: TypeAlias = Sequence[NDArray[Any]]
Sum: TypeAlias = Callable[[Any], Any]

SOFTMAX = ("softmax", "log_softmax")


def row_sum(x: Any) -> Any:
    return np.sum(x, axis=-1, keepdims=True)


def lanes(x: Any) -> Any:
    """Sum of float32 in 32 lanes, then the lanes in a tree."""
    n = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-max(n, 1) // 32) * 32), x.dtype)
    padded[..., :n] = x
    partial = np.zeros((*x.shape[:-1], 32), x.dtype)
    for start in range(0, padded.shape[-1], 32):
        partial = partial + padded[..., start : start + 32]
    for half in (16, 8, 4, 2, 1):
        partial = partial[..., :half] + partial[..., half : 2 * half]
    return partial


def fused(a: Any, b: Any) -> Any:
    """fma(a_k, b_k, c) for ascending k, in 8 lanes so that no chain is long: the product is not rounded."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    accumulators = np.zeros((8, *a.shape[:-1], b.shape[-1]), a.dtype)
    for k in range(a.shape[-1]):
        product = wide_a[..., :, k : k + 1] * wide_b[..., k : k + 1, :]
        accumulators[k % 8] = (product + accumulators[k % 8]).astype(a.dtype)
    return accumulators.sum(axis=0, dtype=a.dtype)


def backwards(x: Any) -> Any:
    """The 32 lanes from the row's end."""
    return lanes(x[..., ::-1])


def tree(x: Any) -> Any:
    """Halves are added to halves down to one element."""
    while x.shape[-1] > 1:
        half = -(-x.shape[-1] // 2)
        low, high = x[..., :half], x[..., half:]
        x = low.copy()
        x[..., : high.shape[-1]] += high
    return x if x.shape[-1] else np.zeros((*x.shape[:-1], 1), x.dtype)


def compensated(x: Any) -> Any:
    """Kahan's summation, one element after the other."""
    total = np.zeros((*x.shape[:-1], 1), x.dtype)
    lost = np.zeros_like(total)
    for k in range(x.shape[-1]):
        term = x[..., k : k + 1] - lost
        new = total + term
        with np.errstate(all="ignore"):
            lost = np.where(np.isfinite(new), (new - total) - term, 0)
        total = new
    return total


def split_in_three(a: Any, b: Any) -> Any:
    """Three products over parts of K, added."""
    third = -(-a.shape[-1] // 3) or 1
    parts = [
        np.matmul(a[..., start : start + third], b[..., start : start + third, :])
        for start in range(0, max(a.shape[-1], 1), third)
    ]
    return sum(parts[1:], parts[0])


def plain(total: Sum, product: Callable[[Any, Any], Any], shifted: bool = False) -> Compute:
    """Every operator in float32, as one would write it; float64 in float64."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        if op.dtype == "int8":
            whole = np.matmul(inputs[0].astype(np.int32), inputs[1].astype(np.int32))
            return [whole + inputs[2] if len(inputs) > 2 else whole]
        kind = np.float64 if op.dtype == "float64" else np.float32
        by_role = {r: x if x.dtype == np.bool_ else x.astype(kind) for (r, _), x in zip(op.inputs, inputs, strict=True)}
        with np.errstate(all="ignore"):
            results = _plain(op, by_role, kind, total, product, shifted)
            return [results[role].reshape(spec.shape).astype(DTYPES[spec.dtype].numpy) for role, spec in op.outputs]

    return compute


def _plain(op: Op, x: dict[str, Any], kind: Any, total: Sum, product: Any, shifted: bool) -> dict[str, Any]:
    if op.name == "matmul":
        a, b = x["a"], x["b"]
        if op.param("deterministic") == "batch":  # BLAS orders additions by the number of rows as well
            made = product(a[..., :, None, :], b[..., None, :, :])[..., 0, :]
        else:
            made = product(a, b)
        t = kind(op.param("alpha")) * made
        t = t + x["bias"] if "bias" in x else t
        return {"out": _activate(op.param("activation"), t, kind)}
    if op.name in SOFTMAX:
        z = np.ascontiguousarray(x["x"]) * kind(op.param("scale"))
        mask = x.get("mask")
        if mask is not None:
            z = np.where(mask, z, kind(-np.inf)) if mask.dtype == np.bool_ else z + mask
        top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
        empty = (top == -np.inf) & (mask is not None)
        d = z - np.where(empty, kind(0), top)
        weights = np.exp(d)
        if op.name == "softmax":
            return {"out": np.where(empty, kind(0), weights / total(weights))}
        return {"out": np.where(empty, kind(-np.inf), d - np.log(total(weights)))}
    s = np.ascontiguousarray(x["x"])
    if "residual" in x:
        s = (s + x["residual"]).astype(DTYPES[op.dtype].numpy).astype(kind)
    split = s.ndim - op.param("row_ndim")
    s = s.reshape(math.prod(s.shape[:split]), math.prod(s.shape[split:]))
    n = kind(s.shape[-1])
    if op.name == "layernorm":
        mean = total(s) / n
        if shifted:
            # Twice: about the first element for constant rows, then about what that gave, since one step loses
            # everything below the first element's last place.
            pivot = s[:, :1] if s.size else kind(0)
            mean = pivot + total(s - pivot) / n
            mean = mean + total(s - mean) / n
    else:
        mean = np.zeros((len(s), 1), kind)
    d = s - mean
    r = kind(1) / np.sqrt(total(d * d) / n + kind(op.param("eps")))
    y = d * r
    y = y * x["weight"].reshape(-1) if "weight" in x else y
    y = y + x["bias"].reshape(-1) if "bias" in x else y
    return {"out": y, "sum": s, "mean": mean, "rstd": r}


def _activate(activation: str | None, t: Any, kind: Any) -> Any:
    if activation == "relu":
        return np.maximum(t, kind(0))
    if activation == "silu":
        return np.where(t == -np.inf, kind(0), t / (kind(1) + np.exp(-t)))
    if activation == "gelu":
        erf = np.frompyfunc(math.erf, 1, 1)(t * kind(math.sqrt(0.5))).astype(kind)
        return np.where(t == -np.inf, kind(0), kind(0.5) * t * (kind(1) + erf))
    if activation == "gelu_tanh":
        inner = kind(math.sqrt(2 / math.pi)) * (t + kind(0.044715) * t * t * t)
        return np.where(t == -np.inf, kind(0), kind(0.5) * t * (kind(1) + np.tanh(inner)))
    return t


def coarse(units: int) -> Compute:
    """softmax with exponentials that are off by so many units in the last place of float32, up and down."""

    def off(weights: Any) -> Any:
        bits = weights.view(np.int32) + np.where(np.arange(weights.shape[-1]) % 2, units, -units).astype(np.int32)
        return np.where((weights > 1e-30) & (weights < 1), bits.view(np.float32), weights)

    def compute(op: Op, inputs: Arrays) -> Arrays:
        if op.name != "softmax" or op.dtype == "float64":
            return LAWFUL["NumPy"](op, inputs)
        by_role = {role: a for (role, _), a in zip(op.inputs, inputs, strict=True)}
        mask = by_role.get("mask")
        with np.errstate(all="ignore"):
            z = np.ascontiguousarray(by_role["x"]).astype(np.float32) * np.float32(op.param("scale"))
            if mask is not None:
                z = np.where(mask, z, np.float32(-np.inf)) if mask.dtype == np.bool_ else z + mask.astype(np.float32)
            top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
            empty = (top == -np.inf) & (mask is not None)
            weights = off(np.exp(z - np.where(empty, np.float32(0), top)))
            y = np.where(empty, np.float32(0), weights / row_sum(weights))
        return [y.reshape(op.outputs[0][1].shape).astype(DTYPES[op.outputs[0][1].dtype].numpy)]

    return compute


LAWFUL = {
    "NumPy": plain(row_sum, np.matmul),
    "NumPy, mean about the first element": plain(row_sum, np.matmul, shifted=True),
    "32 lanes, fused multiply-add": plain(lanes, fused),
    "32 lanes from the end, split sums": plain(backwards, split_in_three),
    "trees": plain(tree, np.matmul),
    "Kahan": plain(compensated, split_in_three),
    "exponentials within 2 units": coarse(2),
}


def flushing(compute: Compute) -> Compute:
    """Numbers of float32's range below its smallest normal one are 0, given or computed. float16's are normal there."""
    smallest = {"bfloat16": 2.0**-126, "float32": 2.0**-126}

    def flush(x: NDArray[Any], dtype: str) -> NDArray[Any]:
        return np.where(np.abs(x.astype(np.float64)) < smallest.get(dtype, 0.0), 0, x).astype(x.dtype)

    def made(op: Op, inputs: Arrays) -> Arrays:
        results = compute(op, [flush(x, spec.dtype) for x, (_, spec) in zip(inputs, op.inputs, strict=True)])
        return [flush(np.asarray(y), spec.dtype) for y, (_, spec) in zip(results, op.outputs, strict=True)]

    return made


DECLARED = {
    "subnormals are flushed": (flushing(LAWFUL["NumPy"]), Allowance(flush=True)),
    "exponentials within 8 units": (coarse(8), Allowance(ulp_exp=8.0)),
}


def accused(device: Subject, cases: Sequence[Case], allow: Allowance = STRICT) -> dict[str, str]:
    """What the suite says against a device."""
    results = [run_case(device, case, allow=allow) for case in cases]
    return {result.name: result.message for result in results if result.status != "passed"}


@pytest.mark.parametrize("name", LAWFUL)
@pytest.mark.parametrize("level", ["smoke", pytest.param("full", marks=pytest.mark.slow)])
def test_float32_in_another_order_is_right(level: str, name: str) -> None:
    longest = 4096 if "lanes" in name or name == "Kahan" else 2**31
    cases = [c for c in select(level) if c.operator == "matmul" or row_length(c.op) <= longest]
    assert accused(Subject(LAWFUL[name]), cases) == {}


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("level", ["smoke", pytest.param("full", marks=pytest.mark.slow)])
def test_what_a_profile_declares_is_right(level: str, name: str) -> None:
    compute, allow = DECLARED[name]
    assert accused(Subject(compute), select(level), allow) == {}


def test_and_wrong_where_it_is_not_declared() -> None:
    assert accused(
        Subject(DECLARED["subnormals are flushed"][0]), select("smoke", ["matmul"], "float32/edge/subnormal")
    )
    assert accused(Subject(coarse(64)), select("smoke", ["softmax"], "float32/"), Allowance(ulp_exp=8.0))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["smoke", "full"])
def test_torch_is_right(level: str) -> None:
    pytest.importorskip("torch")
    cases = [case for case in select(level) if case.dtype == "float32" and case.name not in NOT_PROMISED_BY_TORCH]
    assert accused(Subject(by_torch), cases) == {}


# What torch does not promise and hal does. Each was looked at: torch is not called wrong by mistake.
NOT_PROMISED_BY_TORCH = {
    # A row's bits depend on how many rows there are.
    *(case.name for case in select("full", ["matmul"], "rows-alone")),
    # 16 lanes: chains of 62,500 additions, where the contract is 128.
    "softmax/float32/size/1x1000003",
    "log_softmax/float32/size/1x1000003",
    # Welford's recurrence feeds each error of the running mean into the variance once, not squared.
    "layernorm/float32/large-mean/17/statistics",
    "layernorm/float32/large-mean/257/statistics",
}


def by_torch(op: Op, inputs: Arrays) -> Arrays:
    """Each operator by torch's own of that name."""
    import torch
    from torch.nn import functional

    x = {role: torch.from_numpy(np.ascontiguousarray(a)) for (role, _), a in zip(op.inputs, inputs, strict=True)}
    if op.name == "matmul":
        return [_matmul_by_torch(op, x).numpy()]
    if op.name in SOFTMAX:
        z, mask = x["x"] * op.param("scale"), x.get("mask")
        if mask is not None:
            z = z.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else z + mask
        y = (functional.softmax if op.name == "softmax" else functional.log_softmax)(z, dim=-1)
        if mask is not None:
            empty = (z == -math.inf).all(dim=-1, keepdim=True)
            y = y.masked_fill(empty, 0.0 if op.name == "softmax" else -math.inf)
        return [y.numpy()]
    total = x["x"] + x["residual"] if "residual" in x else x["x"]
    depth, eps = op.param("row_ndim"), op.param("eps")
    row = total.shape[total.ndim - depth :]
    if total.numel() == 0:
        return [np.full(spec.shape, np.nan) for _, spec in op.outputs]  # torch has the mean of nothing as 0
    if op.name == "rmsnorm":
        y = functional.rms_norm(total, row, x.get("weight"), eps)
        axes = tuple(range(-depth, 0))
        results = {"out": y, "sum": total, "rstd": torch.rsqrt((total * total).mean(dim=axes, keepdim=True) + eps)}
    else:
        made = torch.native_layer_norm(total, row, x.get("weight"), x.get("bias"), eps)
        results = {"out": made[0], "sum": total, "mean": made[1], "rstd": made[2]}
    return [results[role].reshape(spec.shape).numpy() for role, spec in op.outputs]


def _matmul_by_torch(op: Op, x: dict[str, Any]) -> Any:
    import torch
    from torch.nn import functional

    t = op.param("alpha") * torch.matmul(x["a"], x["b"])
    t = t + x["bias"] if "bias" in x else t
    activation = op.param("activation")
    if activation in ("gelu", "gelu_tanh"):
        # torch gives NaN for infinities; the rules have the limits.
        y = functional.gelu(t, approximate="tanh" if activation == "gelu_tanh" else "none")
        return torch.where(t.abs() == math.inf, torch.relu(t), y)
    if activation == "silu":
        return torch.where(t == -math.inf, torch.zeros_like(t), functional.silu(t))
    return torch.relu(t) if activation == "relu" else t
