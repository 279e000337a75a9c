from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hal import cli
from hal.commands.explain import read_operands, read_option
from hal.errors import HalError
from hal.op import TensorSpec

# A device that compiles: two kernels of OpenCL text and scratch memory; nothing is ever launched.
COMPILER = """
from hal.device import Backend as Contract, DeviceInfo
from hal.errors import UnsupportedError
from hal.kernel import Config, F32, I32, In, Kernel, KernelDevice, Launch, Out, Schedule, Scratch

class Softmax:
    def configs(self, op, info):
        return [Config("huge", (("lanes", 4096),)), Config("plain", (("lanes", 32),))]

    def kernels(self, op_class, config):
        if config.name == "huge":
            raise UnsupportedError("4096 lanes are too many")
        text = "__kernel void {}() {{}}"
        return (
            Kernel("row max", text.format("row_max"), ("partial", "x", "n")),
            Kernel("divide", text.format("divide"), ("out", "partial", "scale"), ("-cl-fast",)),
        )

    def schedule(self, op, config):
        rows, n = op.inputs[0][1].shape
        return Schedule((
            Launch(0, (rows, 1, 1), (32, 1, 1), (Scratch(64), In(0), I32(n)), shared_bytes=128),
            Launch(1, (rows, 2, 1), (32, 1, 1), (Out(0), Scratch(64), F32(op.param("scale")))),
        ), scratch_bytes=4096)

class Device(KernelDevice):
    algorithms = {"softmax": Softmax()}
    def compile(self, kernel): return kernel
    def alloc(self, nbytes): raise AssertionError
    free = copy_in = copy_out = launch = alloc
    def synchronize(self): pass

class Backend(Contract):
    name = "paper"
    def devices(self): return [DeviceInfo("Paper machine", frozenset(("float32",)), 0)]
    def open(self, info): return Device(info)
"""


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.contiguous(dtype, shape, 64)


@pytest.mark.parametrize(
    ("op", "text", "dtype", "want"),
    [
        ("matmul", "64x128,128x32", "float32", {"a": spec(64, 128), "b": spec(128, 32)}),
        ("matmul", "b=8x4, a=2x8 ,bias=4", "float32", {"b": spec(8, 4), "a": spec(2, 8), "bias": spec(4)}),
        ("matmul", "2x8,8x4:T", "float32", {"a": spec(2, 8), "b": TensorSpec("float32", (8, 4), (1, 8), 64)}),
        (
            "matmul",
            "2x8,8x4,bias=4",
            "int8",
            {"a": spec(2, 8, dtype="int8"), "b": spec(8, 4, dtype="int8"), "bias": spec(4, dtype="int32")},
        ),
        ("softmax", "3x4,mask=4:bool", "float16", {"x": spec(3, 4, dtype="float16"), "mask": spec(4, dtype="bool")}),
        ("softmax", "0x5", "float64", {"x": spec(0, 5, dtype="float64")}),
        ("softmax", "scalar", "float32", {"x": spec()}),
    ],
)
def test_operands_are_written_as_shapes(op: str, text: str, dtype: str, want: dict[str, TensorSpec]) -> None:
    assert read_operands(op, text, dtype) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3x", "64x128"),
        ("3x-4", "64x128"),
        ("", "64x128"),
        ("3x4:F", "'F'"),
        ("3x4:T:T", "one T"),
        ("3:T", "no two axes"),
        ("3,4,5", "takes x, mask"),
        ("y=3", "'y'"),
        ("3,x=4", "twice"),
    ],
)
def test_a_wrong_shape_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(HalError, match=words):
        read_operands("softmax", text, "float32")


@pytest.mark.parametrize(
    ("text", "value"),
    [("k=gelu", "gelu"), ("k=1e-6", 1e-6), ("k=true", True), ("k=None", None), ("k=(0,1)", (0, 1)), ("k=-1", -1)],
)
def test_options_are_python_values_or_words(text: str, value: Any) -> None:
    assert read_option(text) == ("k", value)


