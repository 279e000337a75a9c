"""layernorm and rmsnorm over the last axes, with weight, bias, residual and statistics.

layernorm: (x - mean) / sqrt(var + eps) * weight + bias, var biased. rmsnorm: x / sqrt(mean(x^2) + eps) * weight.
`residual=r` first makes s = x + r, rounded to x's dtype; s is what is normalised and is the second result.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hal import doubledouble as wide
from hal.bound import CHAIN, MAXIMUM, STRICT, Allowance, Exact, U
from hal.doubledouble import Wide
from hal.dtypes import accumulator, round_to
from hal.errors import ArgumentError, DTypeError, OptionError, ShapeError
from hal.op import Op, OpClass, TensorSpec
from hal.ops.operator import Operands, Operator, Options, Result, check_floats, check_not_scalar, normal_axis
from hal.ops.rows import classify_rows, per_row_shape, row_ndim


class Norm(Operator):
    """What the two norms share: all but the arithmetic."""

    in_place = "x"
    statistics: tuple[str, ...]

    def infer(self, operands: Operands, options: Options) -> tuple[Result, ...]:
        x, residual = operands["x"], operands.get("residual")
        dtype = self.out_dtype(operands, options, check_floats(self, operands, "x"))
        check_not_scalar(self, operands, "x")
        depth = self._depth(options, x.ndim)
        row = x.shape[x.ndim - depth :]
        self._eps(options, x.dtype)
        self.refuse_portable(options)
        for role in ("weight", "bias"):
            spec = operands.get(role)
            if spec is None:
                continue
            # Every mixed-precision model keeps its norms' parameters in float32.
            self.check_dtype(operands, role, (x.dtype, "float32") if x.dtype != "float64" else ("float64",))
            if spec.shape != row:
                raise self.fail(ShapeError, operands, f"{role} has to have the normalised shape {row}: no broadcasting")
        if residual is not None and (residual.dtype != x.dtype or residual.shape != x.shape):
            kind = ShapeError if residual.shape != x.shape else DTypeError
            raise self.fail(kind, operands, "residual has to have x's shape and dtype")
        results = [Result("out", dtype, x.shape)]
        if residual is not None:
            results.append(Result("sum", x.dtype, x.shape))
        if self._wants_statistics(options):
            shape = per_row_shape(x.shape, depth)
            results.extend(Result(role, accumulator(x.dtype), shape) for role in self.statistics)
        return tuple(results)

    def build(self, operands: Operands, outputs: Sequence[TensorSpec], options: Options) -> Op:
        x = operands["x"]
        roles = [result.role for result in self.infer(operands, options)]
        params = (("eps", self._eps(options, x.dtype)), ("row_ndim", self._depth(options, x.ndim)))
        inputs = tuple((role, operands[role]) for role in self.roles if role in operands)
        return Op(self.name, tuple(zip(roles, outputs, strict=True)), inputs, params)

    def classify(self, op: Op) -> OpClass:
        return classify_rows(op)

    def _wants_statistics(self, options: Options) -> bool:
        asked = options["return_stats"]
        if not isinstance(asked, (bool, np.bool_)):
            raise ArgumentError(f"{self.name}: return_stats has to be True or False, not {asked!r}")
        return bool(asked)

    def _eps(self, options: Options, dtype: str) -> float:
        if options["eps"] is None:
            return float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)
        return self.number(options, "eps", dtype)

    def _depth(self, options: Options, ndim: int) -> int:
        """How many trailing axes are normalised: `axis` is the first of them, or the tuple of all."""
        axis = options["axis"]
        if not isinstance(axis, tuple):
            return ndim - normal_axis(self.name, axis, ndim)
        axes = sorted(normal_axis(self.name, a, ndim) for a in axis)
        if not axes or axes != list(range(ndim - len(axes), ndim)):
            raise OptionError(f"{self.name}: axis {axis!r} has to name trailing axes of an array of {ndim} dimensions")
        return len(axes)

    def _rows(self, op: Op, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """What is normalised as (rows, n), rounded to x's dtype where there is a residual; and operands by role."""
        by_role = {role: array for (role, _), array in zip(op.inputs, inputs, strict=True)}
        x = by_role["x"]
        if "residual" in by_role:
            with np.errstate(over="ignore", invalid="ignore"):
                # Correctly rounded: float64 has more than twice the digits of every narrower dtype, plus two
                # (S. Figueroa, "When is double rounding innocuous?", 1995).
                total = x.astype(np.float64) + by_role["residual"].astype(np.float64)
                x = round_to(total, op.dtype)
        split = x.ndim - row_ndim(op)
        n = prod(x.shape[split:])
        return np.ascontiguousarray(x).reshape(prod(x.shape[:split]), n), by_role

    @staticmethod
    def _of_nothing(op: Op) -> tuple[Exact, ...]:
        """Rows of no elements: the results are empty, and the statistics 0/0."""
        return tuple(Exact(spec.dtype, np.full(spec.shape, np.nan), np.zeros(spec.shape)) for _, spec in op.outputs)

    def _outputs(
        self,
        op: Op,
        rows: NDArray[Any],
        found: dict[str, tuple[Wide, NDArray[np.float64]]],
        overflow: NDArray[np.bool_],
        limit: NDArray[np.float64] | float,
    ) -> tuple[Exact, ...]:
        """The results in the Op's order and shapes. overflow: (rows, 1); limit: what `out` is if R = 0."""
        exact = []
        for role, spec in op.outputs:
            if role == "sum":
                value, error = wide.widen(rows), np.zeros(rows.shape)
            else:
                value, error = found[role]
            value = wide.reshape(value, spec.shape)
            error = np.broadcast_to(np.where(np.isnan(error), 0.0, error), wide_shape(found, role, rows))
            error = error.reshape(spec.shape)
            if role == "mean" and (infinite := np.isinf(sums := _infinite_sums(rows))).any():
                # A sum about the row's first element is NaN if that is the infinite one: either is right.
                value = wide.reshape(wide.where(infinite, sums, found[role][0]), spec.shape)
                either = (overflow | infinite).reshape(spec.shape)
                exact.append(Exact(spec.dtype, value, error, either, np.full(spec.shape, np.nan)))
                continue
            if role == "sum" or not overflow.any():
                exact.append(Exact(spec.dtype, value, error))
                continue
            where = np.broadcast_to(overflow, wide_shape(found, role, rows)).reshape(spec.shape)
            fallback = np.broadcast_to({"out": limit, "rstd": 0.0}.get(role, np.nan), wide_shape(found, role, rows))
            exact.append(Exact(spec.dtype, value, error, where, fallback.reshape(spec.shape)))
        return tuple(exact)


