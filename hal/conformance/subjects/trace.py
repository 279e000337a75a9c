"""Operators that a model used, from a file: `--ops trace:FILE`.

    {
      "import": ["torch_npu", "my_references"],
      "operators": [
        {"op": "aten::addmm",
         "args": [{"tensor": "float16", "shape": [768]},
                  {"tensor": "float16", "shape": [64, 768]},
                  {"tensor": "float16", "shape": [768, 768], "strides": [1, 768]}],
         "kwargs": {"alpha": 1.0},
         "count": 12},
        {"op": "aten::embedding",
         "args": [{"tensor": "float32", "shape": [1000, 64]},
                  {"tensor": "int64", "shape": [8], "low": 0, "high": 999}]}
      ]
    }

The list of operators alone will do. An operator is named as torch.ops has it, "library::name", with or without
".overload". Arguments are numbers, texts, null, lists, {"dtype": "float32"}, and tensors, of which only shape, dtype
and strides (in elements; left out: contiguous) are known: values are drawn anew, normal ones for floats and from low
to high (left out: 0 and 1) for integers. "import" names modules that register operators, or references with
hal.reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from hal.conformance.subjects.functions import import_module
from hal.conformance.subjects.generic import Call, dtype_of
from hal.conformance.subjects.reference import find_reference, plain_name
from hal.errors import BackendUnavailable, OptionError
from hal.op import row_major

MOST_ELEMENTS = 1 << 28  # of one tensor; a trace is text, and a slip of the pen should not fill the memory


def calls(path: Path, seed: int = 0) -> Iterator[Call]:
    """The calls in a file.

    Raises:
        OptionError: the file is no trace; says where. OSError: it cannot be read.
        BackendUnavailable: a module or an operator that it names is missing.
    """
    import torch

    operators = read(path)
    generator = torch.Generator().manual_seed(seed)
    for i, entry in enumerate(operators):
        where = f"{path}: operator {i + 1}"
        args, kwargs = (made(part, generator, where) for part in (entry.get("args", []), entry.get("kwargs", {})))
        function = operator(entry["op"], where)
        if dtype := dtype_of((args, kwargs)):
            name = f"{plain_name(entry['op'])}/{dtype}/{i}"
            yield Call(name, function, dtype, tuple(args), kwargs, find_reference(entry["op"]))


def read(path: Path) -> list[Any]:
    """The operators of a file, its modules imported."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path} is not JSON: {error}") from error
    modules, operators = (data.get("import", []), data.get("operators")) if isinstance(data, dict) else ([], data)
    entries = operators if isinstance(operators, list) else [None]
    if not all(isinstance(x, dict) and isinstance(x.get("op"), str) for x in entries):
        raise OptionError(f'{path} is no trace: wanted a list of {{"op": "library::name", "args": [...]}}')
    for name in modules:
        import_module(str(name))
    return entries


def operator(name: str, where: str) -> Any:
    """torch.ops.library.name, or its overload."""
    import torch

    library, _, rest = plain_name(name).partition("::")
    overload = name.removeprefix(f"{library}::").removeprefix(f"{library}.").partition(".")[2]
    try:
        found = getattr(getattr(torch.ops, library), rest)
        return getattr(found, overload) if overload else found
    except (AttributeError, RuntimeError) as error:
        raise BackendUnavailable(
            f'{where}: torch has no operator {name!r}; "import" in the trace has to name the module that registers it'
        ) from error


def made(part: Any, generator: Any, where: str) -> Any:
    """Arguments from their description."""
    if isinstance(part, list):
        return [made(each, generator, where) for each in part]
    if not isinstance(part, dict):
        return part
    if "tensor" in part:
        return tensor(part, generator, where)
    if "dtype" in part:
        return dtype_named(part["dtype"], where)
    return {key: made(value, generator, where) for key, value in part.items()}


def tensor(part: dict[str, Any], generator: Any, where: str) -> Any:
    """A CPU tensor of that dtype, shape and strides."""
    import torch

    dtype, shape = dtype_named(part["tensor"], where), part.get("shape")
    strides = part.get("strides")
    numbers = [*(shape or []), *(strides or [])]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in numbers):
        raise OptionError(f"{where}: a tensor needs a shape, and may have strides, of integers >= 0: {part}")
    if strides is not None and len(strides) != len(shape):
        raise OptionError(f"{where}: {len(shape)} axes, but {len(strides)} strides: {part}")
    steps = strides if strides is not None else row_major(shape)
    span = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if 0 not in shape else 0
    if max(span, prod(shape)) > MOST_ELEMENTS:
        raise OptionError(f"{where}: a tensor of more than {MOST_ELEMENTS} elements: {part}")
    if dtype.is_floating_point or dtype.is_complex:
        memory = torch.randn(span, generator=generator).to(dtype)
    else:
        low, high = int(part.get("low", 0)), int(part.get("high", 1))
        memory = torch.randint(low, high + 1, (span,), generator=generator).to(dtype)
    return memory.as_strided(shape, steps)


def dtype_named(name: Any, where: str) -> Any:
    """torch's dtype of that name."""
    import torch

    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise OptionError(f"{where}: torch has no dtype {name!r}")
    return found
