"""Published acceptance rules on the same planted faults: who misses which, and whom each accuses falsely.

`python bench/acceptance_rules.py` prints a line for each rule, writes bench/results/acceptance_rules.{json,svg}, and
puts the tables into docs/acceptance_rules.md.

Every rule judges the same calls: hal's own (shapes, layouts, options) of level smoke, in float32, float16 and bfloat16.
What differs is what a suite chooses: the numbers that fill the operands, and when a result is taken for right. So a
rule is given more than its own suite has (strides, masks, odd sizes), and its misses come from data and formula alone.
Calls whose right result is not finite are left out there: no suite has them.
A second column has each rule on hal's data, where infinities and NaN count as equal to themselves. Bytes around a
result are looked at by hal only. Lawful backends compute in float32 in other orders of addition, or fused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from mutants import MUTANTS  # noqa: E402
from mutants.mutant import right  # noqa: E402
from test_conformance_lawful import LAWFUL  # noqa: E402

from hal.conformance import Case, run_case, select  # noqa: E402
from hal.conformance.case import place  # noqa: E402
from hal.conformance.memory import NAN_FILL  # noqa: E402
from hal.conformance.runner import execute  # noqa: E402
from hal.conformance.subject import Subject  # noqa: E402
from hal.op import Op  # noqa: E402

Values: TypeAlias = NDArray[np.float64]
Fill: TypeAlias = Callable[[np.random.Generator, Sequence[int]], NDArray[Any]]

RESULTS = ROOT / "bench" / "results"
DTYPES = ("float32", "float16", "bfloat16")
LARGEST = 1 << 21  # multiplications of a call: the suite's longest say nothing more about rules
FAULTS = {
    name: mutant for name, mutant in MUTANTS.items() if "int8" not in name
}  # integers are compared exactly by all


@dataclass(frozen=True)
class Rule:
    """When a suite takes `got` for `want`. accepts(got, want, dtype, k): k terms are summed for a result."""

    name: str
    formula: str
    source: str
    fill: Fill
    accepts: Callable[[Values, Values, str, int], bool]


def close(got: Values, want: Values, atol: float, rtol: float) -> bool:
    """allclose of torch and NumPy, with NaN equal to NaN."""
    with np.errstate(all="ignore"):
        return bool(np.allclose(got, want, rtol=rtol, atol=atol, equal_nan=True))


def normal(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    return rng.standard_normal(shape)


def uniform(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    return rng.random(shape)


def symmetric(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    return rng.uniform(-1.0, 1.0, shape)


def relative(got: Values, want: Values) -> Values:
    """|got - want| / |want|, with the denominator kept from 0 as these tools do."""
    with np.errstate(all="ignore"):
        return np.abs(got - want) / np.maximum(np.abs(want), 1e-7)


def mean_and_max(got: Values, want: Values, dtype: str, k: int) -> bool:
    limit = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-13}[dtype]
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return False
    error = relative(got[finite], want[finite])
    return bool(error.size == 0 or (error.mean() < limit and error.max() < 10 * limit))


def cosine(got: Values, want: Values, dtype: str, k: int) -> bool:
    with np.errstate(all="ignore"):
        both = float((got * got + want * want).sum())
        return both == 0 or bool(1 - 2 * float((got * want).sum()) / both < 1e-3)


def mean_square(limit: Callable[[str, int], float]) -> Callable[[Values, Values, str, int], bool]:
    def accepts(got: Values, want: Values, dtype: str, k: int) -> bool:
        if np.isnan(want).any() or np.isinf(want).any():
            return bool(np.array_equal(np.isnan(got), np.isnan(want)) and np.array_equal(np.isinf(got), np.isinf(want)))
        power = float((want * want).sum())
        return bool(((got - want) ** 2).sum() <= limit(dtype, k) * power) if power else not np.any(got)

    return accepts


def by_dtype(table: dict[str, tuple[float, float]]) -> Callable[[Values, Values, str, int], bool]:
    """allclose with (atol, rtol) of each dtype."""
    return lambda got, want, dtype, k: close(got, want, *table[dtype])


GITHUB = "https://github.com"
RULES = (
    Rule(
        "FlagGems",
        "|x - r| <= 1e-4 k + rtol |r|; rtol 1e-3, 1.6e-2, 1.3e-6 (fp16, bf16, fp32)",
        f"{GITHUB}/FlagOpen/FlagGems, src/flag_gems/testing/__init__.py",
        normal,
        lambda got, want, dtype, k: close(
            got, want, 1e-4 * k, {"float16": 1e-3, "bfloat16": 1.6e-2, "float32": 1.3e-6}[dtype]
        ),
    ),
    Rule(
        "InfiniCore",
        "|x - r| <= rtol |r|; rtol 1e-2, 5e-2, 1e-3 (gemm)",
        f"{GITHUB}/InfiniTensor/InfiniCore, test/infiniop/gemm.py",
        uniform,
        by_dtype({"float16": (0.0, 1e-2), "bfloat16": (0.0, 5e-2), "float32": (0.0, 1e-3)}),
    ),
    Rule(
        "KernelBench",
        "|x - r| <= 1e-2 + 1e-2 |r|",
        f"{GITHUB}/ScalingIntelligence/KernelBench, src/eval.py",
        normal,
        lambda got, want, dtype, k: close(got, want, 1e-2, 1e-2),
    ),
    Rule(
        "DeepGEMM",
        "1 - 2 sum(x r) / sum(x^2 + r^2) < 1e-3",
        f"{GITHUB}/deepseek-ai/DeepGEMM, deep_gemm/testing/numeric.py",
        normal,
        cosine,
    ),
    Rule(
        "ggml",
        "sum((x - r)^2) <= t sum(r^2); t = 5e-4 for products, 1e-7 else",
        f"{GITHUB}/ggml-org/llama.cpp, tests/test-backend-ops.cpp",
        symmetric,
        mean_square(lambda dtype, k: 5e-4 if k > 1 else 1e-7),
    ),
    Rule(
        "Ascend ATK",
        "mean |x - r| / |r| < t and max < 10 t; t = 2^-10, 2^-7, 2^-13",
        "the tool's documents; formula and limits as stated there, not compared with its code",
        normal,
        mean_and_max,
    ),
    Rule(
        "torch_npu Inductor",
        "|x - r| <= 1e-5 + rtol |r|; rtol 1e-3, 1.6e-2, 1.3e-6",
        "torch_npu's Inductor accuracy check; fp32 by torch.testing's default, not compared with its code",
        normal,
        by_dtype({"float16": (1e-5, 1e-3), "bfloat16": (1e-5, 1.6e-2), "float32": (1e-5, 1.3e-6)}),
    ),
    Rule(
        "vllm-ascend",
        "|x - r| <= 0.1 + 5e-3 |r|",
        f"{GITHUB}/vllm-project/vllm-ascend, tests of its custom operators",
        normal,
        lambda got, want, dtype, k: close(got, want, 0.1, 5e-3),
    ),
)


# ---- calls


def calls(operators: Sequence[str]) -> list[Case]:
    """hal's calls in the three dtypes, without the largest."""
    return [c for c in select("smoke", operators) if c.dtype in DTYPES and work(c.op) <= LARGEST]


