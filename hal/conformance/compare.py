"""Two reports beside each other: what became better, and what became worse, between an old and a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hal.errors import OptionError

Document = dict[str, Any]
SHOWN = 20  # names of one kind of change
ERROR_GREW = 1.5  # times: an error in units of the bound that grew less is within the chance of other data
GOOD = ("passed", "expected")


@dataclass(frozen=True)
class Comparison:
    """Names of cases by what changed; the worst errors that grew, as (operator, dtype, old, new)."""

    old: Document
    new: Document
    failing: tuple[str, ...]  # good before, failed now
    lost: tuple[str, ...]  # good before, skipped or absent now
    mended: tuple[str, ...]
    added: tuple[str, ...]
    errors: tuple[tuple[str, str, float, float], ...]

    @property
    def worse(self) -> bool:
        """Whether something that was good is not any more."""
        return bool(self.failing or self.lost)

    def lines(self) -> Iterator[str]:
        """For the terminal."""
        for title, one in (("old", self.old), ("new", self.new)):
            counts = ", ".join(f"{n} {status}" for status, n in one["counts"].items())
            yield f"{title}: {one['device']['name']} {one['verdict']}; {counts}; {one['seconds']:.1f} s"
        for title, names in (
            ("now failing", self.failing),
            ("no longer judged", self.lost),
            ("mended", self.mended),
            ("new", self.added),
        ):
            if names:
                yield f"{title}: {len(names)}"
                yield from (f"  {name}" for name in names[:SHOWN])
                if len(names) > SHOWN:
                    yield f"  … and {len(names) - SHOWN} more"
        for operator, dtype, before, after in self.errors:
            yield f"worst error of {operator} {dtype}: {before:.3f} -> {after:.3f} of the bound"
        if not (self.failing or self.lost or self.mended or self.added or self.errors):
            yield "no case changed"


def read(path: Path) -> Document:
    """A report as `hal conformance --json` writes it. Raises OptionError where it is none, OSError where unreadable."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {(case["name"], case["status"]) for case in document["cases"]}
        document["device"]["name"], document["verdict"], document["counts"], document["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} is no report of `hal conformance --json`: {error!r}") from error
    if not names:
        raise OptionError(f"{path} has no cases: nothing to compare")
    return dict(document)


def compare(old: Document, new: Document) -> Comparison:
    """What changed. Errors are compared over the cases that passed in both."""
    before = {case["name"]: case for case in old["cases"]}
    after = {case["name"]: case for case in new["cases"]}
    good = {name for name, case in before.items() if case["status"] in GOOD}
    both = [name for name in before if name in after and before[name]["status"] == after[name]["status"] == "passed"]
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for name in both:
        key = (before[name]["operator"], before[name]["dtype"])
        x, y = worst.get(key, (0.0, 0.0))
        worst[key] = max(x, before[name]["ratio"] or 0.0), max(y, after[name]["ratio"] or 0.0)
    return Comparison(
        old,
        new,
        failing=tuple(n for n in after if n in good and after[n]["status"] == "failed"),
        lost=tuple(n for n in before if n in good and (n not in after or after[n]["status"] == "skipped")),
        mended=tuple(n for n in after if n in before and n not in good and after[n]["status"] in GOOD),
        added=tuple(n for n in after if n not in before),
        errors=tuple((*key, x, y) for key, (x, y) in worst.items() if y > ERROR_GREW * x and y > 0.5),
    )
