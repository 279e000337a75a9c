"""The report as one page: everything in it, from the JSON document alone; no script, nothing from a network."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

Document = dict[str, Any]

LAYOUTS = ("contiguous", "padded", "strided", "reversed", "broadcast", "")
GOOD = ("passed", "expected")
FAILURES = 100  # written out; JSON has all of them
DECADES = (-4, 1)  # of the error plot's axis: 1e-4 … 10 bounds


def render(report: Document) -> str:
    """The page."""
    device, title = report["device"], f"{report['device']['name']}: {report['verdict']}"
    style = files("hal.conformance").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(
        (
            header(report),
            section("Milestones", milestones(report["milestones"])),
            section("Operators, dtypes, layouts", matrix(report["cases"])),
            section("Errors in units of the bound", errors(report["cases"])),
            section("Speed beside NumPy on the same machine", speeds(report["speed"])),
            section("What is declared", declared(report)),
            section("What this does not show", listing(notes) if (notes := report.get("notes", [])) else ""),
            section("Failures", failures(report["cases"])),
            section("Environment", environment(report)),
        )
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<footer>hal conformance, level {escape(report['level'])}, of {escape(device['description'])}</footer>\n"
        "</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """A section, or nothing where there is nothing to say."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def kind_of(verdict: str) -> str:
    """The verdict as a class: pass, fail, or neither."""
    return "fail" if verdict == "FAILS" else "pass" if verdict.startswith("passes") else "neither"


def header(report: Document) -> str:
    """Device, verdict, counts."""
    device, counts = report["device"], report["counts"]
    numbers = "".join(
        f'<li class="{status}"><b>{counts[status]:,}</b> {label}</li>'
        for status, label in (
            ("passed", "passed"),
            ("failed", "failed"),
            ("expected", "failed as declared"),
            ("skipped", "skipped"),
        )
        if counts.get(status)
    )
    return (
        f'<header class="{kind_of(report["verdict"])}">\n<p class="device">{escape(device["name"])}</p>\n'
        f"<h1>{escape(report['verdict'])}</h1>\n<p>{escape(device['description'])}, level {escape(report['level'])}, "
        f"{report['seconds']:.1f} s</p>\n<ul>{numbers}</ul>\n</header>"
    )


def milestones(steps: Sequence[Document]) -> str:
    """A bar each."""
    rows = []
    for step in steps:
        share = step["passed"] / step["total"] if step["total"] else 0.0
        state = "done" if step["done"] else "open" if step["total"] else "none"
        count = f"{step['passed']:,} of {step['total']:,}" if step["total"] else "nothing to judge"
        rows.append(
            f'<li class="{state}"><span>{step["key"]}</span> <span>{escape(step["title"])}</span>'
            f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span><span>{count}</span></li>'
        )
    return f'<ol class="milestones">{"".join(rows)}</ol>' if rows else ""


def matrix(cases: Sequence[Document]) -> str:
    """A row for each operator and dtype, a column for each layout."""
    cells: dict[tuple[str, str], dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for case in cases:
        cells[case["operator"], case["dtype"]][case["layout"]][case["status"]] += 1
    used = [layout for layout in LAYOUTS if any(layout in row for row in cells.values())]
    head = "".join(f"<th>{layout or 'other'}</th>" for layout in used)
    rows = "".join(
        f"<tr><th>{escape(operator)}</th><th>{escape(dtype)}</th>{''.join(cell(row.get(name)) for name in used)}</tr>"
        for (operator, dtype), row in cells.items()
    )
    return f'<div class="wide"><table class="matrix"><tr><th></th><th></th>{head}</tr>{rows}</table></div>'


def cell(counts: Counter[str] | None) -> str:
    """How many of its cases passed."""
    if not counts:
        return "<td></td>"
    total, failed, skipped = counts.total(), counts["failed"], counts["skipped"]
    state = "fail" if failed else "skip" if skipped == total else "pass"
    text = f"{failed} of {total}" if failed else "not run" if skipped == total else str(total)
    title = ", ".join(f"{n} {status}" for status, n in counts.items())
    return f'<td class="{state}" title="{title}">{text}</td>'


# ---- plots


def errors(cases: Sequence[Document]) -> str:
    """A line for each operator and dtype: each case a dot at its largest error, on a logarithmic axis to the bound."""
    groups: dict[tuple[str, str], list[Document]] = defaultdict(list)
    for case in cases:
        if case["operator"] != "device" and case["status"] in ("passed", "failed", "expected"):
            groups[case["operator"], case["dtype"]].append(case)
    if not groups:
        return ""
    left, width, step = 150, 720, 22
    height = step * len(groups) + 30
    low, high = DECADES

    def x(ratio: float) -> float:
        place = (math.log10(max(ratio, 10.0**low)) - low) / (high - low)
        return left + (width - left - 20) * min(place, 1.0)

    parts = [
        f'<line x1="{x(10.0**d):.1f}" x2="{x(10.0**d):.1f}" y1="0" y2="{height - 24}" '
        f'class="{"bound" if not d else "grid"}"/>'
        f'<text x="{x(10.0**d):.1f}" y="{height - 8}" text-anchor="middle">{label}</text>'
        for d, label in zip(range(low, high + 1), ("≤ 0.0001", "0.001", "0.01", "0.1", "bound", "10"), strict=True)
    ]
    for i, ((operator, dtype), members) in enumerate(groups.items()):
        y = step * i + 14
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(operator)} {escape(dtype)}</text>')
        seen = {(round(x(ratio_of(c))), c["status"] == "failed") for c in members}
        parts += [
            f'<circle cx="{cx}" cy="{y}" r="3.2" class="{"bad" if bad else "good"}"/>' for cx, bad in sorted(seen)
        ]
    return (
        "<p>Each dot is a case at its largest error. Left of the line is right; there is no other tolerance.</p>\n"
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg></div>'
    )