def _infinite_sums(rows: NDArray[Any]) -> NDArray[np.float64]:
    """(rows, 1): the sum of a row with infinities; 0 for a row without."""
    values = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.where(np.isinf(values).any(axis=-1, keepdims=True), values.sum(axis=-1, keepdims=True), 0.0)


def wide_shape(found: dict[str, tuple[Wide, NDArray[np.float64]]], role: str, rows: NDArray[Any]) -> tuple[int, ...]:
    """The (rows, …) shape of a result before it gets the Op's shape."""
    return rows.shape if role == "sum" else wide.nearest(found[role][0]).shape


class LayerNorm(Norm):
    """layernorm."""

    name = "layernorm"
    roles = ("x", "weight", "bias", "residual")
    options: ClassVar[dict[str, Any]] = {"axis": -1, "eps": 1e-5, "return_stats": False, "out_dtype": None}
    statistics = ("mean", "rstd")

    def exact(self, op: Op, inputs: Sequence[NDArray[Any]], allow: Allowance = STRICT) -> tuple[Exact, ...]:
        """With d = x - mean, R = 1/sqrt(var + eps), y0 = w d R, C additions in a chain, and the mean's error
        delta = (8 + log2 n) u |mean| + C u mean|d|:

        e = |w| R (delta + u |d|) + |y0| ((C + 6) u + (delta R)^2) + u (|y0| + |b|) + (|w| + 1) tiny;
        mean: delta; rstd: R ((C + 6) u + (delta R)^2)."""
        rows, by_role = self._rows(op, inputs)
        n, kind, eps = rows.shape[-1], accumulator(op.dtype), op.param("eps")
        u, tiny, chain = U[kind], allow.tiny(kind), min(rows.shape[-1], CHAIN)
        if n == 0:
            return self._of_nothing(op)
        with np.errstate(all="ignore"):
            x = wide.widen(rows)
            first = x[:, :1]  # about the first element: a constant row has mean x[0] and variance 0 exactly
            mean = first + wide.total(x - first) / float(n)
            d = x - mean
            variance = wide.total(d * d) / float(n)
            r = 1.0 / wide.sqrt(variance + eps)
            w = wide.widen(by_role["weight"].reshape(n)) if "weight" in by_role else np.ones(n)
            b = wide.widen(by_role["bias"].reshape(n)) if "bias" in by_role else np.zeros(n)
            y0 = d * r * w
            y = y0 + b

            near_d, near_mean, near_r, near_y0 = map(np.abs, map(wide.nearest, (d, mean, r, y0)))
            near_w, near_b = np.abs(wide.nearest(w)), np.abs(wide.nearest(b))
            delta = (8 + log2(n)) * u * near_mean + chain * u * near_d.mean(axis=-1, keepdims=True)
            relative = (chain + 6) * u + (delta * near_r) ** 2
            error = near_w * near_r * (delta + u * near_d) + near_y0 * relative
            error = error + u * (near_y0 + near_b) + (near_w + 1) * tiny
            # A constant row whose partial sums are exact, and a row of one element, are exactly the bias.
            values = rows.astype(np.float64)
            constant = (values == values[:, :1]).all(axis=-1, keepdims=True)
            whole = (values[:, :1] == np.rint(values[:, :1])) & (np.abs(values[:, :1]) * n * u <= 1.0)
            error = np.where(constant & (whole | (n == 1)), 0.0, error)
            delta = np.where(constant & (whole | (n == 1)), 0.0, delta)
            squares = (values * values).sum(axis=-1, keepdims=True)
            overflow = (squares > MAXIMUM[kind]) & np.isfinite(values).all(axis=-1, keepdims=True)
        found = {"out": (y, error), "mean": (mean, delta), "rstd": (r, near_r * relative)}
        return self._outputs(op, rows, found, overflow, wide.nearest(b))


