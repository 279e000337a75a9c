"""`hal repro FILE`: a failure of the suite as one file, and running it again, alone.

The file (see safetensors.py) holds the operands, the wrong results, and as metadata the Op, the check and the device.
Operands are stored by index, not by address; axes of stride 0 once.
"""

from __future__ import annotations

import argparse
import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance import safetensors
from hal.conformance.case import Case, options_of
from hal.conformance.runner import BATCHES, CHECKS, Result, batch_axis, run_case
from hal.conformance.safetensors import DamagedFile
from hal.dispatch import overlaps_itself
from hal.dtypes import DTYPES
from hal.errors import HalError
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.ops.rows import row_ndim
from hal.registry import open_device

FORMAT = "hal-repro-1"
# With stride 0 a file of a few bytes can ask for any amount of memory and time; what it may ask for ends here.
MOST_ELEMENTS = 1 << 24  # of one operand, and that its strides may span
MOST_PRODUCTS = 1 << 28  # of one matmul
MOST_AXES = 32
MOST_NAME = 500  # characters of the case's name and of the device's
MOST_TEXT = 1000  # characters of an error, which may quote the file


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
        text = shown(str(error)).replace("\n", " ")
        text = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} …"
        print(f"hal repro: {shown(str(args.file))}: {text}", file=sys.stderr)
        return 2
    result = run_case(device, case)
    ratio = result.ratio if np.isfinite(result.ratio) else None
    if args.json:
        facts = {"device": device.name, "case": case.name, "op": str(case.op), "status": result.status}
        print(json.dumps({**facts, "ratio": ratio, "message": result.message}, indent=1))
    else:
        message = f": {result.message}" if result.message else ""
        print(shown(f"{case.name} on {device.name}: {result.status}{message}"))
        print(shown(f"op: {case.op}"))
        print(f"largest error: {result.ratio:.3g} times the bound")
    return 0 if result.status == "passed" else 1


def shown(text: str) -> str:
    """`text` without what a terminal would obey: a file's strings may be anybody's."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


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
        name.encode()  # its bytes seed the data; a lone surrogate has none
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DamagedFile(f"its metadata are not those of a case: {error!r}") from error
    if max(len(name), len(device)) > MOST_NAME:
        raise DamagedFile(f"the name of its case or of its device has more than {MOST_NAME} characters")
    check_op(op)
    if check not in CHECKS:
        raise DamagedFile(f"no check {check!r}; known: {', '.join(CHECKS)}")
    if check == "batch":
        check_rows(op)
    check_shared(op, shared)
    values = [_operand(arrays, role, spec) for role, spec in op.inputs]
    return Case(name, op, lambda *_: values, check=check, shared=shared), device


def check_op(op: Op) -> None:
    """Raises DamagedFile unless the operator's own rules would have built this Op, of a size that can be run."""
    if op.name not in OPERATORS:
        raise DamagedFile(f"no operator {op.name!r}; known: {', '.join(OPERATORS)}")
    for role, spec in (*op.outputs, *op.inputs):
        check_spec(role, spec)
    try:
        params = dict(op.params)
        if "row_ndim" in params:  # before `options_of` makes a tuple of that many axes
            depth = params["row_ndim"]
            if type(depth) is not int or not 0 < depth <= op.inputs[0][1].ndim:
                raise DamagedFile("its rows have no such number of axes")
        if params.get("deterministic", "run") not in ("run", "batch"):
            raise DamagedFile("it demands a determinism that there is not")
        operator, given, options = OPERATORS[op.name], dict(op.inputs), options_of(op)
        results = operator.infer(given, options)
        specs = [spec for _, spec in op.outputs]
        if [(r.dtype, r.shape) for r in results] != [(s.dtype, s.shape) for s in specs]:
            raise DamagedFile("its results are not those of its operands")
        rebuilt = operator.build(given, specs, options)
        same = _text(rebuilt) == _text(op)
    except DamagedFile:
        raise
    except (HalError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise DamagedFile(f"its op is not one: {error}") from error
    if not same:
        raise DamagedFile("its op is not canonical")
    for role, spec in op.outputs:
        if overlaps_itself(spec):
            raise DamagedFile(f"{role}: several of its indices share an element")
    if op.name == "matmul" and op.outputs[0][1].size * op.inputs[0][1].shape[-1] > MOST_PRODUCTS:
        raise DamagedFile(f"it has more than {MOST_PRODUCTS} products; more are not run")


def check_spec(role: str, spec: TensorSpec) -> None:
    """Raises DamagedFile unless memory can be had for such an operand and its addresses be computed."""
    if len(spec.shape) != len(spec.strides) or any(n < 0 for n in spec.shape):
        raise DamagedFile(f"{role!r}: shape {spec.shape} and strides {spec.strides} do not fit")
    if len(spec.shape) > MOST_AXES:
        raise DamagedFile(f"{role!r} has more than {MOST_AXES} axes")
    # Axes of length 0 and strides of axes of length 1 count too: NumPy and the drivers compute with all of them.
    low, high = spec.extent()
    most = max(high - low, prod(max(n, 1) for n in spec.shape), *map(abs, spec.strides), 0)
    if most > MOST_ELEMENTS:
        raise DamagedFile(f"{role!r} spans more than {MOST_ELEMENTS} elements; more are not run")
    if spec.align < 1 or spec.align & (spec.align - 1) or spec.align > 64 or spec.align % spec.itemsize:
        raise DamagedFile(f"{role!r}: no address has align {spec.align}")


def check_rows(op: Op) -> None:
    """Raises DamagedFile unless the check "batch" can cut rows out of the Op: they would lie outside its operands."""
    batched = op.name == "matmul" or op.inputs[0][1].ndim > row_ndim(op)
    axis = batch_axis(op, op.outputs[0][0])
    if not batched or axis is None or op.outputs[0][1].shape[axis] < max(BATCHES):
        raise DamagedFile(f'the check "batch" needs {max(BATCHES)} rows')


def check_shared(op: Op, shared: tuple[tuple[str, str], ...]) -> None:
    """Raises DamagedFile unless the operands that share memory can.

    A result lies nowhere but exactly in the operand that the operator allows. No operand is both an owner and within
    another's memory, so that each owner's memory is made for all that lies in it.
    """
    owners, within = [first for first, _ in shared], [second for _, second in shared]
    for first, second in shared:
        owner, other, result = op.input(first), op.input(second), op.output(second)
        fits = first not in within and second not in owners and within.count(second) == 1 and owner is not None
        if owner is not None and other is not None:
            fits = fits and (owner.dtype, owner.align) == (other.dtype, other.align)
            # An operand's memory is there once the operands before it are.
            fits = fits and (op.input_index(first) or 0) < (op.input_index(second) or 0)
        else:
            # What shares the memory of an operand would be overwritten with it.
            fits = fits and second == "out" and first == OPERATORS[op.name].in_place and owners.count(first) == 1
            fits = fits and owner == result
        if not fits:
            raise DamagedFile(f"{second!r} cannot share the memory of {first!r}")


def _text(op: Op) -> str:
    """The Op for a comparison: NaN, which is a number of an Op as any other, is not equal to itself."""
    return json.dumps(op.to_json())


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
