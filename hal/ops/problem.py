"""A matmul as kernels see it: sizes, strides in elements, batch axes; the fewest that describe it.

For matmul what hal/ops/rows.py is for the row operators: every backend's kernels walk the operands so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from hal.op import Op, merge_axes

Strides = tuple[int, ...]


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
