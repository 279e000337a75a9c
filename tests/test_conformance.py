"""The suite's own machinery: cases, images in memory, the runner, profiles, the report, the command, isolation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.bound import Allowance
from hal.conformance import Case, Result, command, isolate, profile, run_case, select
from hal.conformance.case import make_op
from hal.conformance.cases import every
from hal.conformance.layout import ALIGNED, OF_INPUTS, OF_OUTPUTS, lay_out
from hal.conformance.memory import GUARD, NAN_FILL, Image
from hal.conformance.profile import Entry, Profile
from hal.conformance.report import Report
from hal.conformance.repro import check_op, check_shared
from hal.conformance.session import Outcome, judged, outcomes, run_here
from hal.conformance.subject import Subject
from hal.dtypes import DTYPES
from hal.errors import DeviceError, OptionError, UnsupportedError
from hal.op import Op
from hal.ops import OPERATORS
from hal_cpu_reference.operators import COMPUTE

Arrays = Sequence[NDArray[Any]]


def right(op: Op, inputs: Arrays) -> list[NDArray[Any]]:
    return COMPUTE[op.name](op, inputs)


def one(name: str) -> Case:
    """The case of that name."""
    return next(case for case in every() if case.name == name)


# ---- cases


def test_names_are_unique_and_say_operator_and_dtype() -> None:
    names = [case.name for case in every()]
    assert len(set(names)) == len(names)
    assert all(case.name.startswith(f"{case.operator}/{case.dtype}/") for case in every())


def test_every_op_is_one_that_the_rules_would_build() -> None:
    for case in every():
        check_op(case.op)
        check_shared(case.op, case.shared)


def test_smoke_is_part_of_full_and_has_every_operator_in_every_dtype() -> None:
    smoke, full = select("smoke"), select("full")
    assert {case.name for case in smoke} < {case.name for case in full}
    floats = {(name, dtype) for name in OPERATORS for dtype in ("float64", "float32", "float16", "bfloat16")}
    assert {(case.operator, case.dtype) for case in smoke} == floats | {("matmul", "int8")}


def test_data_are_a_function_of_name_and_seed() -> None:
    case = one("layernorm/bfloat16/residual/statistics")
    first, again, other = case.inputs(), case.inputs(), case.inputs(seed=1)
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.data, b.data)
        assert not np.array_equal(a.data, c.data)


def test_select_by_operator_and_pattern() -> None:
    assert {case.operator for case in select("smoke", ["softmax"])} == {"softmax"}
    assert all("/peaks/" in case.name for case in select("full", pattern="/peaks/"))
    assert [case.name for case in select("full", pattern="softmax/float32/size/5x?")] == [
        f"softmax/float32/size/5x{n}" for n in (1, 2, 3, 7, 8)
    ]


def test_select_refuses_what_there_is_not() -> None:
    with pytest.raises(OptionError, match="level 'quick' is not one of smoke, full"):
        select("quick")
    with pytest.raises(OptionError, match="no operator conv; known: matmul, softmax"):
        select("smoke", ["conv"])
    with pytest.raises(TypeError, match="softmax has no option eps"):
        make_op("softmax", {"x": lay_out("contiguous", "float32", (3,))}, eps=1.0)


# ---- memory


@pytest.mark.parametrize("layout", OF_INPUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 3, 5), (0, 5), (1, 1)])
def test_an_image_holds_its_operand_between_guards(layout: str, dtype: str, shape: tuple[int, ...]) -> None:
    spec = lay_out(layout, dtype, shape)
    image = Image.blank(spec, NAN_FILL)
    low, high = (image.start + n * spec.itemsize for n in spec.extent())
    assert low >= GUARD and high + GUARD <= len(image.data)
    # The address is a multiple of what the spec promises, and no more, so that no kernel is lucky.
    assert image.start % spec.align == 0
    assert spec.align == ALIGNED or image.start % (2 * spec.align) != 0
    values = np.arange(spec.size).reshape(shape) % 2
    image.elements[...] = values
    if layout in OF_OUTPUTS:
        assert np.array_equal(image.elements.astype(np.int64), values)


@pytest.mark.parametrize(("layout", "at", "where"), [
    ("contiguous", -1, "before the first element"),
    ("contiguous", 60, "behind the last"),
    ("padded", 20, "in a gap"),
    ("sliced", 4, "in a gap"),
])  # fmt: skip
def test_a_byte_outside_the_elements_is_noticed(layout: str, at: int, where: str) -> None:
    image = Image.blank(lay_out(layout, "float32", (3, 5)), NAN_FILL)
    other = Image(image.spec, image.data.copy(), image.start)
    other.elements[...] = 1.0
    assert other.surroundings_equal(image) == ""
    other.data[image.start + at] ^= 1
    assert where in other.surroundings_equal(image)


# ---- runner


def test_a_right_device_passes() -> None:
    result = run_case(Subject(right), one("softmax/float32/peaks/257"))
    assert (result.status, result.message, result.ratio) == ("passed", "", 0.0)


def test_whatever_a_device_raises_fails_its_case() -> None:
    def broken(op: Op, inputs: Arrays) -> Arrays:
        raise MemoryError("no memory")

    result = run_case(Subject(broken), one("softmax/float32/peaks/257"))
    assert (result.status, result.message) == ("failed", "MemoryError: no memory")


def test_unsupported_is_told_apart_from_failure() -> None:
    result = run_case(Subject(right, dtypes=frozenset(("float32",))), one("matmul/int8/edge/extremes"))
    assert result.status == "unsupported"


def test_a_result_of_another_seed_is_judged_by_its_own_data() -> None:
    for seed in range(3):
        assert run_case(Subject(right), one("matmul/float16/cancelling/258"), seed=seed).status == "passed"


def test_flushing_passes_only_if_it_is_declared() -> None:
    def flushing(op: Op, inputs: Arrays) -> Arrays:
        return [np.where(np.abs(y) < 2.0**-126, np.float32(0), y) for y in right(op, inputs)]

    case = one("matmul/float32/edge/subnormal-results")
    assert run_case(Subject(flushing), case).status == "failed"
    assert run_case(Subject(flushing), case, allow=Allowance(flush=True)).status == "passed"


# ---- what a result means


FLOAT32 = frozenset(("float32",))
PASSED = Result("matmul/float32/a", "matmul", "float32", "passed")
FAILED = replace(PASSED, status="failed", message="wrong")
UNSUPPORTED = replace(PASSED, status="unsupported", message="no kernel")
EXPECTS = Profile(expected_failures=(Entry("*/a", "known"),))


@pytest.mark.parametrize(("result", "declared", "status", "reason"), [
    (PASSED, Profile(), "passed", ""),
    (FAILED, Profile(), "failed", "wrong"),
    (FAILED, EXPECTS, "expected", "known"),
    (PASSED, EXPECTS, "failed", "passes, but the profile expects a failure (known): remove the entry"),
    (UNSUPPORTED, Profile(), "failed", "not declared as unsupported: no kernel"),
    (UNSUPPORTED, EXPECTS, "expected", "known"),
    (replace(UNSUPPORTED, dtype="float64"), Profile(), "skipped", "the device does not list float64"),
    (replace(FAILED, dtype="float64"), Profile(), "failed", "wrong"),
])  # fmt: skip
def test_what_a_result_means(result: Result, declared: Profile, status: str, reason: str) -> None:
    assert judged(result, FLOAT32, declared) == Outcome(result, status, reason)


def test_a_case_declared_unsupported_is_not_run() -> None:
    def explodes(op: Op, inputs: Arrays) -> Arrays:
        raise AssertionError("it was run")

    cases = select("smoke", ["rmsnorm"], "float32/eps")
    declared = Profile(unsupported=(Entry("rmsnorm/*", "no such unit"),))
    found = list(outcomes(cases, FLOAT32, declared, run_here(Subject(explodes))))
    assert {(o.status, o.reason) for o in found} == {("skipped", "no such unit")}
    assert [o.result.name for o in found] == [case.name for case in cases]


# ---- profiles

toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")

GOOD = """
[[unsupported]]
cases = "*/float64/*"
reason = "no 64-bit unit"
[[expected_failures]]
cases = "softmax/float16/mask-float16/*"
reason = "ticket 17"
[[deviations]]
flush = true
reason = "no subnormals"
[[deviations]]
cases = "softmax/*"
ulp_exp = 4
reason = "a table of 64 entries"
"""


@toml
def test_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(GOOD)
    read = profile.read(path)
    assert read.why_unsupported("matmul/float64/shape/1x1x1") == "no 64-bit unit"
    assert read.why_unsupported("matmul/float32/shape/1x1x1") == ""
    assert read.why_expected("softmax/float16/mask-float16/full") == "ticket 17"
    assert read.allowance("matmul/float32/shape/1x1x1") == Allowance(flush=True)
    assert read.allowance("softmax/float32/bare") == Allowance(flush=True, ulp_exp=4)


@toml
@pytest.mark.parametrize(("text", "message"), [
    ("[[unsupported", "is not TOML"),
    ("[[skip]]\ncases='*'\nreason='x'", "no list skip; known: unsupported"),
    ("[unsupported]\ncases='*'", r"write the entries as \[\[unsupported\]\]"),
    ("[[unsupported]]\ncases='*'", "needs reason"),
    ("[[unsupported]]\ncases='*'\nreason=' '", "needs reason"),
    ("[[unsupported]]\nreason='x'", "needs cases"),
    ("[[unsupported]]\ncases='conv/*'\nreason='x'", "no case matches 'conv/\\*'"),
    ("[[unsupported]]\ncases='*'\nreason='x'\nflush=true", "no key flush"),
    ("[[deviations]]\nreason='x'", "needs one of flush, ulp_exp, ulp_log"),
    ("[[deviations]]\nreason='x'\nflush=1", "flush is 1; wanted true or false"),
    ("[[deviations]]\nreason='x'\nulp_exp=1", "ulp_exp is 1; wanted 2 or more"),
    ("[[deviations]]\nreason='x'\natol=0.1", "no key atol"),
])  # fmt: skip
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        profile.read(path)


# ---- the report


def report(*found: Outcome, declared: Profile = Profile()) -> Report:  # noqa: B008
    return Report("acme:0", Subject(right).info, "smoke", declared, list(found), 1.5)


def test_verdicts_and_exit_codes() -> None:
    deviating = Profile(deviations=(Entry("*", "flushes", Allowance(flush=True)),))
    passed, failed = Outcome(PASSED, "passed"), Outcome(FAILED, "failed", "wrong")
    for made, verdict, code in (
        (report(passed), "passes", 0),
        (report(passed, failed), "FAILS", 1),
        (report(passed, declared=deviating), "passes with declared deviations", 0),
        (report(passed, Outcome(FAILED, "expected", "known")), "passes with declared deviations", 0),
        (report(Outcome(UNSUPPORTED, "skipped", "none")), "FAILS", 1),
        (report(), "FAILS", 1),
    ):
        assert (made.verdict, made.exit_code) == (verdict, code)


def test_the_table_counts_by_operator_and_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    worse = Outcome(replace(PASSED, ratio=0.5), "passed")
    skipped = Outcome(replace(UNSUPPORTED, dtype="float64"), "skipped", "not\x1b[2J there")
    report(Outcome(PASSED, "passed"), worse, skipped, Outcome(FAILED, "failed", "wrong")).write(sys.stdout)
    text = capsys.readouterr().out
    assert "matmul    float32      3        0.500       1" in text
    assert "matmul    float64      1            -                1" in text
    assert "FAILED matmul/float32/a: wrong" in text
    assert "\x1b" not in text
    assert "acme:0 (subject) FAILS: 4 cases of level smoke in 1.5 s; 2 passed, 1 failed, 1 skipped" in text


def test_json_is_json_whatever_the_ratio() -> None:
    made = report(Outcome(replace(FAILED, ratio=float("inf")), "failed", "wrong"))
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert document["verdict"] == "FAILS"
    assert document["cases"][0]["ratio"] is None
    assert document["environment"]["numpy"] == np.__version__


def test_properties_of_a_device_are_plain_values() -> None:
    made = report()
    made.info = replace(
        made.info, props={"extensions": ("a", "b"), "clock": 1.5, "odd": float("nan"), "path": Path("x")}
    )
    props = json.loads(json.dumps(made.to_json(), allow_nan=False))["device"]["props"]
    assert props == {"extensions": ["a", "b"], "clock": 1.5, "odd": "nan", "path": "x"}


# ---- the command


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_the_command_on_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    assert run_command("cpu", "--ops", "rmsnorm,softmax", "-k", "float32/s", "--json", str(target)) == 0
    assert "cpu (cpu) passes" in capsys.readouterr().out
    assert json.loads(target.read_text())["verdict"] == "passes"


def test_json_on_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("cpu", "-k", "rmsnorm/float32/eps", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"passed": len(select(pattern="rmsnorm/float32/eps"))}


def test_json_comes_last_or_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    assert run_command(f"--json={target}", "cpu", "-k", "rmsnorm/float32/eps") == 0
    assert json.loads(target.read_text())["verdict"] == "passes"
    capsys.readouterr()
    assert run_command("cpu", "-k", "rmsnorm/float32/eps", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passes"
    with pytest.raises(SystemExit):
        run_command("--json", "cpu", "-k", "rmsnorm/float32/eps")
    assert "'cpu' was taken for the file of --json" in capsys.readouterr().err


def test_a_report_that_could_not_be_made_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "outcomes", interrupted)
    old = tmp_path / "old.json"
    old.write_text("{}")
    for target in (old, tmp_path / "new.json"):
        with pytest.raises(KeyboardInterrupt):
            run_command("cpu", "--json", str(target))
    assert old.read_text() == "{}" and list(tmp_path.iterdir()) == [old]


def test_listing_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("nosuch", "--list", "-k", "/eps/0.1") == run_command("--list", "-k", "/eps/0.1") == 0
    assert "layernorm/float32/eps/0.1\n" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["nosuch"], "no backend 'nosuch'"),
    (["cpu", "--ops", "conv"], "no operator conv"),
    (["cpu", "-k", "nosuchcase"], "no case of level smoke matches"),
    (["cpu", "--profile", "/nonexistent.toml"], "--profile /nonexistent.toml cannot be read: No such file"),
    (["cpu", "--json", "/nonexistent/report.json"], "--json /nonexistent/report.json cannot be written: No such file"),
    (["cpu", "--json", str(Path(__file__).parent)], "cannot be written: Is a directory"),
    (["cpu", "--save", __file__], "is there and is no folder"),
])  # fmt: skip
def test_what_cannot_run_exits_with_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_none(*_: object) -> None:
        raise AssertionError("a case is run")

    monkeypatch.setattr(command, "outcomes", run_none)
    assert run_command(*arguments) == 2
    assert message in capsys.readouterr().err


def test_failures_are_written_as_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def off(op: Op, inputs: Arrays) -> Arrays:
        return [y + np.float32(0.5) for y in right(op, inputs)]

    monkeypatch.setattr(command, "open_device", lambda name: Subject(off))
    assert run_command("cpu", "-k", "*softmax/float32/size/5x[3]", "--save", str(tmp_path / "new")) == 1
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["log_softmax_float32_size_5x3.safetensors", "softmax_float32_size_5x3.safetensors"]
    assert "hal repro" in capsys.readouterr().err


# ---- isolation

CHILD = """
import os, sys, time
from hal.conformance.isolate import serve
from hal.conformance.subject import Subject
from hal_cpu_reference.operators import COMPUTE

