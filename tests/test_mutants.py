"""The suite is judged: a device with one planted fault fails it.

A mutant is the reference with one thing changed. For each the table names cases of the smoke level that catch it, so
that a case that is weakened until it no longer does is noticed. tests/test_conformance_lawful.py has the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.conformance import run_case, select
from hal.conformance.subject import Compute, Subject, view
from hal.device import Operand
from hal.dtypes import round_to
from hal.op import Op, TensorSpec
from hal_cpu_reference import operators as reference

Arrays = Sequence[NDArray[Any]]


def right(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """The reference."""
    return reference.COMPUTE[op.name](op, inputs)


def roles(op: Op, inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {
        role: x.astype(np.float64) if x.dtype.kind in "fV" else x
        for (role, _), x in zip(op.inputs, inputs, strict=True)
    }


def with_params(op: Op, **changed: Any) -> Op:
    return replace(op, params=tuple((key, changed.get(key, value)) for key, value in op.params))


# ---- softmax


def softmax_with(exponents: Callable[[Op, Arrays], Any], total: Callable[[Any], Any]) -> Compute:
    """softmax and log_softmax with another way to make the exponents, or to sum."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        with np.errstate(all="ignore"):
            difference, nothing_left = exponents(op, inputs)
            weights = np.exp(difference)
            if op.name == "softmax":
                y = np.where(nothing_left, 0.0, weights / total(weights))
            else:
                y = np.where(nothing_left, -np.inf, difference - np.log(total(weights)))
        return [round_to(y, op.outputs[0][1].dtype)]

    return compute


def row_sum(x: Any) -> Any:
    return np.sum(x, axis=-1, keepdims=True)


def no_maximum(op: Op, inputs: Arrays) -> Any:
    operands = roles(op, inputs)
    z = operands["x"] * op.param("scale")
    mask = operands.get("mask")
    if mask is not None:
        z = np.where(mask, z, -np.inf) if mask.dtype == np.bool_ else z + mask
    # In float32, as a device would: float64 has room for large exponents.
    weights = np.exp(z.astype(np.float32)).astype(np.float64)
    return np.log(weights), np.zeros((*z.shape[:-1], 1), np.bool_)


def maximum_skips_nan(op: Op, inputs: Arrays) -> Any:
    operands = roles(op, inputs)
    x = operands["x"]
    z = np.where(np.isnan(x), -np.inf, x)
    return reference.softmax_exponent(op, [z, *inputs[1:]])


def mask_ignored_for_nan(op: Op, inputs: Arrays) -> Any:
    difference, nothing_left = reference.softmax_exponent(op, inputs)
    x = inputs[0].astype(np.float64)
    return np.where(np.isnan(x), np.nan, difference), nothing_left


def mask_one_off(op: Op, inputs: Arrays) -> Any:
    return reference.softmax_exponent(op, [inputs[0], *(np.roll(mask, 1, axis=-1) for mask in inputs[1:])])


def last_of_many_dropped(weights: Any) -> Any:
    """A loop over whole blocks of 512 and a tail that is forgotten when it is one block."""
    kept = weights[..., :-1] if weights.shape[-1] == 2560 else weights
    return row_sum(kept)


