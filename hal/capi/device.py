"""Backend and Device over a C library's table. Memory handles are the library's numbers; hal adds nothing to them."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hal.capi.describe import Described
from hal.capi.header import codes
from hal.capi.library import Answer, Library, check_path, plugin_name
from hal.capi.plan import Plan, PlanOfThree, Prepared, SingleUsePlan, WorkspacePlan, as_stream
from hal.device import Backend as BackendContract
from hal.device import Bytes, DeviceInfo
from hal.device import Device as DeviceContract
from hal.dtypes import FLOATS
from hal.errors import BackendUnavailable, DeviceError, DeviceMemoryError, HalError
from hal.op import Op

COMPUTED = frozenset((*FLOATS, "int8"))  # dtypes that operators are defined on
MOST_DEVICES = 4096  # a larger count is no count
_EVENTS = ("event_create", "event_record", "event_wait", "event_elapsed")
_log = logging.getLogger("hal.capi")


class Backend(BackendContract):
    """The backend in one library, which is loaded when somebody asks for its devices. `name` is its file's.

    `isolate`: whoever judges it does so in a child process, since a fault in C ends the process it is in; `check` comes
    before anything else then.
    """

    isolate = True
    name = ""

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        """name: another than the file's."""
        self.path = check_path(path)
        self.name = name or plugin_name(self.path)
        self._library: Library | None = None
        self._why = "the library finds no device"

    @property
    def library(self) -> Library:
        """The library, loaded."""
        if self._library is None:
            self._library = Library(self.path, self.name)
        return self._library

    def devices(self) -> Sequence[DeviceInfo]:
        """Raises BackendUnavailable or AbiMismatch where the library cannot be used; a device that cannot be asked is
        left out."""
        library = self.library
        count = library.ffi.new("int32_t *")
        library.check(library.table.device_count(count), "device_count")
        if not 0 <= count[0] <= MOST_DEVICES:
            raise DeviceError(f"{self.name}: device_count gives {count[0]}")
        infos: list[DeviceInfo] = []
        for index in range(count[0]):
            try:
                infos.append(device_info(library, index, {info.name for info in infos}))
            except HalError as error:
                _log.warning("%s", error)
                self._why = str(error)
        return infos

    def check(self) -> None:
        """Load the library and ask for its devices in a child process first. Raises BackendUnavailable that names the C
        call in which it crashed or hung."""
        from hal.capi.probe import probe

        if problem := probe(self.path, opening=False).problem:
            raise BackendUnavailable(f"backend {self.name!r} ({self.path.name}) cannot be used: {problem}")

    def open(self, info: DeviceInfo) -> Device:
        return Device(self.library, info)

    def why_none(self) -> str:
        return self._why


def device_info(library: Library, index: int, taken: set[str]) -> DeviceInfo:
    """What the library says of a device. C plug-ins are never the default device: they run when named."""
    answer, call = Answer(library, "hal_device_info"), f"device_info({index})"
    library.check(library.table.device_info(index, answer.struct), call)
    answer.check(call)
    found = answer.struct
    dtypes = library.text(found.dtypes).split()
    if unknown := sorted(set(dtypes) - COMPUTED) or not dtypes:
        given = ", ".join(unknown) if isinstance(unknown, list) else "nothing"
        raise DeviceError(f"{library.name}: {call} gives {given} as dtypes; known: {', '.join(sorted(COMPUTED))}")
    name = library.text(found.name) or f"device {index}"
    return DeviceInfo(
        name=name if name not in taken else f"{name} ({index})",
        dtypes=frozenset(dtypes),
        memory=int(found.memory_bytes),
        vendor=library.text(found.vendor),
        priority=-1,
        dlpack_type=int(found.dlpack_type) or None,
        torch_type=library.text(found.torch_type) or None,
        number=int(found.dlpack_id),
        props={
            "plugin": "C",
            "index": index,
            "abi": f"{library.table.abi_major}.{library.minor}",
            "version": library.version,
            "host_memory": bool(found.flags & codes("hal_device_flag")["HAL_DEVICE_HOST_MEMORY"]),
        },
    )


