"""How a library becomes a backend: hal.load_plugin, HAL_PLUGIN_PATH, an entry point that gives its path."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hal.capi import Backend, plugin_name
from hal.capi.header import ffi
from hal.errors import BackendUnavailable

LOAD = """
import hal, json, os, sys
answers = []
for path in sys.argv[1:]:
    try:
        answers.append(hal.load_plugin(path))
    except Exception as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps([answers, os.environ.get("HAL_PLUGIN_PATH", ""), hal.device("cpu").name]))
"""
MULTIPLY = """
import hal, numpy, sys
x = numpy.arange(6, dtype="f4").reshape(2, 3)
print(hal.matmul(x, x.T, device=sys.argv[1]).tolist(), hal.asarray(x).device.name)
"""


def loaded(c_plugins: Any, *paths: Path | str) -> Any:
    done = c_plugins.python("-c", LOAD, *map(str, paths))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("libacme.so", "acme"),
        ("acme.so", "acme"),
        ("libhal_acme.so.1.2", "acme"),
        ("hal_acme.dll", "acme"),
        ("ACME-900.dylib", "acme_900"),
        (".so", "plugin"),
    ],
)
def test_a_backend_is_called_as_its_file(file: str, name: str) -> None:
    assert plugin_name(Path("/opt") / file) == name


def test_load_plugin_gives_the_device_strings(c_plugins: Any) -> None:
    minimal, arena = c_plugins.minimal(), c_plugins.arena()
    answers, variable, _ = loaded(c_plugins, minimal, arena, minimal)
    assert answers == [["minimal"], ["arena:0"], ["minimal"]]
    assert variable == f"{minimal}{os.pathsep}{arena}"  # child processes find them too


def test_load_plugin_says_what_is_wrong(c_plugins: Any, tmp_path: Path) -> None:
    stranger = c_plugins.build("stranger", "int answer(void);\nint answer(void) { return 42; }\n")
    taken = tmp_path / "libcpu.so"
    shutil.copy(c_plugins.minimal(), taken)
    second = tmp_path / "libminimal.so"
    shutil.copy(c_plugins.minimal(), second)
    found, variable, cpu = loaded(
        c_plugins, "libminimal.so", tmp_path / "gone.so", stranger, taken, c_plugins.minimal(), second
    )
    relative, gone, no_plugin, rival, good, double = found
    assert relative[0] == "ArgumentError" and "has to be absolute" in relative[1]
    assert gone[0] == "BackendUnavailable" and "there is no library" in gone[1]
    assert no_plugin[0] == "AbiMismatch" and "hal_get_backend" in no_plugin[1]
    assert rival[0] == "BackendUnavailable" and str(taken) in rival[1] and "hal_cpu_reference:Backend" in rival[1]
    assert good == ["minimal"]
    assert double[0] == "BackendUnavailable" and str(second) in double[1] and str(c_plugins.minimal()) in double[1]
    assert variable == str(c_plugins.minimal()) and cpu == "cpu"  # nobody else is hurt


def test_a_listed_library_computes_when_named_and_is_never_the_default(c_plugins: Any) -> None:
    done = c_plugins.python("-c", MULTIPLY, "minimal", plugins=(c_plugins.minimal(),))
    assert done.returncode == 0, done.stderr
    result, _, where = done.stdout.strip().rpartition(" ")
    assert result == "[[5.0, 14.0], [14.0, 50.0]]" and not where.startswith("minimal")


def test_hal_device_may_name_it(c_plugins: Any) -> None:
    code = "import hal, os; os.environ['HAL_DEVICE'] = 'arena:0'; print(hal.empty((2,), 'float32').device.name)"
    done = c_plugins.python("-c", code, plugins=(c_plugins.arena(),))
    assert done.stdout.strip() == "arena:0", done.stderr


def test_a_broken_one_hurts_only_who_asks(c_plugins: Any, tmp_path: Path) -> None:
    bad = c_plugins.variant("bad", "t->abi_major = 9;")
    code = """
