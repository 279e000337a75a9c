"""A vendor's shared library, its functions called by name and their errors in hal's form."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from hal.errors import BackendUnavailable, DeviceError, DeviceMemoryError


class SharedLibrary:
    """Loaded at the first call, so that making one never fails.

    Args:
        names: file names or paths, tried in this order.
        text: a status number's meaning, from the library and the number (cuGetErrorName and its kin).
        out_of_memory: the numbers that mean so.
        good: the number that means success.
    """

    def __init__(
        self,
        *names: str,
        text: Callable[[ctypes.CDLL, int], str] | None = None,
        out_of_memory: frozenset[int] = frozenset((2,)),  # CUDA's, and that of all interfaces made after it
        good: int = 0,
    ) -> None:
        self._names, self._text, self._out_of_memory, self._good = names, text, out_of_memory, good
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None

    @property
    def library(self) -> ctypes.CDLL:
        """The loaded library. Raises BackendUnavailable with the loader's own words."""
        with self._lock:
            if self._library is None:
                self._library = self._load()
            return self._library

    def _load(self) -> ctypes.CDLL:
        problems = []
        for name in self._names:
            try:
                return ctypes.CDLL(name)
            except OSError as error:
                problems.append(str(error))
        raise BackendUnavailable("the vendor's library does not load: " + "; ".join(problems))

    def call(self, function: str, *arguments: Any) -> None:
        """Call and check. Integers go as 64 bits, which 64-bit machines take for narrower parameters too.

        Raises:
            DeviceError: "cuMemcpyHtoD failed: 1 CUDA_ERROR_INVALID_VALUE". DeviceMemoryError: no memory.
            BackendUnavailable: the library does not load, or has no such function.
        """
        found = getattr(self.library, function, None)
        if found is None:
            raise BackendUnavailable(f"{self._names[0]} has no function {function}: another version of the driver?")
        status = int(found(*(_integer(x) if type(x) is int else x for x in arguments)))
        if status != self._good:
            text = f" {self._text(self.library, status)}" if self._text else ""
            kind = DeviceMemoryError if status in self._out_of_memory else DeviceError
            raise kind(f"{function} failed: {status}{text}")


def _integer(value: int) -> ctypes.c_int64 | ctypes.c_uint64:
    """Not ctypes' own guess, a C int, which would cut addresses in half."""
    return ctypes.c_int64(value) if value < 1 << 63 else ctypes.c_uint64(value)