def ratio_of(case: Document) -> float:
    """Its error in units of the bound; null in JSON is what is not finite."""
    return 10.0 ** DECADES[1] if case["ratio"] is None else float(case["ratio"])


def speeds(figures: Sequence[Document]) -> str:
    """A bar for each operator: times NumPy's speed."""
    if not figures:
        return ""
    ratios = [figure["numpy"] / figure["device"] for figure in figures]
    left, width, step = 190, 720, 30
    scale = (width - left - 150) / max(*ratios, 1.0)
    parts = []
    for i, (figure, ratio) in enumerate(zip(figures, ratios, strict=True)):
        y, rate = step * i + 6, figure["amount"] / figure["device"]
        text = f"{ratio:.2f} x NumPy, {rate:.0f} {figure['unit']}"
        parts.append(
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(figure["what"])}</text>'
            f'<rect x="{left}" y="{y}" width="{scale * ratio:.1f}" height="18"/>'
            f'<text x="{left + scale * ratio + 8:.1f}" y="{y + 14}">{escape(text)}</text>'
        )
    one = left + scale
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{step * len(figures)}" class="bound"/>')
    box = f"0 0 {width} {step * len(figures) + 6}"
    return f'<div class="wide"><svg viewBox="{box}" role="img">{"".join(parts)}</svg></div>'


# ---- lists


def declared(report: Document) -> str:
    """What is simulated, skipped, expected to fail, or allowed more, and why."""
    items: list[str] = []
    if report["simulated"]:
        items.append(f"simulated in host memory, so that nothing passes: {', '.join(report['simulated'])}")
    for status, word in (("skipped", "not run"), ("expected", "failed as declared")):
        reasons = Counter(case["reason"] for case in report["cases"] if case["status"] == status)
        items += [f"{count} {word}: {reason}" for reason, count in reasons.items()]
    items += [f"wider bound for {entry['cases']}: {entry['reason']}" for entry in report["deviations"]]
    return listing(items) if items else "<p>Nothing: every case was run and held to the bound.</p>"


def listing(items: Iterable[str]) -> str:
    """As a list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def failures(cases: Sequence[Document]) -> str:
    """Each with its reason and the lines that run it alone."""
    failed = [case for case in cases if case["status"] == "failed"]
    shown = "".join(
        f"<details><summary>{escape(case['name'])}</summary><p>{escape(case['reason'])}</p>"
        f"<pre>{escape(case.get('reproduction', ''))}</pre></details>"
        for case in failed[:FAILURES]
    )
    more = f"<p>… and {len(failed) - FAILURES} more, in the JSON report.</p>" if len(failed) > FAILURES else ""
    return shown + more


def environment(report: Document) -> str:
    """Device and machine, as a table."""
    device = report["device"]
    facts = {
        "device": device["description"],
        "vendor": device["vendor"],
        "dtypes": ", ".join(device["dtypes"]),
        **{key: str(value) for key, value in device["props"].items() if value not in ("", [], None)},
        **report["environment"],
    }
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items() if value)
    return f'<div class="wide"><table class="facts">{rows}</table></div>'
