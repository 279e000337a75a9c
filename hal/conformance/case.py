"""Case: one operator call of the suite, with its data.

A case names an Op and how its operands are filled. The data are a pure function of the case's name and a seed, made
when the case runs: a list of thousands of cases costs nothing, and a failure can be made again from its name.

`make_op` builds an Op from what a user would write: operands of any layout by role, and options.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.conformance.layout import lay_out
from hal.conformance.memory import NAN_FILL, Image
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS

Arrays: TypeAlias = Sequence[NDArray[Any]]
Values: TypeAlias = Callable[[Op, np.random.Generator], Arrays]  # canonical operands; they are cast to their dtypes

LEVELS = ("smoke", "full")


@dataclass(frozen=True)
class Case:
    """One call.

    level: the first level that has it. check: what is done with it, a key of `runner.CHECKS`. shared: pairs of roles of
    which the second lies in the first one's memory and starts where it does; an output that lies in an input's memory
    is computed in place.
    """

    name: str
    op: Op
    values: Values
    level: str = "full"
    check: str = "once"
    shared: tuple[tuple[str, str], ...] = ()

    @property
    def operator(self) -> str:
        return self.op.name

    @property
    def dtype(self) -> str:
        return self.op.dtype

    def inputs(self, seed: int = 0) -> list[Image]:
        """The operands as they go to the device."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        with np.errstate(all="ignore"):  # infinities and NaN are data here
            return place(self.op, self.values(self.op, rng), self.shared)


def place(op: Op, values: Arrays, shared: Sequence[tuple[str, str]] = (), fill: int = NAN_FILL) -> list[Image]:
    """Images of the inputs. Those that share another's memory get what stands there instead of their own values."""
    owner = {second: first for first, second in shared}
    images: dict[str, Image] = {}
    for (role, spec), array in zip(op.inputs, values, strict=True):
        if role in owner:
            first = images[owner[role]]
            images[role] = Image(spec, first.data, first.start)
            continue
        others = [spec_of(op, second) for second, first in owner.items() if first == role]
        images[role] = Image.blank(spec, fill, others)
        images[role].elements[...] = array
    return [images[role] for role, _ in op.inputs]


def spec_of(op: Op, role: str) -> TensorSpec:
    """The operand or result of that role. Raises KeyError where the call has neither."""
    if (spec := op.input(role) or op.output(role)) is None:
        raise KeyError(role)
    return spec


def defaults(operator: str) -> dict[str, Any]:
    """The operator's options, and the setting that rules see as one."""
    return {**OPERATORS[operator].options, "deterministic": "run"}


def make_op(
    operator: str, operands: Mapping[str, TensorSpec | None], out: str | Sequence[str] = "contiguous", **options: Any
) -> Op:
    """The canonical Op of a call with these operands (None: absent), results of layout `out`, and options."""
    given = {role: spec for role, spec in operands.items() if spec is not None}
    if unknown := options.keys() - defaults(operator).keys():
        raise TypeError(f"{operator} has no option {', '.join(sorted(unknown))}")
    complete = {**defaults(operator), **options}
    results = OPERATORS[operator].infer(given, complete)
    layouts = [out] * len(results) if isinstance(out, str) else out
    specs = [lay_out(layout, r.dtype, r.shape) for layout, r in zip(layouts, results, strict=True)]
    return OPERATORS[operator].build(given, specs, complete)


def options_of(op: Op) -> dict[str, Any]:
    """The options with which a call of op's own canonical operands gives `op` again."""
    options: dict[str, Any] = {key: value for key, value in op.params if key in defaults(op.name)}
    if op.name in ("layernorm", "rmsnorm"):
        options["axis"] = tuple(range(-op.param("row_ndim"), 0))
        options["return_stats"] = op.output("rstd") is not None
    return {**defaults(op.name), **options, "out_dtype": op.outputs[0][1].dtype}
