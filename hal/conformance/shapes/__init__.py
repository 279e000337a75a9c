"""Shapes: layers of real models at full size, `--shapes qwen3-8b,deepseek-v3,llama-3-8b,minilm`.

models.json has for each model where its sizes come from, its matmuls as (K, N), its rows, its attention. A matmul's
weights are (N, K) in memory as a model has them, and are made panel by panel, never whole on the host; those larger
than PANEL bytes are multiplied in slices of columns, whole only at level full. layer.py judges them by sample and
projection; norms, softmax and attention are judged element by element, as any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from hal.conformance.case import Case
from hal.conformance.cases.common import make, spec
from hal.conformance.profile import Profile
from hal.conformance.runner import Result, run_case
from hal.conformance.session import Outcome, judged
from hal.conformance.shapes.layer import Layer, judge_layer
from hal.conformance.subjects.functions import FunctionSubject
from hal.conformance.values import normal
from hal.device import Device
from hal.errors import OptionError

TOKENS = 16  # rows of the activations
KEYS = 1024  # tokens that attention looks at
PANEL = 256 << 20  # bytes of weights in the device's memory at a time, unless level is full
NARROWER = ("bfloat16", "float16", "float32", "float64")  # in this order where the device has not the model's dtype

NOTE = (
    "shapes: two rows and some columns of each panel were judged element by element, the rest by random projections "
    "over 16 columns; an error smaller than what a layer's reason names can hide in a projection"
)


def models() -> dict[str, Any]:
    """All models of models.json."""
    text = (resources.files(__package__) / "models.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def check_names(names: Sequence[str]) -> None:
    """Raises OptionError for a model that is not in models.json."""
    known = models()
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"--shapes: no model {', '.join(unknown)}; known: {', '.join(known)}")


def judge_models(device: Device, names: Sequence[str], level: str = "smoke", seed: int = 0) -> Iterator[Outcome]:
    """An outcome for every layer of the models. Raises OptionError for an unknown name."""
    check_names(names)
    for name in names:
        model = models()[name]
        usable = [model["dtype"], *NARROWER]
        dtype = next((d for d in usable if d in device.info.dtypes), "float32")
        for label, (k, n) in model["matmul"].items():
            layer = Layer(f"shapes/{name}/{label}/{dtype}", dtype, TOKENS, k, n)
            yield judge_layer(device, layer, PANEL if level == "smoke" else k * n * 8, seed)
        for case in cases(name, model, dtype):
            yield judge_case(device, case, seed)


def cases(name: str, model: dict[str, Any], dtype: str) -> Iterator[Case]:
    """The layers that are judged element by element."""
    prefix = f"shapes/{name}"
    for label, (operator, n, eps) in model["rows"].items():
        operands = {"x": spec(dtype, (TOKENS, n))}
        options = {"eps": eps} if eps else {}
        if eps:
            operands["weight"] = spec(dtype, (n,))
        if operator == "layernorm":
            operands["bias"] = spec(dtype, (n,))
        yield named(prefix, label, make(operator, label, operands, normal(3.0), **options))
    heads, dim = model["attention"]["heads"], model["attention"]["dim"]
    scores = {"a": spec(dtype, (heads, TOKENS, dim)), "b": spec(dtype, (heads, dim, KEYS), "transposed")}
    yield named(prefix, "attention.scores", make("matmul", "", scores, normal(), alpha=dim**-0.5))
    yield named(
        prefix, "attention.softmax", make("softmax", "", {"x": spec(dtype, (heads, TOKENS, KEYS))}, normal(3.0))
    )
    values = {"a": spec(dtype, (heads, TOKENS, KEYS)), "b": spec(dtype, (heads, KEYS, dim))}
    yield named(prefix, "attention.values", make("matmul", "", values, normal()))


def named(prefix: str, label: str, case: Case) -> Case:
    """The case under its layer's name."""
    return Case(f"{prefix}/{label}/{case.dtype}", case.op, case.values)


def judge_case(device: Device, case: Case, seed: int) -> Outcome:
    """A case as in the suite; skipped where a subject does not take it."""
    if isinstance(device, FunctionSubject) and (reason := device.why_not(case.op)):
        return Outcome(Result(case.name, case.operator, case.dtype, "unsupported"), "skipped", reason)
    return judged(run_case(device, case, seed=seed), device.info.dtypes, Profile())