import hal
for name in ("cpu", "minimal", "bad", "here", "bad"):
    try:
        print(hal.device(name).name)
    except Exception as error:
        print(type(error).__name__, error)
print(sorted({entry.backend for entry in hal.devices()} & {"minimal", "bad", "here"}))
"""
    done = c_plugins.python("-c", code, plugins=(bad, c_plugins.minimal(), "here.so"))
    cpu, minimal, first, relative, again, listed = done.stdout.splitlines()
    assert (cpu, minimal, listed) == ("cpu", "minimal", "['minimal']")
    assert first.startswith("BackendUnavailable") and "version 9.0" in first and first == again
    assert relative.startswith("BackendUnavailable") and "has to be absolute" in relative


def test_two_libraries_of_one_name_are_both_named(c_plugins: Any, tmp_path: Path) -> None:
    second = tmp_path / "minimal.so"
    shutil.copy(c_plugins.minimal(), second)
    done = c_plugins.hal("conformance", "minimal", plugins=(c_plugins.minimal(), second))
    assert done.returncode == 2
    assert str(second) in done.stderr and str(c_plugins.minimal()) in done.stderr and "HAL_PLUGIN_PATH" in done.stderr


@pytest.mark.parametrize(
    "source",
    [
        "Backend = {path!r}",
        "import pathlib\nBackend = pathlib.Path({path!r})",
        "def Backend():\n    return {path!r}",
        "import pathlib\ndef Backend():\n    return pathlib.Path({path!r})",
    ],
    ids=["text", "path", "function of text", "function of path"],
)
def test_an_entry_point_may_be_a_path(c_plugins: Any, strangers: Any, source: str) -> None:
    """The backend is called as the entry point is, whatever the file's name."""
    strangers.add("hal-rocket", "rocket", source.format(path=str(c_plugins.minimal())))
    code = "import hal; print(hal.device('rocket').name, hal.matmul.__name__, hal.device('cpu').name)"
    assert strangers.code(code).split() == ["rocket:0", "matmul", "cpu"]


def test_an_entry_point_that_gives_no_backend_says_what_it_gave(strangers: Any) -> None:
    strangers.add("hal-rocket", "rocket", "Backend = 42")
    done = strangers.hal("conformance", "rocket:0")
    assert done.returncode == 2 and "gives 42, neither a hal.device.Backend nor the path of a library" in done.stderr


def test_a_package_and_a_library_of_one_name_are_both_named(c_plugins: Any, strangers: Any) -> None:
    strangers.add("hal-rocket", "minimal", f"Backend = {str(c_plugins.minimal())!r}")
    done = strangers.hal("conformance", "minimal", HAL_PLUGIN_PATH=str(c_plugins.minimal()))
    assert done.returncode == 2 and "hal-rocket" in done.stderr and f"the library {c_plugins.minimal()}" in done.stderr


def test_without_cffi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ffi.cache_clear()
    monkeypatch.setitem(sys.modules, "cffi", None)
    with pytest.raises(BackendUnavailable, match="cffi, which is not installed; pip install cffi"):
        Backend(tmp_path / "libacme.so").devices()
    ffi.cache_clear()


def test_a_library_without_a_device_says_so(c_plugins: Any) -> None:
    none = "static hal_status none(int32_t *count) { return *count = 0, HAL_OK; }"
    done = c_plugins.hal("conformance", "empty", plugins=(c_plugins.variant("empty", "t->device_count = none;", none),))
    assert done.returncode == 2 and "the library finds no device" in done.stderr


def test_hal_devices_lists_it(c_plugins: Any) -> None:
    done = c_plugins.hal("devices", plugins=(c_plugins.arena(),))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("arena:0")]
    assert "hal's examples" in line and "1.0 GiB" in line and line.endswith("backend in C: used only by name")
