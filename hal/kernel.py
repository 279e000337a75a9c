"""Devices that compile source text: what they supply, and the `prepare` they get for it.

A backend writes a driver, `compile` and `launch`, and for each operator an *algorithm*: three pure functions.

    configs(op, info)          the ways to compute it that may suit, best first
    kernels(op_class, config)  source text: no sizes in it, so a new shape compiles nothing
    schedule(op, config)       plain arithmetic: which kernel on which grid with which arguments, and scratch bytes

None of them sees a device or a driver, so kernels can be read, compared, assembled and emulated anywhere.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from hal.device import Device, DeviceInfo, Operand, Plan
from hal.errors import UnsupportedError
from hal.op import Op, OpClass
from hal.ops import OPERATORS


@dataclass(frozen=True, slots=True)
class Kernel:
    """One entry point of a source text. `parameters` name the arguments in order; `options` go to the compiler."""

    entry: str
    source: str
    parameters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """A choice among an algorithm's ways: a name and numbers. Hashable, printable, and JSON by `dict(values)`."""

    name: str
    values: tuple[tuple[str, int], ...] = ()

    def __getitem__(self, key: str) -> int:
        return dict(self.values)[key]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.values)})"


@dataclass(frozen=True, slots=True)
class In:
    """The address of input i."""

    index: int


@dataclass(frozen=True, slots=True)
class Out:
    """The address of output i."""

    index: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """An address in the call's scratch memory, `offset` bytes from its start."""

    offset: int


@dataclass(frozen=True, slots=True)
class I32:
    """A 32-bit signed integer."""

    value: int


@dataclass(frozen=True, slots=True)
class I64:
    """A 64-bit signed integer."""

    value: int


@dataclass(frozen=True, slots=True)
class F32:
    """A float32."""

    value: float


@dataclass(frozen=True, slots=True)
class F64:
    """A float64."""

    value: float


Argument: TypeAlias = In | Out | Scratch | I32 | I64 | F32 | F64
Number: TypeAlias = I32 | I64 | F32 | F64
Dims: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch as data. `kernel` indexes the algorithm's kernels; `grid` counts blocks, `block` threads of one."""

    kernel: int
    grid: Dims
    block: Dims
    arguments: tuple[Argument, ...]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The launches of one call, in order, and the scratch memory they share."""

    launches: tuple[Launch, ...]
    scratch_bytes: int = 0


class Algorithm(Protocol):
    """What a backend writes for one operator. A module with these three functions is one."""

    def configs(self, op: Op, info: DeviceInfo) -> Sequence[Config]:
        """Best first; a pure function of its arguments. Raises UnsupportedError with the reason.

        Row operators decide by row length, dtype and layout class alone; matmul under deterministic="batch" not by M
        or the batch: a row's bits must not depend on its neighbours.
        """

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        """Source text, a pure function of its arguments."""

    def schedule(self, op: Op, config: Config) -> Schedule:
        """Launches and scratch. An empty result needs no launch; no launch has an empty grid."""


class KernelPlan(Plan):
    """Compiled kernels and the launches that use them."""

    def __init__(
        self,
        device: KernelDevice,
        op: Op,
        config: Config,
        kernels: tuple[Kernel, ...],
        schedule: Schedule,
        rejected: tuple[str, ...],
    ) -> None:
        self.op, self.config, self.kernels, self.schedule, self.rejected = op, config, kernels, schedule, rejected
        self._device = device
        self._steps = [(device.compiled(kernels[launch.kernel]), launch) for launch in schedule.launches]

    def __call__(self, outputs: Sequence[Operand], inputs: Sequence[Operand], stream: Any = None) -> None:
        device = self._device
        # Scratch belongs to the call, not to the plan: another thread may run the same plan now.
        scratch = device.alloc(self.schedule.scratch_bytes) if self.schedule.scratch_bytes else None
        try:
            for compiled, launch in self._steps:
                device.launch(compiled, launch, resolve(launch, outputs, inputs, scratch), stream)
        finally:
            if scratch is not None:
                device.free(scratch)

    def describe(self) -> dict[str, Any]:
        """The config, the launches, and the configs that were passed over."""
        return {
            "plan": "kernels",
            "config": str(self.config),
            "scratch_bytes": self.schedule.scratch_bytes,
            "rejected": list(self.rejected),
            "launches": [
                {
                    "entry": self.kernels[launch.kernel].entry,
                    "grid": list(launch.grid),
                    "block": list(launch.block),
                    "shared_bytes": launch.shared_bytes,
                    "arguments": [repr(argument) for argument in launch.arguments],
                }
                for launch in self.schedule.launches
            ],
        }


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands among the compiled kernels for one that this device cannot have."""

    reason: str


