"""Matrix instructions of a warp: ldmatrix, stmatrix, movmatrix and mma.sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hal_nvidia_ptx.emulator import fragments
from hal_nvidia_ptx.emulator.instructions import Faith, Op, instruction
from hal_nvidia_ptx.emulator.lanes import WARP, Array, Lanes
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run
    from hal_nvidia_ptx.emulator.program import Program

WORD = np.dtype(np.uint32)


def whole(run: Run, ins: Instruction, lanes: Lanes) -> None:
    """Record warps that run an .aligned instruction though some of their lanes have ended or never were."""
    if lanes.present is None:
        return
    gone = ~run.alive_mask.reshape(-1, WARP)[lanes.warps]
    if gone.any():
        incomplete = np.broadcast_to(gone.any(1, keepdims=True), gone.shape)
        run.find(
            "divergent warp",
            f"{ins.opcode} is run by a warp some of whose lanes have ended or do not exist",
            ins,
            lanes.where(lanes.flat(incomplete)),
            expected="all 32 lanes of the warp run this instruction together",
        )


def _count(ins: Instruction) -> int:
    """How many 8x8 matrices of 16 bits an ldmatrix or stmatrix moves."""
    if "m8n8" not in ins.parts or ins.parts[-1] != "b16":
        raise ins.error("the emulator knows ldmatrix and stmatrix of .m8n8 and .b16 only")
    return {"x1": 1, "x2": 2, "x4": 4}[next(part for part in ins.parts if part in ("x1", "x2", "x4"))]


def _space(ins: Instruction) -> str:
    return next((part for part in ins.parts if part.startswith("shared")), "")


@instruction("ldmatrix.sync.aligned", aligned=True)
def _ldmatrix(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    count, space, transposed = _count(ins), _space(ins), ins.has("trans")
    results, address = program.dests(ins, 0, "b32", count), program.address(ins, 1)

    def run_ldmatrix(run: Run, lanes: Lanes) -> None:
        whole(run, ins, lanes)
        rows = _load_rows(run, ins, space, lanes, address.get(lanes), count)
        for slot, register in zip(results, fragments.from_rows(rows, transposed), strict=True):
            lanes.put_by_warp(slot, register)

    return run_ldmatrix


def _load_rows(run: Run, ins: Instruction, space: str, lanes: Lanes, addresses: Array, count: int) -> Array:
    """uint16 [warps, count, 8, 8] from the rows of 16 bytes that lanes 0 … 8 count - 1 address."""
    if count == 4:
        words = run.load(ins, space, lanes, addresses, WORD, 4)
    else:
        words = np.zeros((lanes.count, 4), np.uint32)
        used = lanes.index % WARP < 8 * count
        if used.any():
            words[used] = run.load(ins, space, lanes.where(used), addresses[used], WORD, 4)
    rows = np.ascontiguousarray(lanes.spread(words)[:, : 8 * count])
    return rows.view(np.uint16).reshape(-1, count, 8, 8)


@instruction("stmatrix.sync.aligned", writes=0, aligned=True)
def _stmatrix(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    count, space, transposed = _count(ins), _space(ins), ins.has("trans")
    address, sources = program.address(ins, 0), program.sources(ins, 1, "b32", count)

    def run_stmatrix(run: Run, lanes: Lanes) -> None:
        whole(run, ins, lanes)
        rows = fragments.to_rows([lanes.by_warp(slot) for slot in sources], transposed)
        words = rows.view(np.uint32).reshape(-1, 4)
        lane = lanes.index % WARP
        used = lane < 8 * count
        if used.any():
            chosen = lanes if used.all() else lanes.where(used)
            place = np.searchsorted(lanes.warps, lanes.index // WARP) * 8 * count + lane
            run.store(ins, space, chosen, address.get(lanes)[used], words[place[used]])

    return run_stmatrix


@instruction("movmatrix.sync.aligned", aligned=True)
def _movmatrix(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    source, result = program.source(ins, 1, "b32"), program.dest(ins, 0, "b32")

    def run_movmatrix(run: Run, lanes: Lanes) -> None:
        whole(run, ins, lanes)
        rows = fragments.to_rows([lanes.by_warp(source)])
        lanes.put_by_warp(result, fragments.from_rows(rows, transposed=True)[0])

    return run_movmatrix


def _faith(ins: Instruction) -> Faith:
    return "exact" if "s32" in ins.parts else "approximate"  # sums of floats: hardware's order is not known


@instruction("mma.sync.aligned", aligned=True, faith=_faith)
def _mma(ins: Instruction, program: Program) -> Op:
    program.count(ins, 4)
    shape, kinds = ins.parts[3], ins.parts[-4:]
    product = None if ins.parts[4:6] != ("row", "col") else fragments.product(shape, kinds, ins.has("satfinite"))
    if product is None:
        raise ins.error("a matrix product that the emulator does not know")
    inputs = "f64" if product.a == "f64" else "b32"
    results = {"f16": "b32", "s32": "b32"}
    d_count, a_count, b_count, c_count = product.registers
    d = program.dests(ins, 0, results.get(product.d, product.d), d_count)
    a, b = program.sources(ins, 1, inputs, a_count), program.sources(ins, 2, inputs, b_count)
    c = program.sources(ins, 3, results.get(product.c, product.c), c_count)

    def run_mma(run: Run, lanes: Lanes) -> None:
        whole(run, ins, lanes)
        rows = _rows(lanes)
        values = product([rows(slot) for slot in a], [rows(slot) for slot in b], [rows(slot) for slot in c])
        for slot, value in zip(d, values, strict=True):
            lanes.put_by_warp(slot, value)

    return run_mma


def _rows(lanes: Lanes) -> Callable[[int], Array]:
    """lanes.by_warp, quicker where the lanes are whole warps one behind the other."""
    if lanes.present is not None or lanes.pick is not None or lanes.count == 1:
        return lanes.by_warp
    regs = lanes.regs
    return lambda slot: regs[slot].reshape(-1, WARP) if len(regs[slot]) > 1 else lanes.by_warp(slot)
