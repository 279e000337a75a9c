"""Which devices each installed backend finds.

The question loads every driver of the machine, so it is asked in a child process. If that ends badly, each backend is
asked in a child of its own, to tell whose fault it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hal.doctor.finding import Finding, State, attempt
from hal.registry import REFERENCE, backends

SECTION = "backends"
# Standard output belongs to the answer: what a driver prints there goes to standard error.
QUESTION = """
import json, os
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from hal.commands.devices import default_name, plain, report
from hal import registry
reports = [report(name) for name in sys.argv[1:]]
found = {each.name: [[i.name, i.priority] for i in registry.infos(each.name)] for each in reports if not each.failed}
print(json.dumps({
    "backends": [{**plain(each), "failed": each.failed} for each in reports],
    "found": found,
    "home": os.environ.get("PYOPENCL_HOME"),
}), file=answer, flush=True)
os._exit(0)  # what a driver does at exit is not the question
"""


@dataclass(slots=True)
class Census:
    """What the backends answered. `pyopencl_home`: PYOPENCL_HOME once the OpenCL backend was asked."""

    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # name and priority
    crashes: dict[str, str] = field(default_factory=dict)
    pyopencl_home: str | None = None

    def take(self, answer: dict[str, Any]) -> None:
        """Add what one child answered."""
        self.reports.update({each["backend"]: each for each in answer["backends"]})
        self.devices.update(answer["found"])
        self.pyopencl_home = answer["home"] or self.pyopencl_home


def ask() -> Census:
    """Ask all backends at once, or one after the other where that ends badly."""
    census = Census()
    names = backends()
    if not ask_some(census, names):
        for name in names:
            ask_some(census, [name])
    return census


def ask_some(census: Census, names: list[str]) -> bool:
    """Ask these in one child process; False where it did not answer."""
    trial = attempt(QUESTION, names)
    try:
        census.take(json.loads(trial.output))
        return True
    except ValueError:  # no JSON, so no answer
        if len(names) == 1:
            census.crashes[names[0]] = trial.problem or "gives no answer"
        return False


def examine(census: Census) -> Iterator[Finding]:
    """One finding a backend."""
    for name, problem in census.crashes.items():
        detail = f"asking it for devices {problem}"
        yield Finding(SECTION, name, State.BROKEN, detail, f"uninstall or mend the driver that backend {name} loads")
    for name, report in sorted(census.reports.items()):
        if report["failed"]:
            fix = f"mend or uninstall the package of backend {name}"
            yield Finding(SECTION, name, State.BROKEN, report["reason"], fix)
        elif report["devices"]:
            names = ", ".join(device for device, _ in census.devices[name])
            yield Finding(SECTION, name, State.GOOD, f"{report['devices']} found: {names}")
        else:
            yield Finding(SECTION, name, State.MISSING, report["reason"])
    if REFERENCE not in census.reports and REFERENCE not in census.crashes:
        fix = "install hal-kernels again: its entry points are not registered"
        yield Finding(SECTION, REFERENCE, State.BROKEN, "the reference is not installed", fix)
