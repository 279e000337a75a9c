"""What `check` takes as an argument: arrays, numbers, tensor maps, and a short notation for all three.

    x:f32[64x1024]=random       an array; also =zeros, =ones, =arange, =@file.npy, or a number for all elements
    y:f32[64x1024]              memory that nobody has written
    n:s32=1024                  a number
    a:tma:bf16[128x256]:box=64x64:swizzle=128=random
                                a tensor map of an array; box and shape in the array's order, swizzle in bytes

The name may be left out. Types are those of PTX (f32, bf16, s8, u64 …) or NumPy's names (float32 …).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hal.errors import ArgumentError

Array: TypeAlias = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32,
        "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
        "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
        "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
        "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "bool": np.bool_,
    }.items()
}  # fmt: skip
_OTHER_NAMES = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_OTHER_NAMES |= {f"{sign}int{bits}": f"{sign or 's'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_SPEC = re.compile(
    r"(?:(?P<name>(?!tma:)[A-Za-z_$%][\w$%]*):)?(?P<tma>tma:)?(?P<type>\w+)(?:\[(?P<shape>[^\]]*)\])?(?P<rest>[:=].*)?"
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array in emulated memory, and the tensor map of it that the kernel gets.

    box: in the array's order, outermost first; swizzle: 0, 32, 64 or 128 bytes; fill: "zero" or "nan", what a box gets
    where it leaves the array. values: None for memory that nobody has written.
    """

    shape: tuple[int, ...]
    dtype: str
    box: tuple[int, ...]
    values: Array | None = None
    swizzle: int = 0
    fill: str = "zero"


@dataclass(frozen=True, slots=True)
class Unwritten:
    """An array in memory that nobody has written."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a stated type, "" for the parameter's own."""

    value: int | float
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument and the name that reports call it by, "" for the parameter's own."""

    value: Array | Unwritten | Number | Tensor
    name: str = ""


def read(given: Any, position: int) -> Argument:
    """Anything that `check` takes as an argument; position counts from 0. Raises ArgumentError."""
    if isinstance(given, str):
        return parse(given, position)
    if isinstance(given, (Tensor, Unwritten, Number)):
        return Argument(given)
    if isinstance(given, (bool, int, float, np.generic)):
        return Argument(Number(given.item() if isinstance(given, np.generic) else given))
    if hasattr(given, "__array__"):
        return Argument(np.asarray(given))
    raise ArgumentError(
        f"argument {position + 1}: an array, a number, a Tensor or a text such as 'f32[64x1024]=random' is wanted,"
        f" not {type(given).__name__}"
    )


def parse(text: str, position: int = 0) -> Argument:
    """The notation of this file's head. Raises ArgumentError that says what is wrong with it."""
    return _Spec(text, position).argument()


