"""Batch axes of any number: their lengths and each operand's strides as parameters, and where an index leads.

How many axes there are is part of a kernel's text; their lengths and strides are arguments, in elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hal.errors import UnsupportedError
from hal.kernel import I64
from hal_nvidia_ptx.ptx import Entry, Register

MAXIMUM_AXES = 32  # 8 operands by 32 axes of 8 bytes: within the 4096 bytes of parameters that every target takes


def check_axes(name: str, axes: int) -> None:
    """For an algorithm's `configs`: raises UnsupportedError where the parameters would become too many."""
    if axes > MAXIMUM_AXES:
        raise UnsupportedError(
            f"{name}: {axes} batch axes remain after merging, more than the {MAXIMUM_AXES} whose strides fit a "
            "kernel's parameters; make an operand contiguous"
        )


def parameters(axes: int, roles: Sequence[str]) -> list[tuple[str, str]]:
    """Names and types, outermost axis first: a length, then the stride of each operand."""
    return [
        (name, "s64") for axis in range(axes) for name in (f"batch{axis}", *(f"{role}_batch{axis}" for role in roles))
    ]


def arguments(lengths: Sequence[int], strides: Mapping[str, Sequence[int]], roles: Sequence[str]) -> tuple[I64, ...]:
    """The values of `parameters`."""
    return tuple(
        I64(value)
        for axis, length in enumerate(lengths)
        for value in (length, *(strides[role][axis] for role in roles))
    )


def divide(k: Entry, index: Register, by: Register, name: str) -> tuple[Register, Register]:
    """Quotient and rest of a block's number; the rest is called `name`. One division: it is long."""
    quotient = k.let("s32", f"{name}_above", "div.s32", index, by)
    product = k.let("s32", f"{name}_before", "mul.lo.s32", quotient, by)
    return quotient, k.let("s32", name, "sub.s32", index, product)


def offsets(
    k: Entry, index: Register, axes: int, roles: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, Register]:
    """The byte offset of each operand's matrix or row number `index` (s64). Without batch axes: none."""
    if not axes:
        return {}
    found = {role: k.let("s64", f"{role}_offset", "mov.s64", 0) for role in roles}
    rest = index
    for axis in reversed(range(axes)):
        at_axis = rest
        if axis:  # the outermost axis needs no division: what is left is its index
            length = k.param(f"batch{axis}")
            outer = k.let("s64", f"rest{axis}", "div.s64", rest, length)
            at_axis = k.let("s64", f"index{axis}", "mul.lo.s64", outer, length)
            k("sub.s64", at_axis, rest, at_axis)
            rest = outer
        for role in roles:
            k("mad.lo.s64", found[role], at_axis, k.param(f"{role}_batch{axis}"), found[role])
    for role in roles:
        k("mul.lo.s64", found[role], found[role], sizes[role], note="bytes")
    return found
