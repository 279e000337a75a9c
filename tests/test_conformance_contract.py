"""The checks of a device itself: each finds a device that breaks what it is about, and nobody else is accused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hal.conformance.contract import CHECKS, select
from hal.conformance.subject import Subject, SubjectPlan
from hal.device import Bytes, Device, Operand, Plan
from hal.errors import DeviceMemoryError, UnsupportedError
from hal.op import Op
from hal.ops import OPERATORS
from hal.registry import open_device

NAMES = [check.name for check in CHECKS]


def exact(op: Op, inputs: Sequence[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]]:
    """softmax, which is all that the checks call."""
    x = op.param("scale") * inputs[0].astype(np.float64) + inputs[1]
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return [(weights / weights.sum(axis=-1, keepdims=True)).astype(inputs[0].dtype)]


class Good(Subject):
    """Keeps the contract; memory is counted, and what is freed is overwritten."""

    def __init__(self) -> None:
        super().__init__(exact, "good")

    def alloc(self, nbytes: int) -> Any:
        if nbytes > 1 << 40:
            raise DeviceMemoryError(f"{nbytes} bytes")
        return super().alloc(nbytes)

    def prepare(self, op: Op) -> Plan:
        if op.name not in OPERATORS:
            raise UnsupportedError(op.name)
        return super().prepare(op)


class OneBlock(Good):
    """All allocations are the same memory."""

    def alloc(self, nbytes: int) -> Any:
        super().alloc(nbytes)
        self.block = getattr(self, "block", np.zeros(16 << 20, np.uint8))
        return self.block[:nbytes]


class NoOffset(Good):
    """copy_in forgets where."""

    def copy_in(self, target: Bytes, offset: int, source: Bytes) -> None:
        super().copy_in(target, 0, source)


class ReadsLater(Good):
    """copy_in keeps the source and reads it when somebody looks."""

    waiting: tuple[Bytes, int, Bytes] | None = None

    def copy_in(self, target: Bytes, offset: int, source: Bytes) -> None:
        self.flush()
        self.waiting = (target, offset, source)

    def copy_out(self, target: Bytes, source: Bytes, offset: int) -> None:
        self.flush()
        super().copy_out(target, source, offset)

    def flush(self) -> None:
        if self.waiting is not None:
            super().copy_in(*self.waiting)
            self.waiting = None


class CopiesWords(Good):
    """copy rounds up to four bytes."""

    def copy(self, target: Bytes, target_offset: int, source: Bytes, source_offset: int, nbytes: int) -> None:
        nbytes = min(-(-nbytes // 4) * 4, target.size - target_offset, source.size - source_offset)
        target[target_offset : target_offset + nbytes] = source[source_offset : source_offset + nbytes]


class ReusesTooEarly(Good):
    """What is freed is given out again although there are those who still have it."""

    def free(self, handle: Bytes) -> None:
        handle[:] = 0xEE
        self.last = handle

    def alloc(self, nbytes: int) -> Any:
        last = getattr(self, "last", None)
        if last is not None and last.size >= nbytes:
            return last[:nbytes]
        return super().alloc(nbytes)


class Generous(Good):
    """Promises any amount."""

    def alloc(self, nbytes: int) -> Any:
        return super().alloc(min(nbytes, 1 << 20))


class KeyErrors(Good):
    """Says no by the wrong exception."""

    def prepare(self, op: Op) -> Plan:
        return {"softmax": Subject.prepare(self, op)}[op.name]


class Lazy(Good):
    """Runs calls when it is waited for, which nobody does who copies."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Callable[[], None]] = []

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        self.queue.append(lambda: Subject.run(self, op, outputs, inputs))

    def synchronize(self) -> None:
        for call in self.queue:
            call()
        self.queue.clear()


class LastFirst(Lazy):
    """Runs what is queued in the wrong order."""

    def synchronize(self) -> None:
        self.queue.reverse()
        super().synchronize()

    def copy_out(self, target: Bytes, source: Bytes, offset: int) -> None:
        self.synchronize()
        super().copy_out(target, source, offset)


class FreesAtOnce(LastFirst):
    """Runs in order, but frees before the work that uses it."""

    def synchronize(self) -> None:
        Lazy.synchronize(self)

    def free(self, handle: Bytes) -> None:
        handle[:] = 0


class InMilliseconds(Good):
    """elapsed is not in seconds."""

    def elapsed(self, start: Any, stop: Any) -> float:
        return 1e6 * (super().elapsed(start, stop) + 1e-3)


class OneThread(Good):
    """Works only in the thread that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = threading.get_ident()

    def copy_in(self, target: Bytes, offset: int, source: Bytes) -> None:
        if threading.get_ident() != self.home:
            raise RuntimeError("invalid device context")
        super().copy_in(target, offset, source)


class PlanOfOneThread(Good):
    """A plan that computes nothing elsewhere."""

    def prepare(self, op: Op) -> Plan:
        super().prepare(op)
        device, home = self, threading.get_ident()

        class Shy(SubjectPlan):
            def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
                if threading.get_ident() == home:
                    super().__call__(outputs, inputs, stream)

        return Shy(device, op)


BROKEN: list[tuple[type[Good], str]] = [
    (OneBlock, "memory/sizes"),
    (NoOffset, "memory/offsets"),
    (ReadsLater, "memory/source-may-change"),
    (CopiesWords, "memory/device-to-device"),
    (ReusesTooEarly, "memory/many"),
    (Generous, "memory/too-much"),
    (KeyErrors, "errors/unknown-operator"),
    (LastFirst, "order/queued-calls"),
    (FreesAtOnce, "order/free-while-queued"),
    (Lazy, "order/copies"),
    (InMilliseconds, "order/marks"),
    (OneThread, "threads/own-memory"),
    (PlanOfOneThread, "threads/a-plan-elsewhere"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", [Good, lambda: open_device("cpu")], ids=["subject", "cpu"])
def test_who_keeps_the_contract_passes(device: Callable[[], Device], name: str) -> None:
    (check,) = select("full", name)
    result = check.run(device())
    assert result.status == "passed", result.message


def test_every_check_has_a_device_that_it_finds() -> None:
    assert {f"device/{name}" for _, name in BROKEN} == set(NAMES)


@pytest.mark.parametrize(("device", "name"), BROKEN, ids=[device.__name__ for device, _ in BROKEN])
def test_who_breaks_it_is_found(device: type[Good], name: str) -> None:
    (check,) = select("full", name)
    result = check.run(device())
    assert result.status == "failed" and result.message


def test_a_device_without_softmax_is_not_judged_by_it() -> None:
    class Bare(Good):
        def prepare(self, op: Op) -> Plan:
            raise UnsupportedError(f"{op.name}: no operators yet")

    (check,) = select("full", "order/queued-calls")
    assert check.run(Bare()).status == "unsupported"
