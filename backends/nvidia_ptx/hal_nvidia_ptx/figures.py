"""The quality of kernels in numbers that need no GPU: `python -m hal_nvidia_ptx.figures` prints kernel x target.

Every number comes from machine code: what ptxas says of it, its main loop (matmul) or the path of a thread (rows), and
a small simulation of the loop. docs/nvidia_ptx.md says what each one means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hal.errors import HalError
from hal.terminal import complain, patience, table, write_json
from hal_nvidia_ptx.assembler import version
from hal_nvidia_ptx.cases import cases
from hal_nvidia_ptx.goals import Goal, goal_of, has_own, unmet
from hal_nvidia_ptx.measure import Figures, Job, jobs, measure_all
from hal_nvidia_ptx.peers import peer_of
from hal_nvidia_ptx.target import CHECKED, TARGETS

COLUMNS = (
    *("registers", "spills", "shared", "blocks", "share", "code", "loop", "others", "fma", "cover", "port", "util"),
    *("slots", "flight", "barriers", "special"),
)


def row(job: Job, figures: Figures) -> dict[str, Any]:
    """One line of the table as plain values, with goals, what is not met, and Triton's figures."""
    goal = goal_of(job.case, job.target, job.config)
    return {
        "case": job.case,
        "target": job.target,
        "config": str(job.config),
        "entry": job.kernel.entry,
        **{key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(figures).items()},
        "goal": goal.to_json(),
        "unmet": unmet(goal, asdict(figures)),
        "peer": peer_of(job.case, job.target, job.config),
    }


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


def record(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows, one a line, without goals and peers: bench/results/ptx_figures.json is made so."""
    kept = [{k: v for k, v in row.items() if k not in ("goal", "peer") and v not in (None, (), [])} for row in rows]
    head = f'{{"ptxas": {json.dumps(version())}, "rows": [\n'
    path.write_text(head + ",\n".join(map(json.dumps, kept)) + "\n]}\n", encoding="utf-8")


# ---------------------------------------------------------------- the command

SUMMARY = "figures of hal's own PTX kernels, from machine code: registers, loop mix, simulated tensor pipe"
EXAMPLES = ("hal ptx figures 'softmax*' --target sm_90", "hal ptx figures --all --json")


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
        complain(f"no case matches {args.case!r}; there are: {', '.join(case.name for case in cases())}")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m hal_nvidia_ptx.figures`."""
    parser = argparse.ArgumentParser(prog="python -m hal_nvidia_ptx.figures", description=SUMMARY)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
