"""One loaded library: its table, copied as far as both sides know it, and its status numbers as hal's errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from hal.capi import header
from hal.errors import (
    AbiMismatch,
    ArgumentError,
    BackendUnavailable,
    DeviceError,
    DeviceMemoryError,
    HalError,
    UnsupportedError,
)

Trace: TypeAlias = Callable[[str], None]  # told the name of each C call before it, and an empty one behind it
_ERRORS: dict[str, type[HalError]] = {"HAL_UNSUPPORTED": UnsupportedError, "HAL_OUT_OF_MEMORY": DeviceMemoryError}
_LAUNCH = "hal_status(*)(hal_plan *, const char *, const char *, hal_stream *)"  # op_launch, its buffers as bytes
_TEXT_BYTES = 1024  # of a library's error text
_GUARD = b"\xa5" * 256  # behind a struct that the library fills
_LARGEST_TABLE = 1 << 16  # bytes: a struct_size beyond it is no size


_listener: Trace | None = None


def listen(trace: Trace) -> None:
    """From now on `trace` hears of every C call of the libraries that this process loads: it may be the last one."""
    global _listener
    _listener = trace


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a library. Raises ArgumentError unless it is absolute: what is found must not depend on where one
    stands, nor on a search path that others can write to."""
    try:
        found = Path(os.fspath(path))
    except TypeError:
        raise ArgumentError(f"a plug-in is named by the path of its library, not by {path!r}") from None
    if not found.is_absolute():
        raise ArgumentError(
            f"the path of a plug-in has to be absolute, and {str(path)!r} is not; try {found.absolute()}"
        )
    return found


def plugin_name(path: Path) -> str:
    """The backend's name, which is its file's: libacme.so, acme.so and libhal_acme.so.1 are all "acme"."""
    stem = path.name.partition(".")[0].lower().removeprefix("lib").removeprefix("hal_")
    return re.sub(r"\W", "_", stem, flags=re.ASCII) or "plugin"


class Library:
    """A library and its table, whose entries are 0 where the library does not provide them.

    Raises ArgumentError (the path), BackendUnavailable (it does not load, or lacks a required function) and
    AbiMismatch (it is no plug-in, or one for another version of the interface).
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        self.path = check_path(path)
        self.name = name or plugin_name(self.path)
        self.ffi = header.ffi()
        self._handle = _load(self.ffi, self.path)  # keeps the library in memory
        self.table: Any = self._table()
        self.minor = int(self.table.abi_minor)
        self.launch = self.ffi.cast(_LAUNCH, self.table.op_launch)
        if _listener is not None:
            self.table, self.launch = Traced(self, _listener), traced(self.launch, "op_launch", _listener)

    def _table(self) -> Any:
        ffi, (major, minor) = self.ffi, header.version()
        try:
            get = getattr(self._handle, header.SYMBOL)
        except AttributeError:
            raise AbiMismatch(f"{self.path} is no backend for hal: it has no symbol {header.SYMBOL}") from None
        given = traced(get, header.SYMBOL, _listener)(major, minor) if _listener else get(major, minor)
        if given == ffi.NULL:
            raise AbiMismatch(f"{self.path} does not serve version {major}.{minor} of hal's C interface: it says so")
        if _listener:
            _listener("reading the table that hal_get_backend gave")
        size, full = int(given.struct_size), ffi.sizeof("hal_backend")
        if not ffi.offsetof("hal_backend", "version") <= size <= _LARGEST_TABLE:
            raise AbiMismatch(f"{self.path}: the table's struct_size is {size}; wanted about {full}")
        if given.abi_major != major:
            raise AbiMismatch(
                f"{self.path} was built for version {given.abi_major}.{given.abi_minor} of hal's C interface; this hal "
                f"speaks {major}.{minor}; build it again with {header.include() / 'hal_backend.h'}"
            )
        own = ffi.new("hal_backend *")
        pointer = ffi.sizeof("void *")
        ffi.memmove(own, given, min(size, full) // pointer * pointer)  # half a pointer is none
        missing = [function for function in header.required() if not getattr(own, function)]
        if missing:
            raise BackendUnavailable(f"{self.path} does not provide {', '.join(missing)}, which every backend has to")
        return own

    def functions(self) -> dict[str, bool]:
        """Each function of the interface, and whether it is provided."""
        members = self.ffi.typeof("hal_backend").fields
        return {name: bool(getattr(self.table, name)) for name, member in members if member.type.kind == "function"}

    def has(self, *functions: str) -> bool:
        """Whether all of these are provided."""
        return all(getattr(self.table, function) for function in functions)

    @property
    def version(self) -> str:
        """What the library calls its own version."""
        return self.text(self.table.version)

    def text(self, characters: Any) -> str:
        """An array of characters up to its zero byte or its end."""
        return bytes(self.ffi.buffer(characters)).partition(b"\0")[0].decode("utf-8", "replace")

    def check(self, status: int, call: str) -> None:
        """Raises what a status means, unless it is 0."""
        if status:
            raise self.failure(status, call)

    def failure(self, status: int, call: str) -> HalError:
        """What a status of this thread's last call means, with the library's own words."""
        meaning = {code: name for name, code in header.codes("hal_status_code").items()}.get(status, "")
        words = self._last_text(status) or "the library does not say why"
        return _ERRORS.get(meaning, DeviceError)(f"{self.name}: {call}: {words} (status {meaning or status})")

    def _last_text(self, status: int) -> str:
        if not self.table.error_text:
            return ""
        room = self.ffi.new("char[]", _TEXT_BYTES)
        self.table.error_text(status, room, _TEXT_BYTES)
        return self.text(room)


class Traced:
    """A table that says which of its functions is called. Whoever ends the process is known by then."""

    def __init__(self, library: Library, trace: Trace) -> None:
        self._table, self._trace, self._provided = library.table, trace, library.functions()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._table, name)
        return traced(member, name, self._trace) if self._provided.get(name) else member


def traced(function: Callable[..., Any], name: str, trace: Trace) -> Callable[..., Any]:
    """The function between two words to `trace`."""

    def call(*arguments: Any) -> Any:
        trace(name)
        try:
            return function(*arguments)
        finally:
            trace("")

    return call


class Answer:
    """A zeroed struct for the library to fill, with guard bytes behind it."""

    def __init__(self, library: Library, kind: str) -> None:
        self._library, self._kind, self._size = library, kind, library.ffi.sizeof(kind)
        self._bytes = library.ffi.new("char[]", self._size + len(_GUARD))
        library.ffi.buffer(self._bytes)[self._size :] = _GUARD
        self.struct = library.ffi.cast(f"{kind} *", self._bytes)
        self.struct.struct_size = self._size

    def check(self, call: str) -> None:
        """Raises DeviceError where more was written than there is room for."""
        if self._library.ffi.buffer(self._bytes)[self._size :] != _GUARD:
            raise DeviceError(
                f"{self._library.name}: {call} wrote past the end of {self._kind}, which is {self._size} bytes long "
                "as its struct_size says"
            )


def _load(ffi: Any, path: Path) -> Any:
    if not path.exists():
        raise BackendUnavailable(f"there is no library {path}")
    try:
        return ffi.dlopen(str(path), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
    except OSError as error:
        raise BackendUnavailable(f"{path} does not load: {error}") from error
