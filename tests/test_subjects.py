"""What is not hal's can be judged: functions on arrays and NumPy itself, from a program and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hal
from hal import cli
from hal.conformance.cases import select
from hal.conformance.profile import Entry, Profile
from hal.conformance.subjects import is_subject, open_subject, profile_for
from hal.conformance.subjects.functions import FunctionSubject, why_not_bound
from hal.errors import BackendUnavailable, OptionError

KERNELS = """
import numpy as np

def rmsnorm(x, weight=None, *, eps):
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return y if weight is None else y * weight

def careless(x):
    weights = np.exp(x)
    return weights / weights.sum(axis=-1, keepdims=True)
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder."""
    (tmp_path / "kernels_of_a_test.py").write_text(KERNELS)
    monkeypatch.chdir(tmp_path)
    yield "kernels_of_a_test"


def softmax(x: Any) -> Any:
    weights = np.exp(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=-1, keepdims=True)


def softmax_in_half(x: Any) -> Any:
    weights = np.exp(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf))
    return weights / np.add.reduce(weights, axis=-1, keepdims=True, dtype=np.float16).astype(x.dtype)


def rmsnorm(x: Any, weight: Any = None, *, eps: float, residual: Any = None, return_stats: bool = False) -> Any:
    s = x if residual is None else x + residual
    rstd = 1 / np.sqrt(np.mean(s * s, axis=-1, keepdims=True) + x.dtype.type(eps))
    y = s * rstd if weight is None else s * rstd * weight
    return (y, *([] if residual is None else [s]), *([rstd] if return_stats else []))


# ---- hal.judge


def test_a_right_function_passes() -> None:
    verdict = hal.judge(softmax, op="softmax", pattern="size")
    assert verdict.passed and bool(verdict) and verdict.verdict == "passes" and verdict.failures == []
    assert verdict.worst is not None and 0 < verdict.worst.result.ratio <= 1
    assert "softmax" in str(verdict) and "passes" in str(verdict)
    report = json.loads(json.dumps(verdict.to_json()))
    assert report["verdict"] == "passes" and {case["dtype"] for case in report["cases"]} == {"float32", "float64"}


WRONG = {
    "no maximum": lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    "last column": lambda x: np.concatenate((softmax(x)[..., :-1], 0 * x[..., -1:]), -1),
    "sums in float16": softmax_in_half,
    "another dtype": lambda x: softmax(x).astype(np.float64 if x.dtype == np.float32 else np.float32),
    "another shape": lambda x: softmax(x)[..., None],
    "two results": lambda x: (softmax(x), x),
    "an exception": lambda x: x.missing,
    "modifies its input": lambda x: np.divide(softmax(x), 1, out=x if x.flags.writeable else None),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_function_fails(fault: str) -> None:
    verdict = hal.judge(WRONG[fault], op="softmax", dtypes=["float32"])
    assert not verdict.passed and verdict.failures and all(o.reason for o in verdict.failures)


def test_what_a_function_does_not_take_is_skipped_with_the_reason() -> None:
    verdict = hal.judge(softmax, op="softmax", dtypes=["float32"])
    reasons = {o.reason for o in verdict.report.outcomes if o.status == "skipped"}
    assert verdict.passed
    assert reasons == {"the function takes no mask", "the function takes no scale", "the function takes no mask, scale"}


def test_options_and_several_results_come_as_hal_gives_them() -> None:
    verdict = hal.judge(rmsnorm, op="rmsnorm", dtypes=["float32"])
    assert verdict.passed, verdict
    left = {o.reason for o in verdict.report.outcomes if o.status == "skipped"}
    assert all("axis" in reason for reason in left)


def test_an_option_at_its_default_is_passed_only_to_who_names_it() -> None:
    asked: list[dict[str, Any]] = []

    def plain(a: Any, b: Any) -> Any:
        asked.append({})
        return np.matmul(a, b)

    def named(a: Any, b: Any, *, alpha: float) -> Any:
        asked.append({"alpha": alpha})
        return a.dtype.type(alpha) * np.matmul(a, b)

    assert hal.judge(plain, op="matmul", pattern="integers", dtypes=["float32"]).passed
    assert hal.judge(named, op="matmul", pattern="alpha/-2.25", dtypes=["float32"]).passed
    assert {} in asked and {"alpha": -2.25} in asked


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"op": "convolution"}, "no operator 'convolution'; known: matmul"),
        ({"op": "softmax", "dtypes": ["int4"]}, "no case of softmax"),
        ({"op": "softmax", "level": "huge"}, "level 'huge'"),
    ],
)
def test_a_judgement_of_nothing_is_an_error(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        hal.judge(softmax, **arguments)


def test_functions_without_a_known_signature_get_no_options() -> None:
    case = select("smoke", ["matmul"], "float32/alpha/-2.25")[0]

    class Unknown:
        __signature__ = "none"

        def __call__(self, a: Any, b: Any) -> Any:
            return np.matmul(a, b)

    assert "parameters are unknown" in why_not_bound(case.op, Unknown())


# ---- subjects by name


def test_only_names_with_an_at_sign_are_subjects() -> None:
    assert is_subject("torch@cpu") and is_subject("numpy@") and not is_subject("opencl:0") and not is_subject("cpu")


def test_numpy_is_right_in_float32_and_float64() -> None:
    device = open_subject("numpy@")
    profile = profile_for(device, Profile())
    from hal.conformance.session import outcomes, run_here

    cases = [case for case in select("smoke") if case.dtype in ("float32", "float64", "int8")]
    found = list(outcomes(cases, device.info.dtypes, profile, run_here(device)))
    assert [o.result.name for o in found if o.status == "failed"] == []
    assert sum(o.status == "passed" for o in found) > 400


def test_numpy_in_float16_rounds_at_every_step_and_fails() -> None:
    device = open_subject("numpy@")
    assert isinstance(device, FunctionSubject)
    from hal.conformance.runner import run_case

    case = select("smoke", ["rmsnorm"], "float16/size/5x129")[0]
    assert run_case(device, case).status == "failed"


def test_a_module_s_functions_are_found_by_their_names(kernels: str) -> None:
    device = open_subject(f"py@{kernels}")
    assert list(device.functions) == ["rmsnorm"]
    assert device.why_not(select("smoke", ["softmax"])[0].op) == f"py@{kernels} has no softmax"


@pytest.mark.parametrize(
    ("spec", "operators", "kind", "text"),
    [
        ("py@{}:careless", (), OptionError, "which operator does careless compute"),
        ("py@{}:careless", ("softmax", "matmul"), OptionError, "which operator"),
        (
            "py@{}:missing",
            ("softmax",),
            BackendUnavailable,
            "no function 'missing'; it has: careless, np?,? ?rmsnorm|careless",
        ),
        ("py@no_such_module_here:f", ("softmax",), BackendUnavailable, "cannot be imported .*; run hal in the folder"),
        ("py@math", (), BackendUnavailable, "has none of the functions matmul"),
        ("py@", (), BackendUnavailable, "is no subject; write torch@cpu"),
        ("numpy@float32", (), BackendUnavailable, "is no subject"),
        ("tensor@flow", (), BackendUnavailable, "is no subject"),
    ],
)
def test_errors_say_what_to_do(kernels: str, spec: str, operators: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        open_subject(spec.format(kernels), operators)


def test_a_user_s_profile_stays_in_force() -> None:
    device = FunctionSubject("mine", {"softmax": softmax}, "a test")
    given = Profile(unsupported=(Entry("softmax/float64", "no 64 bits"),))
    profile = profile_for(device, given)
    assert profile.why_unsupported("softmax/float64/size/5x17") == "no 64 bits"
    assert "mine has no matmul" in profile.why_unsupported(select("smoke", ["matmul"])[0].name)


# ---- the command


def test_the_command_judges_subjects(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conformance", f"py@{kernels}:rmsnorm", "-k", "rmsnorm/float32"]) == 0
    assert "passes" in capsys.readouterr().out
    assert cli.main(["conformance", f"py@{kernels}:careless", "--ops", "softmax", "-k", "float32"]) == 1
    assert "FAILED softmax/float32/edge/1000-1001-1002" in capsys.readouterr().out
    assert cli.main(["conformance", f"py@{kernels}:careless"]) == 2
    assert "which operator" in capsys.readouterr().err


def test_torch_s_operators_are_asked_of_torch_devices_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conformance", "cpu", "--ops", "all"]) == 2
    assert "--ops all is for torch devices" in capsys.readouterr().err
