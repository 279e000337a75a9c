"""Launches made ready once: then a call writes the addresses and makes one driver call a launch.

Everything that the driver reads at a launch (the values, an array of pointers to them, CUlaunchConfig) is made once
and used again. A *prepared* set serves one call at a time: a call takes one from the plan's list, and makes another
where other threads have taken all, since the driver reads it with the interpreter's lock released.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from hal.device import Operand
from hal.kernel import F32, F64, I32, I64, Dims, In, KernelPlan, Launch, Number, Out, Scratch
from hal_nvidia_ptx.context import stream_handle

if TYPE_CHECKING:
    from hal_nvidia_ptx.driver import CudaDevice
    from hal_nvidia_ptx.modules import Compiled

PLACE = 64  # bytes: the alignment of a parameter at most, that of a tensor map
FORMATS = {I32: "<i4x", I64: "<q", F32: "<f4x", F64: "<d"}  # of a value in its eight bytes


def number_bytes(number: Number) -> bytes:
    """A number as the eight bytes from which the driver reads as many as the parameter has."""
    return struct.pack(FORMATS[type(number)], number.value)


def configure(cuda: Any, launch: Launch, stream: Any, cluster: Dims | None = None) -> Any:
    """The CUlaunchConfig of a launch."""
    config = cuda.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = launch.block
    config.sharedMemBytes = launch.shared_bytes
    config.hStream = stream
    if cluster is not None:
        attribute = cuda.CUlaunchAttribute()
        attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        sizes = attribute.value.clusterDim
        sizes.x, sizes.y, sizes.z = cluster
        config.attrs = [attribute]
        config.numAttrs = 1
    return config


def pointers_to(addresses: Sequence[int]) -> Any:
    """The array that cuLaunchKernelEx calls kernelParams."""
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)


class Prepared:
    """One set. `values`: eight bytes each; outputs, inputs, scratch addresses, numbers, in this order."""

    __slots__ = ("inputs", "launches", "outputs", "pointers", "stream", "values")

    def __init__(self, values: array[int], stream: Any, outputs: int, inputs: int) -> None:
        self.values, self.stream = values, stream
        self.outputs: list[Operand] = [(0, 0)] * outputs  # what the values say now
        self.inputs: list[Operand] = [(0, 0)] * inputs
        self.pointers: list[Any] = []  # kept alive here
        self.launches: list[tuple[Any, Any, int]] = []  # config, function, address of the pointers

    def add(self, config: Any, function: Any, slots: Sequence[int]) -> None:
        """A launch with the values in these slots."""
        base = self.values.buffer_info()[0]
        pointers = pointers_to([base + 8 * slot for slot in slots])
        self.pointers.append(pointers)
        self.launches.append((config, function, ctypes.addressof(pointers)))

    def write(self, known: list[Operand], given: Sequence[Operand], first: int) -> None:
        """The addresses of this call that differ from the last one's; `first`: the slot of the first."""
        for place, operand in enumerate(given):
            if operand != known[place]:
                known[place] = operand
                self.values[first + place] = operand[0] + operand[1]

    def use(self, stream: Any) -> None:
        """From now on, launch there."""
        for config, _, _ in self.launches:
            config.hStream = stream
        self.stream = stream


class CudaPlan(KernelPlan):
    """A KernelPlan whose calls cost little. Raises UnsupportedError where a launch is beyond the device's limits."""

    def __init__(self, device: CudaDevice, *decided: Any) -> None:
        super().__init__(device, *decided)
        self._cuda_device = device
        self._launch = device.cuda.cuLaunchKernelEx
        outputs, inputs = len(self.op.outputs), len(self.op.inputs)
        arguments = [argument for launch in self.schedule.launches for argument in launch.arguments]
        self._offsets = list(dict.fromkeys(x.offset for x in arguments if isinstance(x, Scratch)))
        self._first_scratch = outputs + inputs
        self._initial = [0] * (outputs + inputs + len(self._offsets))
        self._slots = [tuple(self._slot(x, outputs) for x in launch.arguments) for launch in self.schedule.launches]
        self._prepared: list[Prepared] = []
        for compiled, launch in self._steps:
            device.check_launch(compiled, launch)

    def _slot(self, argument: Any, outputs: int) -> int:
        """Where an argument's value stands; a number is given its place here."""
        if isinstance(argument, Out):
            return argument.index
        if isinstance(argument, In):
            return outputs + argument.index
        if isinstance(argument, Scratch):
            return self._first_scratch + self._offsets.index(argument.offset)
        self._initial.append(int.from_bytes(number_bytes(argument), "little"))
        return len(self._initial) - 1

    def _prepare(self) -> Prepared:
        device = self._cuda_device
        made = Prepared(array("Q", self._initial), device.stream, len(self.op.outputs), len(self.op.inputs))
        for (compiled, launch), slots in zip(self._steps, self._slots, strict=True):
            made.add(configure(device.cuda, launch, device.stream), compiled.function, slots)
        return made

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        device = self._cuda_device
        if device.lost:
            device.check()
        if stream is None:
            stream = device.stream
        else:
            stream = stream_handle(stream)
            if not device.context.is_current():  # it tells which device's default stream is meant by 0
                with device.context.current():
                    self(outputs, inputs, stream)
                return
        try:
            prepared = self._prepared.pop()
        except IndexError:
            prepared = self._prepare()
        if prepared.stream is not stream:
            prepared.use(stream)
        if outputs != prepared.outputs:
            prepared.write(prepared.outputs, outputs, 0)
        if inputs != prepared.inputs:
            prepared.write(prepared.inputs, inputs, len(prepared.outputs))
        try:
            if self._offsets:
                self._with_scratch(prepared, stream)
                return
            launch = self._launch
            for config, function, parameters in prepared.launches:
                code = launch(config, function, parameters, 0)[0]
                if code:
                    device.launch_again(code, config, function, parameters)
        finally:
            self._prepared.append(prepared)

    def _with_scratch(self, prepared: Prepared, stream: Any) -> None:
        """Scratch belongs to the call, and to the stream of the call."""
        device = self._cuda_device
        scratch = device.pool.alloc(self.schedule.scratch_bytes, stream)
        try:
            for slot, offset in enumerate(self._offsets, self._first_scratch):
                prepared.values[slot] = scratch + offset
            for config, function, parameters in prepared.launches:
                code = self._launch(config, function, parameters, 0)[0]
                if code:
                    device.launch_again(code, config, function, parameters)
        finally:
            device.pool.free(scratch, stream)


def launch_once(
    device: CudaDevice,
    compiled: Compiled,
    launch: Launch,
    values: Sequence[bytes],
    stream: Any,
    cluster: Dims | None = None,
) -> None:
    """One launch with nothing kept. values: the bytes of each parameter."""
    starts = list(accumulate((-(-len(value) // PLACE) * PLACE for value in values), initial=0))
    memory = ctypes.create_string_buffer(starts[-1] + PLACE)
    base = -(-ctypes.addressof(memory) // PLACE) * PLACE
    for start, value in zip(starts, values):  # noqa: B905 - the last start is the end
        ctypes.memmove(base + start, value, len(value))
    pointers = pointers_to([base + start for start in starts[:-1]])
    arguments = configure(device.cuda, launch, stream, cluster), compiled.function, ctypes.addressof(pointers)
    code = device.cuda.cuLaunchKernelEx(*arguments, 0)[0]
    if code:
        device.launch_again(code, *arguments)
