"""Refusal: the cases that a subject does not take, as a profile.

A torch function without a mask, or a kernel without an alpha, is not wrong: the case is skipped, and the report says
why. That is decided from the Op alone, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hal.conformance.cases import every
from hal.conformance.profile import Profile
from hal.op import Op


@dataclass(frozen=True)
class RefusingProfile(Profile):
    """A profile, and reasons by the names of cases."""

    refused: Mapping[str, str] = field(default_factory=dict)

    def why_unsupported(self, name: str) -> str:
        return super().why_unsupported(name) or self.refused.get(name, "")


def with_refusals(given: Profile, why_not: Callable[[Op], str]) -> Profile:
    """`given`, with every case of the suite refused for which `why_not` has a reason."""
    reasons = {case.name: reason for case in every() if (reason := why_not(case.op))}
    return RefusingProfile(given.unsupported, given.expected_failures, given.deviations, reasons)
