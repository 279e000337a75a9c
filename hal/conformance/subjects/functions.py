"""FunctionSubject: Python functions, one an operator, as a device.

A function is called as hal's own of that name would be, with the canonical operands (the rows last, matrices at least
2-D, batch axes broadcast) and with those options that are not the default or that the function names:

    def rmsnorm(x, weight=None, *, eps):        # NumPy arrays in, an array of x's shape and dtype out
        ...

    matmul(a, b, *, bias, activation, alpha, out_dtype)
    softmax(x, *, mask, scale, out_dtype)       log_softmax alike
    layernorm(x, weight, bias, *, eps, axis, residual, return_stats, out_dtype)
    rmsnorm(x, weight, *, eps, axis, residual, return_stats, out_dtype)

Several results (residual, return_stats) are a tuple in hal's order. Cases that need what a function does not take are
skipped with that reason. A result of another shape or dtype fails its case.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hal.conformance.case import defaults
from hal.conformance.subject import EVERY_DTYPE, Subject
from hal.device import DeviceInfo, Operand, Plan
from hal.dtypes import DTYPES
from hal.errors import BackendUnavailable, DTypeError, OptionError, ShapeError, UnsupportedError
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.ops.rows import row_ndim

Function: TypeAlias = Callable[..., Any]
WhyNot: TypeAlias = Callable[[Op], str]
POSITIONAL = {"matmul": 2, "softmax": 1, "log_softmax": 1, "layernorm": 3, "rmsnorm": 2}  # as in hal.api
NO_BATCH = "bits that do not depend on the number of rows are not promised by a plain matmul"


class FunctionSubject(Subject):
    """Functions by the names of operators.

    description: for the report. why_not: further reasons to refuse a call, besides those of the signatures.
    """

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Function],
        description: str,
        dtypes: frozenset[str] = EVERY_DTYPE,
        why_not: WhyNot | None = None,
    ) -> None:
        super().__init__(self.call, name, dtypes)
        self.info = DeviceInfo(description, dtypes, memory=0, props=self.properties())
        self.functions = functions
        self._why_not = why_not

    def properties(self) -> dict[str, Any]:
        """Facts for the report."""
        return {}

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # infinities and NaN are data here
            warnings.simplefilter("ignore")
            super().run(op, outputs, inputs)

    def call(self, op: Op, inputs: Sequence[Any]) -> Sequence[Any]:
        """The results of one call, checked for number, shape and dtype."""
        positional, named = arguments(op, inputs, self.functions[op.name])
        results = self.functions[op.name](*positional, **named)
        results = results if isinstance(results, (tuple, list)) else (results,)
        if len(results) != len(op.outputs):
            wanted = ", ".join(role for role, _ in op.outputs)
            raise ShapeError(f"{op.name}: the function returned {len(results)} results; wanted: {wanted}")
        for (role, spec), result in zip(op.outputs, results, strict=True):
            self.check(op, role, spec, result)
        return results

    def check(self, op: Op, role: str, spec: TensorSpec, result: Any) -> None:
        """Raises ShapeError or DTypeError where a result is not what the Op has."""
        shape, dtype = tuple(getattr(result, "shape", ())), str(getattr(result, "dtype", type(result).__name__))
        if shape != spec.shape:
            raise ShapeError(f"{op.name}: {role} has shape {shape}; wanted: {spec.shape}")
        if dtype.removeprefix("torch.") != spec.dtype:
            raise DTypeError(f"{op.name}: {role} is {dtype}; wanted: {spec.dtype}")

    def prepare(self, op: Op) -> Plan:
        if reason := self.why_not(op):
            raise UnsupportedError(f"{op.name}: {reason}")
        return super().prepare(op)

    def why_not(self, op: Op) -> str:
        """Why the subject does not take a call; empty where it does."""
        if op.name not in self.functions:
            return f"{self.name} has no {op.name}"
        if op.name == "matmul" and op.param("deterministic") == "batch":
            return NO_BATCH
        own = self._why_not(op) if self._why_not else ""
        return own or why_not_bound(op, self.functions[op.name])


def arguments(op: Op, inputs: Sequence[Any], function: Function) -> tuple[list[Any], dict[str, Any]]:
    """How `function` is called for an Op: positional operands, and operands and options by name."""
    by_role = {role: array for (role, _), array in zip(op.inputs, inputs, strict=True)}
    roles = OPERATORS[op.name].roles
    positional = [by_role.get(role) for role in roles[: POSITIONAL[op.name]]]
    while positional[-1] is None:
        positional.pop()
    names = parameters(function)
    named = {role: by_role[role] for role in roles[POSITIONAL[op.name] :] if role in by_role}
    options, plain = options_of_call(op), defaults(op.name)
    for key, value in options.items():
        default = hal_default(op, key, plain[key])
        if value != default or (names is not None and key in names):
            named[key] = value
    return positional, named


def options_of_call(op: Op) -> dict[str, Any]:
    """The options of an Op as the caller of a function on its canonical operands gives them."""
    options: dict[str, Any] = {
        key: value for key, value in op.params if key in OPERATORS[op.name].options and key != "precision"
    }
    if op.name in ("layernorm", "rmsnorm"):
        depth = row_ndim(op)
        options["axis"] = -1 if depth == 1 else tuple(range(-depth, 0))
        options["return_stats"] = op.output("rstd") is not None
    options["out_dtype"] = None if op.outputs[0][1].dtype in (op.dtype, "int32") else op.outputs[0][1].dtype
    return options


def hal_default(op: Op, key: str, written: Any) -> Any:
    """An option's default as it stands in a canonical Op: numbers are rounded to the accumulator."""
    if isinstance(written, float) and op.dtype != "int8":
        return float(DTYPES[DTYPES[op.dtype].accumulator].numpy.type(written))
    if key == "eps" and written is None:
        return 2.0**-52 if op.dtype == "float64" else 2.0**-23
    return written