def test_a_device_that_compiles_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "matmul", "--shapes", "64x128,128x32", "--dtype", "float32", "--device", "cpu"]
    assert cli.main([*words, "--dump", str(tmp_path / "d"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "d" / "launch.json").read_text()) == document
    assert os.listdir(tmp_path / "d") == ["launch.json"]
    assert document["device"] == "cpu" and document["kernels"] == [] and "does not compile" in document["note"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "a=float32[64x128]" in printed and "float64 inside" in printed and "does not compile" in printed


def test_options_reach_the_operator(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "layernorm", "--shapes", "2x3x4,weight=3x4", "--device", "cpu", "--json", "--options"]
    assert cli.main([*words, "axis=(1,2)", "return_stats=true", "eps=0.5"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [role for role, *_ in document["call"]["outputs"]] == ["out", "mean", "rstd"]
    assert ["eps", 0.5] in document["call"]["params"]
    assert cli.main([*words, "epsilon=0.5"]) == 2
    assert "'epsilon'" in capsys.readouterr().err


def test_without_shapes_usual_ones_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for op in ("matmul", "softmax", "log_softmax", "layernorm", "rmsnorm"):
        assert cli.main(["explain", op, "--device", "cpu"]) == 0
        assert "no --shapes" in capsys.readouterr().err


def test_a_dump_has_each_source_and_how_it_is_launched(strangers: Any, tmp_path: Path) -> None:
    strangers.add("hal-paper", "paper", COMPILER)
    folder = tmp_path / "dump"
    words = ("explain", "softmax", "--shapes", "5x7", "--device", "paper", "--options", "scale=0.5")
    done = strangers.hal(*words, "--dump", str(folder))
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(folder)) == ["0_row_max.cl", "1_divide.cl", "launch.json"]
    assert (folder / "1_divide.cl").read_text() == "__kernel void divide() {}"
    document = json.loads((folder / "launch.json").read_text())
    assert document["config"] == {"name": "plain", "values": {"lanes": 32}}
    assert document["scratch_bytes"] == 4096
    assert document["rejected"] == ["huge(lanes=4096): 4096 lanes are too many"]
    assert document["kernels"][1] == {
        "entry": "divide",
        "file": "1_divide.cl",
        "parameters": ["out", "partial", "scale"],
        "options": ["-cl-fast"],
    }
    first, second = document["launches"]
    assert (first["grid"], first["block"], first["shared_bytes"]) == ([5, 1, 1], [32, 1, 1], 128)
    assert first["arguments"] == [
        {"parameter": "partial", "kind": "scratch", "offset": 64},
        {"parameter": "x", "kind": "input", "index": 0, "role": "x", "tensor": "float32[5x7]"},
        {"parameter": "n", "kind": "i32", "value": 7},
    ]
    assert [a["kind"] for a in second["arguments"]] == ["output", "scratch", "f32"]
    assert second["arguments"][2] == {"parameter": "scale", "kind": "f32", "value": 0.5}
    for words_printed in ("row max", "grid 5x1x1", "block 32x1x1", "shared 128 B", "4096 lanes are too many", "plain("):
        assert words_printed in done.stdout
    assert json.loads(strangers.hal(*words, "--json").stdout) == document


def test_a_dump_into_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "README.md"
    taken.write_text("")
    assert cli.main(["explain", "softmax", "--shapes", "3x4", "--device", "cpu", "--dump", str(taken)]) == 2
    assert capsys.readouterr().err == f"hal: --dump {taken}: {taken} is there and is no folder; name another\n"


def test_an_operator_the_device_lacks_is_said(strangers: Any) -> None:
    strangers.add("hal-paper", "paper", COMPILER)
    done = strangers.hal("explain", "matmul", "--device", "paper", "--shapes", "2x2,2x2")
    assert done.returncode == 2 and "no kernel" in done.stderr and "Traceback" not in done.stderr


def test_a_device_that_is_not_there_is_said(strangers: Any) -> None:
    """With OpenCL on the machine and without."""
    done = strangers.hal("explain", "matmul", "--shapes", "2x2,2x2", "--device", "opencl:nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hal: ") and "opencl:nowhere" in done.stderr and "Traceback" not in done.stderr
