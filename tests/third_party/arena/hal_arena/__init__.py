"""The backend `arena`: a library in C."""

from __future__ import annotations

from pathlib import Path


def library() -> Path:
    """Where it is: all that hal needs to know."""
    return Path(__file__).resolve().parent / "libarena.so"
