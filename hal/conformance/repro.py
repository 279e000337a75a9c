"""`hal repro FILE`: a failure of the suite as one file, and running it again, alone.

The file (see safetensors.py) holds the operands, the wrong results, and as metadata the Op, the check and the device.
Operands are stored by index, not by address; axes of stride 0 once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance import safetensors
from hal.conformance.case import Case, options_of
from hal.conformance.runner import CHECKS, Result, run_case
from hal.conformance.safetensors import DamagedFile
from hal.dtypes import DTYPES
from hal.errors import HalError
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.registry import open_device

FORMAT = "hal-repro-1"
MOST_ELEMENTS = 1 << 28  # that the strides of one operand may span


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal repro`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a file that `hal conformance --save` wrote")
    parser.add_argument("--device", metavar="D", help="run it here (default: on the device that failed)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """0: the case passes now; 1: it fails; 2: it could not be run."""
    try:
        case, named = read(args.file)
        device = open_device(args.device or named)
    except (HalError, DamagedFile, OSError) as error:
        print(f"hal repro: {args.file}: {error}", file=sys.stderr)
        return 2
    result = run_case(device, case)
    ratio = result.ratio if np.isfinite(result.ratio) else None
    if args.json:
        facts = {"device": device.name, "case": case.name, "op": str(case.op), "status": result.status}
        print(json.dumps({**facts, "ratio": ratio, "message": result.message}, indent=1))
    else:
        print(f"{case.name} on {device.name}: {result.status}" + (f": {result.message}" if result.message else ""))
        print(f"op: {case.op}")
        print(f"largest error: {result.ratio:.3g} times the bound")
    return 0 if result.status == "passed" else 1


def write(path: Path, device: str, case: Case, result: Result, seed: int = 0) -> None:
    """The case as a file that runs alone."""
    arrays = {
        f"input.{role}": _once(image.elements, spec)
        for (role, spec), image in zip(case.op.inputs, case.inputs(seed), strict=True)
    }
    for (role, _), got in zip(case.op.outputs, result.outputs, strict=False):
        arrays[f"got.{role}"] = got
    metadata = {
        "format": FORMAT,
        "name": case.name,
        "device": device,
        "op": json.dumps(case.op.to_json()),
        "check": case.check,
        "shared": json.dumps(case.shared),
        "message": result.message,
    }
    safetensors.write(path, arrays, metadata)


def read(path: Path) -> tuple[Case, str]:
    """The case in a file and the device it failed on. Raises DamagedFile or OSError."""
    arrays, metadata = safetensors.read(path)
    if metadata.get("format") != FORMAT:
        raise DamagedFile(f"it is not a {FORMAT} file, but {metadata.get('format')!r}")
    try:
        op = Op.from_json(json.loads(metadata["op"]))
        shared = tuple((str(first), str(second)) for first, second in json.loads(metadata["shared"]))
        name, check, device = metadata["name"], metadata["check"], metadata["device"]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(f"its metadata are not those of a case: {error!r}") from error
    check_op(op)
    if check not in CHECKS:
        raise DamagedFile(f"no check {check!r}; known: {', '.join(CHECKS)}")
    check_shared(op, shared)
    values = [_operand(arrays, role, spec) for role, spec in op.inputs]
    return Case(name, op, lambda *_: values, check=check, shared=shared), device


def check_op(op: Op) -> None:
    """Raises DamagedFile unless the operator's own rules would have built this Op."""
    if op.name not in OPERATORS:
        raise DamagedFile(f"no operator {op.name!r}; known: {', '.join(OPERATORS)}")
    for role, spec in (*op.outputs, *op.inputs):
        if any(n < 0 for n in spec.shape) or len(spec.shape) != len(spec.strides):
            raise DamagedFile(f"{role}: shape {spec.shape} and strides {spec.strides} do not fit")
        low, high = spec.extent()
        if high - low > MOST_ELEMENTS or spec.size > MOST_ELEMENTS:
            raise DamagedFile(f"{role} spans {high - low} elements; more than {MOST_ELEMENTS} are not run")
        if spec.align < 1 or spec.align & (spec.align - 1) or spec.align > 64 or spec.align % spec.itemsize:
            raise DamagedFile(f"{role}: no address has align {spec.align}")
    try:
        operator, given, options = OPERATORS[op.name], dict(op.inputs), options_of(op)
        results = operator.infer(given, options)
        specs = [spec for _, spec in op.outputs]
        if [(r.dtype, r.shape) for r in results] != [(s.dtype, s.shape) for s in specs]:
            raise DamagedFile("its results are not those of its operands")
        rebuilt = operator.build(given, specs, options)
    except (HalError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DamagedFile(f"its op is not one: {error}") from error
    if rebuilt != op:
        raise DamagedFile("its op is not canonical")


def check_shared(op: Op, shared: tuple[tuple[str, str], ...]) -> None:
    """Raises DamagedFile unless the operands that share memory can."""
    for first, second in shared:
        owner, other = op.input(first), op.input(second) or op.output(second)
        if owner is None or other is None or first == second or owner.dtype != other.dtype:
            raise DamagedFile(f"{second} cannot share the memory of {first}")


def _once(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in spec.strides)]


def _operand(arrays: dict[str, NDArray[Any]], role: str, spec: TensorSpec) -> NDArray[Any]:
    array = arrays.get(f"input.{role}")
    if array is None:
        raise DamagedFile(f"operand {role} is missing")
    stored = tuple(min(n, 1) if stride == 0 else n for n, stride in zip(spec.shape, spec.strides, strict=True))
    if array.shape != stored or array.dtype != DTYPES[spec.dtype].numpy:
        raise DamagedFile(f"operand {role} is {array.dtype}{array.shape}; the op has {spec}")
    return array
