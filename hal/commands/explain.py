"""`hal explain`: what a call would do on a device, and why; with --dump, its kernels as files.

Operands are written as shapes, in the operator's order or by name: `64x128,128x32`, `a=64x128,b=128x32,bias=32`. After
a colon a dtype of its own (`mask=64x64:bool`), or T for a view whose last two axes are swapped (`128x32:T`: 128 rows of
32 columns, in memory 32 rows of 128). Nothing is computed, but kernels are compiled, as the first call would.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from hal import planning
from hal.commands.dump import describe, dump
from hal.commands.files import naming
from hal.dtypes import name_of
from hal.errors import ArgumentError, OptionError
from hal.op import TensorSpec
from hal.ops import OPERATORS
from hal.planning import Explanation
from hal.settings import use
from hal.terminal import clean, complain, patience, size, write_json

ALIGNMENT = 64  # bytes: that of memory which hal itself allocates
WORDS = {"none": None, "null": None, "true": True, "false": False}
EXAMPLES = {"matmul": "512x512,512x512", "layernorm": "512x768,768,768", "rmsnorm": "512x768,768"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal explain`."""
    parser.add_argument("op", metavar="OP", choices=list(OPERATORS), help=f"one of {', '.join(OPERATORS)}")
    parser.add_argument(
        "--shapes",
        metavar="S,S,...",
        help="the operands, in the operator's order or as name=shape; :T is a transposed view, :float16 a dtype of its "
        "own (default: some that are usual)",
    )
    parser.add_argument("--dtype", default="float32", help="of the operands (default: float32)")
    parser.add_argument("--device", metavar="D", help="a device string (default: the default device)")
    parser.add_argument("--options", metavar="key=value", nargs="+", action="extend", default=[], help="the operator's")
    parser.add_argument("--dump", metavar="DIR", type=Path, help="write each kernel's source and launch.json there")
    parser.add_argument("--json", action="store_true", help="print what launch.json has")


def run(args: argparse.Namespace) -> int:
    """0; whatever stands against the call is an error that the program reports."""
    if args.shapes is None:
        args.shapes = EXAMPLES.get(args.op, "512x768")
        complain(f"no --shapes given: this is about {args.shapes}")
    operands = read_operands(args.op, args.shapes, args.dtype)
    options = dict(read_option(text) for text in args.options)
    with (
        patience("compiling"),
        use(deterministic=options.pop("deterministic", None), precision=options.pop("precision", None)),
    ):
        explained = planning.explain(args.op, device=args.device, **operands, **options)
    document = describe(explained)
    if args.dump is not None:
        with naming("--dump", args.dump):
            written = dump(explained, document, args.dump)
    if args.json:
        write_json(document)
    else:
        print_explanation(explained, document)
    if args.dump is not None:
        complain(f"written to {args.dump}: {', '.join(written)}")
    return 0


def read_operands(op: str, text: str, dtype: str) -> dict[str, TensorSpec]:
    """`64x128,bias=32` as layouts by role. Raises ArgumentError that says what is wrong with which part."""
    roles = OPERATORS[op].roles
    found: dict[str, TensorSpec] = {}
    for position, part in enumerate(text.split(",")):
        role, named, shape = part.partition("=")
        if not named:
            if position >= len(roles):
                raise ArgumentError(f"{op}: --shapes has {position + 1} operands; {op} takes {', '.join(roles)}")
            role, shape = roles[position], part
        role = role.strip()
        if role not in roles:
            raise ArgumentError(f"{op}: --shapes names an operand {role!r}; there are: {', '.join(roles)}")
        if role in found:
            raise ArgumentError(f"{op}: --shapes has the operand {role} twice")
        found[role] = read_operand(role, shape, dtype)
    return found


def read_operand(role: str, text: str, dtype: str) -> TensorSpec:
    """One operand: lengths joined by x, or `scalar`; then :T, :dtype or both."""
    lengths, *marks = (word.strip() for word in text.split(":"))
    words = [] if lengths == "scalar" else lengths.lower().split("x")
    if not all(word.isdecimal() and len(word) < 19 for word in words):
        raise ArgumentError(f"--shapes: a shape is lengths joined by x, such as 64x128, not {lengths!r}")
    shape = tuple(map(int, words))
    own = [mark for mark in marks if mark != "T"]
    if len(own) > 1 or marks.count("T") > 1:
        raise ArgumentError(f"--shapes: after {lengths} one dtype and one T at most, not {':'.join(marks)!r}")
    kind = own[0] if own else "int32" if role == "bias" and dtype == "int8" else dtype
    spec = TensorSpec.contiguous(name_of(kind), shape, ALIGNMENT)
    if "T" not in marks:
        return spec
    if len(shape) < 2:
        raise ArgumentError(f"--shapes: {lengths}:T has no two axes to swap")
    axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return TensorSpec.contiguous(spec.dtype, tuple(shape[i] for i in axes), ALIGNMENT).permute(axes)


def read_option(text: str) -> tuple[str, Any]:
    """`eps=1e-6`, `axis=(0,1)`, `activation=gelu`, `return_stats=true` as name and value."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise OptionError(f"--options takes key=value, such as eps=1e-6, not {text!r}")
    if value.lower() in WORDS:
        return key.strip(), WORDS[value.lower()]
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return key.strip(), value  # a word, such as gelu


def print_explanation(explained: Explanation, document: dict[str, Any]) -> None:
    """The document as lines."""
    print(f"op        {explained.op}")
    print(f"device    {explained.device.name} ({clean(explained.device.info.name)})")
    for key, value in document["plan"].items():
        print(f"{key:9} {clean(str(value))}")
    if not document["compiles_source"]:
        print(f"kernels   {document['note']}")
        return
    print(f"scratch   {size(document['scratch_bytes'])}")
    print("launches" if document["launches"] else "launches  none: the result is empty")
    width = max((len(a["parameter"]) for launch in document["launches"] for a in launch["arguments"]), default=0)
    for number, launch in enumerate(document["launches"]):
        dims = [f"{name} {'x'.join(map(str, launch[name]))}" for name in ("grid", "block")]
        print(f"  {number} {launch['entry']}  {'  '.join(dims)}  shared {size(launch['shared_bytes'])}")
        for argument in launch["arguments"]:
            what = " ".join(str(value) for key, value in argument.items() if key not in ("parameter", "index"))
            print(f"      {argument['parameter']:{width}}  {what}")
    if document["rejected"]:
        print("passed over")
        for reason in document["rejected"]:
            print(f"  {clean(reason)}")
