"""`hal ptx figures`: the quality of hal's own kernels in numbers that need no GPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hal.errors import HalError
from hal.terminal import complain, patience, table, write_json
from hal_nvidia_ptx.figures.cases import cases
from hal_nvidia_ptx.figures.goals import Goal, has_own
from hal_nvidia_ptx.figures.measure import jobs, measure_all
from hal_nvidia_ptx.figures.rows import record, row
from hal_nvidia_ptx.target import CHECKED, TARGETS

SUMMARY = "figures of hal's own PTX kernels, from machine code: registers, loop mix, simulated tensor pipe"
EXAMPLES = ("hal ptx figures 'softmax*' --target sm_90", "hal ptx figures --all --json")
COLUMNS = (
    *("registers", "spills", "shared", "blocks", "share", "code", "loop", "others", "fma", "cover", "port", "util"),
    *("slots", "flight", "barriers", "special"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal ptx figures`."""
    parser.add_argument("case", nargs="?", default="*", help="only cases that match, as 'softmax*' (default: all)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="every case and config, not only the usual ones")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--record", metavar="FILE", type=Path, help="also write what the tests hold kernels to")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 where a goal is not met or the assembler complained, 2 where nothing could be measured."""
    which = [case for case in cases(usual_only=not args.all) if fnmatchcase(case.name, args.case)]
    if not which:
        names = [case.name for case in cases()]
        near = get_close_matches(args.case.strip("*"), names, n=3, cutoff=0.0)
        complain(f"no case matches {args.case!r} of {len(names)}; the nearest are: {', '.join(near)}")
        return 2
    try:
        with patience("assembling"):
            work = jobs(which, args.target or CHECKED, every_config=args.all)
            rows = [row(job, figures) for job, figures in measure_all(work)]
    except HalError as error:
        complain(str(error))
        return 2
    if args.record is not None:
        record(rows, args.record)
    if args.json:
        write_json({"rows": rows})
    else:
        print("\n".join(lines(rows)))
    return int(any(one["unmet"] or one["complaints"] for one in rows))


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table for people: below each kernel its goal, its peer, and what it misses, where there are any."""
    body: list[list[str]] = []
    for one in rows:
        goal, peer = Goal.from_json(one["goal"]), one["peer"]
        config = one["config"] if one["entry"] in one["config"] else f"{one['config']}: {one['entry']}"
        body.append([one["case"], one["target"], *(_short(one[name]) for name in COLUMNS), config])
        if has_own(goal):
            body.append(["  goal", "", *(goal.text(name) for name in COLUMNS), ""])
        if peer:
            body.append([f"  {peer['name']}", "", *(_short(peer.get(name)) for name in COLUMNS), ""])
        body += [[f"  ! {text}"] + [""] * (len(COLUMNS) + 2) for text in (*one["unmet"], *one["complaints"])]
    yield from table(("kernel", "target", *COLUMNS, "config"), body)


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
