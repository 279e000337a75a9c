"""What the contract in hal/device.py asks of a device apart from operators: memory, order, threads, errors.

Each check is a function that raises `Broken` with what was wanted and what came. They run before the operators' cases
and have names of the same form: "device/memory/offsets".
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import LEVELS, make_op
from hal.conformance.cases import matches
from hal.conformance.layout import contiguous
from hal.conformance.runner import Result
from hal.device import Bytes, Device, Plan
from hal.errors import DeviceMemoryError, UnsupportedError
from hal.op import Op

ROW, ROWS = 256, 64  # of the softmax that is queued
SIZES = (1, 3, 63, 64, 65, 4097, 1 << 20)  # bytes
LARGE = 8 << 20  # bytes: long enough under way to be disturbed
CHAIN = 12  # calls that are queued without a wait
SLACK = 0.05  # seconds that two clocks may differ


class Broken(Exception):
    """What was wanted of the device, and what came."""


@dataclass(frozen=True)
class DeviceCheck:
    """One check. group: "memory", "order", "threads" or "errors"; it stands where a case has its dtype."""

    group: str
    title: str
    check: Callable[[Device], None]
    level: str = "smoke"
    operator: str = "device"

    @property
    def name(self) -> str:
        return f"device/{self.group}/{self.title}"

    @property
    def dtype(self) -> str:
        return self.group

    def run(self, device: Device) -> Result:
        """Whatever a device raises fails the check, not the run."""
        start = time.perf_counter()
        try:
            self.check(device)
            status, message = "passed", ""
        except UnsupportedError as error:
            status, message = "unsupported", str(error)
        except Broken as broken:
            status, message = "failed", str(broken)
        except Exception as error:  # a stranger's device may raise anything
            status, message = "failed", f"{type(error).__name__}: {error}"
        ratio = float("inf") if status == "failed" else 0.0
        return Result(self.name, self.operator, self.dtype, status, ratio, message, time.perf_counter() - start)


def select(level: str, pattern: str = "") -> list[DeviceCheck]:
    """The checks of a level whose name has `pattern` in it."""
    allowed = LEVELS[: LEVELS.index(level) + 1]
    return [check for check in CHECKS if check.level in allowed and matches(check.name, pattern)]


# ---- memory


def pattern(nbytes: int, seed: int = 0) -> Bytes:
    """Bytes that are not those of another seed."""
    return np.random.default_rng([seed, nbytes]).integers(0, 256, nbytes, np.uint8)


def expect(what: str, got: Bytes, wanted: Bytes) -> None:
    """Raises Broken at the first byte that differs."""
    if differ := np.flatnonzero(got != wanted).tolist():
        first = differ[0]
        raise Broken(
            f"{what}: {len(differ)} of {wanted.size} bytes differ, first byte {first}: "
            f"{int(got[first])} in place of {int(wanted[first])}"
        )


def read(device: Device, handle: object, nbytes: int, offset: int = 0) -> Bytes:
    """`copy_out` into memory that holds something else."""
    target = np.full(nbytes, 0xA5, np.uint8)
    device.copy_out(target, handle, offset)
    return target


def sizes(device: Device) -> None:
    """Memory of any size holds what was written, each its own."""
    held = [(device.alloc(n), pattern(n, i)) for i, n in enumerate(SIZES * 2)]
    for handle, data in held:
        device.copy_in(handle, 0, data)
    for handle, data in held:
        expect(f"copy_out of {data.size} bytes after copy_in", read(device, handle, data.size), data)
        device.free(handle)


def offsets(device: Device) -> None:
    """A copy in the middle leaves the rest, at odd offsets too."""
    wanted = pattern(4096)
    handle = device.alloc(wanted.size)
    device.copy_in(handle, 0, wanted)
    for offset, nbytes in ((1, 3), (63, 130), (2049, 1), (4000, 96)):
        part = pattern(nbytes, offset)
        device.copy_in(handle, offset, part)
        wanted[offset : offset + nbytes] = part
        expect(f"copy_out of {nbytes} bytes at offset {offset}", read(device, handle, nbytes, offset), part)
    expect("the whole after copies into its middle", read(device, handle, wanted.size), wanted)
    device.free(handle)


def source_may_change(device: Device) -> None:
    """`copy_in` has read its source when it returns."""
    source = pattern(LARGE)
    wanted = source.copy()
    handle = device.alloc(LARGE)
    device.copy_in(handle, 0, source)
    source[:] = 0
    expect("copy_in whose source was changed after it returned", read(device, handle, LARGE), wanted)
    device.free(handle)


def device_to_device(device: Device) -> None:
    """`copy` moves the bytes asked for and no others."""
    source, wanted = pattern(5000, 1), pattern(5000, 2)
    one, two = device.alloc(source.size), device.alloc(wanted.size)
    device.copy_in(one, 0, source)
    device.copy_in(two, 0, wanted)
    for to, start, nbytes in ((0, 0, 64), (129, 4001, 777), (4999, 1, 1)):
        device.copy(two, to, one, start, nbytes)
        wanted[to : to + nbytes] = source[start : start + nbytes]
    expect("the target of copy", read(device, two, wanted.size), wanted)
    expect("the source of copy", read(device, one, source.size), source)
    device.free(one)
    device.free(two)


def many(device: Device) -> None:
    """Allocations that are made, freed and made again do not meet."""
    rng = np.random.default_rng(7)
    held: list[tuple[object, Bytes]] = []
    for i in range(400):
        data = pattern(int(rng.integers(1, 3000)), i)
        handle = device.alloc(data.size)
        device.copy_in(handle, 0, data)
        held.append((handle, data))
        if i % 3 == 2:
            freed, kept = held.pop(int(rng.integers(len(held))))
            expect("memory before it was freed", read(device, freed, kept.size), kept)
            device.free(freed)
    for handle, data in held:
        expect("memory among many allocations", read(device, handle, data.size), data)
        device.free(handle)


def too_much(device: Device) -> None:
    """More than there can be is DeviceMemoryError, and the device works on."""
    wanted = 1 << 52
    try:
        handle = device.alloc(wanted)
    except DeviceMemoryError:
        sizes(device)
        return
    device.free(handle)
    raise Broken(f"alloc({wanted}) gave memory; DeviceMemoryError was wanted")


# ---- order


class Chain:
    """Calls, each of the result before and of an operand of its own: one that comes too early or too late shows.

    softmax(8 x + mask), or x times a matrix where the device has no softmax. Without operands of their own the results
    would soon be the same whatever happened: a softmax of softmaxes is nearly flat.
    """

    def __init__(self, device: Device) -> None:
        self.device, (self.plan, op) = device, usable(device)
        self.nbytes = op.inputs[0][1].size * op.inputs[0][1].itemsize
        rng, dtype = np.random.default_rng(3), np.dtype(op.dtype)
        scale = 4.0 if op.name == "softmax" else ROW**-0.5  # products neither grow nor vanish
        own = op.inputs[1][1].shape
        self.data = bytes_of(4 * rng.standard_normal((ROWS, ROW)), dtype)
        self.own = []
        for _ in range(CHAIN):
            data = bytes_of(scale * rng.standard_normal(own), dtype)
            self.own.append(device.alloc(data.size))
            device.copy_in(self.own[-1], 0, data)

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.own:
            self.device.free(handle)

    def result(self) -> object:
        """Memory for one, which holds something else: memory that was freed may hold the very values."""
        handle = self.device.alloc(self.nbytes)
        self.device.copy_in(handle, 0, pattern(self.nbytes, 8))
        return handle

    def call(self, target: object, source: object, step: int = 0) -> None:
        """Queue one."""
        self.plan([(target, 0)], [(source, 0), (self.own[step], 0)])

    def alone(self) -> list[Bytes]:
        """The results of each call when all work is waited for at every step."""
        found, source = [], self.device.alloc(self.nbytes)
        self.device.copy_in(source, 0, self.data)
        for step in range(CHAIN):
            target = self.result()
            self.device.synchronize()
            self.call(target, source, step)
            self.device.synchronize()
            found.append(read(self.device, target, self.nbytes))
            self.device.free(source)
            source = target
        self.device.free(source)
        return found


def bytes_of(values: NDArray[np.float64], dtype: np.dtype[np.generic]) -> Bytes:
    """The values as they lie in memory."""
    return values.astype(dtype).reshape(-1).view(np.uint8)


def softmax_op(dtype: str) -> Op:
    """Of contiguous rows, with a mask that is added."""
    rows = contiguous(dtype, (ROWS, ROW))
    return make_op("softmax", {"x": rows, "mask": rows}, scale=8.0)


def matmul_op(dtype: str) -> Op:
    """Rows times a square matrix."""
    return make_op("matmul", {"a": contiguous(dtype, (ROWS, ROW)), "b": contiguous(dtype, (ROW, ROW))})


def usable(device: Device) -> tuple[Plan, Op]:
    """An operator that the device has, in a dtype of NumPy's own. Raises UnsupportedError where there is none."""
    reasons = []
    for make in (softmax_op, matmul_op):
        for dtype in ("float32", "float64", "float16"):
            if dtype in device.info.dtypes:
                try:
                    return device.prepare(make(dtype)), make(dtype)
                except UnsupportedError as error:
                    reasons.append(str(error))
    raise UnsupportedError("needs softmax or matmul: " + (reasons[-1] if reasons else "no dtype for them"))


