"""What a caller gives a kernel, as the bytes of its parameters: numbers by the parameter's type, arrays by address."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.device import Device
from hal.errors import ArgumentError, HalError
from hal_nvidia_ptx.emulator.syntax import Function, Module, Variable

FLOATS = {"f16": "<e", "f32": "<f", "f64": "<d"}
INTEGERS = {
    f"{sign}{8 << i}": f"<{code.lower() if sign == 's' else code}" for sign in "bus" for i, code in enumerate("BHIQ")
}
ADDRESSES = ("b64", "u64", "s64")  # parameters that an array may be given for


def failure(module: Module, entry: Function, parameter: Variable | None, problem: str) -> HalError:
    """The error of an argument, with the line of the text that says what is wanted."""
    line = _line_of(module, entry, parameter.name) if parameter else entry.line
    name = f"parameter {parameter.name} (.{parameter.kind})" if parameter else "the arguments"
    text = module.lines[line - 1].strip() if 0 < line <= len(module.lines) else ""
    return ArgumentError(f"kernel {entry.name}, {name}: {problem}\n  line {line}: {text}")


def _line_of(module: Module, entry: Function, name: str) -> int:
    """The line of a parameter's declaration: lists of them are often a line each."""
    word = re.compile(rf"\.param\b.*(?<![\w$]){re.escape(name)}(?![\w$])")
    later = enumerate(module.lines[entry.line - 1 :], entry.line)
    return next((number for number, text in later if word.search(text)), entry.line)


def check_count(module: Module, entry: Function, arguments: Sequence[Any]) -> None:
    """Raises ArgumentError."""
    if len(arguments) != len(entry.params):
        names = ", ".join(f"{each.name} .{each.kind}" for each in entry.params)
        raise failure(module, entry, None, f"{len(entry.params)} wanted ({names}), {len(arguments)} given")


def is_number(argument: Any) -> bool:
    """Python's and NumPy's numbers; an array of one element is none."""
    return isinstance(argument, (bool, int, float, np.bool_, np.integer, np.floating))


def number(module: Module, entry: Function, parameter: Variable, argument: Any) -> bytes:
    """A number's bytes. Raises ArgumentError where the parameter is of another type, or cannot hold it."""
    if parameter.array:
        raise failure(module, entry, parameter, f"{parameter.nbytes} bytes wanted, {argument!r} given")
    value = argument.item() if hasattr(argument, "item") else argument
    whole = INTEGERS.get(parameter.kind)
    if whole and isinstance(value, float):
        raise failure(module, entry, parameter, f"an integer wanted, {value!r} given")
    if whole and parameter.kind[0] == "b" and value < 0:
        whole = whole.lower()  # untyped bits: of either sign
    try:
        return struct.pack(whole or FLOATS[parameter.kind], value)
    except (struct.error, OverflowError):
        raise failure(module, entry, parameter, f"{value!r} does not fit") from None
    except KeyError:
        raise failure(module, entry, parameter, f"no number is of this type; {value!r} given") from None


class Placement:
    """The arrays of one launch on its device. Host arrays are copied there, and back when the `with` block ends."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.owned = False  # an array is in memory that hal's own queue orders
        self._copied: dict[int, tuple[NDArray[Any], Any]] = {}  # id of the array as given -> host memory, handle
        self._kept: list[Any] = []

    def address(self, array: Any) -> int:
        """Of element [0, …, 0]. Raises ArgumentError for what is no contiguous array; HalError's children."""
        from hal.interop import kind_of

        kind = kind_of(array)
        if kind.device(array) is not None:
            self.owned = self.owned or kind.name == "hal.Array"
            self._kept.append(array)
            handle, offset = kind.operand(array)
            return int(handle) + offset
        self.owned = True
        if id(array) not in self._copied:
            self._copied[id(array)] = self._copy_in(kind.host(array))
            self._kept.append(array)
        return int(self._copied[id(array)][1])

    def _copy_in(self, host: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        if not host.flags.c_contiguous:
            raise ArgumentError(
                f"a host array has to be C-contiguous, since a kernel sees its bytes; shape {host.shape}, "
                f"strides {host.strides}: pass np.ascontiguousarray(x)"
            )
        handle = self.device.alloc(max(host.nbytes, 1))
        if host.nbytes:
            self.device.copy_in(handle, 0, host.reshape(-1).view(np.uint8))
        return host, handle

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for host, handle in self._copied.values():
            try:
                if kind is None and host.nbytes and host.flags.writeable:
                    self.device.copy_out(host.reshape(-1).view(np.uint8), handle, 0)
            finally:
                self.device.free(handle)
