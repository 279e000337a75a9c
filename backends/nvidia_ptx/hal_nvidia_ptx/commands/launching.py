"""What `hal ptx check` and `hal ptx run` have in common: file, launch, arguments, and how a bad text is shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hal.errors import HalError
from hal.terminal import write_json
from hal_nvidia_ptx.emulator.report import Place, excerpt
from hal_nvidia_ptx.emulator.syntax import PtxError

CANNOT_RUN = 2


class BadText(Exception):
    """The PTX was refused, and that has been said; the command ends with this exit code."""

    code = CANNOT_RUN


def add_launch(parser: argparse.ArgumentParser) -> None:
    """FILE and the options of a launch."""
    parser.add_argument("file", metavar="FILE", type=Path, help="PTX text")
    parser.add_argument("--grid", type=size, required=True, metavar="X[,Y[,Z]]", help="blocks")
    parser.add_argument("--block", type=size, metavar="X[,Y[,Z]]", help="threads of a block (default: .reqntid)")
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME:TYPE[SHAPE]=VALUE",
        help="an argument, in the order of the parameters: x:f32[64x1024]=random (zeros, ones, arange, @file.npy, a "
        "number), y:f32[64x1024] for memory that nobody has written, n:s32=1024 for a number, and "
        "a:tma:bf16[128x256]:box=64x64:swizzle=128=random for a tensor map",
    )
    parser.add_argument("--entry", metavar="NAME", help="which kernel (default: the only one)")
    parser.add_argument("--shared", type=nbytes, default=0, metavar="BYTES", help="dynamic shared memory of a block")
    parser.add_argument("--cluster", type=size, metavar="X[,Y[,Z]]", help="blocks of a cluster")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def size(text: str) -> tuple[int, ...]:
    """`8` or `8,2` or `8,2,1`."""
    words = text.split(",")
    if len(words) > 3 or not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not X, X,Y or X,Y,Z")
    return tuple(map(int, words))


def nbytes(text: str) -> int:
    """A number of bytes."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)


@contextmanager
def pointing(file: Path, text: str, json: bool) -> Iterator[None]:
    """A PtxError in the block is written like a compiler's, and becomes BadText."""
    try:
        yield
    except PtxError as error:
        message = str(error).partition("\n")[0].removeprefix(f"line {error.line}: ")
        lines = text.splitlines()
        place = Place(error.line, lines[error.line - 1] if 0 < error.line <= len(lines) else "")
        print(f"{file}:{error.line}: error: {message}", *excerpt(place), sep="\n", file=sys.stderr)
        if json:
            write_json({"error": message, "kind": "PtxError", "file": str(file), "line": error.line})
        raise BadText from error


def read_text(file: Path) -> str:
    """Raises OSError; HalError for what is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HalError(f"{file} is no PTX text: {error}") from error


def summary(array: Any) -> str:
    """An array in a line: its type and shape, and its first values."""
    first = ", ".join(f"{float(value):.6g}" for value in array.reshape(-1)[:4])
    return f"{array.dtype}[{'x'.join(map(str, array.shape))}] {first}{', …' if array.size > 4 else ''}"
