"""Subjects that are not hal's: torch on any of its devices, NumPy, a stranger's function.

    torch@cpu  torch@cuda:1  torch@npu      each operator by torch's own function on that torch device
    numpy@                                  by NumPy, every step in the operands' dtype
    py@module  py@module:function           by functions of a Python module, on NumPy arrays

`open_subject` makes a Device of such a text. `profile_for` adds to a profile what the subject does not take: an
operator that a module has not, an option that a function has not. Those cases are skipped, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal.conformance.profile import Profile
from hal.conformance.subjects.functions import FunctionSubject
from hal.conformance.subjects.refusal import with_refusals
from hal.device import Device
from hal.errors import BackendUnavailable

KINDS = ("torch", "numpy", "py")


def is_subject(spec: str) -> bool:
    """Whether a device string names a subject and no backend's device."""
    return "@" in spec


def open_subject(spec: str, operators: Sequence[str] = ()) -> FunctionSubject:
    """The device that computes by what `spec` names.

    Args:
        spec: as above. operators: those asked for with --ops; `py@module:function` needs exactly one of them, unless
            the function is named like its operator.

    Raises:
        BackendUnavailable: no such kind, package, device, module or function; the text says what to do.
        OptionError: it is not clear which operator a function computes.
    """
    kind, _, rest = spec.partition("@")
    if kind == "torch":
        from hal.conformance.subjects.torch_device import open_torch

        return open_torch(rest)
    if kind == "numpy" and not rest:
        from hal.conformance.subjects import by_numpy

        return FunctionSubject(spec, by_numpy.OPERATORS, by_numpy.DESCRIPTION, why_not=by_numpy.why_not)
    if kind == "py" and rest:
        from hal.conformance.subjects.functions import open_function

        return open_function(rest, operators)
    raise BackendUnavailable(
        f"{spec!r} is no subject; write torch@cpu (or another torch device), numpy@, py@module or py@module:function"
    )


def profile_for(device: Device, given: Profile) -> Profile:
    """`given`, and for a subject the cases it does not take, each with the reason."""
    return with_refusals(given, device.why_not) if isinstance(device, FunctionSubject) else given
