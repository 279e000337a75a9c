"""matmul: activation(alpha * (a @ b) + bias), batched and broadcast as NumPy's matmul.

Everything happens in the accumulation dtype and is rounded once at the end. int8 gives int32, modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hal import doubledouble as wide
from hal.bound import MAXIMUM, STRICT, Allowance, Exact, U
from hal.doubledouble import Float64, Wide
from hal.dtypes import DTYPES, FLOATS, accumulator
from hal.errors import DTypeError, OptionError, ShapeError
from hal.op import Op, OpClass, OperandClass, TensorSpec, merge_axes, needs_wide_index, vector_align
from hal.ops.operator import Operands, Operator, Options, Result

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")
PRECISIONS = (None, "tf32")
# The largest slope of each activation: how much it can enlarge an error of its argument.
SLOPE = {None: 1.0, "relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.10}
# sqrt(2/pi) and the cubic coefficient 0.044715 (Hendrycks, Gimpel 2016), each as a double-double.
GELU_TANH = ((0.7978845608028654, -4.98465440455546e-17), (0.044715, 2.1960211427085595e-18))


class Matmul(Operator):
    """a (…, M, K) @ b (…, K, N), bias broadcast to the result."""

    name = "matmul"
    roles = ("a", "b", "bias")
    options: ClassVar[dict[str, Any]] = {"activation": None, "alpha": 1.0, "out_dtype": None, "precision": None}
    required = 2

    def infer(self, operands: Operands, options: Options) -> tuple[Result, ...]:
        a, b, bias = operands["a"], operands["b"], operands.get("bias")
        for role in ("a", "b"):
            self.check_dtype(operands, role, (*FLOATS, "int8"))
        if a.dtype != b.dtype:
            raise self.fail(DTypeError, operands, "a and b need the same dtype", "hal promotes nothing: convert one")
        dtype = self.out_dtype(operands, options, "int32" if a.dtype == "int8" else a.dtype)
        self._check_options(operands, options)
        shape = self._result_shape(operands)
        if bias is not None:
            self.check_dtype(operands, "bias", ("int32",) if a.dtype == "int8" else (a.dtype, dtype))
            fits = bias.ndim <= len(shape) and all(
                have in (1, want) for have, want in zip(reversed(bias.shape), reversed(shape), strict=False)
            )
            if not fits:
                raise self.fail(ShapeError, operands, f"bias has to broadcast to the result's shape {shape}")
        return (Result("out", dtype, shape),)

    def _check_options(self, operands: Operands, options: Options) -> None:
        activation, precision = options["activation"], options["precision"]
        if not isinstance(activation, (str, type(None))) or activation not in ACTIVATIONS:
            raise OptionError(f"matmul: activation has to be one of {ACTIVATIONS}, not {activation!r}")
        if not isinstance(precision, (str, type(None))) or precision not in PRECISIONS:
            raise OptionError(f"matmul: precision has to be one of {PRECISIONS}, not {precision!r}")
        alpha = self.number(options, "alpha", operands["a"].dtype)
        if operands["a"].dtype == "int8" and (activation is not None or alpha != 1):
            raise self.fail(DTypeError, operands, "int8 takes neither activation nor alpha")
        self.refuse_portable(options)

    def _result_shape(self, operands: Operands) -> tuple[int, ...]:
        a, b = operands["a"], operands["b"]
        if a.ndim == 0 or b.ndim == 0:
            raise self.fail(ShapeError, operands, "a and b need at least one dimension", "use * for scalars")
        inner_a, inner_b = a.shape[-1], b.shape[-2 if b.ndim > 1 else 0]
        if inner_a != inner_b:
            wanted = f"the last axis of a ({inner_a}) and the {'second last' if b.ndim > 1 else 'only'} axis of b "
            raise self.fail(ShapeError, operands, wanted + f"({inner_b}) have to be equal", "transpose an operand")
        try:
            batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            wanted = f"the batch axes {a.shape[:-2]} and {b.shape[:-2]} have to broadcast"
            raise self.fail(ShapeError, operands, wanted) from None
        return (*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))

    def build(self, operands: Operands, outputs: Sequence[TensorSpec], options: Options) -> Op:
        a, b, bias, out = operands["a"], operands["b"], operands.get("bias"), outputs[0]
        shape = out.shape
        if bias is not None:
            bias = bias.broadcast_to(shape)
        # 1-D operands become a row and a column; the result and the bias get the axes back.
        if a.ndim == 1:
            a, out = a.insert_axis(0), out.insert_axis(len(shape) - (b.ndim > 1))
            bias = bias.insert_axis(len(shape) - (b.ndim > 1)) if bias is not None else None
        if b.ndim == 1:
            b, out = b.insert_axis(1), out.insert_axis(-1)
            bias = bias.insert_axis(-1) if bias is not None else None
        batch = out.shape[:-2]
        a, b = a.broadcast_to((*batch, *a.shape[-2:])), b.broadcast_to((*batch, *b.shape[-2:]))
        inputs = (("a", a), ("b", b), *((("bias", bias),) if bias is not None else ()))
        params = (
            ("activation", options["activation"]),
            ("alpha", self.number(options, "alpha", a.dtype)),
            ("precision", options["precision"] if a.dtype == "float32" else None),
            ("deterministic", options["deterministic"]),
        )
        return Op(self.name, (("out", out),), inputs, params)

    def classify(self, op: Op) -> OpClass:
        """Layouts: "row" (last axis has stride 1), "column" (second last has), "strided"; a bias that does not vary
        along an axis: "per_row", "per_column", "constant". Alignment is that of vectors along the unit axis."""
        out, a, b, bias = op.outputs[0][1], op.inputs[0][1], op.inputs[1][1], op.input("bias")
        specs = [out, a, b, *([bias] if bias is not None else [])]
        batch, _ = merge_axes(out.shape[:-2], *(s.strides[:-2] for s in specs))
        inputs = [_operand_class("a", a), _operand_class("b", b)]
        if bias is not None:
            inputs.append(_bias_class(bias))
        return OpClass(
            self.name,
            (_operand_class("out", out),),
            tuple(inputs),
            (("activation", op.param("activation")), ("precision", op.param("precision"))),
            batch_ndim=len(batch),
            wide=needs_wide_index(*specs),
        )

    def exact(self, op: Op, inputs: Sequence[NDArray[Any]], allow: Allowance = STRICT) -> tuple[Exact, ...]:
        """e = L (g(K+2) (|alpha| |A|.|B| + |bias|) + (K+2) max(1, |alpha|) tiny) + 4 u |t|, the last term for
        gelu and silu only: K products and sums, alpha and bias make K + 2 roundings (N. Higham, "Accuracy and
        Stability of Numerical Algorithms", 2002, section 3.5), and L carries them through the activation."""
        a, b, bias = inputs[0], once_each(inputs[1]), inputs[2] if len(inputs) > 2 else None
        dtype = op.outputs[0][1].dtype
        if a.dtype == np.int8:
            # At most 2^14 K: exact in float64 for every K below 2^39.
            whole = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
            whole = whole + (bias.astype(np.int64) if bias is not None else 0)
            wrapped = whole.astype(np.uint64).astype(np.uint32).view(np.int32)
            return (Exact(dtype, wrapped, np.zeros(wrapped.shape)),)
        activation, alpha, k = op.param("activation"), op.param("alpha"), a.shape[-1]
        kind = accumulator(op.dtype)
        u, tiny = U[kind], allow.tiny(kind)
        with np.errstate(all="ignore"):
            wide_a, wide_b = wide.widen(a), wide.widen(b)
            t: Wide = wide.matmul(wide_a, wide_b) * alpha
            magnitude = abs(alpha) * np.matmul(np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64)))
            exactly = _sums_are_exact(op, inputs, magnitude, u)
            product = magnitude
            if bias is not None:
                t = t + wide.widen(bias)
                magnitude = magnitude + np.abs(bias.astype(np.float64))
            value = activate(t, activation)
            steps = (k + 2) * u / (1 - (k + 2) * u)
            error = SLOPE[activation] * (steps * magnitude + (k + 2) * max(1.0, abs(alpha)) * tiny)
            if op.param("precision") == "tf32":
                error = error + SLOPE[activation] * (2.0**-9 + 2.0**-20) * product
            if activation not in (None, "relu"):
                error = error + 4 * u * np.abs(wide.nearest(t))
            if exactly:
                error = np.where(magnitude * u <= 1.0, 0.0, error)
            # The activation of an infinite t is a limit, which every device knows: relu(-inf) is 0 and nothing else.
            error = np.where(np.isinf(wide.nearest(t)), 0.0, error)
        finite = all(bool(np.isfinite(x.astype(np.float64)).all()) for x in inputs)
        overflow = (magnitude > MAXIMUM[kind]) | ~np.isfinite(magnitude) if finite else None
        return (Exact(dtype, value, error, overflow if overflow is not None and overflow.any() else None),)


