"""The C header as cffi reads it. What stands between its two marks is the interface; nothing is written twice."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from hal.errors import BackendUnavailable

BEGIN, END = "/* hal: begin */", "/* hal: end */"
SYMBOL = "hal_get_backend"
_SYMBOL_TYPE = f"const hal_backend *{SYMBOL}(uint32_t host_major, uint32_t host_minor);"


def include() -> Path:
    """The folder of hal_backend.h: what a C compiler's -I wants."""
    return Path(__file__).resolve().parent.parent / "include"


@lru_cache(maxsize=1)
def ffi() -> Any:
    """cffi's view of the interface. Raises BackendUnavailable where cffi is not installed."""
    try:
        import cffi
    except ImportError as error:
        raise BackendUnavailable(
            "backends written in C are loaded by cffi, which is not installed; "
            "pip install cffi, or hal-kernels with its extra `capi`"
        ) from error
    made = cffi.FFI()
    made.cdef(f"{declarations()}\n{_SYMBOL_TYPE}")
    return made


def declarations() -> str:
    """The text between the marks."""
    return _text().partition(BEGIN)[2].partition(END)[0]


@lru_cache
def codes(enum: str) -> dict[str, int]:
    """The constants of an enum of the header by name."""
    found: dict[str, int] = ffi().typeof(f"enum {enum}").relements
    return found


@lru_cache(maxsize=1)
def version() -> tuple[int, int]:
    """(major, minor) of the interface that this hal speaks."""
    major, minor = (int(number) for number in re.findall(r"#define HAL_ABI_(?:MAJOR|MINOR) (\d+)", _text()))
    return major, minor


@lru_cache(maxsize=1)
def required() -> tuple[str, ...]:
    """The functions that the header marks REQUIRED."""
    table = declarations().partition("typedef struct hal_backend {")[2]
    entries = re.findall(r"\(\*(\w+)\)\([^;]*\);\s*(/\* REQUIRED)?", table)
    return tuple(name for name, marked in entries if marked)


@lru_cache(maxsize=1)
def _text() -> str:
    return (include() / "hal_backend.h").read_text(encoding="utf-8")
