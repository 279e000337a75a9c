"""One's own kernel behind a hal operator, once the judge has passed it.

    mine = replace("matmul", ("my_gemm", "gemm.ptx", launch_of), when=lambda op: op.dtype == "float16")
    hal.matmul(a, b)       # float16 on cuda:… and ptx:… devices: my_gemm
    mine.remove()          # or: with replace(…): …

A kernel is an Algorithm (hal/kernel.py: configs, kernels, schedule), or the three things of the simple form: the entry,
the PTX (a file or a text), and a function that turns an Op into the one Launch. What it refuses by UnsupportedError,
and whatever `when` does not match, is computed by hal's own kernels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from hal.device import Bytes, Device, DeviceInfo, Handle, Plan
from hal.errors import ArgumentError, OptionError, UnsupportedError, WrongResult
from hal.kernel import Algorithm, Config, Kernel, KernelDevice, Launch, Schedule
from hal.op import Op, OpClass
from hal_nvidia_ptx.kernels import ALGORITHMS

When: TypeAlias = Callable[[Op], bool]
Simple: TypeAlias = "tuple[str, str | os.PathLike[str], Callable[[Op], Launch]]"

_lock = threading.Lock()
_count = 0


def replace(
    operator: str,
    kernel: Algorithm | Simple,
    *,
    when: When | None = None,
    device: str | None = None,
    level: str | None = None,
) -> Replacement:
    """Put `kernel` before hal's own for `operator`, on all devices of the backends cuda and ptx.

    Args:
        when: for which Ops; None: for all that the kernel takes.
        device: where it is judged; None: on the first GPU, else on the emulated device of the kernel's target.
        level: of the judge's cases, "smoke" or "full"; None: full on a GPU, smoke where it is emulated.

    Raises WrongResult with the first case that fails; OptionError where no case of the judge matches.
    """
    if operator not in ALGORITHMS:
        raise OptionError(f"no operator {operator!r} has PTX kernels; those that have: {', '.join(ALGORITHMS)}")
    algorithm = _algorithm(kernel)
    matches = when or (lambda op: True)
    judge = _judge(device, algorithm)
    level = level or ("smoke" if judge.name.startswith("ptx") else "full")
    made = Replacement(operator, algorithm, matches)
    made.cases = _judged(judge, made, level)
    made._install()
    return made


class Replacement:
    """A kernel in force until `remove`, or until the end of its `with` block. cases: how many the judge ran."""

    def __init__(self, operator: str, algorithm: Algorithm, when: When) -> None:
        global _count
        with _lock:
            _count += 1
            self.name = f"replacement {_count}"
        self.operator, self.algorithm, self.when = operator, algorithm, when
        self.cases = 0

    def configs(self, op: Op, info: DeviceInfo) -> list[Config]:
        """Its own configs under names of its own; none for what it does not take."""
        if not self.when(op):
            return []
        try:
            return [Config(f"{self.name}, {each.name}", each.values) for each in self.algorithm.configs(op, info)]
        except UnsupportedError:
            return []

    def own(self, config: Config) -> Config | None:
        """The kernel's config from one of those names; None if it is another's."""
        mine, _, name = config.name.partition(", ")
        return Config(name, config.values) if mine == self.name else None

    def remove(self) -> None:
        """hal's own kernels again. Plans that are held stay what they are."""
        with _lock:
            chain = ALGORITHMS[self.operator]
            if isinstance(chain, Chain) and self in chain.replacements:
                rest = tuple(each for each in chain.replacements if each is not self)
                _table()[self.operator] = Chain(chain.base, rest) if rest else chain.base
        _forget()

    def _install(self) -> None:
        with _lock:
            current = ALGORITHMS[self.operator]
            known = current if isinstance(current, Chain) else Chain(current, ())
            _table()[self.operator] = Chain(known.base, (self, *known.replacements))
        _forget()

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<{self.name} of {self.operator}, judged by {self.cases} cases>"


class Chain:
    """An algorithm whose replacements come first, the newest before all."""

    def __init__(self, base: Algorithm, replacements: tuple[Replacement, ...]) -> None:
        self.base, self.replacements = base, replacements

    def configs(self, op: Op, info: DeviceInfo) -> Sequence[Config]:
        first = [config for each in self.replacements for config in each.configs(op, info)]
        return [*first, *self.base.configs(op, info)]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        algorithm, own = self._of(config)
        return algorithm.kernels(op_class, own)

    def schedule(self, op: Op, config: Config) -> Schedule:
        algorithm, own = self._of(config)
        return algorithm.schedule(op, own)

    def _of(self, config: Config) -> tuple[Algorithm, Config]:
        for each in self.replacements:
            own = each.own(config)
            if own is not None:
                return each.algorithm, own
        return self.base, config


