"""Part of `make gpu`: device time of hal's kernels beside torch's (cuBLAS) and Triton's.

Each candidate is timed by events around a series of calls that takes about a millisecond, over copies of the data that
together exceed the L2 cache. The candidates take turns, round after round; what is compared are medians. Data are
normal random numbers: zeros would let the clock run faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import hal

BEYOND_L2 = 128 << 20  # bytes
MOST_COPIES = 16
ROUNDS = 9
SERIES = 1e-3  # seconds
DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

MATMULS = (
    *(("bfloat16", n, n, n, None) for n in (1024, 2048, 4096, 8192)),
    *(("float16", n, n, n, None) for n in (1024, 4096)),
    *(("float32", n, n, n, None) for n in (1024, 4096)),
    *(("float32", n, n, n, "tf32") for n in (1024, 4096)),
    ("bfloat16", 1, 4096, 4096, None),
    ("bfloat16", 16, 4096, 4096, None),
    ("bfloat16", 128, 11008, 4096, None),
)
ROWS = tuple((dtype, 4096, n) for dtype in ("float32", "bfloat16") for n in (256, 1024, 4096, 16384))
ROW_OPERATORS = ("softmax", "layernorm", "rmsnorm")


@dataclass(frozen=True)
class Candidate:
    """One way to compute the same. call: the i-th call of a series; start, stop: marks; elapsed: seconds between."""

    name: str
    call: Callable[[int], Any]
    mark: Callable[[], Any]
    elapsed: Callable[[Any, Any], float]

    def time(self, calls: int) -> float:
        """Seconds of one call, out of a series."""
        start = self.mark()
        for i in range(calls):
            self.call(i)
        return self.elapsed(start, self.mark()) / calls


def benchmarks(name: str, quick: bool, seconds: float) -> dict[str, Any]:
    """All sizes that the time allows."""
    end = time.monotonic() + seconds
    skipped: list[str] = []
    torch = torch_with_cuda(skipped)
    triton = None if torch is None else triton_kernels(skipped)
    matmuls = (("float32", 32, 32, 32, None),) if quick else MATMULS
    rows = [("float32", 4, 64)] if quick else ROWS
    work: list[tuple[Any, ...]] = [(matmul_case, *each) for each in matmuls]
    work += [(row_case, operator, *each) for operator in ROW_OPERATORS for each in rows]
    table: list[dict[str, Any]] = []
    for make, *what in work:
        label = " ".join(map(str, filter(None, what)))
        if time.monotonic() > end:
            skipped.append(f"{label}: time was up")
            continue
        try:
            amount, unit, candidates = make(name, torch, triton, *what)
        except hal.UnsupportedError as error:
            skipped.append(f"{label}: {error}"[:200])
            continue
        table.append(row(label, amount, unit, candidates, 2 if quick else ROUNDS))
    return {"rows": table, "skipped": skipped}


def row(label: str, amount: float, unit: str, candidates: list[Candidate], rounds: int) -> dict[str, Any]:
    """Medians of the candidates, timed in turn, and hal's ratio to each other one."""
    calls = {}
    for each in candidates:
        each.time(2)  # compiles, and fills caches
        calls[each.name] = max(2, min(200, int(SERIES / max(each.time(2), 1e-7))))
    times: dict[str, list[float]] = {each.name: [] for each in candidates}
    for _ in range(rounds):
        for each in candidates:
            times[each.name].append(each.time(calls[each.name]))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    found: dict[str, Any] = {"what": label, "unit": unit}
    found |= {f"{name} us": seconds * 1e6 for name, seconds in medians.items()}
    found["hal rate"] = amount / medians["hal"]
    found |= {f"{name} / hal": seconds / medians["hal"] for name, seconds in medians.items() if name != "hal"}
    return found


