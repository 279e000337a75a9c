"""The whole contract between hal and a backend, on one screen.

A Backend finds devices. A Device has memory, a queue, and `prepare`, which turns an Op into a Plan. A Plan runs.
A device that compiles source text derives from `hal.kernel.KernelDevice` instead and gets `prepare` for nothing.

Rules that every method keeps:

- *Order.* A device has one in-order queue. Work of one thread happens in the order of its calls; a Plan may return
  before its work is done. `copy_in` has read its source when it returns; `copy_out` waits until the data is there.
- *Memory.* Whoever allocates frees. Freeing memory that queued work still uses is safe: a device delays the release.
- *Threads.* Any thread may call anything at any time; a Plan may run in several threads at once.
- *Fork.* After os.fork() a child's use of a device opened before raises DeviceError, unless `fork_safe`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.op import Op

Handle: TypeAlias = Any  # what a driver calls memory: an address, a buffer object
Operand: TypeAlias = tuple[Handle, int]  # memory and the byte offset of element [0, …, 0]
Bytes: TypeAlias = NDArray[np.uint8]  # contiguous host memory


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a device before it is opened."""

    name: str  # unique in the backend; any unique part of it selects the device
    dtypes: frozenset[str]  # those that operators compute in
    memory: int  # bytes
    vendor: str = ""
    priority: int = 0  # the default device is the usable one of highest priority; negative is never the default
    dlpack_type: int | None = None  # DLPack's device type of tensors that live here; handles are addresses then
    torch_type: str | None = None  # torch's device type of tensors that live here
    number: int = 0  # DLPack's and torch's number of it among the devices of that type
    props: Mapping[str, Any] = field(
        default_factory=dict
    )  # the backend's own facts, for its algorithms and `hal devices`


class Plan(ABC):
    """A decided way to compute one Op; `describe` says what was decided."""

    @abstractmethod
    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        """Enqueue the work. Operands in the Op's order; `stream` None is the device's own queue."""

    def describe(self) -> dict[str, Any]:
        """Plain values for `hal.explain`."""
        return {"plan": type(self).__name__}


class Device(ABC):
    """An open device. The first six methods are required; each other has a default that works."""

    fork_safe = False

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.name = info.name  # the registry puts the device string here: "opencl:0"
        self.lost = ""  # why the device can no longer be used: set by the registry after fork and at exit

    @abstractmethod
    def alloc(self, nbytes: int) -> Handle:
        """At least `nbytes` >= 1 bytes, aligned to 64. Raises DeviceMemoryError."""

    @abstractmethod
    def free(self, handle: Handle) -> None:
        """Give memory back, now or when the work queued on it is done."""

    @abstractmethod
    def copy_in(self, target: Handle, offset: int, source: Bytes) -> None:
        """Host to device; `source` may be changed as soon as this returns."""

    @abstractmethod
    def copy_out(self, target: Bytes, source: Handle, offset: int) -> None:
        """Device to host, after all work queued before; `target` is filled when this returns."""

    @abstractmethod
    def prepare(self, op: Op) -> Plan:
        """A plan that works, or UnsupportedError with the reason. Nothing in between."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all queued work. Errors of that work are raised here at the latest."""

    def copy(self, target: Handle, target_offset: int, source: Handle, source_offset: int, nbytes: int) -> None:
        """Device to device, in order. Default: through the host."""
        staging = np.empty(nbytes, np.uint8)
        self.copy_out(staging, source, source_offset)
        self.copy_in(target, target_offset, staging)

    def wrap(self, address: int, nbytes: int) -> Handle | None:
        """Use host memory in place for one call: its handle, or None (the default) where it has to be copied."""
        return None

    def mark(self, stream: Any = None) -> Any:
        """A point in time on the queue, for `elapsed`. Default: the host's clock once the queue is empty."""
        self.synchronize()
        return time.perf_counter()

    def elapsed(self, start: Any, stop: Any) -> float:
        """Seconds between two marks."""
        return float(stop - start)

    def dlpack_stream(self) -> int | None:
        """What DLPack calls this device's queue: who gives hal a tensor makes it wait for the tensor's data."""
        return None

    def before(self, stream: Any) -> None:
        """What is queued here so far happens before what `stream` gets from now on. Default: wait for it."""
        self.synchronize()

    def close(self) -> None:  # noqa: B027 - nothing to give back is a fine default
        """Give everything back. The device is not used afterwards."""


class Backend(ABC):
    """What an entry point of group "hal.backends" names; the entry point's name is the prefix of device strings."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def devices(self) -> Sequence[DeviceInfo]:
        """Discovery only: opens nothing, never raises; no hardware is an empty list."""

    @abstractmethod
    def open(self, info: DeviceInfo) -> Device:
        """Called once for a device and process. Raises BackendUnavailable or DeviceError."""

    def why_none(self) -> str:
        """One sentence for the user when `devices` is empty: what is missing and the command that mends it."""
        return "no device was found"
