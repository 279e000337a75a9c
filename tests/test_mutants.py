"""The suite is judged: a device with one planted fault fails it.

For each mutant a table in tests/mutants names cases that catch it, so that a case that is weakened until it no longer
does is noticed; another test runs every mutant against the whole level until a case catches it. Devices that break the
contract's other rules are in tests/test_conformance_contract.py; tests/test_conformance_lawful.py has the other side.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mutants import MUTANTS
from mutants.mutant import right

from hal.conformance import run_case, select
from hal.conformance.subject import Subject
from hal.ops import OPERATORS
from hal.registry import open_device

RAISES = ("raises for empty results",)  # every other fault is one of values: no mutant fails by its own mistake


def test_there_are_enough_over_all_operators() -> None:
    assert len(MUTANTS) >= 60
    assert {operator for mutant in MUTANTS.values() for operator in mutant.operators} == set(OPERATORS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    device = mutant.device()
    smoke = {case.name: case for case in select("smoke", mutant.operators)}
    for case in mutant.caught_by:
        result = run_case(device, smoke[case])
        assert result.status == "failed", case
        assert name in RAISES or not re.match(r"[A-Z]\w+(Error|Exception): ", result.message), result.message


def test_the_reference_itself_passes() -> None:
    device = Subject(right)
    assert [c.name for c in select("smoke") if run_case(device, c).status != "passed"] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_it_is_caught_without_being_told_by_which_case(name: str) -> None:
    mutant = MUTANTS[name]
    device = mutant.device()
    assert any(run_case(device, case).status == "failed" for case in select("smoke", mutant.operators))


def test_the_mutants_are_of_the_reference() -> None:
    """What is mutated is what is shipped."""
    case = select("smoke", ["softmax"], "softmax/float32/size/5x7")[0]
    assert run_case(open_device("cpu"), case).status == run_case(Subject(right), case).status == "passed"


def test_the_page_on_acceptance_rules_has_the_recorded_figures() -> None:
    """docs/acceptance_rules.md is written from bench/results/acceptance_rules.json, which has today's faults."""
    root = Path(__file__).resolve().parent.parent
    recorded = json.loads((root / "bench/results/acceptance_rules.json").read_text(encoding="utf-8"))
    page = (root / "docs/acceptance_rules.md").read_text(encoding="utf-8")
    assert recorded["faults"] == len([name for name in MUTANTS if "int8" not in name])
    for name, row in recorded["rules"].items():
        counts = [len(row[key]) for key in ("missed", "missed_with_hals_data", "accused")]
        assert f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} |" in page
    assert recorded["rules"]["hal"]["missed"] == recorded["rules"]["hal"]["accused"] == []
