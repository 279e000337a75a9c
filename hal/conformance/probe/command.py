"""`hal probe DEVICE`: what the chip's arithmetic is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from hal.conformance.probe.finding import Finding, probe
from hal.conformance.subjects import is_subject, open_subject
from hal.registry import open_device
from hal.terminal import patience, table, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal probe`."""
    parser.add_argument("device", metavar="DEVICE", help='a device string, or "torch@cuda:0", "numpy@" …')
    parser.add_argument("--evidence", action="store_true", help="also the numbers that each answer rests on")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0: it was measured. Nothing that is found is good or bad here."""
    device = open_subject(args.device) if is_subject(args.device) else open_device(args.device)
    with patience(f"probing {device.name}"):
        found = list(probe(device))
    if args.json:
        write_json({"device": device.name, "findings": [asdict(finding) for finding in found]})
        return 0
    print("\n".join(evidence(found) if args.evidence else matrix(found)))
    return 0


def matrix(found: Sequence[Finding]) -> list[str]:
    """A row for each question, a column for each dtype."""
    dtypes = list(dict.fromkeys(finding.dtype for finding in found))
    answers = {(finding.what, finding.dtype): finding.value for finding in found}
    questions = dict.fromkeys(finding.what for finding in found)
    return table(("", *dtypes), [(what, *(answers.get((what, dtype), "") for dtype in dtypes)) for what in questions])


def evidence(found: Sequence[Finding]) -> list[str]:
    """A row for each answer, with the numbers that it rests on."""
    rows = [(finding.what, finding.dtype, finding.value, finding.evidence) for finding in found]
    return table(("what", "dtype", "answer", "evidence"), rows)
