"""Triton's kernels measured like hal's, without a GPU: `python tools/ptx_peers.py` writes bench/results/ptx_peers.json.

Triton is open source and compiles for a GPU that is not there. Its PTX is assembled by the assembler that hal's figures
are measured with. The kernels below are the usual ones of its users: a masked matmul of tiles with grouped order, and a
row held by one program for softmax and layernorm, with the number of warps that suits best.

Needs `pip install triton` and the assembler's wheels; takes two minutes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.figures.measure import Figures, measure

RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results" / "ptx_peers.json"

TARGETS = {75: "sm_75", 80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}
TILES = ((128, 256, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 32, 4, 4), (64, 128, 64, 4, 4))
LANE = 128  # elements of a row that a lane holds at most: with more, everything spills and compiling takes minutes
TENSOR = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}


@triton.jit  # type: ignore[untyped-decorator]
def matmul(a, b, out, m, n, k, a_row, b_row, out_row, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]
    group = 8
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    first = program // (group * tiles_n) * group
    rows = min(tiles_m - first, group)
    tile_m = first + program % (group * tiles_n) % rows
    tile_n = program % (group * tiles_n) // rows
    i, j, step = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN), tl.arange(0, BK)
    at_a = a + (i % m)[:, None] * a_row + step[None, :]
    at_b = b + step[:, None] * b_row + (j % n)[None, :]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for block in range(tl.cdiv(k, BK)):
        x = tl.load(at_a, mask=step[None, :] < k - block * BK, other=0.0)
        y = tl.load(at_b, mask=step[:, None] < k - block * BK, other=0.0)
        total = tl.dot(x, y, total)
        at_a += BK
        at_b += BK * b_row
    inside = (i[:, None] < m) & (j[None, :] < n)
    tl.store(out + i[:, None] * out_row + j[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def softmax(out, x, out_row, x_row, n, B: tl.constexpr):  # type: ignore[no-untyped-def]
    row, i = tl.program_id(0), tl.arange(0, B)
    value = tl.load(x + row * x_row + i, mask=i < n, other=-float("inf")).to(tl.float32)
    power = tl.exp(value - tl.max(value, axis=0))
    result = power / tl.sum(power, axis=0)
    tl.store(out + row * out_row + i, result.to(out.dtype.element_ty), mask=i < n)


@triton.jit  # type: ignore[untyped-decorator]
def layernorm(out, x, weight, bias, out_row, x_row, n, eps, B: tl.constexpr):  # type: ignore[no-untyped-def]
    row, i = tl.program_id(0), tl.arange(0, B)
    value = tl.load(x + row * x_row + i, mask=i < n, other=0.0).to(tl.float32)
    centred = tl.where(i < n, value - tl.sum(value, axis=0) / n, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / n + eps)
    w = tl.load(weight + i, mask=i < n).to(tl.float32)
    b = tl.load(bias + i, mask=i < n).to(tl.float32)
    tl.store(out + row * out_row + i, (centred * scale * w + b).to(out.dtype.element_ty), mask=i < n)


SIGNATURES = {
    "matmul": ["T", "T", "T", *["i32"] * 6],
    "softmax": ["T", "T", *["i32"] * 3],
    "layernorm": ["T", "T", "T", "T", *["i32"] * 3, "fp32"],
}


def compiled(name: str, dtype: str, capability: int, constants: dict[str, int], warps: int, stages: int) -> Figures:
    """Triton's kernel for these choices, with all sizes and addresses multiples of 16."""
    function = {"matmul": matmul, "softmax": softmax, "layernorm": layernorm}[name]
    types = [TENSOR[dtype] if kind == "T" else kind for kind in SIGNATURES[name]]
    signature = dict(zip(function.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
    places = {key: (function.arg_names.index(key),) for key in constants}
    even = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind != "fp32"}
    source = ASTSource(function, signature, {places[key]: value for key, value in constants.items()}, even)
    options = {"num_warps": warps, "num_stages": stages}
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    text, matmuls = done.asm["ptx"], name == "matmul"
    # The assembler counts shared memory that the text declares; Triton declares none and asks for it at the launch.
    itemsize = int(re.sub(r"\D", "", dtype)) // 8
    return measure(text, name, TARGETS[capability], 32 * warps, done.metadata.shared, itemsize, matmuls)


def matmuls(capability: int) -> Iterator[dict[str, Any]]:
    """Every tile. Not for sm_100a, where Triton uses instructions that hal's kernels do not have."""
    for dtype in ("bfloat16", "float16"):
        if capability == 100 or (capability == 75 and dtype == "bfloat16"):
            continue
        for bm, bn, bk, warps, stages in TILES:
            figures = compiled("matmul", dtype, capability, {"BM": bm, "BN": bn, "BK": bk}, warps, stages)
            words = f"Triton, {bm}x{bn}x{bk}, {32 * warps} threads"
            yield row(f"matmul {dtype} 4096x4096x4096", capability, words, figures, {"bm": bm, "bn": bn, "bk": bk})


def rows(capability: int) -> Iterator[dict[str, Any]]:
    """For each row length the number of warps with the fewest instructions an element and no spill."""
    for name in ("softmax", "layernorm"):
        for dtype, n in (("bfloat16", 1024), ("bfloat16", 4096), ("bfloat16", 32768), ("float32", 4096)):
            found = {
                warps: compiled(name, dtype, capability, {"B": n}, warps, 1)
                for warps in (1, 2, 4, 8, 16)
                if n <= LANE * 32 * warps
            }
            clean = {warps: figures for warps, figures in found.items() if not figures.spills} or found
            warps = min(clean, key=lambda warps: clean[warps].slots or 0)
            yield row(f"{name} {dtype} {n}", capability, f"Triton, {32 * warps} threads", clean[warps], {})


def row(case: str, capability: int, name: str, figures: Figures, tile: dict[str, int]) -> dict[str, Any]:
    """One line of the results."""
    numbers = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(figures).items() if v not in (None, ())}
    print(f"{case:36} {TARGETS[capability]:8} {name:28}", numbers.get("util", numbers.get("slots")), flush=True)
    return {"case": case, "target": TARGETS[capability], "name": name, "tile": tile, **numbers}


def main() -> int:
    """Compile, measure, write."""
    found = [line for capability in TARGETS for line in (*matmuls(capability), *rows(capability))]
    document = {
        "what": "Triton's usual kernels, measured like hal's by tools/ptx_peers.py; no GPU was used",
        "triton": triton.__version__,
        "ptxas": assembler.version(),
        "date": date.today().isoformat(),
        "rows": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
