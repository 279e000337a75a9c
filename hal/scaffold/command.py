"""`hal new-backend NAME --kind KIND`: write a package and say what to do with it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from hal.scaffold.kinds import KINDS
from hal.scaffold.names import check_folder, check_name
from hal.scaffold.package import write
from hal.terminal import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal new-backend`."""
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument("name", metavar="NAME", help='what devices will be called: NAME "acme" gives "acme:0"')
    kinds = "; ".join(f"{kind}: {what.summary}" for kind, what in KINDS.items())
    parser.add_argument("--kind", choices=tuple(KINDS), required=True, help=kinds)
    parser.add_argument(
        "--dir", metavar="D", type=Path, default=Path(), help="where the folder hal-NAME is made (default: here)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0: written. Raises OptionError, which names what to do, and then leaves nothing behind."""
    check_name(args.name)
    folder = args.dir / f"hal-{args.name}"
    check_folder(args.dir, folder)
    files = write(args.name, args.kind, folder)
    path = folder.as_posix()
    install = f"pip install {shlex.quote(path if folder.is_absolute() else f'./{path}')}"
    judge = f"hal conformance {args.name}:0"
    if args.json:
        names = [path.relative_to(folder).as_posix() for path in files]
        write_json({"folder": str(folder), "kind": args.kind, "files": names, "next": [install, judge]})
    else:
        print(f"written: {folder}, {len(files)} files; its README.md says what to write, and in which order")
        print(f"next:    {install}")
        print(f"         {judge}    (SIMULATED until the driver's functions are yours)")
    return 0
