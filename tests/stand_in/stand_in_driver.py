"""What the stand-in does when its calls are made: NVIDIA's driver as far as hal uses it, on GPUs that are `Machine`s.

It is stricter than the real driver: a handle of another context is refused, a stream has to exist, memory is freed
once. What a kernel does wrong comes with a later call, as on hardware, and every call after it fails the same.

Configured by `Setup`, which a child process gets as JSON in STAND_IN (see sitecustomize.py).
"""

from __future__ import annotations

import ctypes
import json
import re
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from stand_in_machine import EmulatedMachine, Fault, Function, Machine, Refused

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
INVALID_DEVICE, INVALID_CONTEXT, INVALID_IMAGE, NO_BINARY = 101, 201, 200, 209
INVALID_PTX, UNSUPPORTED_PTX, INVALID_HANDLE, NOT_FOUND, NOT_READY = 218, 222, 400, 500, 600
NO_DEVICE, OUT_OF_RESOURCES, NOT_SUPPORTED = 100, 701, 801
ERROR_LOG, ERROR_LOG_BYTES = 5, 6  # CUjit_option
DEFAULT_STREAMS = (0, 1, 2)  # of the current context: unnamed, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
CLUSTER_DIMENSION = 4  # CUlaunchAttributeID
# CUdevice_attribute -> what it is of a target
ATTRIBUTES = {1: "threads", 16: "sms", 38: "l2", 75: "major", 76: "minor", 97: "shared_block", 115: "pools"}


@dataclass
class Setup:
    """targets: one GPU each. kernels: "emulated", or "nothing" where a launch does nothing. driver: CUDA's version.

    memory: bytes of each GPU. cubins: machine code is taken, and does nothing. fail: the result of a call instead of
    making it. slots: calls that do nothing in C.
    """

    targets: list[str] = field(default_factory=lambda: ["sm_80"])
    kernels: str = "emulated"
    driver: int = 13000
    ptx: float = 9.0
    memory: int = 1 << 30
    pools: bool = True
    cubins: bool = False
    fail: dict[str, int] = field(default_factory=dict)
    slots: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


CURRENT: Driver | None = None  # of this process


class Gpu:
    """One GPU and its primary context: `error` is what a kernel left behind."""

    def __init__(self, ordinal: int, target: str, setup: Setup) -> None:
        self.ordinal, self.target = ordinal, target
        self.context = 0xC0000 + ordinal
        self.retained = 0
        self.error = SUCCESS
        self.setup = setup
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """Made on first use: discovery alone costs nothing."""
        if self._machine is None:
            kind = EmulatedMachine if self.setup.kernels == "emulated" else Machine
            self._machine = kind(self.target, self.setup.memory)
        return self._machine

    def facts(self) -> dict[str, int]:
        number = int(re.sub(r"\D", "", self.target))
        sizes = {75: 64, 80: 163, 90: 227, 100: 227}
        return {
            "threads": 1024,
            "sms": 4,
            "l2": 40 << 20,
            "major": number // 10,
            "minor": number % 10,
            "shared_block": sizes.get(number, 99) << 10,
            "pools": int(self.setup.pools),
        }


