"""Failures as files: what is written is read back, what is damaged is refused with a reason and nothing worse."""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hal.conformance import Case, repro, run_case, safetensors
from hal.conformance.case import make_op, place
from hal.conformance.cases import every
from hal.conformance.runner import Result
from hal.conformance.safetensors import DamagedFile
from hal.conformance.subject import Subject
from hal.dtypes import DTYPES
from hal.op import Op, TensorSpec
from hal_cpu_reference.operators import COMPUTE


def right(op: Op, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return COMPUTE[op.name](op, inputs)


def one(name: str) -> Case:
    return next(case for case in every() if case.name == name)


CASES = (
    "matmul/float32/layout/a-hankel",
    "matmul/int8/edge/bias-wraps",
    "matmul/float16/batch/broadcast-both",
    "matmul/bfloat16/shared/a@a.T",
    "matmul/float64/rows-alone/64x65",
    "softmax/float32/mask-bool/of-rows",
    "softmax/bfloat16/shared/in-place-sliced",
    "softmax/float32/empty/0x5",
    "layernorm/float16/residual/statistics",
    "rmsnorm/float32/axis/-2/sliced",
)


@pytest.mark.parametrize("name", CASES)
def test_a_case_comes_back(name: str, tmp_path: Path) -> None:
    case, path = one(name), tmp_path / "case.safetensors"
    repro.write(path, "acme:0", case, run_case(Subject(right), case), seed=3)
    back, device = repro.read(path)
    assert device == "acme:0"
    assert (back.name, back.op, back.check, back.shared) == (case.name, case.op, case.check, case.shared)
    for a, b in zip(case.inputs(seed=3), back.inputs(), strict=True):
        assert a.elements.tobytes() == b.elements.tobytes()
    assert run_case(Subject(right), back).status == "passed"


def test_operands_of_stride_0_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    repro.write(path, "cpu", one("softmax/float32/layout/x-broadcast"), Result("", "", "", "failed"))
    arrays, _ = safetensors.read(path)
    assert arrays["input.x"].shape == (1, 65)


def test_every_dtype_is_readable_by_the_formats_own_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.arange(6).reshape(2, 3).astype(d.numpy) for name, d in DTYPES.items() if name != "bfloat16"}
    path = tmp_path / "all.safetensors"
    safetensors.write(path, arrays, {"format": "x"})
    read = library.load_file(path)
    assert {name: x.tolist() for name, x in read.items()} == {name: x.tolist() for name, x in arrays.items()}
    back, metadata = safetensors.read(path)
    assert metadata == {"format": "x"}
    assert all(np.array_equal(back[name], arrays[name]) and back[name].dtype == arrays[name].dtype for name in arrays)


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changed: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


@pytest.mark.parametrize(("content", "message"), [
    (b"", "shorter than its first field"),
    (b"\x01\x02", "shorter than its first field"),
    (with_header({}, length=2**63), "header is said to have"),
    (with_header({}, length=50), "header is said to have 50 bytes; the file has 10"),
    (with_header(b"{"), "not JSON"),
    (with_header(b"\xff\xfe"), "not JSON"),
    (with_header(b"[" * 100000), "not JSON"),
    (with_header([1]), "no JSON object"),
    (with_header({"__metadata__": {"a": 1}}), "map names to strings"),
    (with_header({"__metadata__": "x"}), "map names to strings"),
    (with_header({"x": 5}), "needs dtype, shape and data_offsets"),
    (with_header(entry(extra=1), b"\0" * 8), "and nothing else"),
    (with_header(entry(dtype="F8"), b"\0" * 8), "dtype 'F8'; known: F64"),
    (with_header(entry(dtype=[1]), b"\0" * 8), "has dtype that is no string"),
    (with_header(entry(shape=[-2]), b"\0" * 8), "list of natural numbers"),
    (with_header(entry(shape=[True, 2]), b"\0" * 8), "list of natural numbers"),
    (with_header(entry(shape=[2**62, 2**62]), b"\0" * 8), "takes bytes"),
    (with_header(entry(shape=[1] * 40), b"\0" * 4), "40 dimensions"),
    (with_header(entry(shape=[0, 2**62], data_offsets=[0, 0])), "which no array has"),
    (with_header(entry(data_offsets=[0, 4]), b"\0" * 8), "takes bytes 0 to 8"),
    (with_header(entry(data_offsets=[8, 16]), b"\0" * 16), "takes bytes 0 to 8"),
    (with_header(entry(), b"\0" * 4), "takes bytes 0 to 8"),
    (with_header(entry(), b"\0" * 12), "end at byte 8 of 12"),
    (with_header(entry(dtype="BOOL", data_offsets=[0, 2]), b"\0\2"), "neither 0 nor 1"),
    (with_header(entry(), b"\0" * 8), "not a hal-repro-1 file"),
], ids=str)  # fmt: skip
def test_a_damaged_file_says_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        repro.read(path)


