"""pytest plugin: each case of the suite as a test, with no test file to write.

    pytest -p hal.conformance.plugin --hal-device acme:0 [--hal-level full] [--hal-profile FILE] [-k softmax]

With no path on the command line nothing else is collected. Two more tests run what hypothesis thinks of, and fail
where functions of the device's driver are simulated. Without --hal-device the plugin does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hal.conformance import contract
from hal.conformance.case import LEVELS, Case
from hal.conformance.cases import select
from hal.conformance.profile import Profile, read
from hal.conformance.session import Outcome, Task, judged, run_task
from hal.device import Device
from hal.errors import HalError
from hal.registry import open_device

EXAMPLES = {"smoke": 50, "full": 500}  # of the hypothesis test


class CaseFailed(Exception):
    """A case that failed; its text is the whole report, without a traceback through the suite."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hal", "conformance of a hal device")
    group.addoption("--hal-device", metavar="DEVICE", help='judge this device: "cpu", "opencl:0" …')
    group.addoption("--hal-level", choices=LEVELS, default="smoke", help="how many cases (default: smoke)")
    group.addoption("--hal-profile", metavar="FILE", help="TOML file with what the device's maker declares")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where the user named no path, the suite is all there is."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return True if config.getoption("--hal-device") and not named else None


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the tests
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--hal-device"):
        suite = Suite.from_parent(session, name="hal-conformance", nodeid="hal-conformance")
        items.extend(suite.collect())


class Suite(pytest.Collector):
    """The cases on one device, as tests."""

    device: Device
    profile: Profile

    def collect(self) -> Iterator[pytest.Item]:
        level = self.config.getoption("--hal-level")
        try:
            path = self.config.getoption("--hal-profile")
            self.profile = read(Path(path)) if path else Profile()
            self.device = open_device(self.config.getoption("--hal-device"))
        except (HalError, OSError) as error:
            raise pytest.UsageError(f"hal: {error}") from error
        tasks: list[Task] = [*contract.select(level), *select(level)]
        for case in tasks:
            yield CaseItem.from_parent(self, name=case.name, case=case)
        yield AnyCall.from_parent(self, name="any-call", level=level)
        yield NothingSimulated.from_parent(self, name="nothing-simulated")

    def run(self, case: Task) -> Outcome:
        """Run one case and say what that means."""
        result = run_task(self.device, case, self.profile.allowance(case.name), seed=0)
        return judged(result, self.device.info.dtypes, self.profile)


class SuiteItem(pytest.Item):
    """What the two kinds of tests share."""

    parent: Suite

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CaseFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return Path("hal-conformance"), None, self.name


class CaseItem(SuiteItem):
    """One case."""

    def __init__(self, *, case: Task, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case

    def runtest(self) -> None:
        suite = self.parent
        if reason := suite.profile.why_unsupported(self.case.name):
            pytest.skip(reason)
        outcome = suite.run(self.case)
        if outcome.status == "skipped":
            pytest.skip(outcome.reason)
        if outcome.status == "expected":
            pytest.xfail(outcome.reason)
        if outcome.status == "failed":
            what = f"\nop: {self.case.op}" if isinstance(self.case, Case) else ""
            raise CaseFailed(f"{self.case.name} on {suite.device.name}: {outcome.reason}{what}")


class NothingSimulated(SuiteItem):
    """A device of which a stand-in plays a part passes nothing."""

    def runtest(self) -> None:
        device = self.parent.device
        if names := device.info.props.get("simulated"):
            raise CaseFailed(f"{device.name} is SIMULATED: not yours yet: {', '.join(names)}")


class AnyCall(SuiteItem):
    """Calls that hypothesis thinks of."""

    def __init__(self, *, level: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = level

    def runtest(self) -> None:
        hypothesis = pytest.importorskip("hypothesis", reason="calls at random need it: pip install hypothesis")
        from hal.conformance import strategies

        suite = self.parent

        def any_call(case: Case) -> None:
            if suite.profile.why_unsupported(case.name) or suite.profile.why_expected(case.name):
                return
            outcome = suite.run(case)
            if outcome.status == "failed":
                raise CaseFailed(f"{case.name} on {suite.device.name}: {outcome.reason}\nop: {case.op}")

        settings = hypothesis.settings(max_examples=EXAMPLES[self.level], deadline=None, database=None)
        settings(hypothesis.given(strategies.cases(dtypes=suite.device.info.dtypes))(any_call))()
