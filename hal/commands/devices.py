"""`hal devices`: every device of this machine, and for each backend without one, why.

Opens no device. A backend that does not load costs its own line only.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

from hal import registry
from hal.dtypes import DTYPES
from hal.errors import HalError
from hal.registry import DeviceEntry
from hal.terminal import clean, complain, patience, size, table, write_json

SHORT = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class BackendReport:
    """How many devices a backend has. `reason` says why it has none; `failed`: it did not even load."""

    name: str
    devices: int
    reason: str | None = None
    failed: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal devices`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """0, or 2 where not even the reference is there."""
    with patience("asking every backend for its devices"):
        reports = [report(name) for name in registry.backends()]
        entries = registry.devices()
    default, problem = default_name(entries)
    if args.json:
        write_json({"devices": [as_json(entry) for entry in entries], "backends": [plain(each) for each in reports]})
    else:
        print_tables(entries, reports, default)
    if problem:
        complain(problem)
    return 0 if entries else 2


def report(name: str) -> BackendReport:
    """What a backend found, or why it found nothing."""
    try:
        found = len(registry.infos(name))
        return BackendReport(name, found, None if found else registry.backend(name).why_none())
    except HalError as error:
        return BackendReport(name, 0, str(error), failed=True)
    except Exception as error:  # a stranger's why_none
        return BackendReport(name, 0, f"backend {name!r} does not say why it has no device: {error!r}", failed=True)


def default_name(entries: list[DeviceEntry]) -> tuple[str, str]:
    """The default device as far as can be told without opening it, and what is wrong with HAL_DEVICE."""
    named = os.environ.get("HAL_DEVICE")
    try:
        if named:
            return registry.find(named).name, ""
    except HalError as error:
        return "", f"HAL_DEVICE: {error}"
    return next((entry.name for entry in entries if entry.priority >= 0), ""), ""


def print_tables(entries: list[DeviceEntry], reports: list[BackendReport], default: str) -> None:
    """The devices, then the backends that have none."""
    rows = [
        (
            entry.name,
            entry.description,
            entry.vendor,
            " ".join(SHORT.get(dtype, dtype) for dtype in dtypes(entry)),
            size(entry.memory) if entry.memory else "",
            note(entry, default),
        )
        for entry in entries
    ]
    for line in table(("device", "name", "vendor", "dtypes", "memory", "note"), rows):
        print(line)
    without = [each for each in reports if not each.devices]
    if without:
        print("\nbackends without a device:")
    for each in without:
        print(f"  {each.name}: {clean(each.reason or '')}")


def note(entry: DeviceEntry, default: str) -> str:
    """What a user should know before choosing it."""
    if entry.name == default:
        return "default"
    if entry.props.get("checker"):
        return "checker: used only by name"
    if entry.props.get("plugin"):
        return "backend in C: used only by name"
    return "emulator: used only by name" if entry.priority < 0 else ""


def dtypes(entry: DeviceEntry) -> list[str]:
    """In the order of hal's own table."""
    order = list(DTYPES)
    return sorted(entry.dtypes, key=lambda name: (order.index(name) if name in order else len(order), name))


def as_json(entry: DeviceEntry) -> dict[str, Any]:
    return {
        "device": entry.name,
        "backend": entry.backend,
        "name": entry.description,
        "vendor": entry.vendor,
        "dtypes": dtypes(entry),
        "memory": entry.memory,
        "priority": entry.priority,
        "props": dict(entry.props),
    }


def plain(each: BackendReport) -> dict[str, Any]:
    return {"backend": each.name, "devices": each.devices, "reason": each.reason}
