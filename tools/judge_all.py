"""Hold every device of this machine to its bounds: `python tools/judge_all.py --level smoke`.

Each is judged in a process of its own, OpenCL implementations as the only one there, so that a crash costs one verdict.
Those that are emulated or check memory are slow and always judged at level smoke: rusticl on llvmpipe, and Oclgrind,
whose log of out-of-bounds accesses, races and reads of unwritten memory has to stay empty. Oclgrind needs minutes for
the smoke level: with `--level smoke` it gets the cases of float32 alone, with `--level full` all of them. Of the
emulated NVIDIA GPUs, `--level smoke` takes one of each kind of kernels, and `--level full` judges all at that level.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import opencl_icds

SMOKE_ONLY = ("rusticl", "oclgrind")
EMULATED = ("ptx:sm_75", "ptx:sm_80")  # the kernels of every other target are among theirs; its tiles may be others
PROFILES = Path(__file__).resolve().parent / "profiles"  # what an implementation is known not to do, with reasons
OCLGRIND = {"OCLGRIND_UNINITIALIZED": "1", "OCLGRIND_DATA_RACES": "1", "OCLGRIND_MAX_ERRORS": "1000"}


@dataclass(frozen=True)
class Subject:
    """One device to judge, in what environment, and the log that has to stay empty, if there is one."""

    name: str
    device: str
    level: str
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    log: Path | None = None


def subjects(level: str, folder: Path) -> list[Subject]:
    """Every device that `hal devices` lists, OpenCL ones by implementation where it is one that we know."""
    found = []
    platforms = {}
    for implementation in opencl_icds.find():
        vendors = folder / implementation.name
        implementation.write(vendors)
        platforms[implementation.name] = implementation.platform
        environment = implementation.environment(vendors)
        profile = PROFILES / f"{implementation.name}.toml"
        options = ("--profile", str(profile)) if profile.exists() else ()
        log = None
        if implementation.name == "oclgrind":
            log = folder / "oclgrind.log"
            environment |= {**OCLGRIND, "OCLGRIND_LOG": str(log)}
            if level == "smoke":
                options = ("-k", "/float32/")
        which = "smoke" if implementation.name in SMOKE_ONLY else level
        device = f"opencl:{implementation.platform}"
        found.append(Subject(implementation.name, device, which, environment, options, log))
    listed = subprocess.run([sys.executable, "-m", "hal", "devices", "--json"], capture_output=True, check=True)
    for device in json.loads(listed.stdout)["devices"]:
        known = any(str(device["name"]).startswith(platform) for platform in platforms.values())
        emulated_twin = level == "smoke" and device["backend"] == "ptx" and device["device"] not in EMULATED
        if not ((device["backend"] == "opencl" and known) or emulated_twin):
            found.append(Subject(device["device"], device["device"], level))
    return found


def judge(subject: Subject, aside: bool = False) -> tuple[bool, str]:
    """(passed, what to say) of one subject. `aside`: beside others, so that its output is shown when it has ended."""
    command = [sys.executable, "-m", "hal", "conformance", subject.device, "--level", subject.level, *subject.options]
    shown = " ".join(f"{k}={shlex.quote(v)}" for k, v in subject.environment.items())
    title = f"\n$ {shown} hal {shlex.join(command[3:])}".replace("$  ", "$ ")
    if not aside:
        print(title, flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **subject.environment},
        stdout=subprocess.PIPE if aside else None,
        stderr=subprocess.PIPE if aside else None,
        text=True,
    )
    code = done.returncode
    if aside:
        print(f"{title}\n{done.stdout}{done.stderr[-2000:] if code else ''}", flush=True)
    verdict = {0: "passes", 1: "FAILS", 2: "could not be judged"}.get(code, f"ended with exit code {code}")
    complaints = subject.log.read_text(errors="replace") if subject.log and subject.log.exists() else ""
    if complaints:
        print(complaints[:4000])
        verdict += f", and its checker complained ({len(complaints.splitlines())} lines)"
    return code == 0 and not complaints, f"{subject.level}: {verdict} after {time.monotonic() - start:.0f} s"


def main() -> int:
    """Judge all, then say of each how it did. 0: all passed; 1: some did not; 2: there was nothing to judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--only", action="append", help="judge this one alone: an implementation's name or a device")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [s for s in subjects(arguments.level, Path(folder)) if not arguments.only or s.name in arguments.only]
        checkers = [subject for subject in chosen if subject.log is not None]
        with ThreadPoolExecutor(max_workers=1) as pool:  # interprets on one core for minutes: beside the others
            if checkers:
                print(f"{', '.join(s.name for s in checkers)}: judged beside the others, shown at the end", flush=True)
            running = {subject.name: pool.submit(judge, subject, True) for subject in checkers}
            results = {subject.name: judge(subject) for subject in chosen if subject not in checkers}
            results |= {name: future.result() for name, future in running.items()}
    print()
    for name, (_, text) in results.items():
        print(f"{name:10} {text}")
    return 2 if not results else int(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
