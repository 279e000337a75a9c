"""One GPU's primary context, shared with torch, CuPy and the CUDA runtime, and the calls made in it.

A thread's current context belongs to the program, not to hal: where another is current, it is there again afterwards.
Calls that name a stream of this context are made without asking which is current, since the driver knows the context
by the stream; a driver that refuses (201, 400) is asked again with the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hal.errors import DeviceError
from hal_nvidia_ptx.errors import STICKY, WRONG_CONTEXT, failure


class Context:
    """`lost`: called with a sentence when an error leaves the context unusable."""

    def __init__(self, cuda: Any, name: str, ordinal: int, lost: Callable[[str], None]) -> None:
        self.cuda, self.name = cuda, name
        self._lost = lost
        self.device = self.call("cuDeviceGet", ordinal)
        self.handle = self.call("cuDevicePrimaryCtxRetain", self.device)

    def call(self, name: str, *arguments: Any, detail: str = "") -> Any:
        """A driver call: its result, None, or a tuple of several. Raises DeviceError, DeviceMemoryError."""
        code, *results = getattr(self.cuda, name)(*arguments)
        if code:
            raise self.error(name, code, detail)
        return results[0] if len(results) == 1 else tuple(results) or None

    def on_stream(self, name: str, *arguments: Any) -> Any:
        """`call`, for calls that name a stream or other thing of this context: see above."""
        code, *results = getattr(self.cuda, name)(*arguments)
        if not code:
            return results[0] if results else None
        if int(code) not in WRONG_CONTEXT:
            raise self.error(name, code)
        with self.current():
            return self.call(name, *arguments)

    def is_current(self) -> bool:
        """Whether this is the calling thread's context."""
        return int(self.cuda.cuCtxGetCurrent()[1]) == int(self.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context is the thread's current one inside; a thread that had none keeps it."""
        before = self.call("cuCtxGetCurrent")
        if int(before) == int(self.handle):
            yield
            return
        self.call("cuCtxSetCurrent", self.handle)
        try:
            yield
        finally:
            if int(before):
                self.cuda.cuCtxSetCurrent(before)

    def error(self, name: str, code: Any, detail: str = "") -> Exception:
        """The error of a failed call; the owner is told where nothing will work from now on."""
        error = failure(self.name, name, code, detail)
        if int(code) in STICKY:
            self._lost(str(error).removeprefix(f"{self.name}: "))
        return error

    def release(self) -> None:
        """Give the context back; it lives on while others hold it."""
        self.cuda.cuDevicePrimaryCtxRelease(self.device)


def stream_handle(stream: Any) -> int:
    """The driver's handle of a stream of hal's, cuda.bindings', torch's, CuPy's or any with `__cuda_stream__`.

    Raises DeviceError for anything else.
    """
    for attribute in ("cuda_stream", "ptr"):
        handle = getattr(stream, attribute, None)
        if handle is not None:
            return int(handle)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    try:
        return int(stream)
    except (TypeError, ValueError):
        raise DeviceError(f"{stream!r} is no CUDA stream: give its handle, or a stream of torch or CuPy") from None
