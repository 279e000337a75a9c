"""Compile the sources in tests/golden/ptx to the PTX beside them: nvcc for the .cu files, Triton for triton_kernels.py.

Needs no GPU, but nvcc on PATH and the `triton` package; whoever runs the tests needs neither. Run it after changing a
source, and look at what it changed: `python tools/golden_ptx.py`. The committed files name their compilers' versions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "ptx"
CUDA_TARGETS = ("sm_75", "sm_80", "sm_90a")


@dataclass(frozen=True)
class TritonKernel:
    """One function of triton_kernels.py: its parameters' types, its constants, and the capabilities to compile it for.

    divisible: integer parameters that are promised to be multiples of 16, as pointers always are.
    """

    name: str
    signature: Mapping[str, str]
    constants: Mapping[str, int]
    capabilities: tuple[int, ...] = (80, 90)
    divisible: tuple[str, ...] = ()
    warps: int = 4


TRITON = (
    TritonKernel("softmax", {"x": "*fp32", "y": "*fp32", "stride": "i32", "columns": "i32"}, {"BLOCK": 1024}),
    TritonKernel(
        "layernorm",
        {"x": "*fp16", "weight": "*fp32", "bias": "*fp32", "y": "*fp16", "columns": "i32", "epsilon": "fp32"},
        {"BLOCK": 512},
    ),
    TritonKernel(
        "matmul",
        {"a": "*bf16", "b": "*bf16", "c": "*fp32", "m": "i32", "n": "i32", "k": "i32"},
        {"BM": 64, "BN": 64, "BK": 32},
        divisible=("n", "k"),
    ),
    TritonKernel(
        "matmul_tma",
        {name: f"tensordesc<{kind}[64, 64]>" for name, kind in (("a", "bf16"), ("b", "bf16"), ("c", "fp16"))}
        | {"k": "i32"},
        {"BM": 64, "BN": 64, "BK": 64},
        capabilities=(90,),
    ),
)


def cuda(source: Path) -> None:
    """Compile one .cu file for every target, without the paths and build numbers that nvcc writes."""
    for target in CUDA_TARGETS:
        out = FOLDER / f"{source.stem}.nvcc.{target}.ptx"
        subprocess.run(["nvcc", "-ptx", f"-arch={target}", "-o", out, source], check=True)
        out.write_text(tidy(out.read_text()))
        print(out.name)


def triton(kernel: TritonKernel) -> None:
    """Compile one Triton kernel for every capability."""
    compiler = import_module("triton.compiler")
    gpu_target = import_module("triton.backends.compiler").GPUTarget
    function = getattr(triton_module(), kernel.name)
    names = function.arg_names
    wide = [name for name, kind in kernel.signature.items() if kind[0] == "*" or name in kernel.divisible]
    source = compiler.ASTSource(
        function,
        {name: kernel.signature.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in kernel.constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in wide},
    )
    for capability in kernel.capabilities:
        compiled = compiler.compile(
            source, target=gpu_target("cuda", capability, 32), options={"num_warps": kernel.warps}
        )
        shared = f"{compiled.metadata.shared} bytes of dynamic shared memory"
        text = f"// Compiled by Triton {import_module('triton').__version__}; {shared}.\n"
        target = "sm_90a" if capability == 90 else f"sm_{capability}"
        out = FOLDER / f"{kernel.name}.triton.{target}.ptx"
        out.write_text(tidy(text + compiled.asm["ptx"]))
        print(out.name)


def triton_module() -> Any:
    sys.path.insert(0, str(FOLDER))
    return import_module("triton_kernels")


def tidy(text: str) -> str:
    """Without trailing blanks, runs of empty lines and debug sections."""
    lines = [line.rstrip() for line in text.splitlines() if not re.match(r"\s*\.(file|loc)\b", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def main() -> int:
    if shutil.which("nvcc") is None:
        print("golden_ptx: nvcc is not on PATH; install a CUDA toolkit", file=sys.stderr)
        return 2
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for source in sorted(FOLDER.glob("*.cu")):
            cuda(source)
        for kernel in TRITON:
            triton(kernel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
