"""Real layers at full size: what is sampled, what projections find, and what they miss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal import cli
from hal.conformance import shapes
from hal.conformance.shapes.layer import BLOCK, Layer, judge_layer, run
from hal.conformance.shapes.weights import BOUND, panel, widen
from hal.conformance.subject import Subject
from hal.errors import OptionError
from hal.registry import open_device

ROOT = Path(__file__).resolve().parent.parent
LAYER = Layer("shapes/test/dense/float16", "float16", 4, 700, 3000)


def faulty(change: Callable[[np.ndarray, np.ndarray, np.ndarray], None]) -> Subject:
    """float32 matmul, rounded once; `change` spoils (result, a, b) before that."""

    def compute(op: Any, inputs: Any) -> list[np.ndarray]:
        a, b = inputs[0].astype(np.float32), inputs[1].astype(np.float32)
        result = np.matmul(a, b)
        change(result, a, b)
        return [result.astype(inputs[0].dtype)]

    return Subject(compute)


def nothing(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    pass


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_weights_are_the_same_again_and_none_is_small(dtype: str) -> None:
    one, two = (widen(panel("layer", dtype, 5, 300, 1024)) for _ in range(2))
    assert np.array_equal(one, two) and np.abs(one).max() < BOUND and np.abs(one).min() >= BOUND / 2
    assert not np.array_equal(one, widen(panel("layer", dtype, 5, 300, 2048)))
    assert abs(one.mean()) < BOUND / 8


def test_bfloat16_is_widened_exactly() -> None:
    x = panel("layer", "bfloat16", 3, 100, 0)
    assert np.array_equal(widen(x), x.astype(np.float64))


def test_a_layer_is_cut_into_slices_that_fit() -> None:
    assert [(part.first, part.n) for part in LAYER.slices(1 << 40)] == [(0, 3000)]
    assert [(part.first, part.n) for part in LAYER.slices(1)] == [(0, 1024), (1024, 1024), (2048, 952)]


def test_a_right_layer_passes_whole_and_in_slices() -> None:
    for limit in (1 << 40, 1):
        outcome = judge_layer(faulty(nothing), LAYER, limit)
        assert outcome.status == "passed" and "a projection misses" in outcome.reason
    assert "in 3 calls" in outcome.reason


def dropped_term(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    result -= a[:, -1:] * b[-1:, :]


def one_block(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """A block of columns of one inner row, which no sample meets."""
    result[1, 1600 : 1600 + BLOCK] = result[1, 1616 : 1616 + BLOCK].copy()


def one_element(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    result[2, 1601] += 50


def not_a_number(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    result[2, 1601] = np.nan


def unwritten(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    result[:, -1] = np.nan


@pytest.mark.parametrize("fault", [dropped_term, one_block, one_element, not_a_number, unwritten])
def test_faults_at_full_size_are_found(fault: Any) -> None:
    outcome = judge_layer(faulty(fault), LAYER, 1 << 40)
    assert outcome.status == "failed" and "columns" in outcome.reason


def test_what_a_projection_misses_is_said() -> None:
    """An error well below the figure of the report is missed: the figure is no boast."""

    def small(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        result[2, 1601] += 0.02

    assert judge_layer(faulty(small), LAYER, 1 << 40).status == "passed"


def test_weights_reach_the_device_as_they_were_made() -> None:
    a = np.random.default_rng(0).standard_normal((4, 700)).astype(np.float16)
    got = run(open_device("cpu"), LAYER, a, 0)
    rows = [panel(LAYER.name, "float16", count, 700, first, 0) for first, count in LAYER.panels()]
    right = a.astype(np.float64) @ np.concatenate(rows).astype(np.float64).T
    assert np.array_equal(got, right.astype(np.float16))


def test_models_cite_where_their_sizes_come_from() -> None:
    for model in shapes.models().values():
        config = model["config"]
        assert model["source"].startswith("https://") and model["source"].endswith("config.json")
        k, n = model["matmul"]["mlp.down"]
        assert (k, n) == (config["intermediate_size"], config["hidden_size"])
        if "head" in model["matmul"]:
            assert model["matmul"]["head"] == [config["hidden_size"], config["vocab_size"]]


def test_the_command_judges_a_small_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conformance", "cpu", "--shapes", "minilm"]) == 0
    assert "7 passed" in capsys.readouterr().out
    assert cli.main(["conformance", "cpu", "--shapes", "gpt-9"]) == 2
    assert "no model gpt-9; known: qwen3-8b" in capsys.readouterr().err


def test_unknown_models_are_refused() -> None:
    with pytest.raises(OptionError, match="known"):
        shapes.check_names(["gpt-9"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3-8b"])
def test_a_large_model_at_full_size(name: str) -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-m", "hal", "conformance", "torch@cpu", "--shapes", name], timeout=600)
    assert done.returncode == 0


FINDINGS = sorted((ROOT / "examples/findings").glob("numpy_*.py"))


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: str(path.stem))
def test_findings_about_numpy_run_without_hal(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "import hal" not in path.read_text() and "expected" in done.stdout