class EveryEntry(dict[str, Function]):
    """The entries of machine code: all that are asked for, without parameters."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Function:
        return Function(name, ())


def write(address: int, value: int, kind: Any = ctypes.c_uint64) -> None:
    """Store a result where the caller wants it."""
    kind.from_address(address).value = value


def read(address: int, kind: Any = ctypes.c_uint64) -> int:
    return int(kind.from_address(address).value or 0)


class Driver:
    """Methods named cu… are the calls. `calls` counts them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.gpus = [Gpu(i, target, setup) for i, target in enumerate(setup.targets)]
        self.calls: Counter[str] = Counter()
        self.history: list[str] = []
        self.things: dict[int, Any] = {}  # handle -> (kind, Gpu, …)
        self.blocks: dict[int, tuple[Gpu, int]] = {}  # address -> its GPU, bytes
        self.used: Counter[int] = Counter()  # bytes by ordinal
        self._next = 0xA000_0000
        self._threads = threading.local()
        self._lock = threading.RLock()
        self.initialised = False
        self.launched = 0  # the stream of the last launch

    def table(self) -> dict[str, Any]:
        """What to register: see stand_in_library."""
        names = [name for name in dir(self) if name.startswith("cu")]
        return {name: None if name in self.setup.slots else self._counted(name) for name in names}

    def _counted(self, name: str) -> Any:
        function, planned = getattr(self, name), self.setup.fail

        def call(*arguments: Any) -> int:
            with self._lock:
                self.calls[name] += 1
                self.history.append(name)
                if name in planned:
                    return planned[name]
                if not self.initialised and name not in ("cuInit", "cuDriverGetVersion"):
                    return 3  # NOT_INITIALIZED
                return int(function(*(0 if x is None else x for x in arguments)))

        return call

    def _new(self, *thing: Any) -> int:
        self._next += 0x100
        self.things[self._next] = thing
        return self._next

    def _of(self, handle: int, kind: str) -> Any:
        thing = self.things.get(handle, ("", None))
        return thing if thing[0] == kind else None

    @property
    def _current(self) -> Gpu | None:
        return getattr(self._threads, "gpu", None)

    def _gpu_of(self, stream: int) -> Gpu | None:
        found = self._of(stream, "stream")
        return found[1] if found else (self._current if stream in DEFAULT_STREAMS else None)

    def _gpu_of_address(self, address: int) -> Gpu | None:
        return next((gpu for start, (gpu, n) in self.blocks.items() if start <= address < start + n), None)

    # ---- what there is

    def cuInit(self, flags: int) -> int:
        if not self.gpus:
            return NO_DEVICE
        self.initialised = True
        return SUCCESS

    def cuDriverGetVersion(self, version: int) -> int:
        write(version, self.setup.driver, ctypes.c_int)
        return SUCCESS

    def cuDeviceGetCount(self, count: int) -> int:
        write(count, len(self.gpus), ctypes.c_int)
        return SUCCESS

    def cuDeviceGet(self, device: int, ordinal: int) -> int:
        write(device, ordinal, ctypes.c_int)
        return SUCCESS if ordinal < len(self.gpus) else INVALID_DEVICE

    def cuDeviceGetName(self, name: int, length: int, device: int) -> int:
        text = f"Stand-in {self.gpus[device].target}".encode() + b"\0"
        ctypes.memmove(name, text, min(len(text), length))
        return SUCCESS

    def cuDeviceGetUuid(self, uuid: int, device: int) -> int:
        ctypes.memmove(uuid, bytes(range(device, device + 16)), 16)
        return SUCCESS

    def cuDeviceTotalMem(self, total: int, device: int) -> int:
        write(total, self.setup.memory)
        return SUCCESS

    def cuDeviceGetAttribute(self, value: int, attribute: int, device: int) -> int:
        if attribute not in ATTRIBUTES:
            return INVALID_VALUE
        write(value, self.gpus[device].facts()[ATTRIBUTES[attribute]], ctypes.c_int)
        return SUCCESS

    # ---- contexts

    def cuDevicePrimaryCtxRetain(self, context: int, device: int) -> int:
        self.gpus[device].retained += 1
        write(context, self.gpus[device].context)
        return SUCCESS

    def cuDevicePrimaryCtxRelease(self, device: int) -> int:
        self.gpus[device].retained -= 1
        return SUCCESS

    def cuCtxGetCurrent(self, context: int) -> int:
        write(context, self._current.context if self._current else 0)
        return SUCCESS

    def cuCtxSetCurrent(self, context: int) -> int:
        self._threads.gpu = next((gpu for gpu in self.gpus if gpu.context == context), None)
        return SUCCESS

    # ---- modules

    def cuModuleLoadDataEx(self, module: int, image: int, count: int, options: int, values: int) -> int:
        gpu = self._current
        if gpu is None:
            return INVALID_CONTEXT
        if ctypes.string_at(image, 4) == b"\x7fELF":
            if not self.setup.cubins:
                return NO_BINARY  # machine code is for machines
            write(module, self._new("module", gpu, EveryEntry()))
            return SUCCESS
        text = ctypes.string_at(image).decode()
        found = re.search(r"^\s*\.version\s+(\d+\.\d+)", text, re.MULTILINE)
        if found and float(found[1]) > self.setup.ptx:
            return UNSUPPORTED_PTX
        try:
            functions = gpu.machine.load(text)
        except Refused as refusal:
            self._log(str(refusal), count, options, values)
            return refusal.code
        write(module, self._new("module", gpu, functions))
        return SUCCESS

    def cuModuleLoadData(self, module: int, image: int) -> int:
        return self.cuModuleLoadDataEx(module, image, 0, 0, 0)

    def _log(self, text: str, count: int, options: int, values: int) -> None:
        """Into the caller's buffer for errors."""
        given = {read(options + 4 * i, ctypes.c_int): read(values + 8 * i) for i in range(count)}
        size = given.get(ERROR_LOG_BYTES, 0) & 0xFFFF_FFFF
        if size and given.get(ERROR_LOG):
            content = text.encode()[: size - 1] + b"\0"
            ctypes.memmove(given[ERROR_LOG], content, len(content))

    def cuModuleUnload(self, module: int) -> int:
        return SUCCESS if self.things.pop(module, None) else INVALID_HANDLE

    def cuModuleGetFunction(self, function: int, module: int, name: bytes) -> int:
        found = self._of(module, "module")
        if not found:
            return INVALID_HANDLE
        if name.decode() not in found[2]:
            return NOT_FOUND
        write(function, self._new("function", found[1], found[2][name.decode()]))
        return SUCCESS

    def cuFuncGetAttribute(self, value: int, attribute: int, function: int) -> int:
        found = self._of(function, "function")
        if not found:
            return INVALID_HANDLE
        write(value, {0: found[2].threads, 1: found[2].shared}[attribute], ctypes.c_int)
        return SUCCESS

    def cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> int:
        found = self._of(function, "function")
        if not found or attribute != 8:
            return INVALID_HANDLE
        if found[2].shared + value > found[1].facts()["shared_block"]:
            return INVALID_VALUE
        found[2].dynamic = value
        return SUCCESS

    # ---- memory

    def cuMemGetInfo(self, free: int, total: int) -> int:
        gpu = self._current
        if gpu is None:
            return INVALID_CONTEXT
        write(free, self.setup.memory - self.used[gpu.ordinal])
        write(total, self.setup.memory)
        return SUCCESS

    def cuMemAlloc(self, address: int, size: int) -> int:
        return self._alloc(self._current, address, size) if self._current else INVALID_CONTEXT

    def _alloc(self, gpu: Gpu, address: int, size: int) -> int:
        if gpu.error:
            return gpu.error
        if size < 1:
            return INVALID_VALUE
        if self.used[gpu.ordinal] + size > self.setup.memory:
            return OUT_OF_MEMORY
        given = gpu.machine.alloc(size)
        self.blocks[given] = gpu, size
        self.used[gpu.ordinal] += size
        write(address, given)
        return SUCCESS

    def cuMemFree(self, address: int) -> int:
        if address not in self.blocks:
            return INVALID_VALUE
        gpu, size = self.blocks.pop(address)
        self.used[gpu.ordinal] -= size
        gpu.machine.free(address)
        return gpu.error

    def cuMemPoolCreate(self, pool: int, properties: int) -> int:
        # CUmemPoolProps: allocType, handleTypes, location {type, id}
        kind, handles, location, ordinal = (ctypes.c_int * 4).from_address(properties)
        if (kind, handles, location) != (1, 0, 1) or ordinal >= len(self.gpus):
            return INVALID_VALUE
        if not self.setup.pools:
            return NOT_SUPPORTED
        write(pool, self._new("pool", self.gpus[ordinal]))
        return SUCCESS

    def cuMemPoolDestroy(self, pool: int) -> int:
        return SUCCESS if self.things.pop(pool, None) else INVALID_HANDLE

    def cuMemPoolSetAttribute(self, pool: int, attribute: int, value: int) -> int:
        return SUCCESS if self._of(pool, "pool") and attribute == 4 and read(value) == 2**64 - 1 else INVALID_VALUE

    def cuMemPoolTrimTo(self, pool: int, keep: int) -> int:
        return SUCCESS if self._of(pool, "pool") else INVALID_HANDLE

    def cuMemAllocFromPoolAsync(self, address: int, size: int, pool: int, stream: int) -> int:
        found, gpu = self._of(pool, "pool"), self._gpu_of(stream)
        if not found or found[1] is not gpu:
            return INVALID_HANDLE
        return self._alloc(gpu, address, size)

    def cuMemFreeAsync(self, address: int, stream: int) -> int:
        return self.cuMemFree(address) if self._gpu_of(stream) else INVALID_HANDLE

    def cuMemcpyHtoDAsync(self, to: int, host: int, size: int, stream: int) -> int:
        gpu = self._gpu_of(stream)
        if not gpu or self._gpu_of_address(to) is not gpu:
            return INVALID_VALUE
        gpu.machine.write(to, ctypes.string_at(host, size))
        return gpu.error

    def cuMemcpyDtoHAsync(self, host: int, source: int, size: int, stream: int) -> int:
        gpu = self._gpu_of(stream)
        if not gpu or self._gpu_of_address(source) is not gpu:
            return INVALID_VALUE
        if not gpu.error:
            ctypes.memmove(host, gpu.machine.read(source, size), size)
        return gpu.error

    def cuMemcpyDtoDAsync(self, to: int, source: int, size: int, stream: int) -> int:
        gpu = self._gpu_of(stream)
        if not gpu or abs(to - source) < size:
            return INVALID_VALUE
        gpu.machine.write(to, gpu.machine.read(source, size))
        return gpu.error

    def cuMemcpyHtoD(self, to: int, host: int, size: int) -> int:
        return self.cuMemcpyHtoDAsync(to, host, size, 0)

    def cuMemcpyDtoH(self, host: int, source: int, size: int) -> int:
        return self.cuMemcpyDtoHAsync(host, source, size, 0)

    def cuMemcpyDtoD(self, to: int, source: int, size: int) -> int:
        return self.cuMemcpyDtoDAsync(to, source, size, 0)

    def cuMemsetD8Async(self, to: int, value: int, size: int, stream: int) -> int:
        gpu = self._gpu_of(stream)
        if not gpu:
            return INVALID_HANDLE
        gpu.machine.write(to, bytes([value]) * size)
        return gpu.error

    # ---- streams and events

    def cuStreamCreate(self, stream: int, flags: int) -> int:
        if self._current is None:
            return INVALID_CONTEXT
        write(stream, self._new("stream", self._current))
        return SUCCESS

    def cuStreamDestroy(self, stream: int) -> int:
        return SUCCESS if self.things.pop(stream, None) else INVALID_HANDLE

    def cuStreamSynchronize(self, stream: int) -> int:
        gpu = self._gpu_of(stream)
        return gpu.error if gpu else INVALID_HANDLE

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> int:
        return SUCCESS if self._gpu_of(stream) and self._of(event, "event") else INVALID_HANDLE

    def cuEventCreate(self, event: int, flags: int) -> int:
        if self._current is None:
            return INVALID_CONTEXT
        write(event, self._new("event", self._current, [0.0]))
        return SUCCESS

    def cuEventDestroy(self, event: int) -> int:
        return SUCCESS if self.things.pop(event, None) else INVALID_HANDLE

    def cuEventRecord(self, event: int, stream: int) -> int:
        found = self._of(event, "event")
        if not found or self._gpu_of(stream) is not found[1]:
            return INVALID_HANDLE
        found[2][0] = time.perf_counter()
        return SUCCESS

    def cuEventSynchronize(self, event: int) -> int:
        found = self._of(event, "event")
        return found[1].error if found else INVALID_HANDLE

    def cuEventElapsedTime(self, milliseconds: int, start: int, end: int) -> int:
        first, last = self._of(start, "event"), self._of(end, "event")
        if not first or not last:
            return INVALID_HANDLE
        ctypes.c_float.from_address(milliseconds).value = 1e3 * (last[2][0] - first[2][0])
        return SUCCESS

    def cuCtxSynchronize(self) -> int:
        return self.cuStreamSynchronize(0) if self._current else INVALID_CONTEXT

    # ---- launches

    def cuLaunchKernel(
        self,
        function: int,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared: int,
        stream: int,
        parameters: int,
        extra: int,
    ) -> int:
        sizes = (grid_x, grid_y, grid_z, block_x, block_y, block_z, shared)
        return self._launch(function, sizes, stream, None, parameters)

    def cuLaunchKernelEx(self, config: int, function: int, parameters: int, extra: int) -> int:
        # CUlaunchConfig: grid 3 x u32, block 3 x u32, shared u32, (4 bytes), stream, attributes, their number u32
        sizes = tuple((ctypes.c_uint * 7).from_address(config))
        cluster = self._cluster(read(config + 40), read(config + 48, ctypes.c_uint))
        return self._launch(function, sizes, read(config + 32), cluster, parameters)

    def _launch(
        self, function: int, sizes: tuple[int, ...], stream: int, cluster: tuple[int, ...] | None, parameters: int
    ) -> int:
        found, gpu = self._of(function, "function"), self._gpu_of(stream)
        if not found or gpu is None or found[1] is not gpu or self._current is not gpu:
            return INVALID_HANDLE
        wanted: Function = found[2]
        grid, block, shared = sizes[:3], sizes[3:6], sizes[6]
        threads = block[0] * block[1] * block[2]
        if not all(grid) or not all(block):
            return INVALID_VALUE
        if threads > wanted.threads or wanted.shared + shared > max(48 << 10, wanted.shared + wanted.dynamic):
            return OUT_OF_RESOURCES
        if gpu.error:
            return gpu.error
        self.launched = stream
        values = [ctypes.string_at(read(parameters + 8 * i), n) for i, n in enumerate(wanted.sizes)]
        try:
            gpu.machine.launch(wanted, grid, block, shared, values, cluster)
        except Fault as fault:
            gpu.error = fault.code  # told by the next call that waits
        return SUCCESS

    def cuTensorMapEncodeTiled(
        self,
        encoded: int,
        dtype: int,
        rank: int,
        address: int,
        sizes: int,
        strides: int,
        box: int,
        steps: int,
        interleave: int,
        swizzle: int,
        promotion: int,
        fill: int,
    ) -> int:
        from hal.errors import HalError
        from hal_nvidia_ptx.emulator import tensormap

        def numbers(start: int, count: int, kind: Any) -> tuple[int, ...]:
            return tuple((kind * count).from_address(start)) if count else ()

        if encoded % 64 or interleave or not 1 <= rank <= 5:
            return INVALID_VALUE
        try:
            made = tensormap.TensorMap(
                tensormap.DTYPES[dtype][0],
                address,
                numbers(sizes, rank, ctypes.c_uint64),
                numbers(strides, rank - 1, ctypes.c_uint64),
                numbers(box, rank, ctypes.c_uint32),
                numbers(steps, rank, ctypes.c_uint32),
                tensormap.SWIZZLES[swizzle],
                tensormap.PROMOTIONS[promotion],
                tensormap.FILLS[fill],
            )
        except (HalError, IndexError):
            return INVALID_VALUE
        ctypes.memmove(encoded, made.encode(), tensormap.BYTES)
        return SUCCESS

    def _cluster(self, attributes: int, count: int) -> tuple[int, ...] | None:
        """CUlaunchAttribute is 72 bytes: its id, and from byte 8 on its value."""
        for address in range(attributes, attributes + 72 * count, 72):
            if read(address, ctypes.c_uint) == CLUSTER_DIMENSION:
                return tuple((ctypes.c_uint * 3).from_address(address + 8))
        return None
