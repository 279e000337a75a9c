"""The judge that ships: does a device compute every operator right?

`hal conformance DEVICE` on the command line; with pytest `-p hal.conformance.plugin --hal-device DEVICE`; in a program
`select` and `run_case`. Nothing here needs more than NumPy, but the strategies (hypothesis) and the plugin (pytest).
"""

from __future__ import annotations

from hal.conformance.case import Case
from hal.conformance.cases import select
from hal.conformance.runner import Result, run_case

__all__ = ["Case", "Result", "run_case", "select"]