def log_of_softmax(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    if op.name == "softmax":
        return right(op, inputs)
    (y,) = reference.softmax(with_output(op, "float64"), inputs)
    with np.errstate(all="ignore"):
        return [round_to(np.log(y), op.outputs[0][1].dtype)]


def with_output(op: Op, dtype: str) -> Op:
    (role, spec), *others = op.outputs
    return replace(op, outputs=((role, replace(spec, dtype=dtype)), *others))


def sum_in_float16(weights: Any) -> Any:
    total = np.zeros((*weights.shape[:-1], 1), np.float16)
    for k in range(weights.shape[-1]):
        total = (total + weights[..., k : k + 1].astype(np.float16)).astype(np.float16)
    return total.astype(np.float64)


# ---- matmul


def matmul_with(product: Callable[[Op, Any, Any], Any], finish: Callable[..., Any] | None = None) -> Compute:
    """matmul with another product, or another epilogue."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        if op.dtype == "int8":
            return right(op, inputs)
        operands = roles(op, inputs)
        with np.errstate(all="ignore"):
            made = product(op, operands["a"], operands["b"])
            t = (finish or epilogue)(op, made, operands.get("bias"))
            y = reference.ACTIVATIONS[op.param("activation")](t)
        return [round_to(y, op.outputs[0][1].dtype)]

    return compute


def exact_product(op: Op, a: Any, b: Any) -> Any:
    return np.matmul(a, b)


def epilogue(op: Op, product: Any, bias: Any) -> Any:
    t = op.param("alpha") * product
    return t if bias is None else t + bias


def last_k_dropped(op: Op, a: Any, b: Any) -> Any:
    return np.matmul(a[..., :-1], b[..., :-1, :]) if op.dtype == "bfloat16" and a.shape[-1] > 1 else np.matmul(a, b)


def accumulates_in_float16(op: Op, a: Any, b: Any) -> Any:
    if op.dtype not in ("float16", "bfloat16"):
        return np.matmul(a, b)
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float16)
    for k in range(a.shape[-1]):
        total = (total + a[..., :, k : k + 1] * b[..., k : k + 1, :]).astype(np.float16)
    return total.astype(np.float64)


def truncated_like_tf32(op: Op, a: Any, b: Any) -> Any:
    def cut(x: Any) -> Any:
        return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)

    return np.matmul(cut(a), cut(b)) if op.dtype == "float32" else np.matmul(a, b)


def batches_swapped(op: Op, a: Any, b: Any) -> Any:
    c = np.matmul(a, b)
    return c.swapaxes(0, 1) if c.ndim == 4 and c.shape[0] == c.shape[1] else c[::-1] if c.ndim == 3 else c


def padding_times_infinity(op: Op, a: Any, b: Any) -> Any:
    """K is padded with zeros, but read from memory that may hold anything: here, the last column again."""
    c = np.matmul(a, b)
    return c + 0.0 * a[..., -1:] if a.shape[-1] % 8 else c


def alpha_after_bias(op: Op, product: Any, bias: Any) -> Any:
    return op.param("alpha") * (product if bias is None else product + bias)


def bias_down_the_columns(op: Op, product: Any, bias: Any) -> Any:
    if bias is not None and bias.ndim == 2:
        bias = np.broadcast_to(bias[:1, :1], bias.shape) if bias.shape[0] != bias.shape[1] else bias.T
    return epilogue(op, product, bias)


def rounded_twice(op: Op, product: Any, bias: Any) -> Any:
    return epilogue(op, round_to(product, op.outputs[0][1].dtype).astype(np.float64), bias)


def gelu_for_gelu_tanh(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    return right(with_params(op, activation="gelu") if op.param("activation") == "gelu_tanh" else op, inputs)


def relu_loses_nan(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    (y,) = right(op, inputs)
    return [np.where(np.isnan(y), 0, y).astype(y.dtype) if op.param("activation") == "relu" else y]


def int8_saturates(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    if op.dtype != "int8":
        return right(op, inputs)
    total = sum_int8(inputs)
    return [np.clip(total, -(2**31), 2**31 - 1).astype(np.int32)]


def int8_in_int16(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """Pairs of products in 16 bits: 2 * 128 * 128 does not fit."""
    if op.dtype != "int8":
        return right(op, inputs)
    a, b = (x.astype(np.int64) for x in inputs[:2])
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.int64)
    for k in range(0, a.shape[-1], 2):
        pair = np.matmul(a[..., k : k + 2], b[..., k : k + 2, :])
        total += pair.astype(np.int16)
    return [(total + (inputs[2] if len(inputs) > 2 else 0)).astype(np.int32)]


def sum_int8(inputs: Arrays) -> NDArray[np.int64]:
    total = np.matmul(inputs[0].astype(np.int64), inputs[1].astype(np.int64))
    return np.asarray(total + (inputs[2] if len(inputs) > 2 else 0))


def depends_on_rows(op: Op, a: Any, b: Any) -> Any:
    """Another order of additions for few rows, as from a kernel of its own for them."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    if a.shape[-2] > 2 and a.shape[-1]:
        a, b = a[..., ::-1], b[..., ::-1, :]
    return ordered_product(a, b).astype(np.float64)


def ordered_product(a: Any, b: Any) -> Any:
    """Terms added in ascending order, in 32 lanes."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    for k in range(a.shape[-1]):
        total = total + a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


# ---- norms


def norm_with(
    variance: Callable[[Op, Any, Any], Any] | None = None,
    rstd: Callable[[Op, Any], Any] | None = None,
    rounded: bool = True,
) -> Compute:
    """layernorm and rmsnorm with another variance, another 1/sqrt, or a sum with the residual that is not rounded."""

    def compute(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
        operands = roles(op, inputs)
        with np.errstate(all="ignore"):
            x, total = reference.with_residual(op, dict(zip((r for r, _ in op.inputs), inputs, strict=True)))
            if not rounded and "residual" in operands:
                x = (operands["x"] + operands["residual"]).reshape(x.shape)
            n = x.shape[-1]
            centred = op.name == "layernorm"
            first = x[:, :1]
            mean = first + row_sum(x - first) / n if centred else np.zeros((len(x), 1))
            d = x - mean
            v = variance(op, x, mean) if variance else row_sum(d * d) / n
            r = rstd(op, v) if rstd else 1.0 / np.sqrt(v + op.param("eps"))
            y = d * r
            if "weight" in operands:
                y = y * operands["weight"].reshape(n)
            if "bias" in operands:
                y = y + operands["bias"].reshape(n)
        return reference.in_order(op, {"out": y, "sum": total, "mean": mean, "rstd": r})

    return compute


def unbiased(op: Op, x: Any, mean: Any) -> Any:
    return row_sum((x - mean) ** 2) / max(x.shape[-1] - 1, 1)


def one_pass(op: Op, x: Any, mean: Any) -> Any:
    x32 = x.astype(np.float32)
    n = np.float32(x.shape[-1])
    square, m = row_sum(x32 * x32) / n, row_sum(x32) / n
    return (square - m * m if op.name == "layernorm" else square).astype(np.float64)


def last_square_dropped(op: Op, x: Any, mean: Any) -> Any:
    d = x - mean
    return row_sum(d[:, : x.shape[-1] // 4 * 4] ** 2) / x.shape[-1] if x.shape[-1] > 4 else row_sum(d * d) / x.shape[-1]


def eps_of_another_kind(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    eps = op.param("eps")
    return right(with_params(op, eps=1e-6 if eps == float(np.float32(1e-5)) or eps == 1e-5 else eps), inputs)


def eps_outside(op: Op, v: Any) -> Any:
    return 1.0 / (np.sqrt(v) + op.param("eps"))


def bias_left_out_of_few(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """layernorm without its bias where there is no weight."""
    if op.input("bias") is not None and op.input("weight") is None:
        kept = tuple(pair for pair in op.inputs if pair[0] != "bias")
        return right(replace(op, inputs=kept), [x for (r, _), x in zip(op.inputs, inputs, strict=True) if r != "bias"])
    return right(op, inputs)


# ---- memory


class WritesPastTheEnd(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        super().store(op, spec, operand, result)
        memory, offset = operand
        if spec.size % 4:
            end = offset + spec.extent()[1] * spec.itemsize
            memory[end : end + spec.itemsize] = 0


class WritesIntoGaps(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        if spec.ndim > 1 and spec.strides[-1] == 1 and abs(spec.strides[-2]) > spec.shape[-1] and spec.size:
            wider = replace(spec, shape=(*spec.shape[:-1], spec.shape[-1] + 1))
            if spec.strides[-2] > spec.shape[-1]:
                view(wider, *operand)[..., -1] = 0
        super().store(op, spec, operand, result)


class LeavesRowsUnwritten(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        rows = spec.shape[-2] if spec.ndim > 1 else 0
        if rows > 32:
            view(spec, *operand)[..., : rows // 32 * 32, :] = result[..., : rows // 32 * 32, :]
        else:
            super().store(op, spec, operand, result)


class LeavesTailUnwritten(Subject):
    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        n = spec.shape[-1] if spec.ndim else 0
        kept = n // 4 * 4 if n > 4 else n
        view(spec, *operand)[..., :kept] = result[..., :kept]


class ModifiesAnInput(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        super().run(op, outputs, inputs)
        memory, offset = inputs[0]
        if op.inputs[0][1].size and op.dtype == "float32":
            memory[offset] ^= 1


class TakesFortranForC(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        def straight(spec: TensorSpec) -> TensorSpec:
            dense = spec.ndim > 1 and spec.strides[0] == 1 and spec.shape[0] > 1 and spec.size > 1
            return TensorSpec.contiguous(spec.dtype, spec.shape) if dense and min(spec.strides) > 0 else spec

        super().run(replace(op, inputs=tuple((r, straight(s)) for r, s in op.inputs)), outputs, inputs)


class IgnoresNegativeStrides(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        spec = op.inputs[0][1]
        if any(s < 0 for s in spec.strides):
            memory, offset = inputs[0]
            low = spec.extent()[0]
            inputs = [(memory, offset + low * spec.itemsize), *inputs[1:]]
            op = replace(
                op, inputs=((op.inputs[0][0], replace(spec, strides=tuple(map(abs, spec.strides)))), *op.inputs[1:])
            )
        super().run(op, outputs, inputs)


class NotTheSameTwice(Subject):
    calls = 0

    def store(self, op: Op, spec: TensorSpec, operand: Operand, result: NDArray[Any]) -> None:
        self.calls += 1
        if op.dtype == "float32" and self.calls % 2 and op.name == "softmax":
            result = np.nextafter(result, np.float32(2))
        super().store(op, spec, operand, result)


class FailsSometimes(Subject):
    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        if op.outputs[0][1].size == 0:
            raise ZeroDivisionError("an empty grid")
        super().run(op, outputs, inputs)


class SharedScratch(Subject):
    """One buffer for all threads."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(compute)
        self._scratch: list[NDArray[Any]] = []

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        arrays = [view(spec, *operand) for (_, spec), operand in zip(op.inputs, inputs, strict=True)]
        self._scratch = list(self.compute(op, arrays))
        time.sleep(0.001)  # the other thread's turn
        for (_, spec), operand, result in zip(op.outputs, outputs, self._scratch, strict=True):
            self.store(op, spec, operand, result)


@dataclass(frozen=True)
class Mutant:
    """A fault, the operators that have it, and cases that catch it."""

    device: Callable[[], Subject]
    operators: tuple[str, ...]
    caught_by: tuple[str, ...]


def computes(compute: Compute) -> Callable[[], Subject]:
    return lambda: Subject(compute)


SOFTMAX, NORMS = ("softmax", "log_softmax"), ("layernorm", "rmsnorm")
MUTANTS = {
    "softmax without max subtraction": Mutant(
        computes(softmax_with(no_maximum, row_sum)), SOFTMAX,
        ("softmax/float32/large/65", "softmax/float32/edge/1000-1001-1002", "softmax/bfloat16/equal-but-large/2560"),
    ),
    "softmax drops the last of 2560 columns": Mutant(
        computes(softmax_with(reference.softmax_exponent, last_of_many_dropped)), SOFTMAX,
        ("softmax/float32/peaks/2560", "softmax/float32/equal/2560", "softmax/bfloat16/peaks/2560",
         "log_softmax/float16/peaks/2560"),
    ),
    "softmax sums in float16": Mutant(
        computes(softmax_with(reference.softmax_exponent, sum_in_float16)), SOFTMAX,
        ("softmax/float16/edge/70000-equal", "softmax/float32/size/5x129"),
    ),
    "log(softmax)": Mutant(
        computes(log_of_softmax), ("log_softmax",), ("log_softmax/float32/edge/1000-and-0",),
    ),
    "max skips NaN": Mutant(
        computes(softmax_with(maximum_skips_nan, row_sum)), SOFTMAX, ("softmax/float32/edge/not-finite",),
    ),
    "mask does not hide NaN": Mutant(
        computes(softmax_with(mask_ignored_for_nan, row_sum)), SOFTMAX, ("softmax/float32/mask-bool/edges",),
    ),
    "mask one off": Mutant(
        computes(softmax_with(mask_one_off, row_sum)), SOFTMAX,
        ("softmax/float32/mask-bool/last-only", "softmax/bfloat16/mask-bfloat16/last-only"),
    ),
    "bf16 matmul drops its last K term": Mutant(
        computes(matmul_with(last_k_dropped)), ("matmul",),
        ("matmul/bfloat16/one-term/1025", "matmul/bfloat16/signs/1025"),
    ),
    "matmul accumulates in float16": Mutant(
        computes(matmul_with(accumulates_in_float16)), ("matmul",),
        ("matmul/float16/ones/4096", "matmul/float16/cancelling/258", "matmul/bfloat16/cancelling/258"),
    ),
    "float32 matmul truncates to TF32": Mutant(
        computes(matmul_with(truncated_like_tf32)), ("matmul",),
        ("matmul/float32/long-mantissa", "matmul/float32/shape/64x64x64"),
    ),
    "batch swapped": Mutant(computes(matmul_with(batches_swapped)), ("matmul",), ("matmul/float32/batch/batch",)),
    "padding times infinity": Mutant(
        computes(matmul_with(padding_times_infinity)), ("matmul",), ("matmul/float32/edge/inf-in-a",),
    ),
    "alpha applied after the bias": Mutant(
        computes(matmul_with(exact_product, alpha_after_bias)), ("matmul",),
        ("matmul/float32/alpha/-2.25+bias", "matmul/bfloat16/activation/relu"),
    ),
    "bias broadcast the wrong way": Mutant(
        computes(matmul_with(exact_product, bias_down_the_columns)), ("matmul",),
        ("matmul/float32/bias/row", "matmul/float16/bias/column"),
    ),
    "out rounded twice": Mutant(
        computes(matmul_with(exact_product, rounded_twice)), ("matmul",),
        ("matmul/bfloat16/bias/full", "matmul/float16/activation/silu"),
    ),
    "gelu instead of gelu_tanh": Mutant(
        computes(gelu_for_gelu_tanh), ("matmul",), ("matmul/float32/activation/gelu_tanh",),
    ),
    "relu loses NaN": Mutant(computes(relu_loses_nan), ("matmul",), ("matmul/float32/edge/relu-of-inf",)),
    "int8 saturates": Mutant(
        computes(int8_saturates), ("matmul",), ("matmul/int8/edge/wraps/131073", "matmul/int8/edge/bias-wraps"),
    ),
    "int8 products in 16 bits": Mutant(computes(int8_in_int16), ("matmul",), ("matmul/int8/edge/extremes",)),
    "result depends on the number of rows": Mutant(
        computes(matmul_with(depends_on_rows)), ("matmul",), ("matmul/float32/rows-alone/64x65",),
    ),
    "variance over n - 1": Mutant(
        computes(norm_with(variance=unbiased)), NORMS,
        ("layernorm/float32/size/5x1000", "layernorm/bfloat16/size/5x17", "rmsnorm/float32/size/5x257"),
    ),
    "one-pass variance in float32": Mutant(
        computes(norm_with(variance=one_pass)), ("layernorm",), ("layernorm/float32/large-mean/257",),
    ),
    "squares of the tail dropped": Mutant(
        computes(norm_with(variance=last_square_dropped)), NORMS,
        ("layernorm/float32/peaks/257", "rmsnorm/bfloat16/peaks/257"),
    ),
    "eps 1e-6 for 1e-5": Mutant(
        computes(eps_of_another_kind), ("layernorm",), ("layernorm/float32/eps/default/variance-near-it",),
    ),
    "eps outside the root": Mutant(
        computes(norm_with(rstd=eps_outside)), NORMS,
        ("layernorm/float32/eps/default/variance-near-it", "rmsnorm/bfloat16/eps/default/variance-near-it"),
    ),
    "sum with the residual not rounded": Mutant(
        computes(norm_with(rounded=False)), NORMS,
        ("layernorm/bfloat16/residual/rounded", "rmsnorm/float16/residual/rounded"),
    ),
    "bias forgotten without weight": Mutant(
        computes(bias_left_out_of_few), ("layernorm",), ("layernorm/float32/only-bias",),
    ),
    "writes past the end": Mutant(
        lambda: WritesPastTheEnd(right), ("softmax", "matmul"),
        ("softmax/float32/size/5x7", "matmul/float32/shape/15x17x16"),
    ),
    "writes into gaps": Mutant(
        lambda: WritesIntoGaps(right), ("softmax", "matmul"),
        ("softmax/float32/layout/out-padded", "matmul/float32/layout/out-padded"),
    ),
    "last rows left unwritten": Mutant(
        lambda: LeavesRowsUnwritten(right), ("softmax", "matmul"),
        ("softmax/float32/rows/129x33", "matmul/float32/shape/33x31x63"),
    ),
    "tail left unwritten": Mutant(
        lambda: LeavesTailUnwritten(right), ("layernorm", "matmul"),
        ("layernorm/float32/size/5x7", "matmul/float16/shape/33x31x63"),
    ),
    "an input modified": Mutant(
        lambda: ModifiesAnInput(right), ("rmsnorm", "matmul"), ("rmsnorm/float32/bare", "matmul/float32/shape/2x3x7"),
    ),
    "Fortran order taken for C": Mutant(
        lambda: TakesFortranForC(right), ("softmax", "matmul"),
        ("softmax/float32/layout/x-fortran", "matmul/float32/layout/b-transposed"),
    ),
    "negative strides ignored": Mutant(
        lambda: IgnoresNegativeStrides(right), ("softmax", "matmul"),
        ("softmax/float32/layout/x-reversed", "matmul/bfloat16/layout/a-rows_reversed"),
    ),
    "another result the second time": Mutant(
        lambda: NotTheSameTwice(right), ("softmax",), ("softmax/float32/size/5x7",),
    ),
    "raises for empty results": Mutant(
        lambda: FailsSometimes(right), ("softmax", "matmul"),
        ("softmax/float32/empty/0x5", "matmul/float32/empty/0x5x3"),
    ),
    "one scratch buffer for all threads": Mutant(
        lambda: SharedScratch(right), ("softmax",), ("softmax/float32/two-threads",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    device = mutant.device()
    smoke = {case.name: case for case in select("smoke", mutant.operators)}
    for case in mutant.caught_by:
        assert run_case(device, smoke[case]).status == "failed", case


def test_the_reference_itself_passes() -> None:
    device = Subject(right)
    assert [c.name for c in select("smoke") if run_case(device, c).status != "passed"] == []
