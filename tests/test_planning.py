from __future__ import annotations

from typing import Any

import pytest

import hal
from hal.op import TensorSpec


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.contiguous(dtype, shape)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (spec(2, 2), hal.ShapeError, r"shape \(64, 32\); given: float32\[2x2\]"),
        (spec(64, 32, dtype="int8"), hal.DTypeError, "has to be float32; given: int8"),
        ((spec(64, 32), spec(64, 32)), hal.ArgumentError, "for the results"),
        (TensorSpec("float32", (64, 32), (0, 0), 4), hal.ShapeError, "share memory"),
    ],
)
def test_a_plan_refuses_an_out_it_would_write_beyond(out: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        hal.plan("matmul", spec(64, 128), spec(128, 32), out=out, device="cpu")


def test_more_operands_than_the_operator_has_are_refused() -> None:
    with pytest.raises(hal.ArgumentError, match="2 operands at most"):
        hal.explain("softmax", spec(4), spec(4), spec(4), device="cpu")


def test_a_column_major_out_is_fine() -> None:
    out = spec(32, 64).permute((1, 0))
    assert hal.plan("matmul", spec(64, 128), spec(128, 32), out=out, device="cpu").op.outputs[0][1] == out
