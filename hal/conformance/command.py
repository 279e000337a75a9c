"""`hal conformance DEVICE`: run the cases, print the report, and write failures as files."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from hal.commands.files import check_file, make_folder, naming
from hal.conformance import compare, contract, isolate, page, repro
from hal.conformance.case import LEVELS, Case
from hal.conformance.cases import select
from hal.conformance.layout import name_of
from hal.conformance.profile import Profile, read
from hal.conformance.report import Progress, Report
from hal.conformance.session import Outcome, Runner, Task, outcomes, run_here
from hal.conformance.speed import measure
from hal.conformance.subjects import is_subject, open_subject, profile_for
from hal.conformance.wider import Wider
from hal.device import Device
from hal.errors import HalError
from hal.registry import backend, backends, find, open_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal conformance`."""
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument(
        "device",
        metavar="DEVICE",
        nargs="?",
        help='a device string: "cpu", "opencl:0", "opencl:rtx" …; or what is not hal\'s: "torch@cuda:0", "numpy@", '
        '"py@module:function" (--list and --compare go without)',
    )
    parser.add_argument("--level", choices=LEVELS, default="smoke", help="how many cases (default: smoke)")
    parser.add_argument(
        "--ops",
        metavar="OPS",
        default="",
        help='only these operators, with commas; on torch devices "all" adds every operator that torch describes, '
        '"trace:FILE" judges those in a file',
    )
    parser.add_argument(
        "--shapes", metavar="MODELS", default="", help="real layers at full size: qwen3-8b,deepseek-v3 …"
    )
    parser.add_argument("-k", metavar="PATTERN", dest="pattern", default="", help="only cases with this in their name")
    parser.add_argument("--profile", metavar="FILE", type=Path, help="TOML file with what the device's maker declares")
    parser.add_argument("--json", metavar="FILE", nargs="?", const="-", help="write the report as JSON (-: to stdout)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as one self-contained page")
    parser.add_argument(
        "--milestones", action="store_true", help="for ports: a bar for each step, the speed, and what to do next"
    )
    parser.add_argument(
        "--compare", metavar=("OLD", "NEW"), nargs=2, type=Path, help="what changed between two files of --json"
    )
    parser.add_argument("--save", metavar="DIR", type=Path, help="write each failure as a file for `hal repro`")
    parser.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        help="run in child processes: a crash or a hang costs one case (the default for backends in C)",
    )
    parser.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds for a case with --isolate")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the cases' data (default: 0)")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")


def run(args: argparse.Namespace) -> int:
    """0: the device passes; 1: it fails; 2: it could not be judged; 3: what passed is simulated."""
    if args.device is None and not (args.list or args.compare):
        args.usage_error(no_device(args.json))
    try:
        if args.compare:
            return run_compare(*args.compare)
        wider = Wider.parse(args.ops, args.shapes, args.device or "")
        cases: list[Task] = [] if wider.instead else [*select(args.level, wider.operators, args.pattern)]
        if not (wider.instead or wider.operators or is_subject(args.device or "")):
            cases = [*contract.select(args.level, args.pattern), *cases]
        if args.list:
            print("\n".join(case.name for case in cases))
            return 0
        if not cases and not wider.instead:
            raise HalError(f"no case of level {args.level} matches")
        profile = Profile()
        if args.profile:
            with naming("--profile", args.profile, "cannot be read"):
                profile = read(args.profile)
        report = judge_device(args, cases, profile, wider)
        publish(args, report)
        return report.exit_code
    except BrokenPipeError:  # the program ends it as for every command
        raise
    except (HalError, OSError) as error:
        print(f"hal conformance: {error}", file=sys.stderr)
        return 2


def publish(args: argparse.Namespace, report: Report) -> None:
    """The report to the terminal, and to the files that were asked for."""
    out = sys.stderr if args.json == "-" else sys.stdout
    report.write(out)
    if args.milestones:
        print(file=out)
        report.write_milestones(out)
    document = json.dumps(report.to_json(), indent=1) if args.json or args.html else ""
    if args.json == "-":
        print(document)
    elif args.json:
        with naming("--json", Path(args.json)):
            Path(args.json).write_text(document, encoding="utf-8")
    if args.html:
        with naming("--html", args.html):
            args.html.write_text(page.render(json.loads(document)), encoding="utf-8")


def run_compare(old: Path, new: Path) -> int:
    """0: nothing became worse; 1: something did."""
    with naming("--compare", old, "cannot be read"):
        before = compare.read(old)
    with naming("--compare", new, "cannot be read"):
        after = compare.read(new)
    found = compare.compare(before, after)
    print("\n".join(found.lines()))
    return int(found.worse)


def no_device(json_file: str | None) -> str:
    """What to say where DEVICE is missing; `--json DEVICE` takes it for the name of a file."""
    if json_file in (None, "-"):
        return "the following arguments are required: DEVICE"
    return (
        f"DEVICE is missing: {json_file!r} was taken for the file of --json. Name the device first "
        f"(hal conformance {json_file} --json), or write --json=FILE"
    )


def judge_device(args: argparse.Namespace, cases: list[Task], profile: Profile, wider: Wider) -> Report:
    """The report on the device. Raises BackendUnavailable or DeviceError where there is none."""
    device: Device | None = None
    if is_subject(args.device):
        device = open_subject(args.device, wider.operators)
        name, info, profile = device.name, device.info, profile_for(device, profile)
    else:
        check_apart(args.device)
        entry = find(args.device)
        name, info = entry.name, entry.info
        if args.isolate is None:
            args.isolate = bool(getattr(backend(entry.backend), "isolate", False))
    if args.json and args.json != "-":
        check_file("--json", Path(args.json))
    if args.html:
        check_file("--html", args.html)
    if args.save:
        make_folder("--save", args.save)
    runner: Runner
    if args.isolate and device is None and not wider.instead:  # the device is opened in the children alone
        runner = isolate.run_apart(isolate.worker(name), args.timeout, args.seed)
    else:
        device = device or open_device(name)
        runner = run_here(device, args.seed)
    report = Report(name, info, args.level, profile, notes=wider.notes)
    report.layouts = {case.name: name_of(case.op) for case in cases if isinstance(case, Case)}
    progress = Progress(f"hal conformance {name}", len(cases))
    start = time.perf_counter()
    for case, outcome in zip(cases, outcomes(cases, info.dtypes, profile, runner), strict=True):
        report.outcomes.append(outcome)
        progress(outcome)
        if args.save and outcome.status == "failed" and isinstance(case, Case):
            save(args.save, name, case, outcome, args.seed)
    if device is not None:
        for outcome in wider.outcomes(device, args.level, args.seed):
            report.outcomes.append(outcome)
            progress(outcome)
        if args.milestones and not report.failures:
            report.speeds = measure(device)
    report.seconds = time.perf_counter() - start
    return report


def check_apart(device: str) -> None:
    """A backend in C is loaded in a child process first. Raises BackendUnavailable where it does not survive that."""
    name = device.partition(":")[0]
    check = getattr(backend(name), "check", None) if name in backends() else None
    if check is not None:
        check()


def save(folder: Path, device: str, case: Case, outcome: Outcome, seed: int) -> None:
    """The failure as a file of its own in `folder`, which is there."""
    path = folder / (case.name.replace("/", "_").replace("*", "x") + ".safetensors")
    repro.write(path, device, case, outcome.result, seed)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    print(f"written: {path} (hal repro {path})", file=sys.stderr)
