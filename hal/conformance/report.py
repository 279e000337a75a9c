"""Report: what came of a session, as a table in the terminal and as JSON."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from hal.conformance.milestones import following, milestones, reproduction
from hal.conformance.profile import Profile
from hal.conformance.session import Outcome
from hal.conformance.speed import Speed
from hal.device import DeviceInfo
from hal.terminal import clean

SHOWN = 20  # failures written out in the terminal; JSON has all of them
PATIENCE = 2.0  # seconds without a word to the user
PASSES, FAILS, SIMULATED = 0, 1, 3  # exit codes; 2 is "could not be judged"


@dataclass
class Report:
    """The outcomes of a session on one device."""

    device: str
    info: DeviceInfo
    level: str
    profile: Profile
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    layouts: dict[str, str] = field(default_factory=dict)  # of cases, by name
    speeds: list[Speed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the reader has to know of how it was judged

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.status == "failed"]

    @property
    def verdict(self) -> str:
        """In words; nothing passes that ran no case."""
        if self.failures or not any(o.status == "passed" for o in self.outcomes):
            return "FAILS"
        if self.simulated:
            functions = int(self.info.props.get("functions", len(self.simulated)))
            return f"SIMULATED ({functions - len(self.simulated)} of {functions} functions yours)"
        declared = self.profile.deviations or any(o.status == "expected" for o in self.outcomes)
        return "passes with declared deviations" if declared else "passes"

    @property
    def simulated(self) -> tuple[str, ...]:
        """Functions of the device's driver that a stand-in plays (hal.porting): with any, nothing is a pass."""
        return tuple(self.info.props.get("simulated", ()))

    @property
    def exit_code(self) -> int:
        return FAILS if self.verdict == "FAILS" else SIMULATED if self.simulated else PASSES

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is null."""
        return {
            "verdict": self.verdict,
            "device": {
                "name": self.device,
                "description": self.info.name,
                "vendor": self.info.vendor,
                "dtypes": sorted(self.info.dtypes),
                "props": {key: _plain(value) for key, value in self.info.props.items()},
            },
            "environment": environment(),
            "level": self.level,
            "simulated": list(self.simulated),
            "milestones": [step.to_json() for step in milestones(self.outcomes)],
            "speed": [speed.to_json() for speed in self.speeds],
            "seconds": round(self.seconds, 3),
            "counts": dict(Counter(o.status for o in self.outcomes)),
            "notes": self.notes,
            "deviations": [
                {"cases": e.cases, "reason": e.reason, **vars(e.allowance)} for e in self.profile.deviations
            ],
            "unsupported": [{"cases": e.cases, "reason": e.reason} for e in self.profile.unsupported],
            "cases": [
                {
                    "name": o.result.name,
                    "operator": o.result.operator,
                    "dtype": o.result.dtype,
                    "layout": self.layouts.get(o.result.name, ""),
                    "status": o.status,
                    "ratio": o.result.ratio if math.isfinite(o.result.ratio) else None,
                    "reason": o.reason,
                    "seconds": round(o.result.seconds, 6),
                    **({"reproduction": reproduction(self.device, o.result.name)} if o.status == "failed" else {}),
                }
                for o in self.outcomes
            ],
        }

    def write(self, out: TextIO) -> None:
        """The table, the reasons of what was skipped, the failures, and the verdict."""

        def say(text: str = "") -> None:
            text = clean(text)  # devices' names and messages come from drivers
            print(text.encode(out.encoding or "utf-8", "backslashreplace").decode(out.encoding or "utf-8"), file=out)

        for line in table(self.rows()):
            say(line)
        say()
        for reason, count in Counter(o.reason for o in self.outcomes if o.status == "skipped").items():
            say(f"skipped {count}: {reason}")
        for reason, count in Counter(o.reason for o in self.outcomes if o.status == "expected").items():
            say(f"failed as declared {count}: {reason}")
        for note in self.notes:
            say(note)
        for entry in self.profile.deviations:
            say(f"deviation for {entry.cases}: {entry.reason}")
        for outcome in self.failures[:SHOWN]:
            say(f"FAILED {outcome.result.name}: {outcome.reason}")
        if len(self.failures) > SHOWN:
            say(f"… and {len(self.failures) - SHOWN} more failures")
        counts = Counter(o.status for o in self.outcomes)
        say(
            f"{self.device} ({self.info.name}) {self.verdict}: {len(self.outcomes)} cases of level {self.level} in "
            f"{self.seconds:.1f} s; {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
        )

    def write_milestones(self, out: TextIO) -> None:
        """A bar each, the speed, and what to do next with the lines of Python that show it."""
        steps = milestones(self.outcomes)
        for step in steps:
            print(step.bar(), file=out)
        for i, speed in enumerate(self.speeds):
            print(f"{'M6 speed' if not i else '':<25} {speed.line()}", file=out)
        if failure := following(steps):
            print(f"\nnext: {clean(failure.result.name)}: {clean(failure.reason)}\n", file=out)
            print(reproduction(self.device, failure.result.name), file=out)
        elif self.simulated:
            print(f"\nnext: write `{self.simulated[0]}`; still simulated: {', '.join(self.simulated)}\n", file=out)

    def rows(self) -> list[tuple[str, ...]]:
        """One row for each operator and dtype, below a heading."""
        rows: list[tuple[str, ...]] = [("operator", "dtype", "cases", "worst error", "failed", "skipped")]
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.result.operator, outcome.result.dtype), []).append(outcome)
        for (operator, dtype), members in groups.items():
            counts = Counter(o.status for o in members)
            ran = [o.result.ratio for o in members if o.status != "skipped"]
            worst = f"{max(ran):.3f}" if ran else "-"
            failed, skipped = str(counts["failed"] or ""), str(counts["skipped"] or "")
            rows.append((operator, dtype, str(len(members)), worst, failed, skipped))
        return rows


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def environment() -> dict[str, str]:
    """What a report was made with."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class Progress:
    """A word on standard error every two seconds; silent in a quick run."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done, self._failed = label, total, 0, 0
        self._spoke = time.monotonic()

    def __call__(self, outcome: Outcome) -> None:
        self._done += 1
        self._failed += outcome.status == "failed"
        if time.monotonic() - self._spoke > PATIENCE:
            failed = f", {self._failed} failed" if self._failed else ""
            of = f" of {self._total}" if self._done <= self._total else ""
            text = f"{self._label}: {self._done}{of} cases{failed}, now {outcome.result.name}"
            print(text, file=sys.stderr, flush=True)
            self._spoke = time.monotonic()


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no word for becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, int, str, type(None))) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
