"""`hal doctor`: what is installed, what is missing or broken, and for each the command that mends it.

    finding.py      what there is to say, in one form
    packages.py     Python, hal, and the packages it can use
    backends.py     which devices each backend finds, asked in a child process
    opencl.py       the loader, the folders it searches, whether each library listed there loads
    machine.py      NVIDIA's driver and assembler, hal's cache, the variables that hal reads

Whatever could crash or hang, a driver's library above all, is tried in a child process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from hal.doctor import backends, machine, opencl, packages
from hal.doctor.finding import Finding, State, install
from hal.terminal import clean, patience, write_json

MARKS = {State.GOOD: "ok", State.NOTE: "", State.MISSING: "missing", State.BROKEN: "BROKEN"}
WIDTH = 28  # of the names' column at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where something that is installed is broken."""
    with patience("trying what is installed"):
        findings = list(examine())
    broken = any(finding.state is State.BROKEN for finding in findings)
    if args.json:
        write_json({"good": not broken, "findings": [finding.as_json() for finding in findings]})
    else:
        print_findings(findings)
    return int(broken)


def examine() -> Iterator[Finding]:
    """All there is to say, section by section."""
    yield from packages.examine()
    census = backends.ask()
    yield from backends.examine(census)
    yield from opencl.examine(census.pyopencl_home)
    yield from machine.examine(census)


def print_findings(findings: list[Finding]) -> None:
    """Every section, and at the end what to do."""
    width = min(WIDTH, max(len(finding.name) for finding in findings))
    for section in dict.fromkeys(finding.section for finding in findings):
        print(f"{section}:")
        for finding in findings:
            if finding.section == section:
                name, mark = clean(finding.name), MARKS[finding.state]
                if len(name) > width:  # a path: on a line of its own
                    print(f"  {name}")
                    name = ""
                print(f"  {name:{width}}  {mark:7}  {clean(finding.detail)}".rstrip())
        print()
    for state, title in ((State.BROKEN, "Broken, and what mends it:"), (State.MISSING, "Missing, if you want it:")):
        found = [finding for finding in findings if finding.state is state and finding.fix]
        extras = [finding for finding in found if finding.extra]
        found = [finding for finding in found if not finding.extra]
        if found or extras:
            print(title)
        if extras:  # one command for all; each name with the extra that alone would do
            print(f"  {', '.join(f'{clean(each.name)} [{each.extra}]' for each in extras)}:")
            wanted = ",".join(dict.fromkeys(each.extra for each in extras))
            print(f"      {install(f'{packages.DISTRIBUTION}[{wanted}]')}    (or only the extras you want)")
        for fix in dict.fromkeys(finding.fix for finding in found):
            print(f"  {', '.join(dict.fromkeys(clean(each.name) for each in found if each.fix == fix))}:")
            print(f"      {clean(fix)}")
        if found or extras:
            print()
    if not any(finding.state is State.BROKEN for finding in findings):
        print("Nothing that is installed is broken.")
