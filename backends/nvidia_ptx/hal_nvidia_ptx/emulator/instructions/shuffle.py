"""shfl.sync: a lane reads a register of another lane of its warp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.warp import LANE, members, pair
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.syntax import Imm, Instruction, Sink

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program


@instruction("shfl.sync", mask=-1)
def _shfl(ins: Instruction, program: Program) -> Op:
    program.count(ins, 5)
    mode = ins.parts[2]
    if ins.parts[3:] != ("b32",):
        raise ins.error("shfl.sync moves .b32")
    first, second = pair(ins, program)
    value, result = program.source(ins, 1, "b32"), program.dest(ins, first, "b32")
    inside = None if isinstance(second, Sink) else program.dest(ins, second, "pred")
    amount, clamp, mask = (program.source(ins, i, kind) for i, kind in ((2, "b32"), (3, "b32"), (4, "u32")))
    table = None
    if isinstance(ins.operands[2], Imm) and isinstance(ins.operands[3], Imm):
        table = partners(mode, np.array(program.constant(ins, 2)), np.array(program.constant(ins, 3)))
    partners(mode, np.array(0), np.array(0))  # an unknown mode is an error when the text is loaded

    def run_shfl(run: Run, lanes: Lanes) -> None:
        rows = lanes.by_warp(value)
        masks = members(run, ins, lanes, mask)
        if table is not None:
            partner, valid = table
            moved = rows.take(partner, axis=1)
        else:
            amounts, clamps = (lanes.by_warp(slot).astype(np.int64) for slot in (amount, clamp))
            partner, valid = partners(mode, amounts, clamps)
            moved = np.take_along_axis(rows, np.broadcast_to(partner, rows.shape), axis=1)
        if masks is not None:
            _check_partners(run, ins, lanes, masks, np.broadcast_to(partner, rows.shape))
        lanes.put_by_warp(result, moved)
        if inside is not None:
            lanes.put_by_warp(inside, np.broadcast_to(valid, rows.shape))

    return run_shfl


def partners(mode: str, amount: Array, clamp: Array) -> tuple[Array, Array]:
    """Of each lane: the lane that it reads (itself where that lies outside its segment), and whether that is inside.

    amount, clamp: int64 scalars or [warps, 32]; bits 0-4 of clamp are the last lane of a segment (the first for "up"),
    bits 8-12 the mask that splits a warp into segments.
    """
    amount, segment, last = amount & 31, (clamp >> 8) & 31, clamp & 31
    limit = (LANE & segment) | (last & ~segment)
    if mode == "up":
        partner = LANE - amount
        inside = partner >= limit
    elif mode in ("down", "bfly", "idx"):
        partner = {
            "down": LANE + amount,
            "bfly": LANE ^ amount,
            "idx": (LANE & segment) | (amount & ~segment),
        }[mode]
        inside = partner <= limit
    else:
        raise ValueError(f"shfl.sync has no mode {mode}")
    return np.where(inside, partner, LANE), inside


def _check_partners(run: Run, ins: Instruction, lanes: Lanes, masks: Array, partner: Array) -> None:
    """Find lanes that read from a lane which is not there, or which their mask does not name."""
    there = np.take_along_axis(masks != 0, partner, axis=1)
    named = (masks >> partner.astype(np.uint32)) & 1 != 0
    bad = (masks != 0) & ~(there & named)
    if bad.any():
        w, lane = (int(x[0]) for x in np.nonzero(bad))
        why = "its member mask does not name" if there[w, lane] else "does not take part or has ended"
        run.find(
            "shuffle from an inactive lane",
            f"lane {lane} of the warp reads lane {int(partner[w, lane])}, which {why}",
            ins,
            lanes.where(lanes.flat(bad)),
            expected="the source lane takes part and is named by the mask",
        )
