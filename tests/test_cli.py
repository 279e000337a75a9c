from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hal import cli
from hal.terminal import size, table

TOY = """
from hal.device import Backend as Contract, DeviceInfo
from hal_cpu_reference.device import Device

class Backend(Contract):
    name = "toy"

    def devices(self):
        kinds = (("Rocket\\u2122\\x1b[2J", 9, {}), ("Emulator", -1, {}), ("Checker", -2, {"checker": True}))
        return [DeviceInfo(n, frozenset(("float32",)), 3 << 29, "Acme", p, props=f) for n, p, f in kinds]

    def open(self, info):
        return Device(info)
"""
NONE = """
from hal.device import Backend as Contract

class Backend(Contract):
    name = "none"

    def devices(self):
        return []

    def open(self, info):
        raise AssertionError

    def why_none(self):
        return "plug it in"
"""


def document(done: Any, code: int = 0) -> Any:
    """The one JSON document on standard output."""
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def complaint(done: Any) -> str:
    """The one line on standard error of a command that could not run."""
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("hal: ")
    return str(line)


# ---- what holds for all commands


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"  hal {name}" in printed and "--json" in printed and "--traceback" in printed


def test_the_module_and_the_function_are_the_same_program(strangers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert strangers.hal("--version").stdout == capsys.readouterr().out == "hal-kernels 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "usage: hal"),
        (["devise"], "choose from"),
        (["devices", "--jso"], "unrecognized arguments"),
        (["explain"], "OP"),
        (["explain", "convolve"], "matmul"),
        (["cache", "burn"], "clear"),
        (["devices", "--jso"], "usage: hal devices"),
        (["demo", "sentences.txt"], "usage: hal demo"),
        (["demo", "sentences.txt"], "unrecognized arguments: sentences.txt; a text of your own is given with --file"),
        (["conformance"], "required: DEVICE"),
        (["conformance", "--json", "cpu"], "hal conformance cpu --json"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    assert code == 2 and text in printed.out + printed.err


def test_help_imports_no_command(strangers: Any) -> None:
    source = """
import sys
from hal import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
modules = [command.module for command in cli.COMMANDS.values()]
print([name for name in modules if name in sys.modules])
"""
    assert strangers.code(source).splitlines()[-1] == "[]"


WAVE = """
SUMMARY = "wave at somebody"
EXAMPLES = ("hal wave --to you",)

def add_arguments(parser):
    parser.add_argument("--to", default="all")

def run(args):
    print("hello,", args.to)
    return 1
"""


def add_command(strangers: Any, distribution: str, source: str) -> None:
    """Install a distribution of one module that is the command `wave`."""
    strangers.add(distribution, distribution, source)
    (info,) = strangers.folder.glob(f"{distribution}-*")
    (info / "entry_points.txt").write_text(f"[hal.commands]\nwave = {distribution}\n", encoding="utf-8")


def test_other_packages_add_commands(strangers: Any) -> None:
    add_command(strangers, "waver", WAVE)
    done = strangers.hal("wave", "--to", "you")
    assert (done.returncode, done.stdout) == (1, "hello, you\n")
    assert "Wave at somebody." in (helped := strangers.hal("wave", "--help").stdout) and "  hal wave --to you" in helped
    assert "usage: hal wave" in strangers.hal("wave", "--from", "me").stderr


def test_a_broken_command_hurts_only_those_who_call_it(strangers: Any) -> None:
    add_command(strangers, "waver", "import no_such_package")
    listed = strangers.hal("--help")
    assert listed.returncode == 0 and "added by waver" in listed.stdout
    assert "no_such_package" in complaint(strangers.hal("wave"))
    add_command(strangers, "second", WAVE)
    assert "second and waver" in complaint(strangers.hal("wave"))


def test_an_error_is_one_line_and_with_json_a_document_too(strangers: Any) -> None:
    words = ("explain", "softmax", "--shapes", "3x4", "--device", "tpu:0")
    assert "installed: cpu" in complaint(strangers.hal(*words))
    done = strangers.hal(*words, "--json")
    answer = document(done, code=2)
    assert answer["kind"] == "BackendUnavailable" and "'tpu'" in answer["error"]
    assert "Traceback" in strangers.hal(*words, "--traceback").stderr


def test_a_name_the_terminal_cannot_show_is_escaped(strangers: Any) -> None:
    """Nor does a name clear the screen."""
    strangers.add("hal-toy", "toy", TOY)
    done = strangers.hal("devices", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "Rocket\\u2122" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.parametrize("words", [["devices", "--json"], ["conformance", "--list", "--level", "full"]])
def test_a_reader_that_leaves_is_no_error(strangers: Any, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "hal", *words],
        env=strangers.environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said(strangers: Any) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hal", "devices"],
            env=strangers.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 2 and done.stderr.startswith(b"hal: ") and b"Traceback" not in done.stderr


def test_an_interrupt_is_one_line(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY.replace("kinds =", "raise KeyboardInterrupt\n        kinds ="))
    done = strangers.hal("devices")
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "hal: interrupted\n")


def test_what_takes_long_says_so(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY.replace("kinds =", "import time; time.sleep(2.3)\n        kinds ="))
    assert strangers.hal("devices").stderr == "hal: asking every backend for its devices ...\n"


# ---- hal devices


def test_devices_lists_all_and_why_a_backend_has_none(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY)
    strangers.add("hal-none", "none", NONE)
    strangers.add("hal-broken", "broken", "raise OSError('libacme.so.3 is gone')")
    answer = document(strangers.hal("devices", "--json"))
    toy = next(each for each in answer["devices"] if each["device"] == "toy:1")
    assert toy == {
        "device": "toy:1",
        "backend": "toy",
        "name": "Emulator",
        "vendor": "Acme",
        "dtypes": ["float32"],
        "memory": 3 << 29,
        "priority": -1,
        "props": {},
    }
    backends = {each["backend"]: (each["devices"], each["reason"]) for each in answer["backends"]}
    assert backends["cpu"] == (1, None) and backends["toy"] == (3, None) and backends["none"] == (0, "plug it in")
    assert backends["broken"][0] == 0 and "libacme.so.3 is gone" in backends["broken"][1]
    printed = strangers.hal("devices").stdout.splitlines()
    notes = {line.split()[0]: line for line in printed if line.strip()}
    assert notes["toy:0"].endswith("default") and "1.5 GiB" in notes["toy:0"] and "fp32" in notes["toy:0"]
    assert notes["toy:1"].endswith("emulator: used only by name")
    assert notes["toy:2"].endswith("checker: used only by name")
    assert notes["none:"] == "  none: plug it in"


def test_devices_marks_the_default_that_hal_device_names(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY)
    printed = strangers.hal("devices", HAL_DEVICE="toy:check").stdout
    assert [line.split()[0] for line in printed.splitlines() if line.endswith("default")] == ["toy:2"]
    done = strangers.hal("devices", HAL_DEVICE="toy:9")
    assert done.returncode == 0 and "HAL_DEVICE" in done.stderr and "not there" in done.stderr


# ---- hal cache


def test_cache_clears_what_is_hal_s_and_nothing_else(strangers: Any) -> None:
    folder = strangers.cache / "hal-kernels-v1"
    empty = document(strangers.hal("cache", "--json"))
    assert (empty["folder"], empty["entries"], empty["size"]) == (str(folder), 0, 0)
    assert not folder.exists(), "looking made it"
    folder.mkdir(mode=0o700, parents=True)
    (folder / f"{'a' * 64}.bin").write_bytes(b"x" * 3000)
    (folder / "notes.txt").write_text("mine")
    shown = strangers.hal("cache")
    assert shown.returncode == 0 and "2.9 KiB" in shown.stdout
    cleared = document(strangers.hal("cache", "clear", "--json"))
    assert (cleared["deleted"], cleared["freed"], cleared["entries"], cleared["size"]) == (1, 3000, 0, 0)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert strangers.hal("cache", "clear").returncode == 0


# ---- text


def test_a_table_leaves_out_empty_columns() -> None:
    assert table(("a", "b", "c"), [("1", "", "x"), ("22", "", "")]) == ["a   c", "1   x", "22"]
    assert table(("a", "b"), []) == [""]


def test_sizes() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 MiB",
        "1.0 GiB",
        "5.0 TiB",
    ]
