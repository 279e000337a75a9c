"""`hal ptx assemble`: what PTX costs as machine code: registers, spills, memory, what its main loop is made of."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hal.errors import CompileError, OptionError
from hal.terminal import complain, patience, table, write_json
from hal_nvidia_ptx.assembly.assembler import Assembled, Usage, assemble, version
from hal_nvidia_ptx.assembly.paths import main_loop
from hal_nvidia_ptx.assembly.sass import Function, disassemble
from hal_nvidia_ptx.commands.launching import CANNOT_RUN, read_text
from hal_nvidia_ptx.target import TARGETS

SUMMARY = "turn a text into machine code, without a GPU: registers, spills, what the main loop is made of"
EXAMPLES = ("hal ptx assemble softmax.ptx --target sm_90a", "hal ptx assemble gemm.ptx --cubin gemm.cubin --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal ptx assemble`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="PTX text")
    parser.add_argument("--target", metavar="SM", choices=sorted(TARGETS), help="such as sm_90a (default: the text's)")
    parser.add_argument("--cubin", metavar="FILE", type=Path, help="write the machine code there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0; 1 if the assembler complained of what no good kernel causes, such as spills; 2 if it refuses the text."""
    text = read_text(args.file)
    target = args.target or target_of(text)
    try:
        with patience("assembling"):
            done = assemble(text, target)
            functions = disassemble(done.cubin)
    except CompileError as error:  # its own text has the log and the source too: both say the same again
        complain(f"{args.file}: {str(error).partition('--- compiler log')[0].strip()}")
        return CANNOT_RUN
    if not done.functions:
        raise OptionError(f"{args.file} has no kernel: nothing was assembled")
    if args.cubin is not None:
        args.cubin.write_bytes(done.cubin)
    rows = [describe(usage, functions.get(usage.name)) for usage in done.functions]
    if args.json:
        write_json({"target": target, "ptxas": version(), "kernels": rows, "complaints": done.complaints})
    else:
        show(args.file, done, rows)
    return int(bool(done.complaints))


def target_of(text: str) -> str:
    """The text's own `.target`. Raises OptionError where there is none."""
    found = re.search(r"^\s*\.target\s+(sm_\w+)", text, re.MULTILINE)
    if found is None:
        raise OptionError("the text has no .target; give one with --target")
    return found[1]


def describe(usage: Usage, function: Function | None) -> dict[str, Any]:
    """The figures of one entry or function; bytes where nothing else is said."""
    loop = None if function is None else main_loop(function)
    mix = Counter(ins.name for ins in loop.instructions) if loop is not None else Counter[str]()
    return {
        "name": usage.name,
        "registers": usage.registers,
        "spill_stores": usage.spill_stores,
        "spill_loads": usage.spill_loads,
        "stack": usage.stack,
        "shared": usage.shared,
        "barriers": usage.barriers,
        "code": 0 if function is None else function.code_bytes,
        "loop": sum(mix.values()),
        "loop_mix": dict(mix.most_common()),
    }


def show(file: Path, done: Assembled, rows: list[dict[str, Any]]) -> None:
    """The figures as a table, the main loops' instructions, and what the assembler complained of."""
    header = ("kernel", "registers", "spills", "stack", "shared", "barriers", "code", "loop")
    body = []
    for row in rows:
        spills = row["spill_stores"] + row["spill_loads"]
        counts = (row["registers"], spills, row["stack"], row["shared"], row["barriers"], row["code"], row["loop"])
        body.append([row["name"], *map(str, counts)])
    print(f"{file} for {done.target}, ptxas {version()}")
    print("\n".join(table(header, body)))
    for row in rows:
        if row["loop_mix"]:
            print(f"main loop of {row['name']}: " + ", ".join(f"{n} {name}" for name, n in row["loop_mix"].items()))
    for complaint in done.complaints:
        print(f"complaint: {complaint}")