def work(op: Op) -> int:
    """Multiplications, or elements."""
    if op.name == "matmul":
        return op.outputs[0][1].size * op.inputs[0][1].shape[-1]
    return op.inputs[0][1].size


def filled(case: Case, fill: Fill) -> Case:
    """The call with other numbers in its operands; masks of truth values stay as they are."""

    def values(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
        own = case.values(op, rng)
        return [
            np.asarray(x) if spec.dtype == "bool" else fill(rng, spec.shape)
            for x, (_, spec) in zip(own, op.inputs, strict=True)
        ]

    return Case(case.name, case.op, values, case.level, "once", case.shared)


def results(device: Subject, case: Case) -> list[NDArray[Any]] | None:
    """What the device computes; None where it raises, which every suite notices."""
    try:
        with np.errstate(all="ignore"):
            plan = device.prepare(case.op)
            images = place(case.op, [i.elements.copy() for i in case.inputs()], case.shared)
            return execute(device, plan, case.op, images, case.shared, NAN_FILL)[0]
    except Exception:
        return None


def objects(rule: Rule, device: Subject, cases: Sequence[Case], finite: bool = False) -> bool:
    """Whether the rule finds the device wrong in one of the calls. `finite`: only in those with finite results."""
    for case in cases:
        want = results(Subject(right), case)
        assert want is not None
        if finite and not all(r.size and np.isfinite(r.astype(np.float64)).all() for r in want):
            continue
        got = results(device, case)
        if got is None:
            return True
        k = case.op.inputs[0][1].shape[-1] if case.op.name == "matmul" else 1
        for x, r, (_, spec) in zip(got, want, case.op.outputs, strict=True):
            dtype = spec.dtype if spec.dtype in DTYPES else "float32"
            if not rule.accepts(x.astype(np.float64), r.astype(np.float64), dtype, k):
                return True
    return False


# ---- the two tables


def judge_all() -> dict[str, Any]:
    """Of each rule: faults missed with its own data and with hal's, and lawful backends accused."""
    table: dict[str, Any] = {}
    for rule in RULES:
        missed, missed_on_ours = [], []
        for name, mutant in FAULTS.items():
            cases = calls(mutant.operators)
            if not objects(rule, mutant.device(), [filled(case, rule.fill) for case in cases], finite=True):
                missed.append(name)
            if not objects(rule, mutant.device(), cases):
                missed_on_ours.append(name)
        accused = {
            f"{name}, {operator}": True
            for name, compute in LAWFUL.items()
            for operator in ("matmul", "softmax", "layernorm", "rmsnorm")
            if objects(rule, Subject(compute), [filled(case, rule.fill) for case in calls([operator])], finite=True)
        }
        table[rule.name] = {
            "formula": rule.formula,
            "source": rule.source,
            "missed": missed,
            "missed_with_hals_data": missed_on_ours,
            "accused": list(accused),
        }
        print(line(rule.name, table[rule.name]), flush=True)
    table["hal"] = {
        "formula": "within a bound from dtype, length and data, element by element; docs/operators.md",
        "source": "hal.conformance",
        **hals_own(),
    }
    print(line("hal", table["hal"]), flush=True)
    return table


def hals_own() -> dict[str, list[str]]:
    """The same of hal's judge, on its own data."""

    def fails(device: Subject, operators: Sequence[str]) -> bool:
        return any(run_case(device, case).status != "passed" for case in select("smoke", operators))

    missed = [name for name, mutant in FAULTS.items() if not fails(mutant.device(), mutant.operators)]
    accused = [
        f"{name}, {operator}"
        for name, compute in LAWFUL.items()
        for operator in ("matmul", "softmax", "layernorm", "rmsnorm")
        if fails(Subject(compute), [operator])
    ]
    return {"missed": missed, "missed_with_hals_data": missed, "accused": accused}


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name:20} misses {len(row['missed']):2} of {len(FAULTS)} ({len(row['missed_with_hals_data']):2} with hal's "
        f"data), accuses {len(row['accused']):2} of {4 * len(LAWFUL)} right ones"
    )


