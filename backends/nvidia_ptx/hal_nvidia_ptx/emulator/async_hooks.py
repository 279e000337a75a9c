"""What the race detector is told of asynchronous instructions, besides the calls of hooks.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.hooks import Hazards

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.memory import Space
    from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]
Actor: TypeAlias = Literal["cp", "bulk", "wgmma", "mbar"]


class AsyncHazards(Hazards, Protocol):
    """See races.py for what each call means."""

    def async_access(
        self,
        ins: Instruction,
        actor: Actor,
        space: Space,
        issuers: Array,
        offsets: Array,
        nbytes: int,
        kind: Literal["read", "write"],
        mbarriers: Array | None = None,
    ) -> None: ...

    def async_commit(self, ins: Instruction, actor: Actor, lanes: Lanes) -> None: ...

    def async_wait(self, ins: Instruction, actor: Actor, lanes: Lanes, pending: int | None) -> None: ...

    def mbarrier_init(self, ins: Instruction, lanes: Lanes, offsets: Array) -> None: ...

    def mbarrier_use(self, ins: Instruction, lanes: Lanes, offsets: Array, asynchronous: bool = False) -> None: ...

    def mbarrier_arrive(self, ins: Instruction, lanes: Lanes, offsets: Array, copies: bool = False) -> None: ...

    def mbarrier_complete(self, ins: Instruction, offsets: Array) -> None: ...

    def mbarrier_wait(self, ins: Instruction, lanes: Lanes, offsets: Array) -> None: ...

    def cluster_arrive(self, ins: Instruction, lanes: Lanes) -> None: ...

    def cluster_leave(self, ins: Instruction, lanes: Lanes) -> None: ...


def hazards(run: Run) -> AsyncHazards | None:
    """The race detector, None unless it is on."""
    return cast("AsyncHazards | None", run.hazards)
