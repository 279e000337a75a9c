"""Source text of a kernel: generated #defines, types.cl, and a .cl file, in this order.

A .cl file is written once for all dtypes. For each operand X (the name in upper case) it finds

    X_T                     what pointers to it point to (half and ushort for the 16-bit dtypes: pointers only)
    X_LOAD(p, i)            element i, as ACC                   X_LOADV(p, i)      VW elements from i on, as ACCV
    X_STORE(p, i, value)    rounded once, to nearest even       X_STOREV(p, i, value)

and, whatever the operands, ACC, ACCV, VW, INDEX, MEMORY, POINTER (types.cl), BATCH_PARAMETERS and BATCH_OFFSETS.

*Arguments.* Each In, Out and Scratch of a Launch becomes two kernel arguments, `MEMORY(x)`: a buffer and a byte offset;
`POINTER(X_T, x)` is the typed pointer. There are no sub-buffers, whose alignment differs by device. I32, I64, F32, F64
become int, long, float, double.

*Batch.* `BATCH_PARAMETERS` (it begins with a comma and goes last) are the lengths and strides of the batch axes, and
`BATCH_OFFSETS(index)` declares `<operand>_batch`, a long, for each operand named: the element offset of flat batch
index `index`. `batch_arguments` is the list of arguments for both. Sizes are never in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

from hal.errors import UnsupportedError
from hal.kernel import I64

OPTIONS = ("-cl-std=CL1.2",)
MAXIMUM_BATCH_AXES = 8  # 8 axes x 5 values x 8 bytes: far from the 1024 bytes of arguments every device takes
POINTEE = {
    "float64": "double",
    "float32": "float",
    "float16": "half",
    "bfloat16": "ushort",
    "int8": "char",
    "int32": "int",
    "bool": "uchar",
}
ARITHMETIC = {"float64": "double", "float32": "float", "int32": "int"}


def render(
    file: str,
    operands: Mapping[str, str],
    defines: Mapping[str, int | str],
    accumulator: str,
    vector_width: int,
    *,
    wide: bool = False,
    batch_axes: int = 0,
    batch_operands: Sequence[str] = (),
) -> str:
    """The whole text.

    Args:
        file: the .cl file, in this folder.
        operands: name -> hal dtype, of what the kernel loads and stores.
        defines: further #defines of the .cl file.
        accumulator: hal dtype of the arithmetic. vector_width: 1, 2, 4, 8 or 16.
        wide: INDEX is long instead of int (`OpClass.wide`).
        batch_axes, batch_operands: what BATCH_PARAMETERS and BATCH_OFFSETS decode.
    """
    return _render(
        file,
        tuple(operands.items()),
        tuple(defines.items()),
        accumulator,
        vector_width,
        wide,
        batch_axes,
        tuple(batch_operands),
    )


@lru_cache(maxsize=256)
def _render(
    file: str,
    operands: tuple[tuple[str, str], ...],
    defines: tuple[tuple[str, int | str], ...],
    accumulator: str,
    vector_width: int,
    wide: bool,
    batch_axes: int,
    batch_operands: tuple[str, ...],
) -> str:
    uses_double = accumulator == "float64" or any(dtype == "float64" for _, dtype in operands)
    head = ["#pragma OPENCL EXTENSION cl_khr_fp64 : enable"] if uses_double else []
    head += [f"#define ACC {ARITHMETIC[accumulator]}", f"#define ACC_IS_{ARITHMETIC[accumulator].upper()}"]
    head += [f"#define VW {vector_width}", f"#define INDEX {'long' if wide else 'int'}"]
    body = [line for name, dtype in operands for line in _operand_macros(name.upper(), dtype)]
    body += [f"#define {name} {value}" for name, value in defines]
    body += batch_macros(batch_axes, batch_operands)
    return "\n".join([*head, read("types.cl"), *body, read(file)])


def _operand_macros(name: str, dtype: str) -> list[str]:
    return [
        f"#define {name}_T {POINTEE[dtype]}",
        f"#define {name}_LOAD(p, i) LOAD_{dtype}(p, i)",
        f"#define {name}_LOADV(p, i) LOADV_{dtype}(p, i)",
        f"#define {name}_STORE(p, i, value) STORE_{dtype}(p, i, value)",
        f"#define {name}_STOREV(p, i, value) STOREV_{dtype}(p, i, value)",
    ]


@lru_cache(maxsize=64)
def read(file: str) -> str:
    """The text of a .cl file of this folder, wherever the package lies (a zip file, too), with its #includes."""
    text = files("hal_opencl.kernels").joinpath(file).read_text(encoding="utf-8")
    return re.sub(r'^#include "(.*)"$', lambda include: read(include[1]), text, flags=re.MULTILINE)


def batch_macros(axes: int, operands: Sequence[str]) -> list[str]:
    """BATCH_PARAMETERS and BATCH_OFFSETS for `axes` batch axes, outermost first."""
    parameters = [
        f", long batch_length_{axis}" + "".join(f", long {name}_batch_stride_{axis}" for name in operands)
        for axis in range(axes)
    ]
    text = ["long batch_rest = (index);", *(f"long {name}_batch = 0;" for name in operands)]
    for axis in reversed(range(axes)):
        # The outermost axis needs no division: what is left is its index.
        text.append(f"{{ long outer = {f'batch_rest / batch_length_{axis}' if axis else '0'};")
        text.append(f"long inner = {f'batch_rest - outer * batch_length_{axis}' if axis else 'batch_rest'};")
        text += [f"{name}_batch += inner * {name}_batch_stride_{axis};" for name in operands]
        text.append("batch_rest = outer; }")
    return [f"#define BATCH_PARAMETERS {''.join(parameters)}", f"#define BATCH_OFFSETS(index) {' '.join(text)}"]


def batch_parameters(axes: int, operands: Sequence[str]) -> tuple[str, ...]:
    """Names of the arguments of BATCH_PARAMETERS, for `Kernel.parameters`."""
    return tuple(
        name
        for axis in range(axes)
        for name in (f"batch_length_{axis}", *(f"{operand}_batch_stride_{axis}" for operand in operands))
    )


def batch_arguments(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[I64, ...]:
    """The arguments for BATCH_PARAMETERS: `strides` of each operand, in the order the text was generated with."""
    return tuple(
        I64(value)
        for axis, length in enumerate(shape)
        for value in (length, *(operand_strides[axis] for operand_strides in strides))
    )


def check_batch_axes(name: str, axes: int) -> None:
    """For an algorithm's `configs`: raises UnsupportedError where the arguments would become too many."""
    if axes > MAXIMUM_BATCH_AXES:
        raise UnsupportedError(
            f"{name}: {axes} batch axes remain after merging, more than the {MAXIMUM_BATCH_AXES} whose strides fit the "
            "arguments of an OpenCL kernel; make an operand contiguous"
        )
