"""Profile: what the maker of a device declares of it, each entry with a reason.

    [[unsupported]]            # the device cannot compute these for good: they are not run
    cases = "*/float64/*"
    reason = "the chip has no 64-bit floating point"

    [[expected_failures]]      # run, and should pass one day: one that passes is a failure
    cases = "softmax/float16/mask-*"
    reason = "ticket 17: the additive mask is rounded to float16"

    [[deviations]]             # a wider bound; the verdict then reads "passes with declared deviations"
    flush = true               # or ulp_exp = 4, ulp_log = 3
    reason = "no subnormals in hardware"

`cases` is a pattern with wildcards over the names of cases, and in deviations may be left out: all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hal.bound import STRICT, Allowance
from hal.conformance.cases import every, matches
from hal.conformance.contract import CHECKS
from hal.errors import OptionError

LISTS = ("unsupported", "expected_failures", "deviations")
_PROPERTIES: dict[str, type] = {"flush": bool, "ulp_exp": float, "ulp_log": float}


@dataclass(frozen=True)
class Entry:
    """Cases and why they are special. `allowance`: of a deviation, what it allows."""

    cases: str
    reason: str
    allowance: Allowance = STRICT

    def covers(self, name: str) -> bool:
        """Whether the entry is about the case of this name."""
        return matches(name, self.cases)


@dataclass(frozen=True)
class Profile:
    """The three lists."""

    unsupported: tuple[Entry, ...] = ()
    expected_failures: tuple[Entry, ...] = ()
    deviations: tuple[Entry, ...] = ()

    def why_unsupported(self, name: str) -> str:
        """The reason why a case is not run, or empty."""
        return next((entry.reason for entry in self.unsupported if entry.covers(name)), "")

    def why_expected(self, name: str) -> str:
        """The reason why a case is expected to fail, or empty."""
        return next((entry.reason for entry in self.expected_failures if entry.covers(name)), "")

    def allowance(self, name: str) -> Allowance:
        """What the deviations that cover a case allow it, together."""
        mine = [entry.allowance for entry in self.deviations if entry.covers(name)]
        if not mine:
            return STRICT
        return Allowance(any(a.flush for a in mine), max(a.ulp_exp for a in mine), max(a.ulp_log for a in mine))


def read(path: Path) -> Profile:
    """The profile in a TOML file. Raises OptionError that says what is wrong with it, OSError if it cannot be read."""
    try:
        import tomllib as toml
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as toml  # type: ignore[no-redef, unused-ignore, import-not-found]
        except ModuleNotFoundError:
            raise OptionError(
                "reading a profile takes Python 3.11 or newer, or the package tomli, which hal's extra `conformance` "
                "brings: pip install tomli"
            ) from None
    try:
        tables = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"profile {path} is not TOML: {error}") from error
    if unknown := sorted(tables.keys() - set(LISTS)):
        raise OptionError(f"profile {path}: no list {', '.join(unknown)}; known: {', '.join(LISTS)}")
    lists = {}
    for kind in LISTS:
        entries = tables.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise OptionError(f"profile {path}: write the entries as [[{kind}]]")
        lists[kind] = tuple(_entry(f"profile {path}: [[{kind}]] {i + 1}", kind, e) for i, e in enumerate(entries))
    return Profile(**lists)


def _entry(where: str, kind: str, table: Mapping[str, Any]) -> Entry:
    allowed = {"cases", "reason", *(_PROPERTIES if kind == "deviations" else ())}
    if unknown := sorted(table.keys() - allowed):
        raise OptionError(f"{where}: no key {', '.join(unknown)}; known: {', '.join(sorted(allowed))}")
    cases = table.get("cases", "*" if kind == "deviations" else None)
    if not isinstance(cases, str):
        raise OptionError(f'{where} needs cases = "a pattern over the names of cases"')
    if not isinstance(table.get("reason"), str) or not table["reason"].strip():
        raise OptionError(f'{where} needs reason = "why"')
    names = [check.name for check in CHECKS] + [case.name for case in every()]
    if not any(matches(name, cases) for name in names):
        raise OptionError(f"{where}: no case matches {cases!r}")
    return Entry(cases, table["reason"], _allowance(where, table) if kind == "deviations" else STRICT)


def _allowance(where: str, table: Mapping[str, Any]) -> Allowance:
    given = {key: value for key, value in table.items() if key in _PROPERTIES}
    if not given:
        raise OptionError(f"{where} needs one of {', '.join(_PROPERTIES)}")
    for key, value in given.items():
        wanted = _PROPERTIES[key]
        good = isinstance(value, bool) if wanted is bool else type(value) in (int, float) and 2 <= value <= 2**20
        if not good:
            raise OptionError(
                f"{where}: {key} is {value!r}; wanted {'true or false' if wanted is bool else '2 or more'}"
            )
    return Allowance(**given)
