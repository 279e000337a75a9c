"""One measured fact of a device's arithmetic, and the calls that measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import make_op, place
from hal.conformance.layout import contiguous
from hal.conformance.memory import NAN_FILL
from hal.conformance.runner import execute
from hal.device import Device
from hal.errors import UnsupportedError
from hal.op import Op

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """The answer to one question in one dtype."""

    what: str
    dtype: str
    value: str
    evidence: str = ""


Answer: TypeAlias = "tuple[str, str]"  # in a few words, and the numbers that it rests on
Probe: TypeAlias = Callable[[Device, str], Answer]  # of a device and a dtype

NOT_AVAILABLE = "not available"


def call(device: Device, op: Op, *operands: Array) -> list[Array]:
    """The results of one call. Raises UnsupportedError where the device has no such operator."""
    with np.errstate(all="ignore"):
        images = place(op, operands)
        return execute(device, device.prepare(op), op, images, (), NAN_FILL)[0]


def operator(name: str, dtype: str, shapes: dict[str, Sequence[int]], **options: Any) -> Op:
    """A call on contiguous operands."""
    return make_op(name, {role: contiguous(dtype, shape) for role, shape in shapes.items()}, **options)


def probe(device: Device) -> Iterator[Finding]:
    """Every fact of every dtype that the device lists; "not available" where it lacks the operator."""
    from hal.conformance.probe import orders, products, rows

    for what, made, dtypes in (*products.PROBES, *rows.PROBES, *orders.PROBES):
        for dtype in dtypes:
            if dtype in device.info.dtypes:
                yield Finding(what, dtype, *ask(device, made, dtype))


def ask(device: Device, made: Probe, dtype: str) -> Answer:
    """What a device cannot do is said so; nothing that it raises ends the others."""
    try:
        return made(device, dtype)
    except UnsupportedError as error:
        return NOT_AVAILABLE, str(error)
    except Exception as error:  # a stranger's device may raise anything
        return "failed", f"{type(error).__name__}: {error}"
