"""Milestones: a port's way in six steps, how far each is, and what to do next.

    M1  find, allocate, copy            device/memory, device/errors
    M2  matmul                          float32
    M3  softmax, norms                  float32
    M4  order, threads                  device/order, device/threads, the cases that run a plan in two threads
    M5  dtypes                          all operators in the other dtypes
    M6  speed                           measured (hal.conformance.speed), never a reason to fail

A step is done when all of it passes, skipped cases apart. What is next is the first failure of the first step that is
not done: steps build on each other, so its reason is likely the reason of later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hal.conformance.session import Outcome

WIDTH = 24  # characters of a bar
FIRST = "float32"  # the dtype of M2 and M3; a device without it starts with the one it has
TITLES = {
    "M1": "find, allocate, copy",
    "M2": "matmul",
    "M3": "softmax, norms",
    "M4": "order, threads",
    "M5": "dtypes",
}


@dataclass(frozen=True)
class Milestone:
    """One step: outcomes that count for it, and how many passed (or failed as declared)."""

    key: str
    total: int
    passed: int
    first_failure: Outcome | None

    @property
    def title(self) -> str:
        return TITLES[self.key]

    @property
    def done(self) -> bool:
        """Nothing of it failed, and something passed."""
        return self.first_failure is None and self.passed > 0

    def bar(self) -> str:
        """`M2 matmul  [#########---]  96 of 128`, or what is not there to be done."""
        if not self.total:
            return f"{self.key} {self.title:<22} {'nothing to judge':<{WIDTH + 2}}"
        filled = WIDTH * self.passed // self.total
        return f"{self.key} {self.title:<22} [{'#' * filled}{'-' * (WIDTH - filled)}] {self.passed} of {self.total}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        failure = self.first_failure
        return {
            "key": self.key,
            "title": self.title,
            "passed": self.passed,
            "total": self.total,
            "done": self.done,
            "next": failure.result.name if failure else None,
        }


def key_of(outcome: Outcome, first: str) -> str:
    """The step that an outcome counts for."""
    result = outcome.result
    if result.operator == "device":
        return "M4" if result.dtype in ("order", "threads") else "M1"
    if "two-threads" in result.name:
        return "M4"
    if result.dtype != first:
        return "M5"
    return "M2" if result.operator == "matmul" else "M3"


def milestones(outcomes: Sequence[Outcome]) -> list[Milestone]:
    """All steps, in order."""
    ran = [outcome for outcome in outcomes if outcome.status != "skipped"]
    dtypes = [o.result.dtype for o in ran if o.result.operator != "device"]
    first = FIRST if FIRST in dtypes or not dtypes else dtypes[0]
    members: dict[str, list[Outcome]] = {key: [] for key in TITLES}
    for outcome in ran:
        members[key_of(outcome, first)].append(outcome)
    return [
        Milestone(
            key,
            len(those),
            sum(o.status != "failed" for o in those),
            next((o for o in those if o.status == "failed"), None),
        )
        for key, those in members.items()
    ]


def following(steps: Sequence[Milestone]) -> Outcome | None:
    """The failure to mend next, or None."""
    return next((step.first_failure for step in steps if step.first_failure), None)


def reproduction(device: str, name: str) -> str:
    """A few lines of Python that run one case, or one check of the device, alone."""
    if name.startswith("device/"):
        return (
            "from hal.conformance.contract import select\n"
            "from hal.registry import open_device\n"
            f'(check,) = select("full", "{name}")\n'
            f'print(check.run(open_device("{device}")).message)\n'
        )
    return (
        "from hal.conformance import run_case, select\n"
        "from hal.registry import open_device\n"
        f'case = next(c for c in select("full") if c.name == "{name}")\n'
        "print(case.op)\n"
        f'print(run_case(open_device("{device}"), case).message)\n'
    )
