"""Plans of a C backend. A launch packs handles and offsets into bytes and makes one call.

The bytes are new for every call, so threads share nothing; cffi passes them without a copy and releases the GIL.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from hal.capi.describe import Described
from hal.capi.header import codes
from hal.capi.library import Answer
from hal.device import Operand
from hal.device import Plan as PlanContract
from hal.errors import ArgumentError, DeviceError

if TYPE_CHECKING:
    from hal.capi.device import Device

_OPERAND = struct.Struct("=QQ")


class Prepared:
    """One `hal_plan` and what the library said of it. Released once, when nothing refers to it any more."""

    def __init__(self, device: Device, described: Described) -> None:
        self.device = device
        self.pointer: Any = None
        library = device.library
        plan, answer = library.ffi.new("hal_plan **"), Answer(library, "hal_plan_info")
        status = library.table.op_prepare(device.pointer, described.pointer, plan, answer.struct)
        library.check(status, f"op_prepare({library.ffi.string(described.pointer.text).decode()})")
        if plan[0] == library.ffi.NULL:
            raise DeviceError(f"{library.name}: op_prepare says that all is well and gives no plan")
        self.pointer = plan[0]
        answer.check("op_prepare")
        self.workspace_bytes = int(answer.struct.workspace_bytes)
        self.single_use = bool(answer.struct.flags & codes("hal_plan_flag")["HAL_PLAN_SINGLE_USE"])
        self.description = library.text(answer.struct.describe)
        device.plans.add(self)

    def release(self) -> None:
        """Give it back, now if not before."""
        pointer, self.pointer = self.pointer, None
        release = self.device.library.table.op_release
        if pointer is not None and release:
            release(pointer)

    def __del__(self) -> None:
        if not self.device.lost:
            self.release()


class Plan(PlanContract):
    """A plan that can be launched any number of times, by any thread, and needs no workspace."""

    def __init__(self, prepared: Prepared, count: int) -> None:
        """count: of operands."""
        self._prepared = prepared
        self._device = prepared.device
        self._launch = prepared.device.launch
        self._plan = prepared.pointer
        self._pack = struct.Struct(f"={2 * count}Q").pack
        self._null = prepared.device.library.ffi.NULL

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        null = self._null
        status = self._launch(
            self._plan,
            self._pack(*chain.from_iterable(outputs), *chain.from_iterable(inputs)),
            null,
            null if stream is None else self._device.stream_of(stream),
        )
        if status:
            raise self._device.library.failure(status, "op_launch")

    def describe(self) -> dict[str, Any]:
        found = self._prepared
        once = {"single_use": True} if found.single_use else {}
        return {
            "plan": self._device.library.name,
            "config": found.description,
            "workspace_bytes": found.workspace_bytes,
            **once,
        }


class PlanOfThree(Plan):
    """One result and two operands, as matmul has them: packed without a loop, which is 0.3 us of 0.75."""

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        null = self._null
        status = self._launch(
            self._plan,
            self._pack(*outputs[0], *inputs[0], *inputs[1]),
            null,
            null if stream is None else self._device.stream_of(stream),
        )
        if status:
            raise self._device.library.failure(status, "op_launch")


class WorkspacePlan(Plan):
    """With a workspace: the device's one on its own queue, where launches are in order; else memory of its own."""

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        operands = self._pack(*chain.from_iterable(outputs), *chain.from_iterable(inputs))
        self._run(self._prepared, operands, stream)

    def _run(self, prepared: Prepared, operands: bytes, stream: Any) -> None:
        device, nbytes = self._device, prepared.workspace_bytes
        if not nbytes:
            device.library.check(
                self._launch(prepared.pointer, operands, self._null, device.stream_of(stream)), "op_launch"
            )
        elif stream is None:
            with device.workspace_lock:  # launches of two threads must not mix: both work in the same memory
                self._with(prepared, operands, device.workspace(nbytes), self._null)
        else:
            handle = device.alloc(nbytes)
            try:
                self._with(prepared, operands, handle, device.stream_of(stream))
            finally:
                device.free(handle)  # the library keeps it until the work is done

    def _with(self, prepared: Prepared, operands: bytes, workspace: int, stream: Any) -> None:
        status = self._launch(prepared.pointer, operands, _OPERAND.pack(workspace, 0), stream)
        self._device.library.check(status, "op_launch")


class SingleUsePlan(WorkspacePlan):
    """Prepared anew for every launch, as CANN's executors are. The first launch takes what was prepared to decide."""

    def __init__(self, prepared: Prepared, count: int, described: Described) -> None:
        super().__init__(prepared, count)
        self._described = described
        self._fresh = [prepared]  # popped by one thread only

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        operands = self._pack(*chain.from_iterable(outputs), *chain.from_iterable(inputs))
        try:
            prepared = self._fresh.pop()
        except IndexError:
            prepared = Prepared(self._device, self._described)
        try:
            self._run(prepared, operands, stream)
        finally:
            prepared.release()


def as_stream(ffi: Any, stream: Any) -> Any:
    """A hal_stream from what a caller has: None, the driver's stream as a number, or such a pointer."""
    if stream is None:
        return ffi.NULL
    if isinstance(stream, int):
        return ffi.cast("hal_stream *", stream)
    if isinstance(stream, ffi.CData) and ffi.typeof(stream) is ffi.typeof("hal_stream *"):
        return stream
    raise ArgumentError(f"a stream is given by the driver's handle of it, a number, not by {stream!r}")
