"""Reference: what a fused operator computes, said in float64, so that the generic judge has something to hold it to.

    @hal.reference("npu::npu_add_rms_norm")
    def _(x, residual, weight, eps=1e-6):
        s = x + residual
        rstd = (s * s).mean(-1, keepdim=True).add(eps).rsqrt()
        return s * rstd * weight, rstd, s

The function gets the operator's own arguments, every floating tensor of them as float64 on the CPU, and returns what
the operator returns. Operators that torch computes on the CPU need none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hal.errors import ArgumentError, OptionError

F = TypeVar("F", bound=Callable[..., Any])
_REFERENCES: dict[str, Callable[..., Any]] = {}


def reference(name: str) -> Callable[[F], F]:
    """A decorator that registers the reference of the torch operator `name`, "library::operator".

    Raises:
        ArgumentError: `name` is no text. OptionError: it is not of that form.
    """
    if not isinstance(name, str):
        raise ArgumentError(f'reference: give the operator\'s name, @hal.reference("npu::npu_add"), not {name!r}')
    library, _, operator = plain_name(name).partition("::")
    if not library or not operator:
        raise OptionError(f'reference: {name!r} is no operator of torch; write "library::operator"')

    def register(function: F) -> F:
        _REFERENCES[plain_name(name)] = function
        return function

    return register


def find_reference(name: str) -> Callable[..., Any] | None:
    """The registered reference of an operator, or None."""
    return _REFERENCES.get(plain_name(name))


def plain_name(name: str) -> str:
    """An operator's name without its overload: "npu.npu_add.default" and "npu::npu_add" are "npu::npu_add"."""
    library, separator, rest = name.partition("::") if "::" in name else name.partition(".")
    return f"{library}::{rest.partition('.')[0]}" if separator else name
