"""What a judgement leaves behind: milestones, the page, the comparison of two reports, the verdict SIMULATED."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hal.cli import main
from hal.conformance import page
from hal.conformance.compare import compare
from hal.conformance.milestones import following, milestones, reproduction
from hal.conformance.profile import Profile
from hal.conformance.report import Report
from hal.conformance.runner import Result
from hal.conformance.session import Outcome
from hal.device import DeviceInfo


def outcome(name: str, status: str = "passed", ratio: float = 0.1) -> Outcome:
    operator, dtype = name.split("/")[:2]
    reason = f"{name} is off" if status == "failed" else ""
    return Outcome(Result(name, operator, dtype, "passed", ratio), status, reason)


def report(*outcomes: Outcome, props: dict[str, Any] | None = None) -> Report:
    info = DeviceInfo("Acme <One>", frozenset(("float32", "float16")), 1 << 30, props=props or {})
    return Report("acme:0", info, "smoke", Profile(), list(outcomes), 1.5)


ALL = [
    "device/memory/sizes",
    "matmul/float32/size/1x1x1",
    "softmax/float32/two-threads/7",
    "rmsnorm/float32/bare",
    "rmsnorm/float16/bare",
]

# ---- milestones


def test_every_outcome_counts_for_one_step() -> None:
    steps = milestones([outcome(name) for name in ALL])
    assert [(step.key, step.passed, step.total, step.done) for step in steps] == [
        ("M1", 1, 1, True),
        ("M2", 1, 1, True),
        ("M3", 1, 1, True),
        ("M4", 1, 1, True),
        ("M5", 1, 1, True),
    ]
    assert following(steps) is None


def test_next_is_the_first_failure_of_the_first_step_that_has_one() -> None:
    steps = milestones([outcome("rmsnorm/float16/bare", "failed"), outcome("matmul/float32/size/1x1x1", "failed")])
    failure = following(steps)
    assert failure is not None and failure.result.name == "matmul/float32/size/1x1x1"


def test_a_step_of_which_nothing_ran_is_not_done() -> None:
    steps = milestones([outcome("matmul/float32/size/1x1x1", "skipped")])
    assert not any(step.done for step in steps) and "nothing to judge" in steps[1].bar()


def test_a_device_without_float32_starts_with_another_dtype() -> None:
    steps = {step.key: step.total for step in milestones([outcome("matmul/float16/size/1x1x1")])}
    assert (steps["M2"], steps["M5"]) == (1, 0)


def test_bars_show_the_share() -> None:
    names = [f"matmul/float32/size/{i}x1x1" for i in range(4)]
    (step,) = [
        step for step in milestones([outcome(n, "failed" if n == names[0] else "passed") for n in names]) if step.total
    ]
    assert "[##################------] 3 of 4" in step.bar()


@pytest.mark.parametrize("name", ["device/memory/sizes", "softmax/float32/peaks/2560"])
def test_the_reproduction_runs(name: str) -> None:
    text = reproduction("cpu", name)
    assert len(text.splitlines()) <= 5
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_draws_them_and_measures_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "cpu", "-k", "softmax/float32/size", "--milestones"]) == 0
    printed = capsys.readouterr().out
    assert "M3 softmax, norms" in printed and "M6 speed" in printed and "x NumPy" in printed


# ---- SIMULATED


def test_a_simulated_part_is_never_a_pass() -> None:
    simulated = report(*map(outcome, ALL), props={"simulated": ("load", "launch"), "functions": 12})
    assert (simulated.verdict, simulated.exit_code) == ("SIMULATED (10 of 12 functions yours)", 3)
    assert simulated.to_json()["simulated"] == ["load", "launch"]


def test_a_failure_is_one_even_if_parts_are_simulated() -> None:
    failing = report(outcome(ALL[0], "failed"), props={"simulated": ("load",), "functions": 12})
    assert (failing.verdict, failing.exit_code) == ("FAILS", 1)


# ---- the page

VOID = {"meta", "line", "circle", "rect", "link", "br"}


class Checker(HTMLParser):
    """Every element is closed, and nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script" and not {"src", "href", "onclick"} & {name for name, _ in attrs}
        assert not any(value and value.endswith("/") for _, value in attrs), "an unquoted value takes the slash of />"
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shown(document: Report) -> str:
    """The text of the page."""
    checker = Checker()
    checker.feed(page.render(json.loads(json.dumps(document.to_json()))))
    assert not checker.stack
    return " ".join(checker.text)


def documents() -> list[Report]:
    return [
        report(),
        report(*map(outcome, ALL)),
        report(outcome(ALL[1], "failed", float("inf")), outcome(ALL[2], "expected"), outcome(ALL[3], "skipped")),
        report(*map(outcome, ALL), props={"simulated": ("load",), "functions": 12}),
    ]


@pytest.mark.parametrize("document", documents(), ids=["empty", "good", "bad", "simulated"])
def test_the_page_is_whole_and_says_the_verdict(document: Report) -> None:
    text = shown(document)
    assert document.verdict in text and "Acme <One>" in text


def test_the_page_has_every_failure_with_its_reproduction() -> None:
    text = shown(report(*(outcome(name, "failed") for name in ALL)))
    for name in ALL:
        assert f"{name} is off" in text and reproduction("acme:0", name) in text


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    assert main(["conformance", "cpu", "-k", "softmax/float32/peaks", "--html", str(file)]) == 0
    assert "float32" in file.read_text(encoding="utf-8")
    assert main(["conformance", "cpu", "-k", "peaks", "--html", str(tmp_path / "no" / "report.html")]) == 2
    assert "--html" in capsys.readouterr().err


# ---- two reports


def changes(old: list[Outcome], new: list[Outcome]) -> Any:
    return compare(report(*old).to_json(), report(*new).to_json())


def test_what_became_worse_and_better_is_named() -> None:
    found = changes(
        [outcome(ALL[0]), outcome(ALL[1], "failed"), outcome(ALL[2]), outcome(ALL[3])],
        [outcome(ALL[0], "failed"), outcome(ALL[1]), outcome(ALL[2], "skipped"), outcome(ALL[3]), outcome(ALL[4])],
    )
    assert (found.failing, found.mended, found.lost, found.added) == ((ALL[0],), (ALL[1],), (ALL[2],), (ALL[4],))
    assert found.worse and f"  {ALL[0]}" in list(found.lines())


def test_the_same_report_twice_is_no_change() -> None:
    found = changes([outcome(name) for name in ALL], [outcome(name) for name in ALL])
    assert not found.worse and list(found.lines())[-1] == "no case changed"


def test_an_error_that_grew_is_shown_and_is_no_failure() -> None:
    found = changes([outcome(ALL[1], ratio=0.2)], [outcome(ALL[1], ratio=0.9)])
    assert found.errors == (("matmul", "float32", 0.2, 0.9),) and not found.worse


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, none = (tmp_path / name for name in ("good.json", "bad.json", "none.json"))
    good.write_text(json.dumps(report(outcome(ALL[1])).to_json()))
    bad.write_text(json.dumps(report(outcome(ALL[1], "failed")).to_json()))
    none.write_text("[]")
    assert main(["conformance", "--compare", str(good), str(good)]) == 0
    assert main(["conformance", "--compare", str(good), str(bad)]) == 1
    assert main(["conformance", "--compare", str(good), str(none)]) == 2
    assert "is no report" in capsys.readouterr().err
