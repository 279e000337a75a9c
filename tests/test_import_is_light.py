"""`import hal` loads no framework, asks for no backend, touches no hardware. (What it costs: bench/import_time.py.)"""

from __future__ import annotations

import json
import subprocess
import sys

# Frameworks, drivers, test tools, and the parts of the standard library that cost most.
HEAVY = frozenset(
    (
        *("torch", "jax", "jaxlib", "cupy", "tensorflow", "onnx", "onnxruntime", "transformers", "numba", "scipy"),
        *("pyopencl", "cuda", "cffi", "hypothesis", "pytest", "_pytest", "mpmath", "safetensors", "tokenizers"),
        *("asyncio", "multiprocessing", "concurrent.futures.process", "http", "urllib.request", "ssl", "sqlite3"),
        *("hal_cpu_reference", "hal_opencl", "hal_nvidia_ptx"),
        *(
            "hal.conformance",
            "hal.tune",
            "hal.capi",
            "hal.torch",
            "hal.onnx",
            "hal.jax",
            "hal.hf",
            "hal.cli",
            "hal.demo",
        ),
    )
)

# Discovery fails from before the import on, so that a call shows as an error and not as a module that happens to load.
SCRIPT = """
import json, sys
import importlib.metadata

def refuse(*args, **kwargs):
    raise AssertionError("entry points were looked up")

importlib.metadata.entry_points = refuse
importlib.metadata.EntryPoint.load = refuse
importlib.metadata.distributions = refuse
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(module: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(module=module)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy_and_looks_up_no_entry_points() -> None:
    """What NumPy and ml_dtypes themselves load is theirs."""
    loaded = loaded_by("hal") - loaded_by("numpy, ml_dtypes")
    assert "hal" in loaded
    assert loaded & HEAVY == set()


def test_the_probe_sees_a_heavy_module() -> None:
    assert "asyncio" in loaded_by("asyncio")