def written(tmp_path: Path) -> tuple[Path, dict[str, NDArray[Any]], dict[str, str]]:
    path = tmp_path / "case.safetensors"
    repro.write(path, "cpu", one("softmax/float32/size/5x3"), Result("", "", "", "failed"))
    return path, *safetensors.read(path)


def changed_op(metadata: dict[str, str], change: Any) -> dict[str, str]:
    op = json.loads(metadata["op"])
    change(op)
    return {**metadata, "op": json.dumps(op)}


@pytest.mark.parametrize(("change", "message"), [
    (lambda op: op.update(name="conv"), "no operator 'conv'"),
    (lambda op: op["inputs"][0].__setitem__(2, [5, 4]), "results are not those"),
    (lambda op: op["inputs"][0].__setitem__(2, [-5, 3]), "do not fit"),
    (lambda op: op["inputs"][0].__setitem__(3, [3]), "do not fit"),
    (lambda op: op["inputs"][0].__setitem__(3, [2**50, 1]), "spans"),
    (lambda op: op["inputs"][0].__setitem__(4, 3), "no address has align 3"),
    (lambda op: op["inputs"][0].__setitem__(1, "float99"), "metadata"),
    (lambda op: op["inputs"][0].__setitem__(0, "y"), "not one"),
    (lambda op: op["inputs"].append(op["inputs"][0]), "not canonical"),
    (lambda op: op["outputs"].clear(), "results are not those|not one"),
    (lambda op: op["params"].clear(), "not"),
    (lambda op: op["params"].append(["scale", 2.0]), "not canonical"),
    (lambda op: op["params"].append(["x", [1]]), "not canonical"),
    (lambda op: op.pop("params"), "metadata"),
    (lambda op: op["inputs"][0].__setitem__(2, [float("inf"), 3]), "metadata"),
    (lambda op: op["inputs"][0].__setitem__(2, [1] * 40), "do not fit"),
    (lambda op: op["inputs"][0].__setitem__(2, [0, 2**62]), "spans"),
    (lambda op: op["inputs"][0].__setitem__(3, [0, 10**4000]), "spans"),
    (lambda op: op["outputs"][0].__setitem__(3, [0, 1]), "share an element"),
    (lambda op: op["params"][0].__setitem__(1, 10**400), "not one"),
    (lambda op: op["params"][0].__setitem__(1, True), "not one"),
    (lambda op: op["params"][0].__setitem__(1, 1), "not canonical"),
])  # fmt: skip
def test_an_op_that_no_call_would_give_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path, arrays, metadata = written(tmp_path)
    safetensors.write(path, arrays, changed_op(metadata, change))
    with pytest.raises(DamagedFile, match=message):
        repro.read(path)


@pytest.mark.parametrize(("arrays", "metadata", "message"), [
    ({"input.x": np.zeros((5, 2), np.float32)}, {}, "operand x is float32"),
    ({"input.x": np.zeros((5, 3), np.float64)}, {}, "operand x is float64"),
    ({}, {}, "operand x is missing"),
    (None, {"check": "eval"}, "no check 'eval'"),
    (None, {"shared": '[["x", "nosuch"]]'}, "cannot share"),
    (None, {"shared": "5"}, "metadata"),
    (None, {"op": "{"}, "metadata"),
    (None, {"name": "\ud800"}, "metadata"),
    (None, {"device": "cpu:" + "9" * 5000}, "more than 500 characters"),
    (None, {"check": "batch"}, "needs 64 rows"),
])  # fmt: skip
def test_a_file_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, NDArray[Any]] | None, metadata: dict[str, str], message: str
) -> None:
    path, good, told = written(tmp_path)
    safetensors.write(path, good if arrays is None else arrays, {**told, **metadata})
    with pytest.raises(DamagedFile, match=message):
        repro.read(path)


def hostile(path: Path, op: Op, arrays: dict[str, NDArray[Any]], **changed: str) -> None:
    told = {"format": repro.FORMAT, "name": "x", "device": "cpu", "check": "once", "shared": "[]", "message": ""}
    safetensors.write(path, arrays, {**told, "op": json.dumps(op.to_json()), **changed})