class _Spec:
    """One text in the notation, with the position that errors name."""

    def __init__(self, text: str, position: int) -> None:
        self.text, self.position = text, position

    def argument(self) -> Argument:
        match = _SPEC.fullmatch(self.text.strip())
        if match is None:
            raise self.wrong("it is written name:type[shape]=value, such as x:f32[64x1024]=random")
        name, shape, rest = match["name"] or "", match["shape"], match["rest"] or ""
        dtype = _OTHER_NAMES.get(match["type"], match["type"])
        if dtype not in DTYPES:
            raise self.wrong(f"{match['type']!r} is no type; there are {', '.join(DTYPES)}")
        if match["tma"]:
            return Argument(self.tensor(dtype, shape, rest), name)
        if rest.startswith(":"):
            raise self.wrong(f"{rest!r} is not expected; a value follows =")
        value = rest[1:] if rest else None
        if shape is None:
            return Argument(self.number(dtype, value), name)
        return Argument(self.array(dtype, self.extents(shape), value), name)

    def tensor(self, dtype: str, shape: str | None, rest: str) -> Tensor:
        """What stands behind `tma:`."""
        options, value = {"swizzle": "0", "fill": "zero"}, None
        for part in filter(None, rest.split(":")):
            key, *words = part.split("=", 2)
            if not key and len(words) == 1:  # =random, without an option before it
                value = words[0]
            elif key in ("box", "swizzle", "fill") and words:
                options[key] = words[0]
                value = words[1] if len(words) == 2 else value
            else:
                raise self.wrong(f"{part!r} is none of box=…, swizzle=…, fill=…")
        if shape is None or "box" not in options:
            raise self.wrong("a tensor map needs a shape and a box, such as a:tma:bf16[128x256]:box=64x64")
        if not options["swizzle"].isdecimal():
            raise self.wrong("swizzle is 0, 32, 64 or 128 (bytes)")
        extents, box = self.extents(shape), self.extents(options["box"])
        made = self.array(dtype, extents, value)
        values = None if isinstance(made, Unwritten) else made
        return Tensor(extents, dtype, box, values, int(options["swizzle"]), options["fill"])

    def extents(self, shape: str) -> tuple[int, ...]:
        words = shape.lower().split("x")
        if not all(word.isdecimal() and 0 < int(word) < 1 << 40 for word in words):
            raise self.wrong(f"a shape is lengths joined by x, such as 64x1024, not {shape!r}")
        return tuple(map(int, words))

    def number(self, dtype: str, value: str | None) -> Number:
        if value is None:
            raise self.wrong("a number needs a value, such as n:s32=1024; an array needs a shape")
        try:
            number = int(value, 0) if DTYPES[dtype].kind in "iub" else float(value)
        except ValueError:
            raise self.wrong(f"{value!r} is no {dtype} number: {span(dtype)}") from None
        return Number(self.fitting(dtype, number), dtype)

    def fitting(self, dtype: str, value: int | float) -> int | float:
        """The value, where the type has it."""
        if not holds(dtype, value):
            raise self.wrong(f"{value} does not fit {dtype}: {span(dtype)}")
        return value

    def array(self, dtype: str, shape: tuple[int, ...], value: str | None) -> Array | Unwritten:
        """An array by the word behind its `=`."""
        kind = DTYPES[dtype]
        if value is None:
            return Unwritten(shape, dtype)
        if value.startswith("@"):
            return self.from_file(Path(value[1:]), kind, shape)
        if value == "random":
            return random(shape, kind, self.position)
        if value == "arange":
            return np.arange(np.prod(shape)).astype(kind).reshape(shape)
        words = {"zeros": 0.0, "ones": 1.0}
        try:
            number = words[value] if value in words else float(value)
        except ValueError:
            message = f"{value!r} is none of random, zeros, ones, arange, @file.npy, and a number"
            raise self.wrong(message) from None
        return np.full(shape, self.fitting(dtype, number)).astype(kind)

    def from_file(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        try:
            found: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self.wrong(f"{path} cannot be read: {error}") from error
        if found.dtype.kind == "V" and found.dtype.itemsize == dtype.itemsize:  # .npy has no name for bfloat16
            found = found.view(dtype)
        if found.shape != shape or found.dtype != dtype:
            raise self.wrong(f"{path} has {found.dtype}[{'x'.join(map(str, found.shape))}]")
        return found

    def wrong(self, why: str) -> ArgumentError:
        return ArgumentError(f"argument {self.position + 1}, {self.text!r}: {why}")


def holds(dtype: str, value: int | float) -> bool:
    """Whether a number of this type can be that one: integers exactly, untyped bits of either sign, floats any."""
    kind = DTYPES[dtype]
    if kind.kind not in "iu":
        return kind.kind != "b" or value in (0, 1)
    limits = np.iinfo(kind)
    lowest = -(1 << (limits.bits - 1)) if dtype.startswith("b") else int(limits.min)
    return float(value).is_integer() and lowest <= value <= int(limits.max)


def span(dtype: str) -> str:
    """The numbers that a type has, in words."""
    if DTYPES[dtype].kind not in "iu":
        return "0 or 1" if DTYPES[dtype].kind == "b" else "floating-point"
    limits = np.iinfo(DTYPES[dtype])
    return f"whole, from {-(1 << (limits.bits - 1)) if dtype.startswith('b') else limits.min} to {limits.max}"


def random(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> Array:
    """Normally distributed, or whole numbers from -8 (unsigned: 0) to 8; the same for the same seed."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0 if dtype.kind == "u" else -8, 9, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
