"""torch devices as subjects: layouts, dtypes, composition, and what torch's CPU is known to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hal
from hal.conformance.case import Case, make_op
from hal.conformance.cases import select
from hal.conformance.cases.common import spec
from hal.conformance.profile import Profile
from hal.conformance.runner import run_case
from hal.conformance.session import outcomes, run_here
from hal.conformance.subjects import open_subject, profile_for
from hal.conformance.values import normal
from hal.errors import BackendUnavailable

torch = pytest.importorskip("torch")

# docs/findings.md: activations of infinities.
KNOWN = ("edge/gelu-of-inf", "edge/gelu_tanh-of-inf", "edge/silu-of-inf")


@pytest.fixture(scope="module")
def device() -> Any:
    return open_subject("torch@cpu")


def test_torch_s_cpu_is_not_accused_in_float32(device: Any) -> None:
    cases = [case for case in select("smoke") if case.dtype == "float32"]
    found = list(outcomes(cases, device.info.dtypes, profile_for(device, Profile()), run_here(device)))
    failed = [o.result.name for o in found if o.status == "failed"]
    assert [name for name in failed if not name.endswith(KNOWN)] == []
    assert sum(o.status == "passed" for o in found) > 300


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_matmul_softmax_and_rmsnorm_are_not_accused(device: Any, dtype: str) -> None:
    operators = ["matmul", "rmsnorm", *(["softmax"] if dtype != "float64" else [])]
    cases = [case for case in select("smoke", operators) if case.dtype == dtype]
    found = outcomes(cases, device.info.dtypes, profile_for(device, Profile()), run_here(device))
    failed = [o.result.name for o in found if o.status == "failed"]
    assert [name for name in failed if not name.endswith(KNOWN)] == []


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "padded", "sliced", "reversed", "rows_reversed"])
def test_every_layout_arrives_as_strides(device: Any, layout: str) -> None:
    seen: list[Any] = []

    def product(a: Any, b: Any) -> Any:
        seen.append((a.stride(), b.stride()))
        return torch.matmul(a, b)

    from hal.conformance.subjects.torch_device import TorchSubject

    subject = TorchSubject("mine", torch.device("cpu"), {"matmul": product})
    operands = {"a": spec("float32", (5, 7), layout), "b": spec("float32", (7, 3), layout)}
    out = layout if layout != "transposed" else "contiguous"
    op = make_op("matmul", operands, out)
    assert run_case(subject, Case("matmul/float32/of-a-test", op, normal())).status == "passed"
    wanted = tuple(abs(step) for step in operands["a"].strides)
    # torch has no negative strides: a reversed operand is a flipped copy.
    assert "reversed" in layout or seen[0][0] == wanted


def test_a_torch_function_is_judged_on_tensors() -> None:
    kinds = set()

    def softmax(x: Any) -> Any:
        kinds.add((type(x), x.dtype, x.device.type))
        return torch.softmax(x, -1)

    assert hal.judge(softmax, op="softmax", device="cpu", pattern="size").passed
    assert {dtype for _, dtype, _ in kinds} == {torch.float32, torch.float16, torch.bfloat16}
    assert {where for _, _, where in kinds} == {"cpu"}


def test_a_dropped_tail_is_found() -> None:
    def product(a: Any, b: Any) -> Any:
        k = a.shape[-1]
        return torch.matmul(a[..., : k - 1], b[..., : k - 1, :]) if k % 8 == 1 and k > 1 else torch.matmul(a, b)

    assert not hal.judge(product, op="matmul", device="cpu", dtypes=["bfloat16"]).passed


def test_log_softmax_of_half_is_found_wrong(device: Any) -> None:
    """docs/findings.md: it keeps a logarithm in 16 bits. Were it mended, the page would have to say so."""
    case = select("smoke", ["log_softmax"], "float16/edge/70000-equal")[0]
    result = run_case(device, case)
    if result.status == "passed":
        pytest.skip(f"torch {torch.__version__} has mended it")
    assert "-inf" in result.message


def test_an_old_torch_without_rms_norm_composes_it(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.functional, "rms_norm", raising=False)
    for dtype in ("float32", "float16", "float64"):
        assert run_case(device, select("smoke", ["rmsnorm"], f"{dtype}/size/5x129")[0]).status == "passed"


def test_a_dtype_that_the_device_lacks_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.matmul

    def without_float64(a: Any, b: Any) -> Any:
        if a.dtype == torch.float64:
            raise RuntimeError("not on this chip")
        return right(a, b)

    monkeypatch.setattr(torch, "matmul", without_float64)
    assert "float64" not in open_subject("torch@cpu").info.dtypes


@pytest.mark.parametrize("name", ["npu", "cuda:77", "nonsense", "meta", ""])
def test_a_device_that_is_not_there_says_which_are(name: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"torch@|meta"):
        open_subject(f"torch@{name}")


def test_the_device_says_what_it_is(device: Any) -> None:
    assert torch.__version__ in device.info.name and device.info.props["torch_device"] == "cpu"
    assert {"float64", "float32", "float16", "bfloat16", "int8"} == set(device.info.dtypes)
    handle = device.alloc(10)
    device.copy_in(handle, 2, np.arange(8, dtype=np.uint8))
    target = np.zeros(8, np.uint8)
    device.copy_out(target, handle, 2)
    assert target.tolist() == list(range(8))
