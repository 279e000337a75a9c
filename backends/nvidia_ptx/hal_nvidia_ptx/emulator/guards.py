"""What stands before an instruction's Op: its predicate, warps that must come together, unwritten registers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from hal_nvidia_ptx.emulator.effects import Effect
from hal_nvidia_ptx.emulator.instructions import Op
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

FULL = 0xFFFFFFFF


def guarded(op: Op, ins: Instruction, predicate: int, aligned: bool = False) -> Op:
    """`@p op`: for the lanes where the predicate holds; the others go on. aligned: p has to be the same in a warp."""
    negated, following = ins.guard_not, ins.pc + 1

    def run_guarded(run: Run, lanes: Lanes) -> bool | None:
        holds = lanes.read(predicate)
        if negated:
            holds = ~holds
        count = int(np.count_nonzero(holds))
        if count == lanes.count:
            return op(run, lanes)
        if count and aligned:
            _check_uniform(run, ins, lanes, holds)
        if count and op(run, lanes.where(holds)):
            run.go(following, lanes.where(~holds))
            return True
        return None

    return run_guarded


def _check_uniform(run: Run, ins: Instruction, lanes: Lanes, holds: Array) -> None:
    """Record warps that the predicate splits; the instruction does not wait for the rest of them."""
    rows, others = lanes.spread(holds, False), lanes.spread(~holds, False)
    split: Array = rows & np.any(others, axis=1, keepdims=True)
    if split.any():
        run.find(
            "divergent warp",
            f"the predicate of {ins.opcode} differs within a warp",
            ins,
            lanes.where(lanes.flat(split)),
            expected="all lanes of the warp run this instruction together, or none",
        )
        run.force(ins)


def converged(op: Op, ins: Instruction, mask: int | None) -> Op:
    """Run the Op for warps all of whose named lanes (None: all that live) are here; the others wait for the rest."""
    following = ins.pc + 1

    def run_converged(run: Run, lanes: Lanes) -> bool | None:
        present = lanes.present
        if mask is None:
            if present is None:
                return op(run, lanes)
            named = None
        else:
            members = lanes.regs[mask]
            if present is None and len(members) == 1 and members[0] == FULL:
                return op(run, lanes)
            named = _members(run, ins, lanes, mask)
        ready = run.converge(ins, lanes, named)
        if ready is lanes:
            return op(run, lanes)
        if ready is not None and not op(run, ready):
            run.go(following, ready)
        return True

    return run_converged


def _members(run: Run, ins: Instruction, lanes: Lanes, mask: int) -> Any:
    """bool [warps, 32]: the lanes that any lane's mask names. Records lanes that are not in their own mask."""
    values = lanes.spread(lanes.read(mask), 0)
    bits = np.arange(WARP, dtype=np.uint32)
    own = (values >> bits) & 1
    outside = (own == 0) if lanes.present is None else (own == 0) & lanes.present
    if outside.any():
        run.find(
            "wrong member mask",
            f"{ins.opcode} is run by lanes that its own mask does not name",
            ins,
            lanes.where(lanes.flat(outside)),
            expected="every lane that runs it is in the mask",
        )
    union = np.bitwise_or.reduce(values, axis=1)
    return ((union[:, None] >> bits) & 1).astype(np.bool_)


def checked(op: Op, ins: Instruction, effect: Effect, watched: Collection[str], predicate: int | None = None) -> Op:
    """Note what is written of the watched registers, and look before they are read.

    predicate: of an instruction that does its `@p` itself; where it does not hold, nothing is read or written.
    """
    written = [name for name in effect.writes if name in watched]
    reads = [name for name in dict.fromkeys(effect.reads) if name in watched]
    if not written and not reads:
        return op

    def run_checked(run: Run, lanes: Lanes) -> bool | None:
        active = lanes if predicate is None else _holding(lanes, predicate, ins.guard_not)
        if active is not None:
            look(run, active)
        return op(run, lanes)

    def look(run: Run, lanes: Lanes) -> None:
        for name in reads:
            bad = ~lanes.of(run.assigned(name))
            if bad.any():
                run.find(
                    "uninitialised register",
                    f"{name} is read, nothing was written to it",
                    ins,
                    lanes.where(bad),
                    expected=f"every path to this line writes {name}",
                )
        for name in written:
            run.assigned(name)[lanes.index] = True

    return run_checked


def _holding(lanes: Lanes, predicate: int, negated: bool) -> Lanes | None:
    """The lanes where the predicate holds; None where it holds in none."""
    holds = lanes.read(predicate)
    if negated:
        holds = ~holds
    count = int(np.count_nonzero(holds))
    return lanes if count == lanes.count else lanes.where(holds) if count else None
