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

from hal.conformance.profile import Profile
from hal.conformance.session import Outcome
from hal.device import DeviceInfo
from hal.terminal import clean

SHOWN = 20  # failures written out in the terminal; JSON has all of them
PATIENCE = 2.0  # seconds without a word to the user


@dataclass
class Report:
    """The outcomes of a session on one device."""

    device: str
    info: DeviceInfo
    level: str
    profile: Profile
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.status == "failed"]

    @property
    def verdict(self) -> str:
        """In words; nothing passes that ran no case."""
        if self.failures or not any(o.status == "passed" for o in self.outcomes):
            return "FAILS"
        declared = self.profile.deviations or any(o.status == "expected" for o in self.outcomes)
        return "passes with declared deviations" if declared else "passes"

    @property
    def exit_code(self) -> int:
        return 1 if self.verdict == "FAILS" else 0

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
            "seconds": round(self.seconds, 3),
            "counts": dict(Counter(o.status for o in self.outcomes)),
            "deviations": [
                {"cases": e.cases, "reason": e.reason, **vars(e.allowance)} for e in self.profile.deviations
            ],
            "cases": [
                {
                    "name": o.result.name,
                    "operator": o.result.operator,
                    "dtype": o.result.dtype,
                    "status": o.status,
                    "ratio": o.result.ratio if math.isfinite(o.result.ratio) else None,
                    "reason": o.reason,
                    "seconds": round(o.result.seconds, 6),
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
            text = f"{self._label}: {self._done} of {self._total} cases{failed}, now {outcome.result.name}"
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
