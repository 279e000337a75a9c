"""`hal abi FILE.so`: what a backend in C provides, as hal sees it. The library is loaded in a child process only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hal.capi import header, include
from hal.capi.probe import TIMEOUT, Probe, probe
from hal.errors import ArgumentError, BackendUnavailable
from hal.terminal import clean, complain, patience, size, table, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal abi`."""
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="the shared library of a backend in C")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--timeout", metavar="S", type=float, default=TIMEOUT, help=f"seconds (default: {TIMEOUT:g})")
    parser.add_argument("--include", action="store_true", help="print the folder of hal_backend.h, for cc -I, and end")


def run(args: argparse.Namespace) -> int:
    """0: the library can be used; 1: it cannot; 2: it could not be asked."""
    if args.include:
        print(include())
        return 0
    if args.file is None:
        raise ArgumentError("which library? hal abi FILE.so")
    path = args.file.absolute()  # what a person types may be relative; what is kept may not
    if not path.is_file():
        raise BackendUnavailable(f"there is no library {path}")
    header.ffi()  # without cffi nobody can ask
    with patience(f"asking {path.name}"):
        answer = probe(path, args.timeout)
    if args.json:
        write_json({"file": str(path), "usable": not answer.problem, "problem": answer.problem or None, **answer.found})
    else:
        show(answer)
    if answer.problem:
        complain(f"{path.name} cannot be used: {answer.problem}")
    return 1 if answer.problem else 0


def show(answer: Probe) -> None:
    """What was found, as text."""
    found = answer.found
    if not found:
        return
    print(f"{found['name']}: interface {found['abi']}, version {clean(found['version']) or 'not given'}")
    left_out = [name for name, provided in found["functions"].items() if not provided]
    print(f"functions: {len(found['functions']) - len(left_out)} of {len(found['functions'])}")
    if left_out:
        print(f"not provided: {', '.join(left_out)}")
    for device in found["devices"]:
        print()
        show_device(device)
    if "why_none" in found:
        print(f"\nno device: {clean(found['why_none'])}")


def show_device(device: dict[str, Any]) -> None:
    """One device: what it is, then which operators it prepares in which dtypes."""
    memory = size(device["memory"]) if device["memory"] else ""
    kind = "works in host memory" if device["host_memory"] else ""
    print(clean(", ".join(filter(None, (f"device {device['name']}", device["vendor"], memory, kind)))))
    operators = device.get("operators", {})
    marks = {name: {d: "no" if why else "yes" for d, why in row.items()} for name, row in operators.items()}
    rows = [(name, *(row.get(dtype, "") for dtype in device["dtypes"])) for name, row in marks.items()]
    for line in table(("operator", *device["dtypes"]), rows) if rows else []:
        print(f"  {line}")