def compute(op, inputs):
    n = op.inputs[0][1].shape[-1]
    if n == 2:
        os.abort()
    if n == 3:
        time.sleep(60)
    if n == 7:
        raise MemoryError("no memory")
    print("a driver that talks")
    os.write(1, b"and one that writes\\n")
    return COMPUTE[op.name](op, inputs)

serve(Subject(compute))
"""


def test_a_crash_or_a_hang_costs_one_case() -> None:
    cases = [one(f"softmax/float32/size/5x{n}") for n in (1, 2, 17, 3, 7, 33)]
    runner = isolate.run_apart([sys.executable, "-c", CHILD], timeout=5.0)
    results = list(runner(cases, Profile()))
    assert [r.name for r in results] == [case.name for case in cases]
    assert [r.status for r in results] == ["passed", "failed", "passed", "failed", "failed", "passed"]
    assert results[1].message.startswith("the process died of signal") or "exit code" in results[1].message
    assert results[3].message == "no answer for 5 seconds: it hangs"
    assert results[4].message == "MemoryError: no memory"


def test_a_child_that_never_begins_is_an_error() -> None:
    runner = isolate.run_apart([sys.executable, "-c", "raise SystemExit(3)"], timeout=5.0)
    with pytest.raises(DeviceError, match="did not begin: the process died with exit code 3"):
        list(runner(select(pattern="softmax/float32/size"), Profile()))


def test_isolated_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("cpu", "--isolate", "-k", "rmsnorm/float32/eps") == 0
    assert "passes" in capsys.readouterr().out


def test_a_subject_refuses_dtypes_it_has_not() -> None:
    with pytest.raises(UnsupportedError, match="subject does not compute in float64"):
        Subject(right, dtypes=FLOAT32).prepare(one("softmax/float64/peaks/257").op)
