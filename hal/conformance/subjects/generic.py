"""Generic judgement: any torch operator on any torch device, held to float64 on the CPU (sensitivity.py).

A `Call` is an operator and its arguments as CPU tensors. `judge_call` computes the reference, copies the arguments to
the device, calls there, and compares. Its cases are named generic/operator/dtype/…: the bound is measured, not proved.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.conformance.runner import Result
from hal.conformance.session import Outcome
from hal.conformance.subjects import tree
from hal.conformance.subjects.layouts import LAYOUTS
from hal.conformance.subjects.sensitivity import UNIT, Reference, same

OPERATOR = "generic"


@dataclass(frozen=True)
class Call:
    """One call.

    name: operator/dtype/…, for the report. function: the operator. dtype: of the inputs' rounding. reference: in
    float64 on the CPU, None for `function` itself. layout: a key of LAYOUTS, or empty.
    """

    name: str
    function: Callable[..., Any]
    dtype: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    reference: Callable[..., Any] | None = None
    layout: str = ""


def judge_calls(calls: Iterable[Call], device: Any, seed: int = 0) -> Iterator[Outcome]:
    """An outcome for each call that means something."""
    for call in calls:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = judge_call(call, device, seed)
        if outcome is not None:
            yield outcome


def judge_call(call: Call, device: Any, seed: int = 0) -> Outcome | None:
    """The outcome of one call; None where an edge layout makes a call that the reference refuses as well."""
    start = time.perf_counter()
    change = LAYOUTS.get(call.layout, lambda x: x)

    def outcome(status: str, message: str = "", ratio: float = 0.0) -> Outcome:
        name = f"{OPERATOR}/{call.name}" + (f"/{call.layout}" if call.layout else "")
        seconds = time.perf_counter() - start
        kind = {"skipped": "unsupported"}.get(status, status)
        return Outcome(Result(name, OPERATOR, call.dtype, kind, ratio, message, seconds), status, message)

    try:
        laid_out = tree.on_device((call.args, call.kwargs), "cpu", change)
        args, kwargs = laid_out
        reference = Reference(call.reference or call.function, args, kwargs, call.dtype, change, seed)
    except Exception as error:  # the operator's own refusals come in every class
        return None if call.layout else outcome("skipped", f"no reference: {_first_line(error)}")
    if reference.random:
        return outcome("skipped", "random: two runs of the reference differ")
    try:
        got, names, changed = run_on(call, laid_out, device, change)
    except Exception as error:  # a stranger's device may raise anything
        if isinstance(error, NotImplementedError) or "not implemented" in str(error).lower():
            return outcome("skipped", f"the device has no such kernel: {_first_line(error)}")
        return outcome("failed", f"{type(error).__name__}: {_first_line(error)}", float("inf"))
    verdict = reference.judge(got, names, call.dtype)
    if changed and not reference.mutates:
        return outcome("failed", f"an input was modified; {verdict.message}", float("inf"))
    return outcome("passed" if verdict.ok else "failed", verdict.message, verdict.ratio)


def run_on(
    call: Call, given: Any, device: Any, change: Callable[[Any], Any]
) -> tuple[list[NDArray[Any]], list[str], bool]:
    """The results of a call on the device, the names of their dtypes, and whether an input was modified."""
    import torch

    args, kwargs = tree.on_device(given, device, change)
    with torch.no_grad():
        made = call.function(*args, **kwargs)
    arrays, names = [], []
    for x in tree.leaves(made):
        if isinstance(x, torch.Tensor):
            array, name = as_array(x)
            arrays.append(array)
            names.append(name)
        elif isinstance(x, (bool, int, float)):
            arrays.append(np.asarray(x))
            names.append("float64" if isinstance(x, float) else "integer")
    before, after = tree.tensors(given), tree.tensors((args, kwargs))
    changed = any(not same(as_array(x)[0], as_array(y)[0]) for x, y in zip(before, after, strict=True))
    return arrays, names, changed


def as_array(x: Any) -> tuple[NDArray[Any], str]:
    """A tensor of any device and dtype as an array, and its dtype's name; complex as pairs of real numbers."""
    import torch

    x = x.detach()
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    x = x.resolve_neg().cpu()
    name = str(x.dtype).removeprefix("torch.")
    if name == "bfloat16":
        import ml_dtypes

        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16), name
    return x.numpy(), name


def dtype_of(args: Any) -> str:
    """The coarsest floating dtype among tensors: that of the inputs' rounding. Empty where none is floating."""
    names = {str(x.dtype).removeprefix("torch.") for x in tree.tensors(args)}
    names |= {{"complex64": "float32", "complex32": "float16"}.get(name, name) for name in names}
    return max(names & UNIT.keys(), key=UNIT.__getitem__, default="")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