def parameters(function: Function) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a function; None where Python cannot tell (some functions written in C)."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def why_not_bound(op: Op, function: Function) -> str:
    """Why a function cannot be called for an Op; empty where it can."""
    positional, named = arguments(op, [role for role, _ in op.inputs], function)
    known = parameters(function)
    if known is None:
        return f"the function's parameters are unknown, so it gets no {', '.join(named)}" if named else ""
    kinds = [p.kind for p in known.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        by_name = {key for key, p in known.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
        if missing := sorted(named.keys() - by_name):
            return f"the function takes no {', '.join(missing)}"
    places = sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)
    if inspect.Parameter.VAR_POSITIONAL not in kinds and len(positional) > places:
        return f"the function takes no {', '.join(OPERATORS[op.name].roles[places : len(positional)])}"
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        return f"the function cannot be called so: {error}"
    return ""


def open_function(text: str, operators: Sequence[str]) -> FunctionSubject:
    """The subject of "module" or "module:function". Modules are looked for in the current folder too."""
    module_name, _, function_name = text.partition(":")
    module = import_module(module_name)
    if not function_name:
        functions = {name: getattr(module, name) for name in OPERATORS if callable(getattr(module, name, None))}
        if not functions:
            raise BackendUnavailable(
                f"py@{text}: the module has none of the functions {', '.join(OPERATORS)}; name yours: "
                f"py@{module_name}:FUNCTION --ops OPERATOR"
            )
        return FunctionSubject(f"py@{text}", functions, described(module))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BackendUnavailable(
            f"py@{text}: the module {module_name} ({getattr(module, '__file__', 'built in')}) has no function "
            f"{function_name!r}; it has: {', '.join(sorted(functions_of(module))) or 'none'}"
        )
    return FunctionSubject(f"py@{text}", {operator_of(function_name, operators): function}, described(module))


def import_module(name: str) -> Any:
    """The module, from the current folder too. Raises BackendUnavailable."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailable(
            f"the module {name!r} cannot be imported ({error}); run hal in the folder of its file, or install it"
        ) from error
    finally:
        sys.path.remove(here)


def operator_of(function_name: str, operators: Sequence[str]) -> str:
    """Which operator a function computes: the one of --ops, or the one of its name."""
    if len(operators) == 1:
        return operators[0]
    if function_name in OPERATORS and (not operators or function_name in operators):
        return function_name
    raise OptionError(f"which operator does {function_name} compute? Say --ops with one of {', '.join(OPERATORS)}")


def functions_of(module: Any) -> list[str]:
    """The public functions of a module, for a message."""
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def described(module: Any) -> str:
    """Where a module's functions come from: a file's name, never its path."""
    return f"functions of {Path(getattr(module, '__file__', None) or module.__name__).name}"