def plot(table: dict[str, Any]) -> str:
    """Two bars a rule: faults missed, and right backends accused, in shares."""
    left, width, step = 170, 760, 44
    scale = width - left - 150
    parts = []
    for i, (name, row) in enumerate(table.items()):
        y = step * i + 30
        bars = (
            (len(row["missed"]) / len(FAULTS), "#3358d4", f"{len(row['missed'])} of {len(FAULTS)} missed"),
            (len(row["accused"]) / (4 * len(LAWFUL)), "#c62a2f", f"{len(row['accused'])} of {4 * len(LAWFUL)} accused"),
        )
        parts.append(f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{name}</text>')
        for j, (share, colour, text) in enumerate(bars):
            top = y + 17 * j
            parts.append(
                f'<rect x="{left}" y="{top}" width="{max(scale * share, 1):.1f}" height="13" fill="{colour}"/>'
                f'<text x="{left + scale * share + 8:.1f}" y="{top + 11}">{text}</text>'
            )
    title = "Planted faults that a rule misses, and right backends that it accuses"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {step * len(table) + 40}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="18" font-weight="bold">{title}</text>{"".join(parts)}</svg>\n'
    )


def tables(document: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of the page's tables, by their first heading."""
    rules: dict[str, dict[str, Any]] = document["rules"]

    def whom(key: str) -> list[str]:
        names = dict.fromkeys(name for row in rules.values() for name in row[key])
        by = {name: [rule for rule, row in rules.items() if name in row[key]] for name in names}
        return [f"| {name} | {', '.join(by[name])} |" for name in sorted(by, key=lambda name: -len(by[name]))]

    return {
        "rule": [
            f"| {name} | {len(row['missed'])} | {len(row['missed_with_hals_data'])} | {len(row['accused'])} |"
            for name, row in rules.items()
        ],
        "name": [
            f"| {name} | {row['formula'].replace('|', '&#124;')} | {row['source']} |" for name, row in rules.items()
        ],
        "fault": whom("missed"),
        "right backend, operator": whom("accused"),
    }


def update(page: str, document: dict[str, Any]) -> str:
    """The page with today's rows in its tables."""
    for heading, rows in tables(document).items():
        head, rule, body = page.partition(f"\n| {heading} |")
        titles, line, rest = body.partition("---|\n")
        after = rest.lstrip("\n") if not rest.startswith("|") else rest[rest.index("\n\n") :].lstrip("\n")
        page = f"{head}{rule}{titles}{line}{chr(10).join(rows)}\n\n{after}"
    return page.rstrip() + "\n"


def main() -> None:
    """Judge, print, write."""
    table = judge_all()
    document = {"faults": len(FAULTS), "lawful": 4 * len(LAWFUL), "rules": table}
    (RESULTS / "acceptance_rules.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "acceptance_rules.svg").write_text(plot(table), encoding="utf-8")
    page = ROOT / "docs" / "acceptance_rules.md"
    page.write_text(update(page.read_text(encoding="utf-8"), document), encoding="utf-8")


if __name__ == "__main__":
    main()
