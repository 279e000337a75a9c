"""The safetensors format: named arrays and strings in one file, with nothing in it that could run.

    8 bytes     length of the header, little-endian
    header      JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …, "__metadata__": {…}}
    data        the arrays, one behind the other, row-major, without gaps

Written here in full, so that reading a failure takes no package. A reader believes nothing: every size is checked
before memory is taken.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.dtypes import DTYPES, name_of

CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",
    "I32": "int32",
    "BOOL": "bool",
}
_CODE_OF = {name: code for code, name in CODES.items()}
MOST_HEADER = 1 << 20  # bytes
MOST_DATA = 1 << 30


class DamagedFile(ValueError):
    """Not what `write` would have written; says what is wrong."""


def write(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write the file whole or not at all."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": _CODE_OF[name_of(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        at = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin on a multiple of 8
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
    temporary.replace(path)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """(arrays, metadata). Raises DamagedFile, or OSError where the file cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise DamagedFile("it is shorter than its first field")
        (length,) = struct.unpack("<Q", head)
        if length > min(MOST_HEADER, size - 8):
            raise DamagedFile(f"its header is said to have {length} bytes; the file has {size}")
        if size - 8 - length > MOST_DATA:
            raise DamagedFile(f"it has more than {MOST_DATA} bytes of data")
        text = file.read(length)
        data = file.read(size - 8 - length)
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise DamagedFile("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedFile("its __metadata__ has to map names to strings")
    arrays, end = {}, 0
    for name, entry in header.items():
        arrays[name], end = _array(name, entry, data, end)
    if end != len(data):
        raise DamagedFile(f"its arrays end at byte {end} of {len(data)}")
    return arrays, metadata


def _array(name: str, entry: Any, data: bytes, start: int) -> tuple[NDArray[Any], int]:
    """One array, which has to begin where the last one ended; and where it ends."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise DamagedFile(f"{name!r} needs dtype, shape and data_offsets and nothing else")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in CODES:
        # Only a string is quoted: the repr of a list in lists in lists may end in a RecursionError.
        told = repr(entry["dtype"]) if isinstance(entry["dtype"], str) else "that is no string"
        raise DamagedFile(f"{name!r} has dtype {told}; known: {', '.join(CODES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise DamagedFile(f"{name!r}: {what} has to be a list of natural numbers")
    if len(shape) > 32:
        raise DamagedFile(f"{name!r} has {len(shape)} dimensions")
    dtype = DTYPES[CODES[entry["dtype"]]]
    stop = start + math.prod(shape) * dtype.itemsize
    if offsets != [start, stop] or stop > len(data):
        raise DamagedFile(f"{name!r} takes bytes {start} to {stop}; data_offsets says {offsets}, data has {len(data)}")
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:  # what NumPy refuses, even of an empty array
        raise DamagedFile(f"{name!r} has shape {shape}, which no array has")
    raw = data[start:stop]
    if dtype.name == "bool" and raw.strip(b"\0\1"):
        raise DamagedFile(f"{name!r} has a bool that is neither 0 nor 1")
    return np.frombuffer(raw, dtype.numpy).reshape(shape).copy(), stop