class Device(DeviceContract):
    """An open device of a library."""

    def __init__(self, library: Library, info: DeviceInfo) -> None:
        super().__init__(info)
        self.library = library
        self.plans: weakref.WeakSet[Prepared] = weakref.WeakSet()
        self.workspace_lock = threading.Lock()
        self._workspace = (0, 0)  # bytes and handle
        self.launch = library.launch
        self._in_place = bool(info.props["host_memory"])
        self._has_events = library.has(*_EVENTS)
        opened = library.ffi.new("hal_device **")
        library.check(library.table.device_open(info.props["index"], opened), "device_open")
        self.pointer = opened[0]

    # ---- memory

    def alloc(self, nbytes: int) -> int:
        handle = self.library.ffi.new("uint64_t *")
        self.library.check(self.library.table.memory_alloc(self.pointer, nbytes, handle), f"memory_alloc({nbytes})")
        if not handle[0]:
            raise DeviceError(f"{self.library.name}: memory_alloc({nbytes}) says that all is well and gives no handle")
        return int(handle[0])

    def free(self, handle: int) -> None:
        self.library.check(self.library.table.memory_free(self.pointer, handle), "memory_free")

    def copy_in(self, target: int, offset: int, source: Bytes) -> None:
        data = self.library.ffi.from_buffer(source)
        self.library.check(
            self.library.table.copy_in(self.pointer, target, offset, data, source.nbytes),
            f"copy_in of {source.nbytes} bytes",
        )

    def copy_out(self, target: Bytes, source: int, offset: int) -> None:
        data = self.library.ffi.from_buffer(target, require_writable=True)
        self.library.check(
            self.library.table.copy_out(self.pointer, data, source, offset, target.nbytes),
            f"copy_out of {target.nbytes} bytes",
        )

    def copy(self, target: int, target_offset: int, source: int, source_offset: int, nbytes: int) -> None:
        if not self.library.table.copy:
            super().copy(target, target_offset, source, source_offset, nbytes)
            return
        status = self.library.table.copy(self.pointer, target, target_offset, source, source_offset, nbytes)
        self.library.check(status, f"copy of {nbytes} bytes")

    def wrap(self, address: int, nbytes: int) -> int | None:
        return address if self._in_place else None

    def workspace(self, nbytes: int) -> int:
        """The handle of at least so many bytes, the same from call to call. The caller holds `workspace_lock`."""
        have, handle = self._workspace
        if have < nbytes:
            self._workspace = (0, 0)
            if have:
                self.free(handle)
            self._workspace = (nbytes, self.alloc(nbytes))
        return self._workspace[1]

    # ---- work

    def prepare(self, op: Op) -> Plan:
        described = Described(self.library.ffi, op, self.info.dlpack_type or 0, self.info.number)
        prepared, count = Prepared(self, described), len(op.outputs) + len(op.inputs)
        if self.info.memory and prepared.workspace_bytes > self.info.memory:
            raise DeviceMemoryError(
                f"{self.library.name}: {op} wants a workspace of {prepared.workspace_bytes} bytes on a device of "
                f"{self.info.memory}"
            )
        if prepared.single_use:
            return SingleUsePlan(prepared, count, described)
        if prepared.workspace_bytes:
            return WorkspacePlan(prepared, count)
        return (PlanOfThree if (len(op.outputs), len(op.inputs)) == (1, 2) else Plan)(prepared, count)

    def synchronize(self) -> None:
        self.library.check(self.library.table.synchronize(self.pointer), "synchronize")

    # ---- streams and events

    def stream_of(self, stream: Any) -> Any:
        """A hal_stream from what a caller has: None, the driver's stream as a number, or such a pointer."""
        return as_stream(self.library.ffi, stream)

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """A further queue of the device, waited for and given back at the end."""
        table, made = self.library.table, self.library.ffi.new("hal_stream **")
        if not self.library.has("stream_create", "stream_synchronize", "stream_destroy"):
            raise DeviceError(f"{self.library.name}: the library has no streams")
        self.library.check(table.stream_create(self.pointer, made), "stream_create")
        try:
            yield made[0]
            self.library.check(table.stream_synchronize(self.pointer, made[0]), "stream_synchronize")
        finally:
            table.stream_destroy(self.pointer, made[0])

    def mark(self, stream: Any = None) -> Any:
        if not self._has_events:
            return super().mark(stream)
        event = Event(self)
        event.record(stream)
        return event

    def elapsed(self, start: Any, stop: Any) -> float:
        if not self._has_events:
            return super().elapsed(start, stop)
        seconds = self.library.ffi.new("double *")
        status = self.library.table.event_elapsed(self.pointer, start.pointer, stop.pointer, seconds)
        self.library.check(status, "event_elapsed")
        return float(seconds[0])

    def before(self, stream: Any) -> None:
        if not self._has_events:
            self.synchronize()
            return
        event = Event(self)
        event.record(None)
        status = self.library.table.event_wait(self.pointer, event.pointer, self.stream_of(stream))
        self.library.check(status, "event_wait")

    def close(self) -> None:
        for prepared in list(self.plans):
            prepared.release()
        self.lost = self.lost or "was closed"  # what still refers to it has nothing to give back any more
        if self.library.table.device_close:
            self.library.table.device_close(self.pointer)


class Event:
    """A point on a queue, given back when nothing refers to it any more."""

    def __init__(self, device: Device) -> None:
        made = device.library.ffi.new("hal_event **")
        device.library.check(device.library.table.event_create(device.pointer, made), "event_create")
        self._device, self.pointer = device, made[0]

    def record(self, stream: Any) -> None:
        """Everything queued on the stream so far comes before the event."""
        device = self._device
        status = device.library.table.event_record(device.pointer, self.pointer, device.stream_of(stream))
        device.library.check(status, "event_record")

    def __del__(self) -> None:
        if hasattr(self, "pointer") and not self._device.lost and self._device.library.table.event_destroy:
            self._device.library.table.event_destroy(self._device.pointer, self.pointer)
