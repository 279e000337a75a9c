"""Everything that needs a GPU, in one command of less than ten minutes: `make gpu`, or `python tools/gpu.py`.

Writes bench/results/nvidia-<device>.json with date, device and driver, a file that a stranger can send in, and prints
it as tables. Needs no network and no CUDA toolkit; what is not installed (torch, Triton, compute-sanitizer) is skipped
and named. To compare with torch, run it with a Python that has torch and `pip install -e '.[nvidia]'`.

    conformance   every case of the judge on the GPU
    bits          the emulator's results beside the hardware's
    faults        planted faults: found by hal's emulator? by compute-sanitizer?
    benchmarks    device time of matmul, softmax and norms, beside torch (cuBLAS) and Triton, in turn
    launch        Python's and the driver's time of a launch

Each part is a process of its own with a time limit: a crash costs that part alone. Exit codes: 0; 1 where something is
wrong; 2 where there is no GPU, and then nothing is written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_bench
import gpu_faults
import gpu_parts

RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"
PACKAGES = ("hal-kernels", "numpy", "cuda-bindings", "nvidia-cuda-nvcc", "torch", "triton")

Part = Callable[[str, bool, float], dict[str, Any]]  # device, quick, seconds -> plain values
PARTS: dict[str, tuple[Part, float]] = {  # and how many seconds each may take
    "conformance": (gpu_parts.conformance, 240),
    "bits": (gpu_parts.bits, 60),
    "faults": (gpu_faults.faults, 90),
    "benchmarks": (gpu_bench.benchmarks, 150),
    "launch": (gpu_parts.launch, 20),
}
GRACE = 10.0  # seconds that a part has to end by itself once its time is up


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, write the file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="which GPU (default: cuda:0)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few cases: whether this program runs")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part; may be given several times")
    parser.add_argument("--out", type=Path, help="folder of the result (default: bench/results; --quick: none)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        answer = PARTS[options.part][0](options.device, options.quick, options.seconds)
        options.answer.write_text(json.dumps(answer), encoding="utf-8")
        return 0
    found = look(options.device)
    if isinstance(found, str):
        print(f"make gpu: {found}", file=sys.stderr)
        return 2
    report = {**facts(found), "quick": options.quick, "parts": {}}
    print(f"{report['device']}, {report['target']}, driver for CUDA {report['driver']}", flush=True)
    for name in options.only or PARTS:
        print(f"{name} ...", flush=True)
        report["parts"][name] = part(name, options.device, options.quick)
    folder = options.out or (None if options.quick else RESULTS)
    if folder is not None:
        write(report, folder)
    for line in tables(report):
        print(line)
    return int(any(each.get("wrong") for each in report["parts"].values()))


def look(device: str) -> dict[str, Any] | str:
    """What `hal devices` says of the GPU, or a sentence of why there is none."""
    done = subprocess.run([sys.executable, "-m", "hal", "devices", "--json"], capture_output=True, text=True)
    try:
        listed = json.loads(done.stdout)
    except ValueError:
        return f"`hal devices` does not answer: {done.stderr.strip()[-500:]}"
    for each in listed["devices"]:
        if device in (each["device"], each["device"].partition(":")[0]) and each["backend"] == "cuda":
            return dict(each)
    reasons = [each.get("reason", "") for each in listed.get("backends", []) if each["backend"] == "cuda"]
    return f"no device {device}: {'; '.join(filter(None, reasons)) or 'hal devices lists none'}; nothing was measured"


def facts(device: dict[str, Any]) -> dict[str, Any]:
    """Date, device, driver, machine, versions. No serial number, no host name."""
    props = device["props"]
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.date.today().isoformat(),
        "device": device["name"],
        "target": props["target"],
        "sms": props["sms"],
        "memory": device["memory"],
        "driver": props["driver"],
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }


def part(name: str, device: str, quick: bool) -> dict[str, Any]:
    """One part in a process of its own: what it found, or how it ended."""
    seconds = PARTS[name][1]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, __file__, "--part", name, "--device", device, "--seconds", str(seconds)]
        command += ["--answer", str(answer), *(["--quick"] if quick else [])]
        try:
            code = subprocess.run(command, timeout=seconds + GRACE).returncode
            problem = f"ended with exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"did not end within {seconds + GRACE:.0f} s"
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if problem:
        found["wrong"] = [*found.get("wrong", []), problem]
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def write(report: dict[str, Any], folder: Path) -> None:
    """The file, named after the device; a reader sees the old one or the new one."""
    slug = re.sub(r"[^a-z0-9]+", "-", report["device"].lower().removeprefix("nvidia ")).strip("-")
    path = folder / f"nvidia-{slug}.json"
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    print(f"\nwritten: {path}\n")


def tables(report: dict[str, Any]) -> list[str]:
    """The report for people, in Markdown."""
    lines: list[str] = []
    for name, found in report["parts"].items():
        lines += [f"## {name} ({found['seconds']} s)", ""]
        rows = found.get("rows", [])
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows]
            lines.append("")
        lines += [f"- {key}: {value}" for key, value in found.get("summary", {}).items()]
        lines += [f"- skipped: {each}" for each in found.get("skipped", [])]
        lines += [f"- WRONG: {each}" for each in found.get("wrong", [])]
        lines.append("")
    return lines


def cell(value: Any) -> str:
    """A value of a table."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
