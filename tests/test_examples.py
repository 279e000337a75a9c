"""The programs in examples/ run, and compute what independent implementations compute."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal import demo

ROOT = Path(__file__).resolve().parent.parent

# From transformers 5.23 on torch 2.13 in float64 (BertModel, eager attention, mean over the words, length 1).
PAIRS = [
    (0.788342, 6, 7),
    (0.686748, 10, 11),
    (0.686070, 0, 1),
    (0.651776, 4, 5),
    (0.619750, 2, 3),
    (0.508501, 8, 9),
]


def missing() -> str:
    """What of the optional packages is not installed."""
    absent = [name for name in demo.READERS if importlib.util.find_spec(name) is None]
    try:
        distribution(demo.PACKAGE)
    except PackageNotFoundError:
        absent.append(demo.PACKAGE)
    return ", ".join(absent)


needs_model = pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")


@pytest.fixture(scope="module")
def model() -> Any:
    """The model on `cpu`."""
    return demo.load(demo.model_folder(), "cpu")


@needs_model
def test_similarities_of_the_sentence_model(model: Any) -> None:
    pairs = demo.similar_pairs(model(demo.SENTENCES), 7)
    assert [(i, j) for _, i, j in pairs[:6]] == [(i, j) for _, i, j in PAIRS]
    np.testing.assert_allclose([c for c, _, _ in pairs[:6]], [c for c, _, _ in PAIRS], rtol=0, atol=1e-4)
    assert pairs[6][0] < 0.25


@needs_model
def test_padding_changes_nothing(model: Any) -> None:
    short, long = demo.SENTENCES[0], " ".join(demo.SENTENCES)
    np.testing.assert_allclose(model([short, long])[0], model([short])[0], rtol=0, atol=1e-5)


@needs_model
def test_a_long_sentence_is_cut_where_the_model_ends(model: Any) -> None:
    long = "hello " * 300
    encoding = demo.encode(model, [long])[0]
    assert len(encoding) == 256
    assert "only its first 256 tokens count" in demo.remark(1, long, encoding)
    np.testing.assert_array_equal(model([long]), model(["hello " * 254]))


@needs_model
@pytest.mark.parametrize("text", ["ⴰⵣⵓⵍ ⴼⵍⵍⴰⵡⵏ ⵎⴰⵏⵣⴰⴽⵉⵏ", "\u200b"])
def test_text_that_is_not_english_is_warned_of(model: Any, text: str) -> None:
    assert "unknown to the model" in demo.remark(1, text, demo.encode(model, [text])[0])


@needs_model
def test_the_program_prints_the_similarities() -> None:
    program = ROOT / "examples" / "hal_examples" / "minilm.py"
    arguments = [sys.executable, str(program), demo.SENTENCES[0], demo.SENTENCES[1]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "[[1.    0.686]\n [0.686 1.   ]]\n"
