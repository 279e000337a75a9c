"""The algorithms: for each operator a module with `configs`, `kernels` and `schedule` (hal/kernel.py)."""

from __future__ import annotations

from collections.abc import Mapping

from hal.kernel import Algorithm

ALGORITHMS: Mapping[str, Algorithm] = {}
