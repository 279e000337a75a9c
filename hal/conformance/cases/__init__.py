"""The list of cases: one module for each family of operators."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from functools import lru_cache

from hal.conformance.case import LEVELS, Case
from hal.conformance.cases import matmul, norms, softmax
from hal.errors import OptionError
from hal.ops import OPERATORS


@lru_cache(maxsize=1)
def every() -> tuple[Case, ...]:
    """All cases of all levels, in the order of the operators. The names are unique."""
    return (*matmul.cases(), *softmax.cases(), *norms.cases())


def select(level: str = "smoke", operators: Collection[str] = (), pattern: str = "") -> list[Case]:
    """The cases of a level (a higher one has those of the lower), of some operators (none: all), and whose name has
    `pattern` in it (or matches it, where it has wildcards)."""
    if level not in LEVELS:
        raise OptionError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    if unknown := sorted(set(operators) - OPERATORS.keys()):
        raise OptionError(f"no operator {', '.join(unknown)}; known: {', '.join(OPERATORS)}")
    allowed = LEVELS[: LEVELS.index(level) + 1]
    return [
        case
        for case in every()
        if case.level in allowed and (not operators or case.operator in operators) and matches(case.name, pattern)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether a case's name has `pattern` in it, or matches it where it has one of * ? [."""
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name