def once_each(x: NDArray[Any]) -> NDArray[Any]:
    """Length 1 along the batch axes that only repeat x (stride 0): np.matmul repeats it by itself, without a copy."""
    return x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.strides[:-2])]


def activate(t: Wide, activation: str | None) -> Wide:
    """The activation in the precision of `t`."""
    x = wide.nearest(t)
    if activation is None:
        return t
    if activation == "relu":
        return wide.where((x > 0) | np.isnan(x), t, 0.0)
    if activation == "silu":
        # t / (1 + e^-t) is NaN at -inf, where the limit is 0; at +inf it is +inf.
        return wide.where(x == -np.inf, 0.0, t / (wide.exp(-t) + 1.0))
    if activation == "gelu":
        return wide.where(x == -np.inf, 0.0, t * wide.normal_cdf(t))
    root, cubic = (wide.constant(pair, t) for pair in GELU_TANH)
    inner = (t + t * t * t * cubic) * root
    return wide.where(x == -np.inf, 0.0, t * (wide.tanh(inner) + 1.0) * 0.5)


def _sums_are_exact(op: Op, inputs: Sequence[NDArray[Any]], magnitude: Float64, u: float) -> bool:
    """True where every partial sum, in any order, is an integer that the accumulator holds: then e = 0."""
    if op.param("alpha") != 1.0 or op.param("activation") not in (None, "relu"):
        return False
    if op.param("precision") == "tf32" or magnitude.size == 0:
        return False
    return all(bool(np.all(x == np.rint(x))) for x in (y.astype(np.float64) for y in inputs))


def _operand_class(role: str, spec: TensorSpec) -> OperandClass:
    (rows, columns), (row_stride, column_stride) = spec.shape[-2:], spec.strides[-2:]
    if column_stride == 1 or columns == 1:
        return OperandClass(role, spec.dtype, "row", vector_align(spec, spec.ndim - 1))
    if row_stride == 1 or rows == 1:
        return OperandClass(role, spec.dtype, "column", vector_align(spec, spec.ndim - 2))
    return OperandClass(role, spec.dtype, "strided", DTYPES[spec.dtype].itemsize)


def _bias_class(spec: TensorSpec) -> OperandClass:
    (rows, columns), (row_stride, column_stride) = spec.shape[-2:], spec.strides[-2:]
    varies_down, varies_along = rows > 1 and row_stride != 0, columns > 1 and column_stride != 0
    if varies_down and varies_along:
        return _operand_class("bias", spec)
    layout = "per_row" if varies_down else "per_column" if varies_along else "constant"
    return OperandClass("bias", spec.dtype, layout, DTYPES[spec.dtype].itemsize)