def queued_calls(device: Device) -> None:
    """Calls that are not waited for happen one after the other."""
    with Chain(device) as chain:
        wanted = chain.alone()
        held = [chain.result() for _ in range(CHAIN + 1)]
        device.copy_in(held[0], 0, chain.data)
        for step, (source, target) in enumerate(itertools.pairwise(held)):
            chain.call(target, source, step)
        for step, (target, data) in enumerate(zip(held[1:], wanted, strict=True)):
            expect(f"call {step + 1} of {CHAIN} queued ones", read(device, target, chain.nbytes), data)
        for handle in held:
            device.free(handle)


def free_while_queued(device: Device) -> None:
    """Memory that queued work uses may be freed, and asked for again, at once."""
    with Chain(device) as chain:
        wanted = chain.alone()[0]
        targets = [chain.result() for _ in range(CHAIN)]
        for target in targets:
            source = device.alloc(chain.nbytes)
            device.copy_in(source, 0, chain.data)
            chain.call(target, source)
            device.free(source)
            other = device.alloc(chain.nbytes)  # perhaps the same memory: what is written to it is later in the queue
            device.copy_in(other, 0, pattern(chain.nbytes, 9))
            device.free(other)
        for target in targets:
            expect("a call whose operand was freed behind it", read(device, target, chain.nbytes), wanted)
            device.free(target)


