"""The backend `aclnn`: a library in C, and what it does not compute."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def library() -> Path:
    """Where it is: all that hal needs to know."""
    return FOLDER / "libaclnn.so"
