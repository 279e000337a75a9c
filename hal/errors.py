"""Every error hal raises on purpose, so that `except hal.HalError` catches them all and nothing else.

Each child also inherits the builtin exception a Python programmer would expect, so code that knows nothing of hal
(`except ValueError`) still does the right thing. The text of an error names the operator, what was wanted, what was
given, and what to do.
"""

from __future__ import annotations


class HalError(RuntimeError):
    """Base class of hal's errors."""


class ShapeError(HalError, ValueError):
    """Shapes, axes or layouts that the operator is not defined on."""


class DTypeError(HalError, TypeError):
    """A dtype, or a mix of dtypes, that the operator is not defined on."""


class ArgumentError(HalError, TypeError):
    """An argument of a kind that hal does not take: no array, an array of a wrong sort, an option of a wrong type."""


class OptionError(HalError, ValueError):
    """An option (axis, activation, precision, …) whose value means nothing."""


class OutOfRangeError(HalError, IndexError):
    """An index beyond the end of an axis."""


class UnsupportedError(HalError, NotImplementedError):
    """The operator is defined here, but this device cannot compute it. Carries the reason."""


class DeviceMemoryError(HalError, MemoryError):
    """The device has not enough memory."""


class BackendUnavailable(HalError, ImportError):
    """A backend or device that was asked for cannot be had; says which exist and what to install."""


class CompileError(HalError):
    """A kernel did not build. `log` is the compiler's text, `source` what it was given."""

    def __init__(self, message: str, *, log: str = "", source: str = "") -> None:
        head = "\n".join(source.splitlines()[:12])
        super().__init__(f"{message}\n--- compiler log ---\n{log.strip()}\n--- first lines of the source ---\n{head}")
        self.log = log
        self.source = source


class DeviceError(HalError):
    """A driver call failed, or a device is used where it cannot be (after fork, after close)."""


class AbiMismatch(HalError, ImportError):
    """A backend library was built for another version of hal's C interface."""


class WrongResult(HalError, ArithmeticError):
    """With HAL_CHECK=1: a device's result left the operator's bound."""
