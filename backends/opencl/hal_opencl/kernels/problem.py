"""The arguments that all matmul kernels take: alpha, bias, batch strides; and what epilogue.cl wants to know."""

from __future__ import annotations

from collections.abc import Sequence

from hal.dtypes import accumulator
from hal.kernel import F32, F64, I64, Argument, In, Number
from hal.op import Op, OpClass, TensorSpec
from hal.ops.problem import Problem, Strides
from hal_opencl.kernels.source import batch_arguments

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")  # their numbers in epilogue.cl


def roles(op_class: OpClass) -> tuple[str, ...]:
    """The operands in the order of the kernels' arguments."""
    return ("a", "b", "out", *(("bias",) if op_class.input("bias") else ()))


def defines(op_class: OpClass) -> dict[str, int | str]:
    """What epilogue.cl wants to know."""
    activation = dict(op_class.epilogue)["activation"]
    return {
        "ACTIVATION": ACTIVATIONS.index(activation if isinstance(activation, str) else None),
        "HAS_BIAS": int(op_class.input("bias") is not None),
        "INTEGER": int(op_class.inputs[0].dtype == "int8"),
    }


def dtypes(op_class: OpClass) -> dict[str, str]:
    """dtype by role."""
    return {operand.role: operand.dtype for operand in (*op_class.inputs, *op_class.outputs)}


def alpha(op: Op) -> Number:
    """The factor, in the accumulator's type."""
    value = float(op.param("alpha"))
    return F64(value) if accumulator(op.dtype) == "float64" else F32(value)


def bias_arguments(op: Op, p: Problem) -> tuple[Argument, ...]:
    """BIAS_PARAMETERS of epilogue.cl."""
    index = op.input_index("bias")
    return () if index is None else (In(index), *longs(*p.strides["bias"]))


def longs(*values: int) -> tuple[I64, ...]:
    """64-bit arguments."""
    return tuple(I64(value) for value in values)


def batch_of(p: Problem, order: Sequence[str], replaced: dict[str, Strides] | None = None) -> tuple[I64, ...]:
    """BATCH_PARAMETERS, with other strides for operands that were copied."""
    steps = {**p.batch_strides, **(replaced or {})}
    return batch_arguments(p.batch, [steps[role] for role in order])


def packed_strides(p: Problem, role: str, size: int) -> tuple[Strides, Strides]:
    """(Batch lengths, strides) of a copy of an operand, `size` elements a matrix, without what is broadcast."""
    lengths = tuple(1 if step == 0 else length for length, step in zip(p.batch, p.batch_strides[role], strict=True))
    strides, step = [], size
    for length in reversed(lengths):
        strides.append(step if length > 1 else 0)
        step *= length
    return lengths, tuple(reversed(strides))


def spec_of(op: Op, role: str) -> TensorSpec:
    """An input that is there."""
    spec = op.input(role)
    assert spec is not None
    return spec
