"""Session: many cases on one device, under its profile.

Turns what a device did (`Result`) into what that means (`Outcome`): a failure that the profile expects is none, a pass
that it does not expect is one, and a device that says UnsupportedError without having declared it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hal.bound import Allowance
from hal.conformance.case import Case
from hal.conformance.contract import DeviceCheck
from hal.conformance.profile import Profile
from hal.conformance.runner import Result, run_case
from hal.device import Device

Task: TypeAlias = "Case | DeviceCheck"
Runner: TypeAlias = Callable[[Sequence[Task], Profile], Iterable[Result]]  # results in the order of the tasks


@dataclass(frozen=True)
class Outcome:
    """A result and what it means. status: "passed", "failed", "skipped", "expected" (a declared failure)."""

    result: Result
    status: str
    reason: str = ""


def run_here(device: Device, seed: int = 0) -> Runner:
    """The plain runner: in this process, one case after the other."""

    def run(cases: Sequence[Task], profile: Profile) -> Iterator[Result]:
        for case in cases:
            yield run_task(device, case, profile.allowance(case.name), seed)

    return run


def run_task(device: Device, task: Task, allow: Allowance, seed: int) -> Result:
    """One case, or one check of the device itself."""
    return task.run(device) if isinstance(task, DeviceCheck) else run_case(device, task, allow=allow, seed=seed)


def outcomes(cases: Sequence[Task], dtypes: frozenset[str], profile: Profile, runner: Runner) -> Iterator[Outcome]:
    """Run the cases. `dtypes`: those that the device says it computes in."""
    skipped = {case.name: reason for case in cases if (reason := profile.why_unsupported(case.name))}
    results = iter(runner([case for case in cases if case.name not in skipped], profile))
    for case in cases:
        if case.name in skipped:
            yield Outcome(Result(case.name, case.operator, case.dtype, "unsupported"), "skipped", skipped[case.name])
        else:
            yield judged(next(results), dtypes, profile)


def judged(result: Result, dtypes: frozenset[str], profile: Profile) -> Outcome:
    """What a result means."""
    expected = profile.why_expected(result.name)
    if result.status == "unsupported":
        if result.operator == "device":  # it has no operator yet that could be tried
            return Outcome(result, "skipped", result.message)
        if result.dtype not in dtypes:
            return Outcome(result, "skipped", f"the device does not list {result.dtype}")
        if not expected:
            return Outcome(result, "failed", f"not declared as unsupported: {result.message}")
    if result.status == "passed":
        if expected:
            return Outcome(
                result, "failed", f"passes, but the profile expects a failure ({expected}): remove the entry"
            )
        return Outcome(result, "passed")
    return Outcome(result, "expected", expected) if expected else Outcome(result, "failed", result.message)