class KernelDevice(Device):
    """A device that supplies `compile`, `launch` and a table of algorithms, and gets `prepare`."""

    algorithms: Mapping[str, Algorithm]
    plan_type: type[KernelPlan] = KernelPlan  # or a child whose calls cost less on this device

    def __init__(self, info: DeviceInfo) -> None:
        super().__init__(info)
        self._compiled: dict[Kernel, Any] = {}
        self._kernels: dict[tuple[str, OpClass, Config], tuple[Kernel, ...]] = {}
        self._compiling = threading.Lock()

    @abstractmethod
    def compile(self, kernel: Kernel) -> Any:
        """Machine code, once per kernel and process. Raises CompileError; UnsupportedError where a limit forbids it."""

    @abstractmethod
    def launch(self, compiled: Any, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        """Enqueue one launch. Addresses come as (handle, byte offset), numbers as I32, I64, F32, F64."""

    def prepare(self, op: Op) -> Plan:
        algorithm = self.algorithms.get(op.name)
        if algorithm is None:
            raise UnsupportedError(f"{op.name}: device {self.name} has no kernel for it")
        if op.dtype not in self.info.dtypes:
            raise UnsupportedError(f"{op.name}: device {self.name} does not compute in {op.dtype}; op: {op}")
        rejected: list[str] = []
        for config in algorithm.configs(op, self.info):
            try:
                return self.prepare_config(op, algorithm, config, tuple(rejected))
            except UnsupportedError as error:
                rejected.append(f"{config}: {error}")
        raise UnsupportedError(f"{op.name}: no kernel of device {self.name} takes {op}: " + "; ".join(rejected))

    def prepare_config(
        self, op: Op, algorithm: Algorithm, config: Config, rejected: tuple[str, ...] = ()
    ) -> KernelPlan:
        """The plan of one given config: what `prepare` does for the first that works, and tests for each."""
        op_class = OPERATORS[op.name].classify(op)
        key = (op.name, op_class, config)
        kernels = self._kernels.get(key)
        if kernels is None:
            kernels = self._kernels[key] = algorithm.kernels(op_class, config)
        return self.plan_type(self, op, config, kernels, algorithm.schedule(op, config), rejected)

    def compiled(self, kernel: Kernel) -> Any:
        """The compiled form, made once, whatever the number of threads that ask. A refusal is remembered too."""
        compiled = self._compiled.get(kernel)
        if compiled is None:
            with self._compiling:
                compiled = self._compiled.get(kernel)
                if compiled is None:
                    try:
                        compiled = self.compile(kernel)
                    except UnsupportedError as refusal:
                        compiled = _Refused(str(refusal))
                    self._compiled[kernel] = compiled
        if isinstance(compiled, _Refused):
            raise UnsupportedError(compiled.reason)
        return compiled

    def compilations(self) -> int:
        """How many kernels were compiled so far: a new shape of a known class adds none."""
        return sum(not isinstance(compiled, _Refused) for compiled in self._compiled.values())


def resolve(
    launch: Launch, outputs: Sequence[Operand], inputs: Sequence[Operand], scratch: Any
) -> list[Operand | Number]:
    """A launch's arguments with the addresses of this call in place of In, Out and Scratch."""
    resolved: list[Operand | Number] = []
    for argument in launch.arguments:
        kind = type(argument)
        if kind is In:
            resolved.append(inputs[argument.index])  # type: ignore[union-attr]
        elif kind is Out:
            resolved.append(outputs[argument.index])  # type: ignore[union-attr]
        elif kind is Scratch:
            resolved.append((scratch, argument.offset))  # type: ignore[union-attr]
        else:
            resolved.append(argument)  # type: ignore[arg-type]
    return resolved