class RMSNorm(Norm):
    """rmsnorm."""

    name = "rmsnorm"
    roles = ("x", "weight", "residual")
    options: ClassVar[dict[str, Any]] = {"axis": -1, "eps": None, "return_stats": False, "out_dtype": None}
    statistics = ("rstd",)

    def exact(self, op: Op, inputs: Sequence[NDArray[Any]], allow: Allowance = STRICT) -> tuple[Exact, ...]:
        """e = |y| (C + 8) u + (|w| + 1) tiny; rstd: R (C + 8) u."""
        rows, by_role = self._rows(op, inputs)
        n, kind, eps = rows.shape[-1], accumulator(op.dtype), op.param("eps")
        u, tiny, chain = U[kind], allow.tiny(kind), min(rows.shape[-1], CHAIN)
        if n == 0:
            return self._of_nothing(op)
        with np.errstate(all="ignore"):
            x = wide.widen(rows)
            r = 1.0 / wide.sqrt(wide.total(x * x) / float(n) + eps)
            w = wide.widen(by_role["weight"].reshape(n)) if "weight" in by_role else np.ones(n)
            y = x * r * w
            error = np.abs(wide.nearest(y)) * (chain + 8) * u + (np.abs(wide.nearest(w)) + 1) * tiny
            values = rows.astype(np.float64)
            squares = (values * values).sum(axis=-1, keepdims=True)
            overflow = (squares > MAXIMUM[kind]) & np.isfinite(values).all(axis=-1, keepdims=True)
        found = {"out": (y, error), "rstd": (r, wide.nearest(r) * (chain + 8) * u)}
        return self._outputs(op, rows, found, overflow, 0.0)
