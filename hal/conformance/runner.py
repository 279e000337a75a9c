"""Run a case on a device and judge it.

The suite calls the contract itself (`alloc`, `copy_in`, `prepare`, the plan, `copy_out`), not the public functions, so
that it decides about every byte: each operand lies between guards, results are poisoned before each run, and all
memory is read back. What is asked of every call:

- each result lies within the operator's bound (hal.ops.judge; there is no other tolerance);
- nothing outside the results' elements was written, and no input was changed;
- a second run, over other poison and other bytes in the inputs' gaps, gives the same bits.

`CHECKS` has what some cases ask beyond that. Whatever a device raises fails its case, not the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.bound import STRICT, Allowance, Verdict
from hal.conformance.case import Case, place
from hal.conformance.memory import FINITE_FILL, NAN_FILL, Image
from hal.device import Device, Handle, Operand, Plan
from hal.errors import UnsupportedError
from hal.op import Op, TensorSpec
from hal.ops import judge

BATCHES = (1, 2, 3, 7, 64)  # of the rows of a "batch" case, which has 129
ROUNDS = 4  # calls of each thread in a "threads" case


@dataclass(frozen=True)
class Result:
    """What became of a case.

    status: "passed", "failed", or "unsupported" (the device said so). ratio: the largest error in units of the bound.
    outputs: the device's results, for a file that shows the failure.
    """

    name: str
    operator: str
    dtype: str
    status: str
    ratio: float = 0.0
    message: str = ""
    seconds: float = 0.0
    outputs: tuple[NDArray[Any], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Findings:
    """The judgement of a case, and everything else that was wrong."""

    verdict: Verdict
    faults: list[str]
    outputs: list[NDArray[Any]]


def run_case(device: Device, case: Case, *, allow: Allowance = STRICT, seed: int = 0) -> Result:
    """Run one case. `allow`: what the device declares in its profile."""
    start = time.perf_counter()

    def result(status: str, ratio: float, message: str, outputs: Sequence[NDArray[Any]] = ()) -> Result:
        seconds = time.perf_counter() - start
        return Result(case.name, case.operator, case.dtype, status, ratio, message, seconds, tuple(outputs))

    try:
        findings = CHECKS[case.check](device, case, allow, seed)
    except UnsupportedError as error:
        return result("unsupported", 0.0, str(error))
    except Exception as error:  # a stranger's device may raise anything
        return result("failed", float("inf"), f"{type(error).__name__}: {error}")
    messages = [*findings.faults, *([findings.verdict.message] if findings.verdict.message else [])]
    ok = findings.verdict.ok and not findings.faults
    return result("passed" if ok else "failed", findings.verdict.ratio, "; ".join(messages), findings.outputs)


def once(device: Device, case: Case, allow: Allowance, seed: int) -> Findings:
    """The bound, guards, inputs, and the same bits in a second run."""
    images = case.inputs(seed)
    plan = device.prepare(case.op)
    inputs = [image.elements.copy() for image in images]
    first, faults = execute(device, plan, case.op, images, case.shared, NAN_FILL)
    # Other bytes around the inputs' elements: a result that depends on them differs.
    with np.errstate(all="ignore"):
        others = place(case.op, inputs, case.shared, FINITE_FILL)
    second, more = execute(device, plan, case.op, others, case.shared, FINITE_FILL)
    faults += [fault for fault in more if fault not in faults]
    for (role, _), x, y in zip(case.op.outputs, first, second, strict=True):
        if differs := different_bits(x, y):
            faults.append(f"{role} is not the same in a second run: {differs}")
    return Findings(judge(case.op, inputs, first, allow), faults, first)


def batch(device: Device, case: Case, allow: Allowance, seed: int) -> Findings:
    """Beyond `once`: each row has the same bits whatever rows are computed with it, and wherever it lies."""
    found = once(device, case, allow, seed)
    inputs = [image.elements for image in case.inputs(seed)]
    count = case.op.outputs[0][1].shape[-2 if case.operator == "matmul" else 0]
    for i, size in enumerate(BATCHES):
        start = (count - size) * i // (len(BATCHES) - 1)
        # Row operators may not decide by the address either; matmul may.
        for aligned in (True,) if case.operator == "matmul" else (True, False):
            op, arrays = take_rows(case.op, inputs, start, size, aligned)
            got, faults = execute(device, device.prepare(op), op, place(op, arrays), (), NAN_FILL)
            found.faults.extend(faults)
            for (role, _), whole, part in zip(op.outputs, found.outputs, got, strict=True):
                rows = take(whole, batch_axis(op, role), start, size)
                if differs := different_bits(rows, part):
                    where = "" if aligned else ", at an odd address,"
                    found.faults.append(f"{role} of rows {start} to {start + size - 1} alone{where} differs: {differs}")
    return found


def threads(device: Device, case: Case, allow: Allowance, seed: int) -> Findings:
    """Beyond `once`: one plan is right for other data too, and two threads that run it at once, each on its own data,
    get the same bits as alone.
    """
    found = once(device, case, allow, seed)
    plan = device.prepare(case.op)
    faults: list[str] = []

    def work(images: Sequence[Image], alone: Sequence[NDArray[Any]]) -> None:
        try:
            for _ in range(ROUNDS):
                got, wrong = execute(device, plan, case.op, images, case.shared, NAN_FILL)
                faults.extend(wrong)
                for (role, _), x, y in zip(case.op.outputs, alone, got, strict=True):
                    if differs := different_bits(x, y):
                        faults.append(f"{role} differs while another thread runs the same plan: {differs}")
        except Exception as error:  # it would end with the thread otherwise
            faults.append(f"with two threads: {type(error).__name__}: {error}")

    both = []
    for own in (seed, seed + 1):
        images = case.inputs(own)
        alone, wrong = execute(device, plan, case.op, images, case.shared, NAN_FILL)
        faults.extend(wrong)
        verdict = judge(case.op, [image.elements.copy() for image in images], alone, allow)
        if not verdict.ok:
            faults.append(f"a plan that ran before: {verdict.message}")
        both.append(threading.Thread(target=work, args=(images, alone)))
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    found.faults.extend(dict.fromkeys(faults))
    return found


CHECKS: dict[str, Callable[[Device, Case, Allowance, int], Findings]] = {
    "once": once,
    "batch": batch,
    "threads": threads,
}


def execute(
    device: Device, plan: Plan, op: Op, inputs: Sequence[Image], shared: Sequence[tuple[str, str]], fill: int
) -> tuple[list[NDArray[Any]], list[str]]:
    """One call on fresh memory: the results, and what was touched that must not be."""
    owner = {second: first for first, second in shared}
    faults: list[str] = []
    with ExitStack() as stack:

        def put(image: Image) -> Handle:
            handle = device.alloc(len(image.data))
            stack.callback(device.free, handle)
            device.copy_in(handle, 0, image.data)
            return handle

        def get(handle: Handle, image: Image) -> Image:
            target = np.empty_like(image.data)
            device.copy_out(target, handle, 0)
            return Image(image.spec, target, image.start)

        memory: dict[str, tuple[Handle, Image]] = {}
        for (role, _), image in zip(op.inputs, inputs, strict=True):
            memory[role] = memory[owner[role]] if role in owner else (put(image), image)
        results: dict[str, tuple[Handle, Image]] = {}
        for role, spec in op.outputs:
            if role in owner:  # in place
                handle, image = memory[owner[role]]
                results[role] = handle, Image(spec, image.data, image.start)
            else:
                results[role] = put(image := Image.blank(spec, fill)), image
        plan(operands(results, op.outputs), operands(memory, op.inputs))
        device.synchronize()
        for role, (handle, image) in memory.items():
            in_place = any(second in results and first == role for second, first in owner.items())
            if role not in owner and not in_place and not np.array_equal(get(handle, image).data, image.data):
                faults.append(f"input {role} was modified, or the bytes around it")
        outputs = []
        for role, (handle, image) in results.items():
            after = get(handle, image)
            if written := after.surroundings_equal(image):
                faults.append(f"{role}: {written}")
            outputs.append(after.elements.copy())
    return outputs, faults


def operands(memory: dict[str, tuple[Handle, Image]], specs: Sequence[tuple[str, TensorSpec]]) -> list[Operand]:
    """Operands in the Op's order, as a plan takes them."""
    return [(memory[role][0], memory[role][1].start) for role, _ in specs]


