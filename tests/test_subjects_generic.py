"""The generic judge: no right operator of torch is accused, planted faults are found, traces and references work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hal
from hal import cli
from hal.conformance.session import Outcome
from hal.conformance.subjects import opinfo, trace
from hal.conformance.subjects.generic import Call, judge_call, judge_calls
from hal.conformance.subjects.reference import find_reference, plain_name
from hal.errors import ArgumentError, BackendUnavailable, OptionError

torch = pytest.importorskip("torch")

# docs/findings.md has each of them.
KNOWN = ("soft_margin_loss", "matrix_exp", "cosine_embedding_loss", "native_layer_norm", "nn.functional.layer_norm")
QUICK = ("sum", "mean", "matmul", "nn.functional.gelu", "cumsum", "exp", "linalg.vector_norm", "index_select",
         "nn.functional.softplus", "div", "floor", "amax", "nn.functional.conv2d", "where", "cat", "var")  # fmt: skip


def judged(function: Any, right: Any, *args: Any, dtype: str = "float32", layout: str = "", **kwargs: Any) -> Outcome:
    """The outcome of a call of `function` that `right` is the reference of."""
    outcome = judge_call(Call("test", function, dtype, args, kwargs, right, layout), "cpu")
    assert outcome is not None
    return outcome


def random(*shape: int, dtype: str = "float32") -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))


# ---- nothing right is accused


@pytest.mark.parametrize("name", QUICK)
def test_torch_s_operators_are_not_accused(name: str) -> None:
    found = [o for o in opinfo.operators() if o.name == name]
    calls = [c for o in found for dtype in opinfo.DTYPES for c in opinfo.calls_of(o, dtype, "smoke")]
    results = list(judge_calls(calls, "cpu"))
    assert len(results) >= 10
    assert [(o.result.name, o.reason) for o in results if o.status != "passed"] == []


def test_long_rows_are_not_accused() -> None:
    failed = [o.result.name for o in judge_calls(opinfo.long_rows(0), "cpu") if o.status == "failed"]
    assert failed == []


@pytest.mark.slow
@pytest.mark.parametrize("level", ["smoke", "full"])
def test_no_operator_of_torch_is_accused_but_for_the_findings(level: str) -> None:
    found = list(judge_calls(opinfo.calls(level), "cpu"))
    failed = [o.result.name for o in found if o.status == "failed"]
    assert [name for name in failed if not any(known in name for known in KNOWN)] == []
    assert sum(o.status == "passed" for o in found) > 10_000


# ---- planted faults


def sum_in_half(x: Any) -> Any:
    """Added one after the other in the dtype itself."""
    total = torch.zeros(x.shape[:-1], dtype=x.dtype)
    for k in range(x.shape[-1]):
        total = total + x[..., k]
    return total


def test_sums_in_sixteen_bits_are_found() -> None:
    for dtype in ("float16", "bfloat16"):
        x = (random(2, opinfo.LONG).abs() / 2 + 0.5).to(getattr(torch, dtype))
        assert judged(sum_in_half, lambda x: x.sum(-1), x, dtype=dtype).status == "failed"
        assert judged(lambda x: x.sum(-1), None, x, dtype=dtype).status == "passed"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_dropped_tail_is_found(dtype: str) -> None:
    """In bfloat16, whose bound is wide, by rows whose last term counts most: `opinfo.long_rows` has such."""
    x = random(4, 129, dtype=dtype)
    x[:, -1] = 40.0 if dtype == "bfloat16" else x[:, -1]
    assert judged(lambda x: x[..., :-1].sum(-1), lambda x: x.sum(-1), x, dtype=dtype).status == "failed"


FAULTS = {
    "strides ignored": (lambda x: torch.as_strided(x, x.shape, (x.shape[1], 1)) * 2, lambda x: x * 2, "transposed"),
    "NaN in a gap": (lambda x: x + 0 * torch.as_strided(x, (1,), (1,), 1), lambda x: x + 0, "strided"),
    "wrong on an edge": (lambda x: torch.cat((x[:, :-1].exp(), x[:, -1:]), 1), lambda x: x.exp(), ""),
    "another shape": (lambda x: x.exp()[:1], lambda x: x.exp(), ""),
    "input modified": (lambda x: x.add_(1), lambda x: x + 1, ""),
    "one result of two": (lambda x: (x.max(1).values,), lambda x: tuple(x.max(1)), ""),
    "another index": (lambda x: x.argmax(1) + 1, lambda x: x.argmax(1), ""),
    "not a number": (lambda x: x / x * x, lambda x: x * 1.0, "zero"),
    "an exception": (lambda x: x.missing, lambda x: x.exp(), ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    wrong, right, layout = FAULTS[fault]
    x = torch.zeros(5, 7) if layout == "zero" else random(5, 7)
    layout = layout.replace("zero", "")
    assert judged(wrong, right, x, layout=layout).status == "failed"
    assert judged(right, right, x, layout=layout).status == "passed"


def test_jumps_and_random_results_are_no_faults() -> None:
    near = torch.tensor([2.9999998, 3.0, -1.0])
    assert judged(lambda x, y: (x / y).floor(), None, near, torch.ones(3)).status == "passed"
    assert judged(lambda x: x + torch.rand(3), None, near).status == "skipped"


def test_a_missing_kernel_is_skipped_and_says_so() -> None:
    def missing(x: Any) -> Any:
        raise NotImplementedError("\"exp_vml\" not implemented for 'Half'")

    outcome = judged(missing, lambda x: x.exp(), random(3))
    assert outcome.status == "skipped" and "no such kernel" in outcome.reason


def test_a_layout_that_the_operator_refuses_is_left_out() -> None:
    call = Call("view", lambda x: x.view(-1), "float32", (random(4, 6),), {}, None, "transposed")
    assert judge_call(call, "cpu") is None


def test_refused_operators_have_a_reason() -> None:
    assert opinfo.why_refused("nn.functional.dropout") == "random"
    assert opinfo.why_refused("linalg.svd") == "the result is not unique"
    assert opinfo.why_refused("normal") and not opinfo.why_refused("nn.functional.normalize")


# ---- traces and references


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data) if not isinstance(data, str) else data)
    return path


ADDMM = {
    "op": "aten::addmm",
    "args": [
        {"tensor": "float16", "shape": [24]},
        {"tensor": "float16", "shape": [8, 16], "strides": [32, 2]},
        {"tensor": "float16", "shape": [16, 24], "strides": [1, 16]},
    ],
    "kwargs": {"alpha": 0.5},
    "count": 12,
}
EMBEDDING = {
    "op": "aten::embedding",
    "args": [{"tensor": "float32", "shape": [10, 4]}, {"tensor": "int64", "shape": [8], "low": 2, "high": 9}],
}
EXPANDED = {"op": "aten.mul.Tensor", "args": [{"tensor": "float32", "shape": [5, 3], "strides": [0, 1]}, 2.5]}
SOFTMAX = {"op": "aten::_softmax", "args": [{"tensor": "float32", "shape": [2, 9]}, -1, False]}


def test_a_trace_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "model.json", {"operators": [ADDMM, EMBEDDING, EXPANDED, SOFTMAX]})
    calls = list(trace.calls(path))
    assert [c.name for c in calls] == [
        "aten::addmm/float16/0", "aten::embedding/float32/1", "aten::mul/float32/2", "aten::_softmax/float32/3",
    ]  # fmt: skip
    assert calls[0].args[2].stride() == (1, 16) and calls[2].args[0].stride() == (0, 1)
    assert int(calls[1].args[1].min()) >= 2 and int(calls[1].args[1].max()) <= 9
    assert cli.main(["conformance", "torch@cpu", "--ops", f"trace:{path}"]) == 0
    assert "4 passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ("{", OptionError, "not JSON"),
        ({"model": 1}, OptionError, "no trace"),
        ([{"args": []}], OptionError, "no trace"),
        ([{"op": "aten::no_such_operator"}], BackendUnavailable, "no operator 'aten::no_such_operator'"),
        ([{"op": "aten::exp", "args": [{"tensor": "float9", "shape": [1]}]}], OptionError, "no dtype"),
        ([{"op": "aten::exp", "args": [{"tensor": "float32"}]}], OptionError, "needs a shape"),
        (
            [{"op": "aten::exp", "args": [{"tensor": "float32", "shape": [2, 2], "strides": [1]}]}],
            OptionError,
            "strides",
        ),
        ([{"op": "aten::exp", "args": [{"tensor": "float32", "shape": [1 << 40]}]}], OptionError, "more than"),
        ({"import": ["no_such_module_here"], "operators": []}, BackendUnavailable, "cannot be imported"),
    ],
)
def test_a_trace_that_is_none_says_where(tmp_path: Path, data: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        for call in trace.calls(write(tmp_path / "bad.json", data)):
            judge_call(call, "cpu")


def test_a_fused_operator_is_held_to_its_registered_reference(tmp_path: Path) -> None:
    library = torch.library.Library("hal_test", "DEF")
    library.define("add_rms_norm(Tensor x, Tensor residual, float eps) -> (Tensor, Tensor)")

    def fused(x: Any, residual: Any, eps: float) -> Any:
        s = (x + residual).float()
        return (s * (s * s).mean(-1, keepdim=True).add(eps).rsqrt()).to(x.dtype), s.to(x.dtype)

    library.impl("add_rms_norm", fused, "CPU")

    @hal.reference("hal_test::add_rms_norm")
    def right(x: Any, residual: Any, eps: float) -> Any:
        s = x + residual
        return s * (s * s).mean(-1, keepdim=True).add(eps).rsqrt(), s

    @hal.reference("hal_test::other")
    def wrong(x: Any, residual: Any, eps: float) -> Any:
        return x, residual

    assert find_reference("hal_test.add_rms_norm.default") is right
    tensors = [{"tensor": "bfloat16", "shape": [4, 64]}] * 2
    path = write(tmp_path / "fused.json", [{"op": "hal_test::add_rms_norm", "args": [*tensors, 1e-6]}])
    (call,) = trace.calls(path)
    outcome = judge_call(call, "cpu")
    assert outcome is not None and outcome.status == "passed", outcome
    swapped = judge_call(Call(call.name, call.function, call.dtype, call.args, {}, wrong), "cpu")
    assert swapped is not None and swapped.status == "failed"


def test_a_reference_needs_a_name() -> None:
    assert plain_name("npu.npu_add.default") == plain_name("npu::npu_add") == "npu::npu_add"
    with pytest.raises(OptionError, match="library::operator"):
        hal.reference("gelu")
    with pytest.raises(ArgumentError, match="operator's name"):
        hal.reference(lambda x: x)  # type: ignore[arg-type]


def test_the_common_rule_is_applied_to_the_measured_bound() -> None:
    """A float16 result is right one unit off where D allows it, and wrong where the whole tensor is off by 10 %."""
    x = random(64, dtype="float16")
    assert judged(lambda x: x * 1.0001, lambda x: x * 1.0, x, dtype="float16").status == "passed"
    assert judged(lambda x: x * 1.1, lambda x: x * 1.0, x, dtype="float16").status == "failed"
    assert judged(lambda x: x * 1.001, lambda x: x * 1.0, random(64)).status == "failed"
    assert np.isfinite(judged(lambda x: x * 1.001, lambda x: x * 1.0, random(64)).result.ratio)
