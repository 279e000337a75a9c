"""What a launch is, how it is to be run, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.errors import HalError
from hal_nvidia_ptx.emulator.hooks import Counters, Hazards
from hal_nvidia_ptx.emulator.report import Findings, Ran

Array: TypeAlias = NDArray[Any]
Triple: TypeAlias = tuple[int, int, int]
Mode: TypeAlias = Literal["late", "early", "races"]


class LaunchError(HalError, ValueError):
    """A launch that no device of the target would take."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A launch: CTAs of the grid, threads of a CTA, CTAs of a cluster, bytes of dynamic shared memory."""

    grid: Triple
    block: Triple
    cluster: Triple = (1, 1, 1)
    shared: int = 0

    @property
    def ctas(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def cluster_size(self) -> int:
        return self.cluster[0] * self.cluster[1] * self.cluster[2]


@dataclass(slots=True)
class Options:
    """How to run: see `machine.launch`."""

    mode: Mode = "late"
    hazards: Hazards | None = None
    counters: Counters | None = None
    count: bool = False  # count executed instructions
    ctas: Sequence[int] | None = None
    trips: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a launch did. executed: per instruction, how often a warp ran it; only if counted."""

    findings: Findings
    ran: Ran
    executed: Array = field(default_factory=lambda: np.zeros(0, np.int64))
