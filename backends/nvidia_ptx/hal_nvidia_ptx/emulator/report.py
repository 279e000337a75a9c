"""What a run of a kernel found, what it ran, and how that is written: like a compiler's diagnostics, or as JSON.

A `Finding` is one fault of one kind at one line. `Findings` collects them while a kernel runs: the same fault of the
same line is kept once, with a count. A `Report` is the whole answer about one kernel: findings, which part of the grid
ran, how faithful the instructions were, counters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.places import Place, excerpt, place_of

__all__ = ["SHOWN", "Faithful", "Finding", "Findings", "Note", "Place", "Ran", "Report", "Thread", "brief", "excerpt"]
__all__ += ["place_of"]
Triple = tuple[int, int, int]

SHOWN = 4  # threads that a finding names one by one
LIMIT = 100  # different findings of one run; a kernel with more is not understood better by a longer list


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: its CTA's and its own index in x, y, z."""

    cta: Triple
    thread: Triple

    def __str__(self) -> str:
        return f"CTA {brief(self.cta)} thread {brief(self.thread)}"


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that belongs to a finding, such as the other access of a race, and what it is."""

    message: str
    place: Place


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. kind: a few words that a filter can use ("race", "out of bounds"); message: what happened there.

    threads: the first few that met it, of `thread_count`; address: as the kernel computed it, None where none is
    involved; expected: what would have been right; mode: the timing under which it was seen; count: how often.
    """

    kind: str
    message: str
    kernel: str
    place: Place
    threads: tuple[Thread, ...] = ()
    thread_count: int = 0
    address: int | None = None
    expected: str = ""
    notes: tuple[Note, ...] = ()
    mode: str = ""
    count: int = 1

    @property
    def line(self) -> int:
        return self.place.line

    def render(self, file: str = "<ptx>") -> str:
        """The finding as a compiler would print it, several lines."""
        lines = [f"{file}:{self.line}: error: {self.kind}: {self.message}", *excerpt(self.place)]
        lines.append(f"    kernel {self.kernel}{self._who()}{self._where()}{self._how_often()}")
        if self.expected:
            lines.append(f"    expected: {self.expected}")
        for note in self.notes:
            lines += [f"{file}:{note.place.line}: note: {note.message}", *excerpt(note.place)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "message": self.message,
            "kernel": self.kernel,
            **_place(self.place),
            "threads": [{"cta": t.cta, "thread": t.thread} for t in self.threads],
            "thread_count": self.thread_count,
            "address": self.address,
            "expected": self.expected,
            "notes": [{"message": note.message, **_place(note.place)} for note in self.notes],
            "mode": self.mode,
            "count": self.count,
        }

    def _who(self) -> str:
        more = self.thread_count - len(self.threads)
        named = "; ".join(map(str, self.threads))
        return (f", {named}" if named else "") + (f" and {more} more" if more > 0 and named else "")

    def _where(self) -> str:
        return "" if self.address is None else f", address {self.address:#x}"

    def _how_often(self) -> str:
        times = f", {self.count} times" if self.count > 1 else ""
        return times + (f", mode {self.mode}" if self.mode else "")


class Findings:
    """Collects the findings of one run; those of one kind, line and second line are one finding with a count."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._found: dict[tuple[Any, ...], Finding] = {}
        self._limit = limit

    def add(self, finding: Finding) -> None:
        key = (finding.kind, finding.line, tuple(note.place.line for note in finding.notes))
        old = self._found.get(key)
        if old is not None:
            self._found[key] = replace(old, count=old.count + finding.count)
        elif len(self._found) < self._limit:
            self._found[key] = finding

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, slots=True)
class Ran:
    """One execution of the kernel: under which timing, which CTAs of how many, and what it left out.

    stopped: "" where it came to its end, else why not. cut: lines of loops that `trips` ended early.
    """

    mode: str
    ctas: int
    grid: int
    stopped: str = ""
    cut: tuple[int, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        part = f"{self.ctas} CTAs" if self.ctas == self.grid else f"{self.ctas} of {self.grid} CTAs"
        cut = f", loops ended early at line {', '.join(map(str, self.cut))}" if self.cut else ""
        return f"{self.mode}: {part}{cut}{f', stopped: {self.stopped}' if self.stopped else ''}"


@dataclass(frozen=True, slots=True)
class Faithful:
    """How the instructions that ran were computed: bit for bit, within a bound of the hardware's, or not at all."""

    exact: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    unmodelled: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        kinds = (("exact", self.exact), ("approximate", self.approximate), ("unmodelled", self.unmodelled))
        return [f"{name}: {', '.join(names) or 'none'}" for name, names in kinds]


@dataclass(slots=True)
class Report:
    """All about one kernel of one file. outputs: the arrays of the arguments after the run, by parameter name."""

    file: str
    kernel: str
    target: str
    findings: list[Finding] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    faithful: Faithful = field(default_factory=Faithful)
    counters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 without findings, 1 with."""
        return 0 if self.clean else 1

    def kinds(self) -> list[tuple[str, int]]:
        """(kind, line) of every finding, each once, in order of lines."""
        return sorted({(finding.kind, finding.line) for finding in self.findings}, key=lambda pair: pair[::-1])

    def render(self) -> str:
        """The whole report for a terminal."""
        lines = [finding.render(self.file) for finding in self.findings]
        many = len(self.findings)
        verdict = "no findings" if not many else f"{many} finding{'s' if many > 1 else ''}"
        lines.append(f"{self.file}: kernel {self.kernel} for {self.target}: {verdict}")
        lines += [f"  ran {each}" for each in self.ran]
        lines += [f"  {line}" for line in self.faithful.lines()]
        lines += [f"  {line}" for line in render_counters(self.counters)]
        return "\n".join(lines)

    __str__ = render

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "kernel": self.kernel,
            "target": self.target,
            "findings": [finding.to_json() for finding in self.findings],
            "ran": [
                {"mode": r.mode, "ctas": r.ctas, "grid": r.grid, "stopped": r.stopped, "loops_cut": r.cut}
                for r in self.ran
            ],
            "exact": self.faithful.exact,
            "approximate": self.faithful.approximate,
            "unmodelled": self.faithful.unmodelled,
            "counters": self.counters,
        }


def brief(index: Sequence[int]) -> str:
    """An index with the trailing zeros of y and z left out: 3, (3,1), (3,0,2)."""
    parts = list(index)
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return str(parts[0]) if len(parts) == 1 else f"({','.join(map(str, parts))})"


def render_counters(counters: Mapping[str, Any]) -> list[str]:
    """Counters as lines `name: value`; a nested table in one line."""
    lines = []
    for name, value in counters.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {_number(each)}" for key, each in value.items())
        lines.append(f"{name}: {_number(value)}")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _place(place: Place) -> dict[str, Any]:
    return {"line": place.line, "text": place.text.strip(), "comment": place.comment, "source": place.source}
