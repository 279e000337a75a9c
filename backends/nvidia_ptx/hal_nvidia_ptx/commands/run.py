"""`hal ptx run`: launch a kernel once, on a GPU or on an emulated one, and show what its arrays are then."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hal.errors import OptionError
from hal.terminal import patience, write_json
from hal_nvidia_ptx.commands.assemble import target_of
from hal_nvidia_ptx.commands.launching import BadText, add_launch, pointing, read_text, summary
from hal_nvidia_ptx.launch import load
from hal_nvidia_ptx.notation import DTYPES, Number, Tensor, Unwritten, parse

SUMMARY = "launch a kernel once on a GPU or an emulated one, and show its arrays"
EXAMPLES = (
    "hal ptx run scale.ptx --device cuda:0 --grid 8 --block 256 --arg x:f32[2048]=random --arg n:s32=2048",
    "hal ptx run scale.ptx --device ptx:sm_90a --grid 8 --block 256 --arg x:f32[2048]=ones --save x=out.npy",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal ptx run`."""
    add_launch(parser)
    parser.add_argument("--device", metavar="D", help="cuda:0, ptx:sm_90a, … (default: a GPU, else the text's target)")
    parser.add_argument(
        "--save", action="append", default=[], metavar="NAME=FILE.npy", help="write an array after the run; repeatable"
    )


def run(args: argparse.Namespace) -> int:
    """0; what the device refuses is an error that the program reports."""
    text = read_text(args.file)
    names, values = arguments(args.arg)
    wanted = dict(saving(word, names) for word in args.save)
    try:
        with patience("running the kernel"), pointing(args.file, text, args.json):
            kernels = load(args.file)
            kernel = kernels[args.entry or only(list(kernels))]
            if args.block is None:
                raise OptionError("--block is needed: the threads of a block")
            device = f"ptx:{target_of(text)}" if args.device == "ptx" else args.device
            kernel(args.grid, args.block, *values, device=device, shared=args.shared, cluster=args.cluster)
    except BadText as bad:
        return bad.code
    contents = [value.values if isinstance(value, Tensor) else value for value in values]
    arrays = {name: value for name, value in zip(names, contents, strict=True) if isinstance(value, np.ndarray)}
    for name, path in wanted.items():
        np.save(path, arrays[name])
    if args.json:
        write_json({name: {"summary": summary(array)} for name, array in arrays.items()})
    else:
        for name, array in arrays.items():
            print(f"{name}: {summary(array)}")
    return 0


def arguments(specs: list[str]) -> tuple[list[str], list[Any]]:
    """Names and values of the arguments; memory that nobody has written is zeros here."""
    names: list[str] = []
    values: list[Any] = []
    for position, spec in enumerate(specs):
        argument = parse(spec, position)
        value: Any = argument.value
        if isinstance(value, Number):
            value = value.value
        elif isinstance(value, Unwritten):
            value = np.zeros(value.shape, DTYPES[value.dtype])
        elif isinstance(value, Tensor) and value.values is None:
            value = replace(value, values=np.zeros(value.shape, DTYPES[value.dtype]))
        names.append(argument.name or f"argument {position + 1}")
        values.append(value)
    return names, values


def only(entries: list[str]) -> str:
    """The name of the one entry. Raises OptionError if there are more, or none."""
    if len(entries) != 1:
        raise OptionError(f"--entry is needed: the file has {', '.join(entries) or 'no entry'}")
    return entries[0]


def saving(word: str, names: list[str]) -> tuple[str, Path]:
    """`x=out.npy` as an argument's name and a path."""
    name, equals, path = word.partition("=")
    if not equals or name not in names:
        raise OptionError(f"--save {word}: NAME=FILE.npy, where NAME is one of {', '.join(names)}")
    return name, Path(path)
