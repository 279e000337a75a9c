from __future__ import annotations

import json
from typing import Any

import pytest

TOY = """
from hal.device import Backend as Contract, DeviceInfo
from hal_cpu_reference.device import Device

class Backend(Contract):
    name = "toy"

    def devices(self):
        dtypes = frozenset(("float32",))
        return [
            DeviceInfo("Acme Rocket 2000", dtypes, 1 << 30, vendor="Acme"),
            DeviceInfo("Acme Anvil", dtypes, 1 << 30, vendor="Acme", priority=7),
            DeviceInfo("Acme Anvil Deluxe", dtypes, 1 << 30, vendor="Acme", priority=-1),
        ]

    def open(self, info):
        return Device(info)
"""
EMULATOR = """
from hal.device import Backend as Contract, DeviceInfo

class Backend(Contract):
    name = "slow"

    def devices(self):
        return [DeviceInfo("Emulator", frozenset(("float32",)), 1 << 30, priority=-5)]

    def open(self, info):
        raise AssertionError("an emulator is opened by name only")
"""
ERRORS = """
import hal, json, sys
answers = []
for name in sys.argv[1:] or [None]:
    try:
        answers.append(hal.device(name).name)
    except Exception as error:
        answers.append([type(error).__name__, str(error), repr(error.__cause__)])
print(json.dumps(answers))
"""


def opened(strangers: Any, *names: str) -> list[Any]:
    """For each device string the device it opens, or [type, text, cause] of the error."""
    done = strangers.run("-c", ERRORS, *names)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def default(strangers: Any, **variables: str) -> str:
    """Where hal computes if nobody says where."""
    printed: str = strangers.code("import hal, numpy; print(hal.asarray(numpy.ones(3, 'f4')).device.name)", **variables)
    return printed.strip()


def test_device_strings(strangers: Any) -> None:
    """Backend alone, index, part of a name whatever its case, a whole name that is part of another."""
    strangers.add("hal-toy", "toy", TOY)
    names = ("cpu", "cpu:0", "toy", "toy:1", "toy:rocket", "toy:Acme Anvil", "toy:deluxe")
    assert opened(strangers, *names) == ["cpu", "cpu", "toy:0", "toy:1", "toy:0", "toy:1", "toy:2"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpu:0", ["'tpu'", "installed: cpu", "toy"]),
        ("toy:anvi", ["several devices", "toy:1 (Acme Anvil)", "toy:2 (Acme Anvil Deluxe)"]),
        ("toy:falcon", ["not there", "toy:0 (Acme Rocket 2000)"]),
        ("toy:3", ["not there", "toy:2 (Acme Anvil Deluxe)"]),
        ("toy:2000", ["not there", "toy:0"]),  # an index, even though a name has it in it
        ("", ["no backend ''", "toy"]),
    ],
)
def test_an_unknown_name_lists_the_known_ones(strangers: Any, name: str, words: list[str]) -> None:
    strangers.add("hal-toy", "toy", TOY)
    ((kind, text, _),) = opened(strangers, name)
    assert kind == "BackendUnavailable"
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("statement", ["raise OSError('libacme.so.3 is gone')", "import sys; sys.exit('libacme.so.3')"])
def test_a_backend_that_does_not_import_hurts_only_who_asks_and_keeps_its_cause(strangers: Any, statement: str) -> None:
    strangers.add("hal-broken", "broken", statement)
    good, *bad = opened(strangers, "cpu", "broken:0", "broken:0")
    assert good == "cpu"
    for kind, text, cause in bad:  # the second time as the first
        assert kind == "BackendUnavailable"
        assert "hal_broken:Backend" in text and "libacme.so.3" in text
        assert "libacme.so.3" in cause
    assert default(strangers) == "cpu"


@pytest.mark.parametrize(
    "source",
    [
        "class Backend: pass",
        TOY.replace("dtypes = frozenset", "raise RuntimeError('no bus')\n        dtypes = frozenset"),
        TOY.replace("    def devices", "    def __init__(self): raise RuntimeError('no bus')\n    def devices"),
    ],
    ids=["is no Backend", "devices() raises", "cannot be made"],
)
def test_devices_leaves_out_what_breaks_the_contract(strangers: Any, source: str) -> None:
    strangers.add("hal-broken", "broken", source)
    strangers.add("hal-toy", "toy", TOY)
    listed = strangers.code("import hal; print([d.name for d in hal.devices() if d.backend != 'ptx'])")
    assert listed.strip().startswith("['toy:1', 'cpu', 'toy:0', 'toy:2'")  # then those that only a name selects
    ((kind, text, _),) = opened(strangers, "broken:0")
    assert kind == "BackendUnavailable" and "'broken'" in text


def test_two_packages_of_one_backend_name_are_both_named(strangers: Any) -> None:
    strangers.add("hal-acme", "toy", TOY)
    strangers.add("acme-drivers", "toy", TOY)
    kind, text, _ = opened(strangers, "toy:0", "cpu")[0]
    assert kind == "BackendUnavailable"
    assert "hal-acme" in text and "acme-drivers" in text and "uninstall" in text


def test_the_default_is_the_device_of_highest_priority(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY)
    assert default(strangers) == "toy:1"


def test_an_emulator_is_never_the_default(strangers: Any) -> None:
    strangers.add("hal-slow", "slow", EMULATOR)
    assert default(strangers) == "cpu"


def test_a_default_that_does_not_open_is_passed_over(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY.replace("return Device(info)", "raise OSError('busy')"))
    assert default(strangers) == "cpu"


def test_hal_device_names_the_default(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY)
    assert default(strangers, HAL_DEVICE="toy:rocket") == "toy:0"
    done = strangers.run("-c", "import hal, numpy; hal.softmax(numpy.ones(3, 'f4'))", HAL_DEVICE="toy:falcon")
    assert done.returncode == 1 and "toy:0 (Acme Rocket 2000)" in done.stderr


def test_a_device_is_opened_once_whoever_asks(strangers: Any) -> None:
    strangers.add("hal-toy", "toy", TOY)
    source = """
import hal, threading
found = []
threads = [threading.Thread(target=lambda: found.append(hal.device("toy:rocket"))) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(found), len(set(map(id, found))), hal.device("toy:0") is found[0], hal.device(found[0]) is found[0])
"""
    assert strangers.code(source).split() == ["8", "1", "True", "True"]
