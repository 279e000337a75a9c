"""softmax and log_softmax of z = scale * x + mask over one axis, each exponential taken of z - max z.

A boolean mask *replaces* by -inf where it is False, so what stands there does not count, NaN included; an additive one
is added. Where a mask leaves nothing of a row, the row is zeros (log: -inf); without a mask such a row is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hal import doubledouble as wide
from hal.bound import CHAIN, MAXIMUM, NORMAL, STRICT, Allowance, Exact, U
from hal.dtypes import accumulator
from hal.errors import ShapeError
from hal.op import Op, OpClass, TensorSpec
from hal.ops.operator import Operands, Operator, Options, Result, check_floats, check_not_scalar
from hal.ops.rows import classify_rows, move_last


class Softmax(Operator):
    """softmax; with `log`, log_softmax."""

    roles = ("x", "mask")
    options: ClassVar[dict[str, Any]] = {"axis": -1, "scale": 1.0, "out_dtype": None}
    in_place = "x"

    def __init__(self, *, log: bool) -> None:
        self.log = log
        self.name = "log_softmax" if log else "softmax"

    def infer(self, operands: Operands, options: Options) -> tuple[Result, ...]:
        x, mask = operands["x"], operands.get("mask")
        dtype = self.out_dtype(operands, options, check_floats(self, operands, "x"))
        check_not_scalar(self, operands, "x")
        self.axis(options, x.ndim)
        self.number(options, "scale", x.dtype)
        self.refuse_portable(options)
        if mask is not None:
            self.check_dtype(operands, "mask", ("bool", x.dtype, "float32"), " (True keeps, or a value to add)")
            fits = mask.ndim <= x.ndim and all(
                have in (1, want) for have, want in zip(reversed(mask.shape), reversed(x.shape), strict=False)
            )
            if not fits:
                raise self.fail(ShapeError, operands, f"mask has to broadcast to x's shape {x.shape}")
        return (Result("out", dtype, x.shape),)

    def build(self, operands: Operands, outputs: Sequence[TensorSpec], options: Options) -> Op:
        x, mask = operands["x"], operands.get("mask")
        axis = self.axis(options, x.ndim)
        inputs = [("x", move_last(x, axis))]
        if mask is not None:
            inputs.append(("mask", move_last(mask.broadcast_to(x.shape), axis)))
        params = (("scale", self.number(options, "scale", x.dtype)),)
        return Op(self.name, (("out", move_last(outputs[0], axis)),), tuple(inputs), params)

    def classify(self, op: Op) -> OpClass:
        return classify_rows(op, (("scaled", op.param("scale") != 1.0),))

    def exact(self, op: Op, inputs: Sequence[NDArray[Any]], allow: Allowance = STRICT) -> tuple[Exact, ...]:
        """With D_i the error of z_i - max z (its roundings: scaling, mask, the two z, the difference), P the mean of
        D under the softmax, and C additions in a chain:

        softmax: e = y expm1(D_i + P + (C + 4 ulp_exp + 4) u) + smallest normal;
        log_softmax: e = D_i + P + (C + 2 ulp_exp + 2 ulp_log + 4) u + u (|z_i - max z| + 2 ulp_log |log S| + |y|)."""
        x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
        dtype, scale = op.outputs[0][1].dtype, op.param("scale")
        kind = accumulator(op.dtype)
        u, n = U[kind], x.shape[-1]
        ulp_exp, ulp_log = allow.ulp_exp, allow.ulp_log
        additive = mask is not None and mask.dtype != np.bool_
        with np.errstate(all="ignore"):
            z = wide.widen(x) * scale
            scaled = np.abs(wide.nearest(z))
            magnitude = scaled
            if additive:
                assert mask is not None
                z = z + wide.widen(mask)
                magnitude = scaled + np.abs(mask.astype(np.float64))
            elif mask is not None:
                z = wide.where(mask, z, -np.inf)
                magnitude = np.where(mask, magnitude, 0.0)
            top = wide.largest(z)
            empty = np.asarray(wide.nearest(top) == -np.inf)
            # An all-masked row has nothing to subtract; without a mask -inf - -inf makes it NaN, as it should be.
            difference = z - (wide.where(empty, 0.0, top) if mask is not None else top)
            weights = wide.exp(difference)
            total = wide.total(weights)
            if self.log:
                value = difference - wide.log(total)
                value = wide.where(empty, -np.inf, value) if mask is not None else value
            else:
                value = wide.where(empty, 0.0, weights / total) if mask is not None else weights / total

            # The error, in float64: it needs no more.
            near_z, near_top, distance = wide.nearest(z), wide.nearest(top), np.abs(wide.nearest(difference))
            at_top = np.where(near_z == near_top, scaled, 0.0).max(axis=-1, keepdims=True, initial=0.0)
            scale_error = 0.0 if _power_of_two(scale) else 1.0
            mask_error = 1.0 if additive else 0.0
            d = u * (
                scale_error * (scaled + at_top) + mask_error * (np.abs(near_z) + np.abs(near_top)) + 2.0 * distance
            )
            share = wide.nearest(weights) / wide.nearest(total)
            p = np.where(share > 0, share * d, 0.0).sum(axis=-1, keepdims=True)
            y = wide.nearest(value)
            chain = min(n, CHAIN)
            if self.log:
                log_total = np.abs(np.log(wide.nearest(total)))
                error = d + p + (chain + 2 * ulp_exp + 2 * ulp_log + 4) * u
                error = error + u * (distance + 2 * ulp_log * log_total + np.abs(y))
            else:
                error = np.where(y > 0, y * np.expm1(d + p + (chain + 4 * ulp_exp + 4) * u), 0.0) + NORMAL[kind]
        # An element of -inf is exactly 0 (log: -inf); a row of one element is exactly 1 (log: 0).
        exactly = np.isneginf(near_z) | (n == 1)
        error = np.where(exactly | np.isnan(error), 0.0, error)
        return (Exact(dtype, value, error, self._overflow(inputs, magnitude, kind)),)

    @staticmethod
    def _overflow(
        inputs: Sequence[NDArray[Any]], magnitude: NDArray[np.float64], kind: str
    ) -> NDArray[np.bool_] | None:
        finite = all(bool(np.isfinite(x.astype(np.float64)).all()) for x in inputs)
        if not finite:
            return None
        rows = (magnitude > MAXIMUM[kind]).any(axis=-1, keepdims=True)
        return np.broadcast_to(rows, magnitude.shape) if rows.any() else None


def _power_of_two(scale: float) -> bool:
    return bool(np.frexp(scale)[0] in (0.5, -0.5))
