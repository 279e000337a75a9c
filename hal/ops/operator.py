"""What hal knows of an operator apart from any device: its operands, its rules, its class of kernels, its bound.

One object an operator, in `hal.ops.OPERATORS`. The parts stand in the same order in each file:

    infer     which results a call has; every wrong call is refused here, before anything is written
    build     the call as a canonical Op (hal/op.py says what canonical is)
    classify  the Op without its sizes
    exact     the exact results and what their error may be, from Op and data alone
"""

from __future__ import annotations

import operator as _operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.bound import STRICT, Allowance, Exact
from hal.dtypes import DTYPES, FLOATS, accumulator, name_of
from hal.errors import ArgumentError, DTypeError, HalError, OptionError, ShapeError, UnsupportedError
from hal.op import Op, OpClass, TensorSpec

Options: TypeAlias = Mapping[str, Any]
Operands: TypeAlias = Mapping[str, TensorSpec]  # by role; absent optional operands are not in it


@dataclass(frozen=True, slots=True)
class Result:
    """One result as the caller sees it."""

    role: str
    dtype: str
    shape: tuple[int, ...]


class Operator(ABC):
    """One operator.

    name: as in `hal.<name>`. roles: its operands in order; `required` of them must be there. options: with their
    defaults, in the order of hal.api. in_place: the operand whose memory an `out=` may be.
    """

    name: str
    roles: tuple[str, ...]
    options: ClassVar[Mapping[str, Any]]
    required: int = 1
    in_place: str | None = None

    @abstractmethod
    def infer(self, operands: Operands, options: Options) -> tuple[Result, ...]:
        """The results of a call. Raises HalError's children with operator, wanted, given, what to do."""

    @abstractmethod
    def build(self, operands: Operands, outputs: Sequence[TensorSpec], options: Options) -> Op:
        """The canonical Op; `outputs` are the layouts of `infer`'s results, in that order and shape."""

    @abstractmethod
    def classify(self, op: Op) -> OpClass:
        """The Op without its sizes."""

    @abstractmethod
    def exact(self, op: Op, inputs: Sequence[NDArray[Any]], allow: Allowance = STRICT) -> tuple[Exact, ...]:
        """r and e of each output; `inputs` are canonical arrays (the shapes of op.inputs) in their own dtypes."""

    def fail(self, kind: type[HalError], operands: Operands, wanted: str, advice: str = "") -> HalError:
        """An error in the common form: operator, what was wanted, what was given, what to do."""
        given = ", ".join(f"{role} is {spec}" for role, spec in operands.items())
        return kind(f"{self.name}: {wanted}; given: {given}" + (f"; {advice}" if advice else ""))

    # ---- checks that several operators share

    def check_dtype(self, operands: Operands, role: str, allowed: Sequence[str], why: str = "") -> None:
        """Raises DTypeError unless the operand (if there) has one of the `allowed` dtypes."""
        spec = operands.get(role)
        if spec is not None and spec.dtype not in allowed:
            wanted = f"{role} has to be {' or '.join(dict.fromkeys(allowed))}{why}"
            raise self.fail(DTypeError, operands, wanted, "convert it with .astype first: hal promotes nothing")

    def out_dtype(self, operands: Operands, options: Options, default: str) -> str:
        """The result dtype: `default`, or float32 for a 16-bit `default` where the caller says so."""
        asked = options.get("out_dtype")
        if asked is None:
            return default
        name = name_of(asked)
        allowed = (default, "float32") if default in ("float16", "bfloat16") else (default,)
        if name not in allowed:
            raise self.fail(DTypeError, operands, f"out_dtype has to be {' or '.join(allowed)}, not {name}")
        return name

    def number(self, options: Options, key: str, dtype: str) -> float:
        """A real option, rounded to the accumulator of `dtype`: that is where it is used."""
        value = options[key]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise ArgumentError(f"{self.name}: {key} has to be a real number, not {type(value).__name__} {value!r}")
        try:
            with np.errstate(over="ignore"):
                # + 0.0: -0.0 equals 0.0 as a key, so they are one option.
                return (float(DTYPES[accumulator(dtype)].numpy.type(value)) if dtype != "int8" else float(value)) + 0.0
        except OverflowError:
            raise OptionError(f"{self.name}: {key} is too large for a float64") from None

    def axis(self, options: Options, ndim: int) -> int:
        """options["axis"] as 0 <= axis < ndim."""
        return normal_axis(self.name, options["axis"], ndim)

    def refuse_portable(self, options: Options) -> None:
        """Raises UnsupportedError for the demand that no device keeps yet."""
        if options.get("deterministic") == "portable":
            raise UnsupportedError(
                f'{self.name}: deterministic="portable" (the same bits on every device) is not available yet; '
                'use "run" or "batch"'
            )


def normal_axis(name: str, axis: object, ndim: int) -> int:
    """`axis` counted from the front. Raises ArgumentError (no integer) or OptionError (out of range)."""
    try:
        if isinstance(axis, (bool, np.bool_)):
            raise TypeError
        index = _operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(f"{name}: axis has to be an integer, not {type(axis).__name__} {axis!r}") from None
    if not -ndim <= index < ndim:
        raise OptionError(f"{name}: axis {index} is out of range for an array of {ndim} dimensions")
    return index % ndim


def check_floats(self: Operator, operands: Operands, role: str) -> str:
    """The dtype of the main operand of an operator that is defined on floating dtypes only."""
    spec = operands[role]
    if spec.dtype not in FLOATS:
        raise self.fail(
            DTypeError, operands, f"{role} has to be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}", "convert it first"
        )
    return spec.dtype


def check_not_scalar(self: Operator, operands: Operands, role: str) -> None:
    """Raises ShapeError for a 0-d operand."""
    if operands[role].ndim == 0:
        raise self.fail(ShapeError, operands, f"{role} needs at least one dimension", "reshape it to (1,)")