def different_bits(x: NDArray[Any], y: NDArray[Any]) -> str:
    """Empty if x and y are the same bit for bit; else the first difference."""
    one, two = np.ascontiguousarray(x), np.ascontiguousarray(y)
    if one.tobytes() == two.tobytes():
        return ""
    raw = f"V{one.dtype.itemsize}"
    at = np.argwhere(one.view(raw) != two.view(raw))
    first = tuple(int(i) for i in at[0])
    return f"{len(at)} elements, first {list(first)}: {one[first]!s} and {two[first]!s}"


# ---- rows of a batch


def batch_axis(op: Op, role: str) -> int | None:
    """The axis of an operand along which a "batch" case is cut; None where the operand is the same for all rows."""
    if op.name == "matmul":
        return None if role == "b" else -2
    return None if role in ("weight", "bias") else 0


def take(array: NDArray[Any], axis: int | None, start: int, size: int) -> NDArray[Any]:
    """Rows start … start + size - 1 along `axis`."""
    return array if axis is None else np.moveaxis(np.moveaxis(array, axis, 0)[start : start + size], 0, axis)


def take_rows(
    op: Op, inputs: Sequence[NDArray[Any]], start: int, size: int, aligned: bool
) -> tuple[Op, Sequence[NDArray[Any]]]:
    """The call for some of the rows. Unless `aligned`, every operand starts at an odd multiple of its element size."""

    def cut(role: str, spec: TensorSpec) -> tuple[str, TensorSpec]:
        axis = batch_axis(op, role)
        shape = list(spec.shape)
        if axis is not None:
            shape[axis] = size
        return role, replace(spec, shape=tuple(shape), align=spec.align if aligned else spec.itemsize)

    part = replace(op, outputs=tuple(cut(*pair) for pair in op.outputs), inputs=tuple(cut(*pair) for pair in op.inputs))
    arrays = [take(x, batch_axis(op, role), start, size) for (role, _), x in zip(op.inputs, inputs, strict=True)]
    return part, arrays
