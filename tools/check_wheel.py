"""Does the wheel work where a stranger installs it? Build it, install it in an environment of its own, run it there.

- Beside NumPy 1.26, the oldest that hal promises; on a Python too new for that one, beside the oldest with a wheel.
- Run from an empty folder, so that nothing of the checkout can be imported by accident.
- Everything lies in `build/wheel-check`, which is made anew each time.

`python tools/check_wheel.py` (in an environment with hatchling; `make wheel-check` sees to that).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheel-check"


def oldest_numpy() -> str:
    """The oldest NumPy that both hal and this Python can have."""
    if sys.version_info < (3, 13):
        return "numpy==1.26.*"
    return "numpy==2.1.*" if sys.version_info < (3, 14) else "numpy==2.3.*"


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would let the checkout in."""
    away = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    kept["HAL_CACHE_DIR"] = str(WORK / "cache")
    return kept


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Show and run one command; the first failure ends the check."""
    words = [str(word) for word in command]
    print(f"$ {shlex.join([os.path.relpath(words[0], ROOT), *words[1:]])}", flush=True)
    code = subprocess.run(words, cwd=folder, env=environment).returncode
    if code:
        sys.exit(f"wheel-check: the command above ended with {code}")


def main() -> None:
    """Build, install, run."""
    if WORK.exists():
        shutil.rmtree(WORK)
    empty = WORK / "empty"
    empty.mkdir(parents=True)

    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", WORK / "dist"], ROOT)
    (wheel,) = (WORK / "dist").glob("hal_kernels-*.whl")

    run([sys.executable, "-m", "venv", WORK / "venv"], ROOT)
    python = WORK / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    clean = clean_environment()
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, f"{wheel}[conformance]", oldest_numpy()], empty, clean)
    run([python, "-m", "pip", "check"], empty, clean)
    run(
        [python, "-c", "import hal, numpy; print('hal from', hal.__file__, 'beside NumPy', numpy.__version__)"],
        empty,
        clean,
    )

    script = python.with_name("hal.exe" if os.name == "nt" else "hal")
    run([script, "devices"], empty, clean)
    run([script, "conformance", "cpu", "--level", "smoke"], empty, clean)
    print("wheel-check: the wheel works")


if __name__ == "__main__":
    main()
