"""Instructions that the four warps of a warpgroup run together: warps that come first wait for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.instructions import Op
from hal_nvidia_ptx.emulator.lanes import WARP, Lanes
from hal_nvidia_ptx.emulator.machine import Parked, Run
from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]
GROUP = 4  # warps
LANES = GROUP * WARP


def together(ins: Instruction, op: Callable[[Run, Lanes, Array], None]) -> Op:
    """An Op that runs `op(run, lanes, first warps of the groups)` for whole warpgroups only.

    Warps whose group is never complete are found, and go on without it.
    """
    before = replace(ins, pc=ins.pc - 1)  # parked lanes go on behind it, that is, with `ins`

    def run_together(run: Run, lanes: Lanes) -> bool | None:
        _waiting(run, ins)[lanes.warps] = False
        groups = _groups(run, lanes)
        if groups is not None:
            op(run, lanes, groups)
            return None
        here = np.zeros(run.total // WARP, np.bool_)
        here[lanes.warps] = True
        whole = _whole(run, here)[lanes.index // WARP]
        if whole.any() and lanes.present is None:
            ready = lanes.where(whole)
            op(run, ready, _first(run, ready.warps))
            run.go(ins.pc + 1, ready)
            if whole.all():
                return True
            lanes = lanes.where(~whole)
        _wait(run, ins, before, lanes)
        return True

    return run_together


def _waiting(run: Run, ins: Instruction) -> Array:
    """bool [warps]: which warps of the batch wait at an instruction for the rest of their warpgroup."""
    key = f"warpgroup {ins.pc}"
    found: Array | None = run.state.get(key)
    if found is None:
        found = run.state[key] = np.zeros(run.total // WARP, np.bool_)
    return found


def _local(run: Run, warps: Array) -> Array:
    """The warps' numbers in their CTAs."""
    return warps % (run.threads // WARP)


def _first(run: Run, warps: Array) -> Array:
    first: Array = warps[_local(run, warps) % GROUP == 0]
    return first


def _groups(run: Run, lanes: Lanes) -> Array | None:
    """The first warps of the groups, None if these lanes are not all lanes of whole groups."""
    warps = lanes.warps
    if lanes.present is not None or len(warps) % GROUP:
        return None
    rows = warps.reshape(-1, GROUP)
    whole = (rows == rows[:, :1] + np.arange(GROUP)).all() and not (_local(run, rows[:, 0]) % GROUP).any()
    return rows[:, 0] if whole else None


def _whole(run: Run, here: Array) -> Array:
    """Of bool [warps]: those whose whole group is set."""
    local = _local(run, np.arange(len(here)))
    number = np.arange(len(here)) - local % GROUP
    counts = np.bincount(number, weights=here, minlength=len(here))
    whole: Array = counts[number] == GROUP
    return whole


def _wait(run: Run, ins: Instruction, before: Instruction, lanes: Lanes) -> None:
    rest = Rest(run, ins, lanes)
    if rest.hopeless:
        rest.report(lanes)
        run.go(ins.pc + 1, lanes)
        return
    _waiting(run, ins)[lanes.warps] = True
    run.park(before, lanes, "for the other warps of the warpgroup", rest)
    run.poke()


@dataclass(slots=True, eq=False)
class Rest:
    """Warps that wait for the rest of their warpgroup at one instruction; polled by the machine."""

    run: Run
    ins: Instruction
    lanes: Lanes

    @property
    def hopeless(self) -> bool:
        """Whether these lanes were let go without the rest, or are not even whole warps."""
        forced = self.run.state.get(f"warpgroup given up {self.ins.pc}")
        return self.lanes.present is not None or (forced is not None and bool(forced[self.lanes.warps].all()))

    def __call__(self) -> Any:
        done = _whole(self.run, _waiting(self.run, self.ins))[self.lanes.index // WARP]
        if not done.all():
            self.lanes = self.lanes.where(~done)
        return done

    def give_up(self, parked: Parked) -> None:
        """The rest does not come."""
        key = f"warpgroup given up {self.ins.pc}"
        self.run.state.setdefault(key, np.zeros(self.run.total // WARP, np.bool_))[parked.lanes.warps] = True

    def report(self, lanes: Lanes) -> None:
        warps = ", ".join(map(str, _local(self.run, lanes.warps)[:8].tolist()))
        self.run.find(
            "partial warpgroup",
            f"{self.ins.opcode} is run by warps {warps} of the CTA and not by the others of their warpgroup",
            self.ins,
            lanes,
            expected="four warps together, the first of which has a number that is a multiple of four",
        )
