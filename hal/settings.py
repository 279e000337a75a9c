"""The choices that hold for a stretch of code: device, precision, determinism, fallback. Set by `hal.use`.

A Settings is immutable and interned, and part of the key under which dispatch remembers a call: changing a choice
clears nothing and costs a hit nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hal.device import Device
from hal.errors import ArgumentError, OptionError

DETERMINISTIC = ("run", "batch", "portable")
FALLBACK = ("error", "warn")
Observer = Callable[..., None]  # called as observer(op, inputs, outputs) with canonical host arrays


@dataclass(frozen=True, eq=False)
class Settings:
    """One choice of each. `device` None: where the arrays are, else the default device.

    Compared by identity, which is quick: equal choices are one object (`_intern`).
    """

    device: str | Device | None = None
    precision: str | None = None
    deterministic: str = "run"
    fallback: str = "error"
    check: bool = False
    observer: Observer | None = None


@lru_cache(maxsize=256)
def _intern(
    device: str | Device | None,
    precision: str | None,
    deterministic: str,
    fallback: str,
    check: bool,
    observer: Observer | None,
) -> Settings:
    return Settings(device, precision, deterministic, fallback, check, observer)


def from_environment() -> Settings:
    """HAL_FALLBACK (error, warn) and HAL_CHECK (0, 1). Raises OptionError on another value."""
    fallback = os.environ.get("HAL_FALLBACK", "error")
    if fallback not in FALLBACK:
        raise OptionError(f"HAL_FALLBACK has to be one of {FALLBACK}, not {fallback!r}")
    check = os.environ.get("HAL_CHECK") or "0"
    if check not in ("0", "1"):
        raise OptionError(f"HAL_CHECK has to be 0 or 1, not {check!r}")
    return _intern(None, None, "run", fallback, check == "1", None)


_current: ContextVar[Settings] = ContextVar("hal settings")


def current() -> Settings:
    """The settings of this thread or task."""
    settings = _current.get(None)
    if settings is None:
        settings = from_environment()
        _current.set(settings)
    return settings


@contextmanager
def use(
    device: str | Device | None = None,
    *,
    precision: str | None = None,
    deterministic: str | None = None,
    fallback: str | None = None,
) -> Iterator[None]:
    """Choices for the calls inside a `with` block of this thread or task; None leaves one as it is.

        with hal.use("opencl:0", deterministic="batch"):
            y = hal.matmul(a, b)

    Args:
        device: where NumPy and other host arrays are computed.
        precision: "tf32" permits matmul on float32 to round its operands to 10 bits.
        deterministic: "run" (the same call gives the same bits), "batch" (and a row's bits do not depend on the rows
            beside it), "portable" (and on every device; not available yet).
        fallback: "error", or "warn" to compute on the reference what the device cannot, with one warning an Op.

    Raises:
        OptionError: an unknown value. BackendUnavailable: an unknown device (when it is first used).
    """
    if not (device is None or isinstance(device, (str, Device))):
        raise ArgumentError(f"use: a device is named by a string such as 'cpu' or 'opencl:0', not {device!r}")
    for name, value, allowed in (
        ("precision", precision, ("tf32",)),
        ("deterministic", deterministic, DETERMINISTIC),
        ("fallback", fallback, FALLBACK),
    ):
        if value is not None and value not in allowed:
            raise OptionError(f"use: {name} has to be one of {allowed}, not {value!r}")
    changes: dict[str, Any] = {
        key: value
        for key, value in (
            ("device", device),
            ("precision", precision),
            ("deterministic", deterministic),
            ("fallback", fallback),
        )
        if value is not None
    }
    with _changed(**changes):
        yield


@contextmanager
def watch(observer: Observer) -> Iterator[None]:
    """Every operator call inside the block also calls `observer(op, inputs, outputs)` after it ran.

    `inputs` and `outputs` are copies on the host, canonical as `op` is: what hal.ops.judge takes. Slow; for judging.
    """
    with _changed(observer=observer):
        yield


@contextmanager
def _changed(**changes: Any) -> Iterator[None]:
    now = current()
    fields = {**{name: getattr(now, name) for name in Settings.__dataclass_fields__}, **changes}
    # With an observer they are not interned, and dispatch remembers no call of theirs: nothing keeps the observer.
    token = _current.set(Settings(**fields) if fields["observer"] else _intern(**fields))
    try:
        yield
    finally:
        _current.reset(token)
