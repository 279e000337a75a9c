"""Declarations of variables and registers from their text. Errors are PtxErrors without a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hal_nvidia_ptx.emulator.operands import constant
from hal_nvidia_ptx.emulator.syntax import DTYPE, WIDTH, Imm, PtxError, Symbol

LINKAGE = frozenset(("visible", "extern", "weak", "common"))
SPACES = frozenset(("reg", "shared", "local", "global", "const", "param"))
_WORD = re.compile(r"\s*\.(\w+)(?:::\w+)?\s*(\([^)]*\))?")


@dataclass(slots=True)
class Head:
    """What stands before the names: `.shared .align 16 .b8`. align: 0 where it is not stated."""

    space: str = ""
    kind: str = ""
    align: int = 0


def declared(text: str) -> tuple[Head, str]:
    """The head of a declaration, and the names behind it."""
    head = Head()
    while found := _WORD.match(text):
        word, text = found[1], text[found.end() :]
        if word == "align":
            number = re.match(r"\s*(\d+)", text)
            if number is None:
                raise PtxError(".align of what?")
            head.align, text = int(number[1]), text[number.end() :]
            if head.align & (head.align - 1) or not head.align:
                raise PtxError(f".align {head.align}: an alignment is a power of two")
        elif word in SPACES:
            head.space = word
        elif word in DTYPE:
            head.kind = word
        elif word not in LINKAGE and word not in ("attribute", "unified"):
            raise PtxError(f".{word} in a declaration")
    if not head.kind:
        raise PtxError("a declaration without a type")
    return head, text


def check_name(name: str) -> None:
    """Raises PtxError for what cannot be a name: a semicolon is missing, mostly."""
    if not re.fullmatch(r"[A-Za-z][\w$]*|[_$%][\w$]+", name):
        raise PtxError(f"{' '.join(name.split())!r} is no name; is a semicolon missing?")


def array_of(text: str) -> tuple[str, int, bool]:
    """(name, elements, whether it is an array) of `name`, `name[4][2]` or `name[]`."""
    name, bracket, rest = text.partition("[")
    check_name(name.strip())
    count = 1
    if bracket:
        for size in re.findall(r"[^\[\]]+", rest) or ["0"]:
            number = constant(size.strip())
            count *= int(number.value) if number is not None else 0
    return name.strip(), count, bool(bracket)


def initial_bytes(text: str, kind: str) -> tuple[bytes, tuple[tuple[int, Symbol], ...]]:
    """Bytes of `{1, 2, {3}}` or `5`, and at which of them the addresses of symbols have to be put in."""
    data = bytearray()
    relocations = []
    for word in re.findall(r"generic\([^)]*\)|[^{},\s]+", text):
        number = constant(word)
        if number is not None:
            data += encode(number, kind)
            continue
        name = re.fullmatch(r"(?:generic\()?([\w$%]+)(?:\s*\+\s*(\d+))?\)?", word)
        if name is None:
            raise PtxError(f"{word!r} is no initial value")
        relocations.append((len(data), Symbol(name[1], int(name[2] or 0))))
        data += bytes(WIDTH[kind])
    return bytes(data), tuple(relocations)


def encode(number: Imm, kind: str) -> bytes:
    """The bytes of a constant as an element of a PTX type."""
    size = WIDTH[kind]
    if kind in ("f32", "f64") or isinstance(number.value, float):
        with np.errstate(over="ignore"):
            return np.array(number.value, np.float64).astype(f"<f{size}").tobytes()
    return (number.value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
