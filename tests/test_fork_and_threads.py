"""Threads may call anything at once. After fork a child gets a right result or a clear error, and never waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hal

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# A device whose driver has a thread of its own, as real ones do: a child's first call to it would wait forever.
TOY = """
import queue, threading
from hal.device import Backend as Contract, DeviceInfo
from hal_cpu_reference.device import Device as Reference

jobs = queue.Queue()

def serve():
    while True:
        jobs.get().set()

class Device(Reference):
    fork_safe = False

    def synchronize(self):
        done = threading.Event()
        jobs.put(done)
        done.wait()

    copy_out = lambda self, *args: (self.synchronize(), Reference.copy_out(self, *args))[1]
    copy_in = lambda self, *args: (self.synchronize(), Reference.copy_in(self, *args))[1]

class Backend(Contract):
    name = "toy"

    def devices(self):
        threading.Thread(target=serve, daemon=True).start()
        return [DeviceInfo("Toy", frozenset(("float32",)), 1 << 30, priority=PRIORITY)]

    def open(self, info):
        jobs.put(threading.Event())
        device = Device(info)
        device.synchronize()
        return device
"""
CHILD = """
import os, signal, sys, hal, numpy as np
x = np.arange(12, dtype=np.float32).reshape(3, 4)
{before}
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # the end of a child that waits
    try:
        print({child}, flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
assert status == 0, f"the child was ended by signal {{status}}"
{after}
"""
OPEN = (
    "y = hal.asarray(x, device='toy'); step = hal.plan('softmax', y); held = hal.device('toy'); hal.softmax(y).numpy()"
)


def forked(strangers: Any, child: str, before: str = OPEN, after: str = "", priority: int = -1) -> str:
    """What a forked child prints: a value, or type and text of its error."""
    strangers.add("hal-toy", "toy", TOY.replace("PRIORITY", str(priority)))
    printed: str = strangers.code(CHILD.format(before=before, child=child, after=after))
    return printed.strip()


USES = (
    "hal.softmax(x, device='toy')",
    "hal.softmax(y)",
    "step(y, y)",
    "y.numpy()",
    "y.T.numpy()",
    "hal.asarray(y, device='cpu')",
    "hal.asarray(x, device='toy')",
    "hal.empty((2,), 'float32', device='toy')",
    "hal.empty((2,), 'float32', device=held)",
    "hal.device('toy')",
    "hal.synchronize('toy')",
    "hal.plan('softmax', y)",
    "hal.matmul(y, y.T, out=y[:, :3])",
)


@needs_fork
def test_a_device_opened_before_fork_is_refused_in_the_child(strangers: Any) -> None:
    """Whatever is used of it. One child for all uses: the first that waits ends it."""
    define = f"""
def attempt(use):
    try:
        return repr(eval(use))
    except hal.HalError as error:
        return f"{{type(error).__name__}} {{error}}"
uses = {USES!r}
"""
    answers = forked(strangers, '"\\n".join(map(attempt, uses))', before=define + OPEN).splitlines()
    assert len(answers) == len(USES)
    for use, answer in zip(USES, answers, strict=True):
        assert answer.startswith("DeviceError") and "fork" in answer and "spawn" in answer, use


@needs_fork
def test_a_driver_loaded_before_fork_is_not_used_in_the_child(strangers: Any) -> None:
    """Listing devices loads the driver already."""
    answer = forked(strangers, "hal.softmax(x, device='toy')", before="hal.devices()")
    assert answer.startswith("DeviceError") and "fork" in answer and "spawn" in answer


@needs_fork
def test_a_child_whose_default_device_is_dead_is_told_so(strangers: Any) -> None:
    """Another device would be a surprise: slower, and not what the parent computes on."""
    answer = forked(strangers, "hal.softmax(x)", before="hal.devices()", priority=9)
    assert answer.startswith("DeviceError") and "fork" in answer


@needs_fork
def test_a_child_may_use_what_its_parent_did_not_load(strangers: Any) -> None:
    assert forked(strangers, "hal.softmax(x, device='toy').sum().round(3)", before="") == "3.0"


@needs_fork
def test_the_reference_works_in_the_child_and_all_in_the_parent_as_before(strangers: Any) -> None:
    answer = forked(
        strangers,
        "hal.softmax(x, device='cpu').sum().round(3), hal.asarray(x, device='cpu').numpy().sum()",
        before=OPEN + "; hal.softmax(x, device='cpu')",
        after="print(hal.softmax(y).numpy().sum().round(3))",
    )
    assert answer.split() == ["3.0", "66.0", "3.0"]


@needs_fork
def test_forks_while_threads_compute_leave_no_child_waiting(strangers: Any) -> None:
    """A lock that a thread of the parent held would be held in the child forever."""
    strangers.add("hal-toy", "toy", TOY.replace("PRIORITY", "-1"))
    source = """
import os, signal, threading, time, hal, numpy as np
x = np.ones((4, 8), np.float32)
end = time.monotonic() + 1.5
def work():
    n = 1
    while time.monotonic() < end:
        n = n % 500 + 1
        hal.softmax(np.ones((2, n), np.float32), device="cpu")
        hal.devices(); hal.device("cpu:0")
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
good = 0
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        hal.devices()
        os._exit(0 if hal.softmax(x, device="cpu")[0, 0] == 0.125 else 1)
    good += os.waitpid(pid, 0)[1] == 0
[t.join() for t in threads]
print(good)
"""
    assert strangers.code(source).strip() == "20"


def at_once(work: Callable[[int], Any], count: int = 8) -> list[Any]:
    """work(0) … work(count - 1), all begun at the same moment."""
    results: list[Any] = [None] * count
    gate = threading.Barrier(count)

    def run(i: int) -> None:
        gate.wait()
        try:
            results[i] = work(i)
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("resident", [False, True], ids=["NumPy", "hal.Array"])
def test_threads_get_what_one_thread_gets(resident: bool) -> None:
    """Each thread its own operands, all the same shapes: so they share what is remembered of the call."""
    random = np.random.default_rng(1)
    cases = [
        (random.normal(size=(17, 33)).astype(np.float32), random.normal(size=(33, 9)).astype(np.float32))
        for _ in range(8)
    ]

    def once(a: Any, b: Any) -> tuple[bytes, bytes]:
        if resident:
            a, b = hal.asarray(a, device="cpu"), hal.asarray(b, device="cpu")
            product = hal.matmul(a, b)
            return product.numpy().tobytes(), hal.softmax(product, scale=0.5).numpy().tobytes()
        product = hal.matmul(a, b, device="cpu")
        return product.tobytes(), hal.softmax(product, scale=0.5, device="cpu").tobytes()

    alone = [once(a, b) for a, b in cases]
    assert at_once(lambda i: [once(*cases[i]) for _ in range(50)]) == [[want] * 50 for want in alone]


def test_threads_may_make_new_shapes_at_once() -> None:
    def grow(i: int) -> bool:
        return all(
            np.allclose(hal.softmax(np.ones((2, n), np.float32), device="cpu"), 1 / n) for n in range(1 + i, 200, 3)
        )

    assert at_once(grow) == [True] * 8


def test_one_held_plan_runs_in_several_threads() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    step = hal.plan("softmax", hal.asarray(a, device="cpu"))

    def run(i: int) -> bytes:
        x, out = hal.asarray(a + i, device="cpu"), hal.empty((3, 4), "float32", device="cpu")
        for _ in range(100):
            step(x, out)
        return bytes(out.numpy().tobytes())

    assert at_once(run) == [hal.softmax(a + i, device="cpu").tobytes() for i in range(8)]