def copies(nbytes: int) -> int:
    """How many sets of data exceed the L2 cache."""
    return max(1, min(MOST_COPIES, -(-BEYOND_L2 // nbytes)))


def random(dtype: str, *shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(DTYPES[dtype])


def held(device: str, operator: str, sets: list[tuple[Any, ...]], **options: Any) -> Candidate:
    """hal's plan over several sets of operands."""
    opened = hal.device(device)
    plan = hal.plan(operator, *sets[0], **options)
    shape = plan.op.outputs[0][1].shape
    outputs = [hal.empty(shape, dtype=plan.op.outputs[0][1].dtype, device=device) for _ in sets]
    count = len(sets)
    return Candidate("hal", lambda i: plan(*sets[i % count], outputs[i % count]), opened.mark, opened.elapsed)


def matmul_case(
    device: str, torch: Any, triton: Any, dtype: str, m: int, n: int, k: int, precision: str | None
) -> tuple[float, str, list[Candidate]]:
    """TFLOP of one call, and who computes it."""
    a, b = random(dtype, m, k), random(dtype, k, n)
    count = copies(a.nbytes + b.nbytes)
    sets = [(hal.asarray(a, device=device), hal.asarray(b, device=device)) for _ in range(count)]
    found = [held(device, "matmul", sets, precision=precision)]
    if torch is not None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        pairs = [(to_torch(torch, a), to_torch(torch, b)) for _ in range(count)]
        out = torch.empty((m, n), dtype=pairs[0][0].dtype, device="cuda")
        found.append(by_torch(torch, "torch", lambda i: torch.matmul(*pairs[i % count], out=out)))
        if triton is not None and dtype != "float32":
            found.append(triton_matmul(torch, triton, pairs, out))
    return 2e-12 * m * n * k, "TFLOP/s", found


def row_case(
    device: str, torch: Any, triton: Any, operator: str, dtype: str, rows: int, n: int
) -> tuple[float, str, list[Candidate]]:
    """TB that one call reads and writes at least, and who computes it."""
    x = random(dtype, rows, n)
    weight = random(dtype, n)
    count = copies(2 * x.nbytes)
    more = {"softmax": 0, "rmsnorm": 1, "layernorm": 2}[operator]
    extra = [hal.asarray(weight, device=device)] * more
    found = [held(device, operator, [(hal.asarray(x, device=device), *extra) for _ in range(count)])]
    if torch is not None:
        values = [to_torch(torch, x) for _ in range(count)]
        w = to_torch(torch, weight)
        functional = torch.nn.functional
        calls: dict[str, Callable[[Any], Any]] = {
            "softmax": lambda y: functional.softmax(y, -1),
            "layernorm": lambda y: functional.layer_norm(y, (n,), w, w),
            "rmsnorm": lambda y: functional.rms_norm(y, (n,), w),
        }
        call = calls[operator]
        found.append(by_torch(torch, "torch", lambda i: call(values[i % count])))
        if triton is not None and operator != "rmsnorm" and n <= 16384:
            found.append(triton_rows(torch, triton, operator, values, w))
    return 2e-12 * x.nbytes, "TB/s", found


# ---- others, where they are installed


def torch_with_cuda(skipped: list[str]) -> Any:
    """torch with a GPU, or None."""
    try:
        import torch
    except ImportError:
        skipped.append("torch and cuBLAS: torch is not installed")
        return None
    if not torch.cuda.is_available():
        skipped.append("torch and cuBLAS: this torch has no CUDA")
        return None
    return torch


def triton_kernels(skipped: list[str]) -> Any:
    """The Triton kernels whose machine code is compared elsewhere, or None."""
    try:
        import ptx_peers
    except ImportError as error:
        skipped.append(f"Triton: {error}")
        return None
    return ptx_peers


def to_torch(torch: Any, x: Any) -> Any:
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).cuda()
    return torch.from_numpy(x).cuda()


def by_torch(torch: Any, name: str, call: Callable[[int], Any]) -> Candidate:
    """Timed by torch's events, on its stream."""

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed(start: Any, stop: Any) -> float:
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3

    return Candidate(name, call, mark, elapsed)


def triton_matmul(torch: Any, peers: Any, pairs: list[tuple[Any, Any]], out: Any) -> Candidate:
    """The fastest of the usual tiles."""
    (m, n), k, count = out.shape, pairs[0][0].shape[1], len(pairs)

    def tiled(bm: int, bn: int, bk: int, warps: int, stages: int) -> Candidate:
        grid = (-(-m // bm) * -(-n // bn),)

        def call(i: int) -> None:
            a, b = pairs[i % count]
            peers.matmul[grid](
                a, b, out, m, n, k, k, n, n, BM=bm, BN=bn, BK=bk, num_warps=warps, num_stages=stages
            )  # fmt: skip

        return by_torch(torch, "triton", call)

    return min((tiled(*tile) for tile in peers.TILES), key=lambda each: (each.time(3), each.time(10))[1])


def triton_rows(torch: Any, peers: Any, operator: str, values: list[Any], weight: Any) -> Candidate:
    """One program a row."""
    (rows, n), count = values[0].shape, len(values)
    out = torch.empty_like(values[0])
    block = 1 << (n - 1).bit_length()
    warps = max(1, min(16, block // 512))

    def call(i: int) -> None:
        x = values[i % count]
        if operator == "softmax":
            peers.softmax[(rows,)](out, x, n, n, n, B=block, num_warps=warps)
        else:
            peers.layernorm[(rows,)](out, x, weight, weight, n, n, n, 1e-5, B=block, num_warps=warps)

    return by_torch(torch, "triton", call)
