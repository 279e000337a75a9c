"""Text for people: tables, sizes, and a word while something takes its time. No colour, no cursor movement."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds after which a user is told what is going on
AGAIN = 10.0  # and how often from then on


def clean(text: str) -> str:
    """The text with nothing in it that moves a terminal's cursor: names come from drivers and files."""
    return "".join(c if c.isprintable() else " " for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns; empty columns are left out."""
    lines = [[clean(cell) for cell in row] for row in rows]
    keep = [i for i in range(len(header)) if any(line[i] for line in lines)]
    lines = [[line[i] for i in keep] for line in [list(header), *lines]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def size(nbytes: int) -> str:
    """Bytes as people read them: 0 B, 1.5 KiB, 15.6 GiB."""
    if nbytes < 1024:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def write_json(document: Any) -> None:
    """One JSON document on standard output. What JSON has no word for becomes text."""
    print(json.dumps(document, indent=2, default=str))


def complain(text: str) -> None:
    """One line on standard error."""
    print(f"hal: {text}", file=sys.stderr, flush=True)


@contextmanager
def patience(doing: str) -> Iterator[None]:
    """Says what is being done, on standard error, if the block takes longer than two seconds."""
    done = threading.Event()

    def speak() -> None:
        wait = PATIENCE
        while not done.wait(wait):
            complain(f"{doing} ...")
            wait = AGAIN

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
