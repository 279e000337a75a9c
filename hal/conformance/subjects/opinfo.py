"""Every operator that torch describes: the samples of torch's own tests, and edges that they lack.

torch ships descriptions of some 600 operators with sample arguments (torch.testing._internal). They need a test helper,
expecttest, that vendors' images often lack; nothing of it is used, so an empty stand-in does where it is missing.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hal.conformance.subjects import tree
from hal.conformance.subjects.generic import Call, dtype_of
from hal.conformance.subjects.layouts import LAYOUTS
from hal.errors import BackendUnavailable

DTYPES = ("float32", "float16", "bfloat16")
SAMPLES = {"smoke": 3, "full": 24}  # of each operator and dtype
LAID_OUT = {"smoke": 1, "full": 4}  # of them, those that come in every layout as well
MOST_ELEMENTS = 1 << 18  # in all tensors of a sample
LONG = 4099  # elements in a row of which a 16-bit sum no longer grows

# Words of names, and why such operators cannot be held to float64.
REFUSED = {
    "random": (
        "rand", "randn", "randint", "dropout", "dropout2d", "dropout3d", "bernoulli", "multinomial", "normal", "rrelu",
        "exponential", "geometric", "cauchy", "uniform", "lowrank", "fractional",
    ),
    "what is in new memory is nobody's": ("empty",),
    "the result is not unique": (
        "svd", "eig", "eigh", "qr", "geqrf", "ormqr", "lu", "ldl", "lstsq", "householder", "pinv", "pinverse", "rank",
    ),
    "the result depends on the dtype's limits": ("nan_to_num", "nextafter", "rms_norm", "frexp"),
    "a rounded coordinate is another pixel": ("grid",),
    "bins are differences of edges that are rounded": ("histogram", "histogramdd"),
    "the result depends on where the memory lies": ("strided",),
    "sparse or nested tensors": ("sparse", "dense", "jagged"),
}  # fmt: skip
MATRICES = frozenset(("inv", "inverse", "solve", "cholesky", "det", "slogdet", "logdet", "cond", "power"))


def calls(level: str, seed: int = 0) -> Iterator[Call]:
    """Samples of every operator, edge layouts, and long rows. Raises BackendUnavailable where torch has no list."""
    import torch

    for operator in operators():
        for dtype in DTYPES:
            if getattr(torch, dtype) in operator.dtypes:
                torch.manual_seed(seed)
                yield from calls_of(operator, dtype, level)
    yield from long_rows(seed)


def operators() -> list[Any]:
    """torch's descriptions, without those that cannot be judged."""
    try:
        with stand_in("expecttest"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        raise BackendUnavailable(
            f"--ops all needs torch's descriptions of its operators, which cannot be imported: {error}. Install "
            "what is missing, or judge the operators that a model used: --ops trace:FILE"
        ) from error
    return [operator for operator in op_db if not why_refused(operator.name)]


def why_refused(name: str) -> str:
    """Why an operator cannot be judged in this way; empty where it can."""
    return next((reason for reason, refused in REFUSED.items() if words_of(name) & set(refused)), "")


def words_of(name: str) -> set[str]:
    """The name, the name behind its last dot, and the words of both."""
    return {name, name.rpartition(".")[2], *name.replace(".", "_").split("_")}


def calls_of(operator: Any, dtype: str, level: str) -> Iterator[Call]:
    """The first samples of an operator, some of them in every layout."""
    import torch

    # Equal rows make a matrix singular, and what its inverse or exponential is then hangs on the last bit.
    layouts = [
        x for x in LAYOUTS if x != "broadcast" or not ("matrix" in operator.name or words_of(operator.name) & MATRICES)
    ]
    name = operator.name + (f".{operator.variant_test_name}" if operator.variant_test_name else "")
    try:
        samples = list(itertools.islice(_fitting(operator, getattr(torch, dtype)), SAMPLES[level]))
    except Exception:  # a description that does not run on this machine describes nothing
        return
    for i, sample in enumerate(samples):
        args = (sample.input, *sample.args)
        for layout in ("", *(layouts if i < LAID_OUT[level] else ())):
            yield Call(f"{name}/{dtype}/{i}", operator.op, dtype, args, sample.kwargs, None, layout)


def _fitting(operator: Any, dtype: Any) -> Iterator[Any]:
    """Samples of a moderate size whose tensors are plain ones."""
    import torch

    for sample in operator.sample_inputs("cpu", dtype, requires_grad=False):
        found = tree.tensors((sample.input, sample.args, sample.kwargs))
        plain = all(type(x) is torch.Tensor and x.layout == torch.strided for x in found)
        if plain and sum(x.numel() for x in found) <= MOST_ELEMENTS and dtype_of(found):
            yield sample


def long_rows(seed: int) -> Iterator[Call]:
    """Sums of LONG positive terms, and of terms of which the last counts most: dropped tails and 16-bit sums show."""
    import torch

    functional = torch.nn.functional
    reductions: dict[str, Callable[[Any], Any]] = {
        "sum": lambda x: x.sum(-1),
        "mean": lambda x: x.mean(-1),
        "var": lambda x: x.var(-1),
        "std": lambda x: x.std(-1),
        "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "softmax": lambda x: x.softmax(-1),
        "log_softmax": lambda x: x.log_softmax(-1),
        "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
        "matmul": lambda x: torch.matmul(x, x.transpose(-1, -2)),
        "linear": lambda x: functional.linear(x, x),
        "avg_pool1d": lambda x: functional.avg_pool1d(x, x.shape[-1]),
        "max": lambda x: x.amax(-1),
        "min": lambda x: x.amin(-1),
    }
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand((3, LONG), generator=generator, dtype=torch.float64) / 2 + 0.5
    heavy = torch.cat((rows[:, :-1] / 64, rows[:, -1:] * 64), -1)
    for name, function in reductions.items():
        for dtype in DTYPES:
            for label, x in (("positive", rows), ("last-counts", heavy)):
                for layout in ("", "strided", "transposed"):
                    args = (x.to(getattr(torch, dtype)),)
                    yield Call(f"{name}/{dtype}/long-{label}", function, dtype, args, {}, None, layout)


@contextmanager
def stand_in(name: str) -> Iterator[None]:
    """A module that is missing, for as long as others are imported that only name it."""
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        yield
        return
    module = types.ModuleType(name)
    module.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
