"""What `import hal` costs beyond NumPy's own time: a median over fresh processes, and its ratio to NumPy's.

`python bench/import_time.py [--rounds N]`. The two are timed in turn, so that a slower minute of the machine falls on
both. The promise is 0.25 s; this program prints, and no test depends on a clock.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

PROMISE = 0.25
SNIPPET = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """How long importing the module takes in a fresh process."""
    done = subprocess.run([sys.executable, "-c", SNIPPET.format(module)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Time both in turn and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11, help="processes for each of the two (default 11)")
    rounds = parser.parse_args().rounds
    seconds("numpy"), seconds("hal")  # the files come from the disk cache from here on
    pairs = [(seconds("numpy"), seconds("hal")) for _ in range(rounds)]
    numpy_time = statistics.median(pair[0] for pair in pairs)
    hal_time = statistics.median(pair[1] for pair in pairs)
    beyond = statistics.median(pair[1] - pair[0] for pair in pairs)
    print(f"import numpy  {numpy_time:.3f} s")
    print(f"import hal    {hal_time:.3f} s, {hal_time / numpy_time:.2f} times NumPy's; {beyond:.3f} s beyond it")
    print(f"promised: at most {PROMISE} s beyond it")


if __name__ == "__main__":
    main()
