"""Planted faults of matmul."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.subject import Compute
from hal.dtypes import round_to
from hal.op import Op
from hal_cpu_reference import operators as reference
from mutants.mutant import Arrays, Mutant, computes, right, roles, with_params


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


def truncated_result(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """bfloat16 by cutting off the low half of a float32."""
    (y,) = right(with_output(op, "float32") if op.outputs[0][1].dtype == "bfloat16" else op, inputs)
    if op.outputs[0][1].dtype != "bfloat16":
        return [y]
    cut = (y.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return [round_to(cut.astype(np.float64), "bfloat16")]


def with_output(op: Op, dtype: str) -> Op:
    (role, spec), *others = op.outputs
    return replace(op, outputs=((role, replace(spec, dtype=dtype)), *others))


def activation_before_bias(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    operands = roles(op, inputs)
    if op.param("activation") is None or "bias" not in operands:
        return right(op, inputs)
    with np.errstate(all="ignore"):
        t = op.param("alpha") * np.matmul(operands["a"], operands["b"])
        y = reference.ACTIVATIONS[op.param("activation")](t) + operands["bias"]
    return [round_to(y, op.outputs[0][1].dtype)]


def alpha_ignored(op: Op, product: Any, bias: Any) -> Any:
    return product if bias is None else product + bias


def first_batch_for_all(op: Op, a: Any, b: Any) -> Any:
    return np.matmul(a, np.broadcast_to(b.reshape(-1, *b.shape[-2:])[:1], b.shape) if b.size else b)


def int8_as_unsigned(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    if op.dtype != "int8":
        return right(op, inputs)
    a, b = inputs[0].astype(np.uint8).astype(np.int64), inputs[1].astype(np.int64)
    return [(np.matmul(a, b) + (inputs[2] if len(inputs) > 2 else 0)).astype(np.int32)]


def overflow_saturates(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """The largest number in place of infinity."""
    (y,) = right(op, inputs)
    if y.dtype != np.float16:
        return [y]
    return [np.where(np.isinf(y), np.copysign(np.float16(65504), y), y)]


def zeros_skipped(op: Op, a: Any, b: Any) -> Any:
    """Terms with a zero are skipped, and with them the infinity that they meet."""
    if a.ndim != 2 or b.ndim != 2 or np.isfinite(b).all():
        return np.matmul(a, b)
    return np.where(a[:, :, None] == 0, 0.0, a[:, :, None] * b).sum(axis=1)


def k_in_chunks_overwrites(op: Op, a: Any, b: Any) -> Any:
    """The second part of a split sum replaces the first."""
    return np.matmul(a[..., 1024:], b[..., 1024:, :]) if a.shape[-1] > 1024 else np.matmul(a, b)


def inputs_flushed(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    if op.dtype != "float16":
        return right(op, inputs)
    return right(op, [np.where(np.abs(x) < 2.0**-14, 0, x).astype(x.dtype) for x in inputs])


def silu_of_minus_infinity(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    """-inf times 0 is NaN."""
    (y,) = right(op, inputs)
    if op.param("activation") != "silu":
        return [y]
    (t,) = right(with_params(op, activation=None), inputs)
    return [np.where(np.isneginf(t.astype(np.float64)), np.nan, y.astype(np.float64)).astype(y.dtype)]


MUTANTS = {
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
    "bfloat16 cut off, not rounded": Mutant(
        computes(truncated_result), ("matmul",), ("matmul/bfloat16/shape/33x31x63", "matmul/bfloat16/bias/row"),
    ),
    "activation before the bias": Mutant(
        computes(activation_before_bias), ("matmul",), ("matmul/float32/activation/relu",),
    ),
    "alpha ignored": Mutant(
        computes(matmul_with(exact_product, alpha_ignored)), ("matmul",), ("matmul/float32/alpha/-2.25",),
    ),
    "the first matrix for every batch": Mutant(
        computes(matmul_with(first_batch_for_all)), ("matmul",), ("matmul/float32/batch/batch",),
    ),
    "int8 read as unsigned": Mutant(
        computes(int8_as_unsigned), ("matmul",), ("matmul/int8/shape/15x17x16",),
    ),
    "overflow saturates": Mutant(
        computes(overflow_saturates), ("matmul",), ("matmul/float16/edge/120000-is-inf",),
    ),
    "zero columns skipped, infinity with them": Mutant(
        computes(matmul_with(zeros_skipped)), ("matmul",), ("matmul/float32/edge/zero-times-inf",),
    ),
    "the second part of a split sum overwrites": Mutant(
        computes(matmul_with(k_in_chunks_overwrites)), ("matmul",), ("matmul/float32/one-term/1025",),
    ),
    "subnormal inputs flushed, undeclared": Mutant(
        computes(inputs_flushed), ("matmul",), ("matmul/float16/edge/subnormal-inputs",),
    ),
    "silu of minus infinity is NaN": Mutant(
        computes(silu_of_minus_infinity), ("matmul",), ("matmul/float32/edge/silu-of-inf",),
    ),
}  # fmt: skip
