"""What the lists of cases share: names of dtypes and sizes, and the making of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hal.conformance.case import Case, Values, make_op
from hal.conformance.layout import lay_out
from hal.op import TensorSpec

FLOATS = ("float32", "float16", "bfloat16", "float64")
SHORT = ("float16", "bfloat16")
# Around the edges of vectors, lanes, tiles and blocks.
EDGES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)


def spec(dtype: str, shape: Sequence[int], layout: str = "contiguous") -> TensorSpec:
    """An operand of that layout."""
    return lay_out(layout, dtype, shape)


def make(
    operator: str,
    label: str,
    operands: Mapping[str, TensorSpec | None],
    values: Values,
    level: str = "full",
    *,
    out: str | Sequence[str] = "contiguous",
    check: str = "once",
    shared: tuple[tuple[str, str], ...] = (),
    **options: Any,
) -> Case:
    """A case named operator/dtype/label."""
    op = make_op(operator, operands, out, **options)
    return Case(f"{operator}/{op.dtype}/{label}", op, values, level, check, shared)