def copies_in_order(device: Device) -> None:
    """Copies queue behind the calls before them: to the host, from the host, and on the device."""
    with Chain(device) as chain:
        wanted = chain.alone()[0]
        one, two, three = (chain.result() for _ in range(3))
        for round_ in range(CHAIN):
            device.copy_in(one, 0, chain.data)
            chain.call(two, one)
            device.copy_in(one, 0, pattern(chain.nbytes, round_))  # the call has read its input before
            device.copy(three, 0, two, 0, chain.nbytes)
            expect("a copy on the device behind a call", read(device, three, chain.nbytes), wanted)
            expect("copy_out behind a call", read(device, two, chain.nbytes), wanted)
        for handle in (one, two, three):
            device.free(handle)


def marks(device: Device) -> None:
    """The time between two marks is not negative, and not longer than the host waited."""
    with Chain(device) as chain:
        one, two = device.alloc(chain.nbytes), device.alloc(chain.nbytes)
        device.copy_in(one, 0, chain.data)
        device.synchronize()
        before = time.perf_counter()
        start = device.mark()
        for step in range(CHAIN):
            chain.call(two, one, step)
        stop = device.mark()
        device.synchronize()
        seconds, waited = device.elapsed(start, stop), time.perf_counter() - before
        device.free(one)
        device.free(two)
    if not 0 <= seconds <= waited + SLACK:
        raise Broken(f"elapsed says {seconds} s between two marks (it counts in seconds); the host waited {waited} s")


# ---- threads and errors


def two_threads(device: Device) -> None:
    """Threads that never saw the device before use it at once, each its own memory."""
    faults: list[str] = []

    def work(seed: int) -> None:
        try:
            for round_ in range(20):
                data = pattern(10_000 + seed, 100 * seed + round_)
                handle = device.alloc(data.size)
                device.copy_in(handle, 0, data)
                expect("memory of one of two threads", read(device, handle, data.size), data)
                device.free(handle)
        except Exception as error:  # it would end with the thread otherwise
            faults.append(str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}")

    in_threads([lambda: work(1), lambda: work(2)])
    if faults:
        raise Broken(faults[0])


def call_in_a_thread(device: Device) -> None:
    """A plan runs in a thread that did not make it."""
    results: list[NDArray[np.uint8] | Exception] = []
    with Chain(device) as chain:
        wanted = chain.alone()[0]

        def work() -> None:
            try:
                one, two = chain.result(), chain.result()
                device.copy_in(one, 0, chain.data)
                chain.call(two, one)
                results.append(read(device, two, chain.nbytes))
                device.free(one)
                device.free(two)
            except Exception as error:
                results.append(error)

        in_threads([work])
    if isinstance(results[0], Exception):
        raise Broken(f"a plan in another thread: {type(results[0]).__name__}: {results[0]}")
    expect("a plan in another thread", results[0], wanted)


def in_threads(work: Sequence[Callable[[], None]]) -> None:
    """Run all at once, and wait."""
    running = [threading.Thread(target=each) for each in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def unknown_operator(device: Device) -> None:
    """An operator of a later hal is refused by UnsupportedError, as everything is that a device does not do."""
    op = replace(softmax_op("float32"), name="an_operator_of_a_later_version")
    try:
        device.prepare(op)
    except UnsupportedError:
        return
    except Exception as error:
        raise Broken(
            f"prepare of an unknown operator raised {type(error).__name__}: {error}; UnsupportedError was wanted"
        ) from error
    raise Broken("prepare of an unknown operator gave a plan; UnsupportedError was wanted")


CHECKS = (
    DeviceCheck("memory", "sizes", sizes),
    DeviceCheck("memory", "offsets", offsets),
    DeviceCheck("memory", "source-may-change", source_may_change),
    DeviceCheck("memory", "device-to-device", device_to_device),
    DeviceCheck("memory", "many", many, "full"),
    DeviceCheck("memory", "too-much", too_much),
    DeviceCheck("errors", "unknown-operator", unknown_operator),
    DeviceCheck("order", "queued-calls", queued_calls),
    DeviceCheck("order", "free-while-queued", free_while_queued),
    DeviceCheck("order", "copies", copies_in_order),
    DeviceCheck("order", "marks", marks),
    DeviceCheck("threads", "own-memory", two_threads),
    DeviceCheck("threads", "a-plan-elsewhere", call_in_a_thread),
)
