"""`hal.judge(function, op=…)`: the suite's verdict on one function, in a program.

    verdict = hal.judge(my_rmsnorm, op="rmsnorm")
    print(verdict)                       # the table, the failures in words, the verdict
    assert verdict.passed

The function is called as hal's own of that name (hal/conformance/subjects/functions.py lists the signatures), on NumPy
arrays, or on torch tensors where a torch device is named.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hal.conformance.cases import select
from hal.conformance.profile import Profile
from hal.conformance.report import Report
from hal.conformance.session import Outcome, outcomes, run_here
from hal.conformance.subjects.functions import Function, FunctionSubject
from hal.conformance.subjects.refusal import with_refusals
from hal.errors import OptionError
from hal.ops import OPERATORS

NUMPY_DTYPES = ("float32", "float64")
TORCH_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Verdict:
    """What came of it. `print` shows the report; truth is `passed`."""

    report: Report

    def __bool__(self) -> bool:
        return self.passed

    @property
    def passed(self) -> bool:
        """No case failed, and at least one passed."""
        return self.report.exit_code == 0

    @property
    def verdict(self) -> str:
        """In words, as in the report."""
        return self.report.verdict

    @property
    def failures(self) -> list[Outcome]:
        """The failed cases; `.result.name` and `.reason` say which and why."""
        return self.report.failures

    @property
    def worst(self) -> Outcome | None:
        """The case with the largest error in units of the bound, among those that ran; None if none did."""
        ran = [o for o in self.report.outcomes if o.status in ("passed", "failed")]
        return max(ran, key=lambda o: o.result.ratio, default=None)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values: what `hal conformance --json` writes."""
        return self.report.to_json()

    def __str__(self) -> str:
        out = io.StringIO()
        self.report.write(out)
        return out.getvalue().rstrip()

    __repr__ = __str__


def judge(
    function: Function,
    op: str,
    *,
    dtypes: Sequence[str] = (),
    device: str | None = None,
    level: str = "smoke",
    pattern: str = "",
    seed: int = 0,
) -> Verdict:
    """Hold a function against the bound of operator `op`.

    Args:
        function: called with positional operands and named options like hal's function `op`; returns the result (a
            tuple where the call has several). Options that are hal's default are passed only to a function that names
            them; cases that need what it does not take are skipped.
        op: "matmul", "softmax", "log_softmax", "layernorm" or "rmsnorm".
        dtypes: those to judge; by default float32 and float64 on NumPy arrays (bfloat16 is ml_dtypes'), float32,
            float16 and bfloat16 on tensors.
        device: None: the function takes NumPy arrays. A torch device ("cpu", "cuda:0", "npu"): torch tensors there.
        level: "smoke" (seconds) or "full". pattern: only cases with this in their name. seed: of the data.

    Raises:
        OptionError: no such operator, level or dtype, or nothing is left to judge.
        BackendUnavailable: no torch, or no such torch device.
    """
    if op not in OPERATORS:
        raise OptionError(f"judge: no operator {op!r}; known: {', '.join(OPERATORS)}")
    name = getattr(function, "__name__", type(function).__name__)
    subject = _subject(function, op, name, device)
    wanted = tuple(dtypes) or (NUMPY_DTYPES if device is None else TORCH_DTYPES)
    cases = [case for case in select(level, [op], pattern) if case.dtype in wanted]
    if not cases:
        raise OptionError(
            f"judge: no case of {op} at level {level} for {', '.join(wanted)} with {pattern!r} in its name"
        )
    profile = with_refusals(Profile(), subject.why_not)
    report = Report(name, subject.info, level, profile)
    start = time.perf_counter()
    report.outcomes.extend(outcomes(cases, subject.info.dtypes, profile, run_here(subject, seed)))
    report.seconds = time.perf_counter() - start
    return Verdict(report)


def _subject(function: Function, op: str, name: str, device: str | None) -> FunctionSubject:
    if device is None:
        return FunctionSubject(name, {op: function}, f"{op} on NumPy arrays")
    from hal.conformance.subjects.torch_device import TorchSubject, torch_device

    return TorchSubject(name, torch_device(device), {op: function})
