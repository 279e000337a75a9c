"""One's own PTX, run by one call on hardware or on an emulated device.

    kernels = load("scale.ptx")
    kernels["scale"](8, 256, x, y, 2.0, 1024)

Arrays are NumPy's (copied to the device and back), hal.Arrays, or tensors of torch, CuPy and others that live on the
device; they are given for 64-bit parameters. Numbers are converted to the parameter's type, bytes are taken as they
are. A tensor map is a `notation.Tensor` with an array as its values: Tensor((128, 256), "bf16", (64, 64), x).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hal.device import Device
from hal.errors import ArgumentError, BackendUnavailable, DeviceError, OptionError
from hal.kernel import Dims, Kernel, Launch
from hal_nvidia_ptx.arguments import ADDRESSES, Placement, check_count, failure, is_number, number
from hal_nvidia_ptx.notation import Tensor
from hal_nvidia_ptx.target import TARGETS

if TYPE_CHECKING:
    from hal.interop import Kind
    from hal_nvidia_ptx.emulator.syntax import Function, Module, Variable

MAP_BYTES = 128  # a CUtensorMap


def load(path_or_text: str | os.PathLike[str]) -> Loaded:
    """The entries of a PTX file, or of a text (which has line breaks), by name.

    Raises OSError for a file that cannot be read, CompileError with the line for a text that does not parse.
    """
    from hal_nvidia_ptx.emulator.source import parse

    text = path_or_text if isinstance(path_or_text, str) and "\n" in path_or_text else Path(path_or_text).read_text()
    return Loaded(text, parse(text))


class Loaded(Mapping[str, "Entry"]):
    """A PTX text: entry name -> Entry."""

    def __init__(self, text: str, module: Module) -> None:
        self.text, self.module = text, module
        self._entries = {name: Entry(text, module, function) for name, function in module.entries.items()}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise OptionError(f"this PTX has no entry {name!r}; it has: {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Entry:
    """A kernel to call."""

    def __init__(self, text: str, module: Module, function: Function) -> None:
        self.name = function.name
        self._module, self._function = module, function
        self._kernel = Kernel(function.name, text, tuple(each.name for each in function.params))

    def __repr__(self) -> str:
        parameters = ", ".join(f"{each.name} .{each.kind}" for each in self._function.params)
        return f"<PTX entry {self.name}({parameters}) for {self._module.target}>"

    def __call__(
        self,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        stream: Any = None,
        device: str | Device | None = None,
        shared: int = 0,
        cluster: int | Sequence[int] | None = None,
    ) -> None:
        """Launch. Returns once host arrays are copied back; with arrays on the device alone, at once.

        Args:
            grid, block: blocks, and threads of one: X, or up to (X, Y, Z). arguments: in the parameters' order.
            stream: where to launch, on hardware (None: the stream that a tensor's owner works on, else hal's own).
            device: None: where the arrays are, else the first GPU that runs the text, else the text's emulated target.
            shared: bytes of dynamic shared memory. cluster: blocks of a cluster, where the text does not say it.

        Raises ArgumentError with the parameter's line; CompileError, UnsupportedError, DeviceError.
        """
        check_count(self._module, self._function, arguments)
        dims = [_dims("grid", grid), _dims("block", block)]
        clusters = None if cluster is None else _dims("cluster", cluster)
        chosen, current = self._choose(device, arguments)
        compiled = chosen.compiled(self._kernel)
        launch = Launch(0, dims[0], dims[1], (), shared)
        stream = current if stream is None else stream
        with Placement(chosen) as placed:
            pairs = zip(self._function.params, arguments, strict=True)
            values = [self._value(placed, parameter, argument) for parameter, argument in pairs]
            ordered = stream is not None and placed.owned  # two queues: each waits for the other
            if ordered:
                chosen.before(stream)
            chosen.launch_values(compiled, launch, values, stream, clusters)
            if ordered:
                chosen.after(stream)

    def _value(self, placed: Placement, parameter: Variable, argument: Any) -> bytes:
        if isinstance(argument, (bytes, bytearray)):
            if len(argument) != parameter.nbytes:
                problem = f"{parameter.nbytes} bytes wanted, {len(argument)} given"
                raise failure(self._module, self._function, parameter, problem)
            return bytes(argument)
        if is_number(argument):
            return number(self._module, self._function, parameter, argument)
        if isinstance(argument, Tensor):
            return _encoded(placed, argument)
        try:
            return placed.address(argument).to_bytes(8, "little")
        except ArgumentError as error:
            raise failure(self._module, self._function, parameter, str(error)) from None

    def _arrays(self, arguments: Sequence[Any]) -> Iterator[tuple[Any, Kind]]:
        """Each array with its kind. Raises ArgumentError for what is neither array, number nor bytes."""
        from hal.interop import kind_of

        for parameter, argument in zip(self._function.params, arguments, strict=True):
            if is_number(argument) or isinstance(argument, (bytes, bytearray)):
                continue
            if isinstance(argument, Tensor) and parameter.nbytes == MAP_BYTES and argument.values is not None:
                yield argument.values, kind_of(argument.values)
                continue
            if parameter.array or parameter.kind not in ADDRESSES:
                wanted = f"{parameter.nbytes} bytes" if parameter.array else "a number"
                problem = f"{wanted} wanted, {type(argument).__name__} given"
                raise failure(self._module, self._function, parameter, problem)
            try:
                yield argument, kind_of(argument)
            except ArgumentError as error:
                raise failure(self._module, self._function, parameter, str(error)) from None

    def _choose(self, asked: str | Device | None, arguments: Sequence[Any]) -> tuple[Any, Any]:
        """The device, and the stream that the owner of some argument works on."""
        import hal

        homes: dict[Device, Any] = {}
        for x, kind in self._arrays(arguments):
            home = kind.device(x)
            if home is not None:
                homes[home] = homes.get(home) or kind.stream(x)
        if len(homes) > 1:
            raise DeviceError(f"kernel {self.name}: arrays on several devices: {', '.join(d.name for d in homes)}")
        named = hal.device(asked) if isinstance(asked, str) else asked
        chosen, stream = (
            next(iter(homes.items())) if homes else (named or hal.device(default_device(self._kernel.source)), None)
        )
        if named is not None and named is not chosen:
            raise DeviceError(f"kernel {self.name}: its arrays are on {chosen.name}, not on device={asked!r}")
        if not hasattr(chosen, "launch_values"):
            raise DeviceError(f"kernel {self.name}: device {chosen.name} runs no PTX; cuda:… and ptx:… do")
        return chosen, stream


def _encoded(placed: Placement, argument: Tensor) -> bytes:
    """The bytes of a tensor map, as the device that gets it reads them."""
    from hal_nvidia_ptx.checking import tensor_map
    from hal_nvidia_ptx.emulator.tensormap import TensorMap

    encode = getattr(placed.device, "encode_map", TensorMap.encode)
    return bytes(encode(tensor_map(argument, placed.address(argument.values))))


def default_device(text: str) -> str:
    """The first GPU that runs a text, else the emulated device of its target. Raises BackendUnavailable."""
    import hal

    found = re.search(r"^\s*\.target\s+(\w+)", text, re.MULTILINE)
    name = found[1] if found else "sm_80"
    wanted = TARGETS.get(name)
    if wanted is None:
        raise BackendUnavailable(f"PTX for {name}, which hal does not know; known: {', '.join(TARGETS)}")
    for entry in hal.devices():
        target = TARGETS.get(str(entry.props.get("target", "")))
        if entry.backend == "cuda" and target is not None and target.runs(wanted):
            return entry.name
    return f"ptx:{name}"


def _dims(name: str, given: int | Sequence[int]) -> Dims:
    """X, or up to (X, Y, Z), as three. Raises OptionError."""
    sizes: tuple[Any, ...] = (given,) if isinstance(given, int) else tuple(given)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise OptionError(f"{name}: one to three positive numbers wanted, {given!r} given")
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z
