"""What a run judges beyond the suite's cases: `--ops all`, `--ops trace:FILE`, `--shapes MODELS`.

These need other data than cases have, so they come as outcomes, behind those of the cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hal.conformance.session import Outcome
from hal.conformance.subjects.functions import FunctionSubject
from hal.device import Device
from hal.errors import OptionError

GENERIC = (
    "generic: hal has no bound for these operators; they were held to float64 on the CPU within what rounding their "
    "inputs does to it, which finds gross faults and no lost bit"
)


@dataclass(frozen=True)
class Wider:
    """What was asked for.

    operators: of the suite, all if none. every: all that torch describes. trace: a file of operators. shapes: models.
    """

    operators: tuple[str, ...] = ()
    every: bool = False
    trace: str = ""
    shapes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, ops: str, shapes: str, device: str) -> Wider:
        """From the texts of --ops, --shapes and DEVICE. Raises OptionError where the device cannot be asked that."""
        if (ops == "all" or ops.startswith("trace:")) and not device.startswith("torch@"):
            raise OptionError(f"--ops {ops} is for torch devices (torch@cpu, torch@cuda …), not {device or 'none'}")
        models = tuple(name for name in shapes.replace(" ", "").split(",") if name)
        if ops.startswith("trace:"):
            return cls(trace=ops.removeprefix("trace:"), shapes=models)
        if ops == "all":
            return cls(every=True, shapes=models)
        return cls(tuple(name for name in ops.replace(" ", "").split(",") if name), shapes=models)

    @property
    def instead(self) -> bool:
        """Whether the suite's cases are left out: a trace and shapes are judged alone."""
        return bool(self.trace) or (bool(self.shapes) and not self.every)

    @property
    def notes(self) -> list[str]:
        """What the report has to say of such judgements."""
        notes = [GENERIC] if self.every or self.trace else []
        if self.shapes:
            from hal.conformance.shapes import NOTE

            notes.append(NOTE)
        return notes

    def outcomes(self, device: Device, level: str, seed: int) -> Iterator[Outcome]:
        """Judge it. Raises OptionError where a name means nothing, and OSError where a file cannot be read."""
        if (self.every or self.trace) and isinstance(device, FunctionSubject):
            from hal.conformance.subjects import generic, opinfo, trace

            calls = trace.calls(Path(self.trace), seed) if self.trace else opinfo.calls(level, seed)
            yield from generic.judge_calls(calls, device.info.props["torch_device"], seed)
        if self.shapes:
            from hal.conformance.shapes import judge_models

            yield from judge_models(device, self.shapes, level, seed)