class OneKernel:
    """The simple form as an algorithm."""

    def __init__(self, entry: str, text: str, launch: Callable[[Op], Launch]) -> None:
        self.kernel, self._launch = Kernel(entry, text), launch

    def configs(self, op: Op, info: DeviceInfo) -> Sequence[Config]:
        return [Config(self.kernel.entry)]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        return (self.kernel,)

    def schedule(self, op: Op, config: Config) -> Schedule:
        return Schedule((self._launch(op),))


class Trial(Device):
    """A device on which only one replacement computes: what the judge sees."""

    def __init__(self, device: KernelDevice, replacement: Replacement) -> None:
        super().__init__(device.info)
        self.name, self._device, self._replacement = device.name, device, replacement
        self._chain = Chain(replacement.algorithm, (replacement,))

    def prepare(self, op: Op) -> Plan:
        refusals: list[str] = []
        for config in self._replacement.configs(op, self.info):
            try:
                return self._device.prepare_config(op, self._chain, config)
            except UnsupportedError as error:
                refusals.append(str(error))
        raise UnsupportedError("; ".join(refusals) or f"{op}: not taken")

    def alloc(self, nbytes: int) -> Handle:
        return self._device.alloc(nbytes)

    def free(self, handle: Handle) -> None:
        self._device.free(handle)

    def copy_in(self, target: Handle, offset: int, source: Bytes) -> None:
        self._device.copy_in(target, offset, source)

    def copy_out(self, target: Bytes, source: Handle, offset: int) -> None:
        self._device.copy_out(target, source, offset)

    def synchronize(self) -> None:
        self._device.synchronize()


def _algorithm(kernel: Any) -> Algorithm:
    """Raises ArgumentError for what is neither form."""
    if all(callable(getattr(kernel, name, None)) for name in ("configs", "kernels", "schedule")):
        return cast(Algorithm, kernel)
    if isinstance(kernel, tuple) and len(kernel) == 3 and isinstance(kernel[0], str) and callable(kernel[2]):
        entry, text, launch = kernel
        if not (isinstance(text, str) and "\n" in text):
            text = Path(text).read_text()
        return OneKernel(entry, text, launch)
    raise ArgumentError(
        "replace: a kernel is an object with configs, kernels and schedule, "
        f"or (entry, PTX, function from Op to Launch); {kernel!r} given"
    )


def _judge(asked: str | None, algorithm: Algorithm) -> KernelDevice:
    """The device on which to judge."""
    import hal

    name = asked
    if name is None:
        from hal_nvidia_ptx.launch import default_device

        name = default_device(algorithm.kernel.source if isinstance(algorithm, OneKernel) else "")
    device = hal.device(name)
    if not isinstance(device, KernelDevice):
        raise OptionError(f"replace: device {name} runs no PTX; cuda:… and ptx:… do")
    return device


def _judged(device: KernelDevice, replacement: Replacement, level: str) -> int:
    """How many cases passed. Raises WrongResult with the first that did not; OptionError where there was none."""
    from hal.conformance import run_case, select

    trial = Trial(device, replacement)
    matching = [case for case in select(level, [replacement.operator]) if replacement.when(case.op)]
    passed, refusal = 0, ""
    for case in matching:
        result = run_case(trial, case)
        if result.status == "failed":
            raise WrongResult(f"replace: the kernel fails case {case.name} on {device.name}: {result.message}")
        passed += result.status == "passed"
        refusal = refusal or result.message
    if not passed:
        why = f"the kernel takes none of them: {refusal}" if matching else "`when` matches none"
        raise OptionError(
            f"replace: nothing was judged of the {level} cases of {replacement.operator}: {why}; "
            'a wider `when`, or level="full", brings more'
        )
    return passed


def _table() -> dict[str, Algorithm]:
    """The table that every device of these backends reads at each new call."""
    return cast("dict[str, Algorithm]", ALGORITHMS)


def _forget() -> None:
    """Calls that were prepared before are prepared anew."""
    from hal import dispatch

    dispatch.forget_all()
