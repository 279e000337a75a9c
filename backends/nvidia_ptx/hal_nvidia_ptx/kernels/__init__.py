"""The algorithms: for each operator a module with `configs`, `kernels` and `schedule` (hal/kernel.py)."""

from __future__ import annotations

from collections.abc import Mapping

from hal.kernel import Algorithm
from hal_nvidia_ptx.kernels import matmul, norms, softmax

ALGORITHMS: Mapping[str, Algorithm] = {
    "matmul": matmul,
    "softmax": softmax,
    "log_softmax": softmax,
    "layernorm": norms,
    "rmsnorm": norms,
}
