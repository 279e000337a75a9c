"""The sixteen barriers of each CTA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.lanes import WARP, Lanes
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Parked, Run

Array: TypeAlias = NDArray[Any]
Done: TypeAlias = Callable[[Lanes, Array], None]  # the lanes that go on, and all that arrived
COUNT = 16


@dataclass(slots=True)
class _Open:
    """One barrier that some threads have arrived at, in all CTAs of the batch. expected: 0 for all threads."""

    ins: Instruction
    arrived: Array
    expected: Array
    present: list[Array] = field(default_factory=list)  # lanes that arrived
    waiting: list[tuple[Parked, Done | None]] = field(default_factory=list)


class Barriers:
    """Arrivals are counted in threads, as in PTX; lanes of an arriving warp that have ended count as well."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open: dict[int, _Open] = {}

    def arrive(
        self, ins: Instruction, lanes: Lanes, barrier: int, expected: int, wait: bool, done: Done | None = None
    ) -> bool:
        """Lanes arrive; expected: threads of each CTA, 0 for all. True if all lanes were placed (parked or sent on).

        done: called once for the lanes of each completed round that wait with it, before they go on.
        """
        run = self._run
        if not 0 <= barrier < COUNT:
            run.find("wrong barrier", f"barrier {barrier}, there are {COUNT}", ins, lanes, expected="0 to 15")
            return False
        if wait and lanes.whole and barrier not in self._open and expected in (0, run.threads):
            self._completed(ins, lanes.index, lanes.index, barrier)
            if done is not None:
                done(lanes, lanes.index)
            return False
        state = self._open.get(barrier)
        if state is None:
            state = self._open[barrier] = _Open(ins, np.zeros(run.ctas, np.int64), np.zeros(run.ctas, np.int64))
        self._count(ins, state, lanes, expected)
        parked = None
        if wait:
            parked = run.park(ins, lanes, f"at barrier {barrier}")
            state.waiting.append((parked, done))
        else:
            if run.hazards is not None:
                run.hazards.arrive(ins, lanes, barrier)
            run.go(ins.pc + 1, lanes)
        self._settle(barrier, state)
        return True

    def ended(self) -> None:
        """Lanes have ended: rounds that waited for all threads may be complete."""
        for barrier, state in list(self._open.items()):
            self._settle(barrier, state)

    def _count(self, ins: Instruction, state: _Open, lanes: Lanes, expected: int) -> None:
        run = self._run
        ctas = lanes.cta
        here = np.zeros(run.ctas, np.bool_)
        here[ctas] = True
        other = here & (state.arrived > 0) & (state.expected != expected)
        if expected % WARP or (other.any() and not self._agree(state, expected, other)):
            run.find(
                "barrier count",
                f"arrives for {expected or 'all'} threads",
                ins,
                lanes,
                expected=f"multiples of {WARP}, and the same number from all that use the barrier",
                notes=[("an earlier arrival", state.ins)] if other.any() else [],
            )
        state.expected[here] = expected
        state.arrived += np.bincount(ctas, minlength=run.ctas)
        if expected:
            dead = ~run.alive_mask.reshape(-1, WARP)[lanes.warps]
            state.arrived += np.bincount(
                lanes.warps * WARP // run.threads, weights=dead.sum(1), minlength=run.ctas
            ).astype(np.int64)
        state.present.append(lanes.index)

    def _agree(self, state: _Open, expected: int, where: Array) -> bool:
        """0 and the number of all threads mean the same."""
        threads = self._run.threads
        earlier = np.where(state.expected == 0, threads, state.expected)
        return bool(np.all(earlier[where] == (expected or threads)))

    def _settle(self, barrier: int, state: _Open) -> None:
        run = self._run
        alive = run.alive_mask.reshape(run.ctas, run.threads).sum(1)
        needed = np.where(state.expected > 0, state.expected, alive)
        over = (state.arrived > needed) & (state.expected > 0)
        if over.any():
            run.find(
                "barrier count",
                f"{int(state.arrived[over][0])} threads arrived at barrier {barrier} for {int(needed[over][0])}",
                state.ins,
                expected="as many threads as the count says",
            )
        done = (state.arrived > 0) & (state.arrived >= needed)
        if not done.any():
            return
        del self._open[barrier]
        present = np.sort(np.concatenate(state.present))
        arrived = present[done[run.lane_cta[present]]]
        left = [(parked, after, done[parked.lanes.cta]) for parked, after in state.waiting]
        woken = [parked.lanes.index[mask] for parked, _, mask in left if mask.any()]
        waiting = np.sort(np.concatenate(woken)) if woken else np.zeros(0, np.int64)
        self._completed(state.ins, arrived, waiting, barrier)
        rest: list[tuple[Parked, Done | None]] = []
        for parked, after, mask in left:
            if after is not None and mask.any():
                after(parked.lanes.where(mask), arrived)
            if mask.all():
                run.unpark(parked)
            elif mask.any():
                run.unpark(parked, mask)
                rest.append((run.parked[-1], after))
            else:
                rest.append((parked, after))
        if not done.all() and (state.arrived[~done] > 0).any():
            state.arrived[done] = 0
            state.present = [present[~done[run.lane_cta[present]]]]
            state.waiting = rest
            self._open[barrier] = state

    def _completed(self, ins: Instruction, arrived: Array, waiting: Array, barrier: int) -> None:
        run = self._run
        if run.hazards is not None:
            run.hazards.barrier(ins, arrived, waiting, barrier)
        if run.counters is not None:
            run.counters.barrier(ins, arrived, waiting, barrier)
