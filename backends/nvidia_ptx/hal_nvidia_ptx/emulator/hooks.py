"""What watches a run: the calls that the machine and the instructions make to race detector and counters.

`run.hazards` and `run.counters` are None or objects of these kinds. All offsets are byte offsets into `space.bytes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.memory import Space
    from hal_nvidia_ptx.emulator.syntax import Instruction

Access = Literal["read", "write", "atomic"]


class Hazards(Protocol):
    """The race detector. One object per launch; batches of CTAs come one after the other."""

    def start(self, run: Run) -> None:
        """A new batch: run.first_cta, run.ctas, run.threads, run.lane_cta … are set, shared memory is fresh."""

    def finish(self, run: Run) -> None:
        """All lanes of the batch have ended (or the run was stopped)."""

    def access(
        self,
        ins: Instruction,
        space: Space,
        lanes: Lanes,
        offsets: NDArray[Any],
        nbytes: int,
        kind: Access,
        values: NDArray[Any] | None = None,
    ) -> None:
        """Lane lanes.index[i] touches bytes offsets[i] … +nbytes. values of plain writes: [count] or [count, n]."""

    def arrive(self, ins: Instruction, lanes: Lanes, barrier: int) -> None:
        """Lanes arrive at a CTA barrier and go on without waiting for it."""

    def barrier(self, ins: Instruction, arrived: NDArray[Any], waiting: NDArray[Any], barrier: int) -> None:
        """A CTA barrier completed: lanes `arrived` (sorted indices, of one or many CTAs, each CTA on its own) happen
        before the continuation of `waiting`."""

    def warp(self, ins: Instruction, lanes: Lanes) -> None:
        """bar.warp.sync and other .sync instructions: the lanes of each warp in `lanes` are ordered."""

    def fence(self, ins: Instruction, lanes: Lanes, kind: str) -> None:
        """membar/fence; kind: the opcode's modifiers, as "acq_rel.gpu" or "proxy.async.shared::cta"."""


class Counters(Protocol):
    """What is counted besides instructions, which the machine counts itself."""

    def access(
        self,
        ins: Instruction,
        space: Space,
        lanes: Lanes,
        offsets: NDArray[Any],
        nbytes: int,
        kind: Access,
        values: NDArray[Any] | None = None,
    ) -> None:
        """As Hazards.access."""

    def barrier(self, ins: Instruction, arrived: NDArray[Any], waiting: NDArray[Any], barrier: int) -> None:
        """As Hazards.barrier."""
