"""A launch's arguments in the forms that drivers take: ctypes values, pointers to them, or one packed buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from hal.device import Operand
from hal.kernel import F32, F64, I32, I64, Number

Value: TypeAlias = "ctypes.c_uint64 | ctypes.c_int64 | ctypes.c_int32 | ctypes.c_float | ctypes.c_double"

KINDS: Mapping[type, Any] = {I32: ctypes.c_int32, I64: ctypes.c_int64, F32: ctypes.c_float, F64: ctypes.c_double}


def values(arguments: Iterable[Operand | Number], *, split: bool = False) -> list[Value]:
    """One ctypes value an argument. `split`: an address is two, as hal's OpenCL kernels want it: base, byte offset."""
    found: list[Value] = []
    for argument in arguments:
        if not isinstance(argument, tuple):
            found.append(KINDS[type(argument)](argument.value))
        elif split:
            found += [ctypes.c_uint64(argument[0]), ctypes.c_int64(argument[1])]
        else:
            found.append(ctypes.c_uint64(argument[0] + argument[1]))
    return found


def pointers(arguments: Sequence[Value]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of their addresses, as cuLaunchKernel and its kin take it. Keep `arguments` until the call returned."""
    return (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))


def packed(arguments: Iterable[Value]) -> bytes:
    """One after the other, each at a multiple of its own size, as a C struct has them."""
    buffer = bytearray()
    for value in arguments:
        buffer += bytes(-len(buffer) % ctypes.sizeof(value))
        buffer += bytes(value)
    return bytes(buffer)