def flat(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.contiguous(dtype, shape, align=64)


def constant(*shape: int) -> TensorSpec:
    return TensorSpec("float32", shape, (0,) * len(shape), 64)


ONE = np.ones((1, 1), np.float32)


def test_a_result_lies_only_where_the_operator_allows(tmp_path: Path) -> None:
    # A wide result in the memory of a small operand: a device would write far behind it.
    op = make_op("matmul", {"a": flat(1, 4), "b": constant(4, 1 << 20)})
    path = tmp_path / "case.safetensors"
    hostile(path, op, {"input.a": np.ones((1, 4), np.float32), "input.b": ONE}, shared='[["a", "out"]]')
    with pytest.raises(DamagedFile, match="'out' cannot share the memory of 'a'"):
        repro.read(path)


NORM = make_op("layernorm", {"x": flat(4, 4), "residual": flat(4, 4)}, return_stats=True)
PRODUCT = make_op("matmul", {"a": flat(4, 4), "b": flat(4, 4), "bias": flat(4, 4)})


@pytest.mark.parametrize(("op", "shared"), [
    (make_op("softmax", {"x": constant(4, 4)}), [("x", "out")]),
    (make_op("softmax", {"x": flat(4, 4, dtype="float16")}, out_dtype="float32"), [("x", "out")]),
    (NORM, [("residual", "out")]),
    (NORM, [("x", "sum")]),
    (NORM, [("x", "mean")]),
    (NORM, [("x", "residual"), ("x", "out")]),
    (NORM, [("out", "x")]),
    (PRODUCT, [("a", "out")]),
    (PRODUCT, [("a", "a")]),
    (PRODUCT, [("b", "a")]),
    (PRODUCT, [("a", "b"), ("b", "bias")]),
    (PRODUCT, [("a", "bias"), ("b", "bias")]),
    (PRODUCT, [("a", "b"), ("a", "b")]),
    (make_op("matmul", {"a": flat(4, 4), "b": replace(flat(4, 4), align=16)}), [("a", "b")]),
])  # fmt: skip
def test_memory_that_cannot_be_shared_is_refused(op: Op, shared: list[tuple[str, str]]) -> None:
    repro.check_op(op)
    with pytest.raises(DamagedFile, match="cannot share"):
        repro.check_shared(op, tuple(shared))


def test_memory_that_can_be_shared_covers_all_that_lie_in_it() -> None:
    repro.check_shared(PRODUCT, (("a", "b"), ("a", "bias")))
    repro.check_shared(NORM, (("x", "out"),))
    wide = make_op("matmul", {"a": constant(4, 4), "b": flat(4, 9)})
    for image in place(wide, [ONE, np.ones((4, 9))], [("a", "b")]):
        assert image.data.nbytes >= image.start + 36 * 4
    in_place = make_op(
        "softmax", {"x": constant(4, 4)}
    )  # not one that a file may hold; its memory is right all the same
    (image,) = place(in_place, [ONE], [("x", "out")])
    assert image.data.nbytes >= image.start + 16 * 4


@pytest.mark.parametrize(("op", "message"), [
    (make_op("softmax", {"x": constant(1 << 13, 1 << 12)}), "spans more than"),
    (make_op("softmax", {"x": constant(0, 1 << 30)}), "spans more than"),
    (make_op("matmul", {"a": constant(1 << 12, 1 << 12), "b": constant(1 << 12, 1 << 12)}), "products"),
    (make_op("matmul", {"a": constant(2, 2), "b": constant(*[1] * 31, 2, 2)}), "more than 32 axes"),
])  # fmt: skip
def test_a_small_file_asks_for_no_great_work(tmp_path: Path, op: Op, message: str) -> None:
    hostile(path := tmp_path / "case.safetensors", op, {f"input.{role}": ONE for role, _ in op.inputs})
    assert path.stat().st_size < 4000
    with pytest.raises(DamagedFile, match=message):
        repro.read(path)


@pytest.mark.parametrize("depth", [10**13, 0, -1, 3, 1.0, True, None, "1"])
def test_rows_have_as_many_axes_as_there_are(tmp_path: Path, depth: Any) -> None:
    op = make_op("rmsnorm", {"x": flat(2, 3)})
    changed = replace(op, params=tuple((key, depth if key == "row_ndim" else value) for key, value in op.params))
    hostile(path := tmp_path / "case.safetensors", changed, {"input.x": np.ones((2, 3), np.float32)})
    with pytest.raises(DamagedFile, match="no such number of axes"):
        repro.read(path)


def test_rows_are_cut_from_a_batch_alone(tmp_path: Path) -> None:
    # Cut along its only axis, a row would be longer than its weight, whose gaps lead out of its memory.
    op = make_op("rmsnorm", {"x": flat(1), "weight": TensorSpec("float32", (1,), (1 << 20,), 4)})
    one = np.ones(1, np.float32)
    hostile(path := tmp_path / "case.safetensors", op, {"input.x": one, "input.weight": one}, check="batch")
    with pytest.raises(DamagedFile, match="needs 64 rows"):
        repro.read(path)


def test_a_number_that_is_none_comes_back(tmp_path: Path) -> None:
    op = make_op("layernorm", {"x": flat(2, 3)}, eps=float("nan"))
    case = Case("nan", op, lambda *_: [np.ones((2, 3))])
    repro.write(path := tmp_path / "case.safetensors", "cpu", case, Result("", "", "", "failed"))
    assert np.isnan(repro.read(path)[0].op.param("eps"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(at=st.integers(0, 2000), value=st.integers(0, 255), cut=st.none() | st.integers(0, 2000))
def test_no_change_of_a_byte_does_more_than_make_it_damaged(
    tmp_path: Path, at: int, value: int, cut: int | None
) -> None:
    path, _, _ = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(bytes(content[:cut]))
    try:
        case, _ = repro.read(path)
    except DamagedFile:
        return
    run_case(Subject(right), case)


# ---- the command


def run_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    repro.add_arguments(parser)
    return repro.run(parser.parse_args(arguments))


def test_the_command_runs_the_case_on_its_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = written(tmp_path)
    assert run_command(str(path)) == 0
    assert "softmax/float32/size/5x3 on cpu: passed" in capsys.readouterr().out
    assert run_command(str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "passed"


def test_the_command_says_what_is_still_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = written(tmp_path)
    monkeypatch.setattr(repro, "open_device", lambda name: Subject(lambda op, inputs: [inputs[0]], name))
    assert run_command(str(path), "--device", "acme:0") == 1
    text = capsys.readouterr().out
    assert "softmax/float32/size/5x3 on acme:0: failed" in text and "elements are wrong" in text


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_file_that_is_none_exits_with_2(
    tmp_path: Path, device: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(str(tmp_path / "nosuch"), *device) == 2
    assert run_command(str(tmp_path), *device) == 2
    (tmp_path / "bad").write_bytes(b"nothing")
    assert run_command(str(tmp_path / "bad"), *device) == 2
    assert "shorter than its first field" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [
    {"check": "\x1b]0;owned\x07\n\n"},
    {"shared": '[["\\u001b[2J", "x"]]'},
    {"device": "\x1b[31m" + "9" * 400},
    {"device": "cpu:" + "9" * 5000},
    {"op": "[" * 100000},
    {"op": '{"name": "' + "\x1b" * 5000 + '"}'},
    {"format": "x" * 100000 + "\x1b"},
])  # fmt: skip
def test_a_hostile_file_ends_in_one_line(
    tmp_path: Path, changed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, arrays, metadata = written(tmp_path)
    safetensors.write(path, arrays, {**metadata, **changed})
    assert run_command(str(path)) == 2
    text = capsys.readouterr().err
    assert text.startswith("hal repro: ") and text.count("\n") == 1 and "\x1b" not in text and len(text) < 1500


def test_a_name_does_nothing_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, arrays, metadata = written(tmp_path)
    safetensors.write(path, arrays, {**metadata, "name": "\x1b[2Jname\u202e"})
    assert run_command(str(path)) == 0
    assert "\\x1b[2Jname\\u202e on cpu: passed" in capsys.readouterr().out


def test_an_unknown_device_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = written(tmp_path)
    assert run_command(str(path), "--device", "nosuch") == 2
    assert "no backend 'nosuch'" in capsys.readouterr().err


def test_writing_leaves_nothing_half_done(tmp_path: Path) -> None:
    path, _, _ = written(tmp_path)
    case = replace(one("softmax/float32/size/5x3"), name="other")
    repro.write(path, "cpu", case, Result("", "", "", "failed"))
    assert [p.name for p in tmp_path.iterdir()] == ["case.safetensors"]
    assert repro.read(path)[0].name == "other"
