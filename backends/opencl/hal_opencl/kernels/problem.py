"""A matmul as its kernels see it: sizes, strides in elements, batch axes; and the arguments all of them take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from hal.dtypes import accumulator
from hal.kernel import F32, F64, I64, Argument, In, Number
from hal.op import Op, OpClass, TensorSpec, merge_axes
from hal_opencl.kernels.source import batch_arguments

Strides = tuple[int, ...]
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")  # their numbers in epilogue.cl


@dataclass(frozen=True)
class Problem:
    """m, n, k; `batch` lengths and, for each operand by role, its strides over them; rows' and columns' strides."""

    m: int
    n: int
    k: int
    batch: tuple[int, ...]
    batch_strides: dict[str, Strides]
    strides: dict[str, tuple[int, int]]  # role -> (second last axis, last axis)
    dtypes: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of matrices."""
        return prod(self.batch)

    @property
    def empty(self) -> bool:
        """No element to compute."""
        return not (self.m and self.n and self.count)


def problem(op: Op) -> Problem:
    """The Op's sizes and strides, batch axes merged, and folded into m where b is the same for a whole axis.

    The folded axes stay in `batch` with length 1, since their number is part of a kernel's text.
    """
    operands = {"out": op.outputs[0][1], **dict(op.inputs)}
    m, n = operands["out"].shape[-2:]
    batch, merged = merge_axes(operands["out"].shape[:-2], *(s.strides[:-2] for s in operands.values()))
    batch_strides = dict(zip(operands, merged, strict=True))
    strides = {role: (spec.strides[-2], spec.strides[-1]) for role, spec in operands.items()}
    axes = len(batch)
    while batch and batch_strides["b"][-1] == 0 and _continues(m, batch_strides, strides):
        if m == 1:
            strides.update({role: (batch_strides[role][-1], strides[role][1]) for role in strides if role != "b"})
        m *= batch[-1]
        batch = batch[:-1]
        batch_strides = {role: steps[:-1] for role, steps in batch_strides.items()}
    folded = axes - len(batch)
    return Problem(
        m,
        n,
        operands["a"].shape[-1],
        (1,) * folded + batch,
        {role: (0,) * folded + steps for role, steps in batch_strides.items()},
        strides,
        {role: spec.dtype for role, spec in operands.items()},
    )


def _continues(m: int, batch_strides: dict[str, Strides], strides: dict[str, tuple[int, int]]) -> bool:
    """Whether the last batch axis goes on where the rows end, in every operand that has rows of the result."""
    return m == 1 or all(batch_strides[role][-1] == m * strides[role][0] for role in strides if role != "b")


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
