"""wgmma: matrix products of four warps, whose operands are read and whose sums are written while the warps go on.

In mode "late" a product reads shared memory and its A registers when its group is waited for, and its accumulators are
NaN until then. The k-steps of a group that add up in the same registers are one matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.accumulators import registers
from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.descriptors import (
    K_BYTES,
    ROWS,
    Descriptor,
    chunks,
)
from hal_nvidia_ptx.emulator.flight import flight
from hal_nvidia_ptx.emulator.groups import Groups
from hal_nvidia_ptx.emulator.inflight import Piece
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.products import (
    BYTES,
    Form,
    Product,
    accumulated,
    added,
    put_accumulated,
    warps_of,
)
from hal_nvidia_ptx.emulator.instructions.warpgroup import LANES, together
from hal_nvidia_ptx.emulator.lanes import WARP, Lanes
from hal_nvidia_ptx.emulator.machine import Run
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.swizzle import CHUNK
from hal_nvidia_ptx.emulator.syntax import Instruction, Vector

Array: TypeAlias = NDArray[Any]
_SHAPE = re.compile(r"m64n(\d+)k(\d+)$")
SPOILT = 0x7FFF7FFF  # two NaN of f16; a large whole number
MERGED = 8  # products that are one matrix product, at most: float32 still has the sums of 8-bit integers exactly
_K = {size: K_BYTES // size for size in (1, 2, 4)}


class Tensor:
    """The batch's wgmma in flight, warps being the actors.

    sums: accumulators that more products in flight add to, by registers and first warp of the group: [64, n].
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.groups = Groups(run.total // WARP, Product.part)
        self.sums: dict[tuple[tuple[int, ...], int], Array] = {}
        run.at_exit(self._at_exit)

    def in_flight(self, accumulators: tuple[int, ...], group: int) -> bool:
        return any(
            entry.work.form.accumulators == accumulators and group in entry.work.groups.tolist()
            for entry in self.groups.entries
        )

    def _at_exit(self) -> None:
        for product in self.groups.drain(np.arange(self.run.total // WARP)):
            self.run.find(
                "wgmma in flight at the end",
                "the kernel ended before this wgmma was waited for",
                product.form.ins,
                expected="wgmma.commit_group and wgmma.wait_group before the end",
            )


def tensor(run: Run) -> Tensor:
    """The batch's Tensor, made at the first use."""
    found: Tensor | None = run.state.get("wgmma")
    if found is None:
        found = run.state["wgmma"] = Tensor(run)
    return found


# ---- the text


@instruction("wgmma.mma_async", aligned=True, faith="approximate")
def _mma(ins: Instruction, program: Program) -> Op:
    form = _form(ins, program)
    return together(ins, lambda run, lanes, groups: _issue(run, lanes, form, groups))


def _form(ins: Instruction, program: Program) -> Form:
    parts = ins.parts
    at = next(i for i, part in enumerate(parts) if _SHAPE.match(part))
    shape = _SHAPE.match(parts[at])
    assert shape is not None
    n, k = int(shape[1]), int(shape[2])
    d, a, b = (part for part in parts[at + 1 : at + 5] if part != "satfinite")
    size = BYTES[a]
    _check_shape(ins, n, k, d, a, b)
    per_register = 1 if d in ("f32", "s32") else 2
    kind = {"f32": "f32", "s32": "s32", "f16": "b32"}[d]
    accumulators = program.sources(ins, 0, kind, n // 2 // per_register)
    from_registers = isinstance(program.operand(ins, 1), Vector)
    a_registers = program.sources(ins, 1, "b32", 4) if from_registers else []
    floating = d != "s32"
    transposes = size == 2
    program.count(ins, 4 + 2 * floating + (transposes and (1 if from_registers else 2)))
    signs = [program.constant(ins, 4 + i) for i in range(2)] if floating else [1, 1]
    if any(abs(sign) != 1 for sign in signs):
        raise ins.error("the operands' scales are 1 or -1")
    flags = [bool(program.constant(ins, i)) for i in range(6, len(ins.operands))]
    trans_a, trans_b = (False, *flags) if from_registers and transposes else flags or (False, False)
    return Form(
        ins,
        frozenset().union(*registers(ins)),
        n,
        d,
        a,
        b,
        tuple(accumulators),
        tuple(a_registers),
        -1 if from_registers else program.source(ins, 1, "u64"),
        program.source(ins, 2, "u64"),
        program.source(ins, 3, "pred"),
        signs[0] * signs[1],
        (trans_a, trans_b),
        ins.has("satfinite"),
    )


def _check_shape(ins: Instruction, n: int, k: int, d: str, a: str, b: str) -> None:
    integer, eight = a in ("s8", "u8"), ("e4m3", "e5m2")
    if k != _K[BYTES[a]] or a not in BYTES or b not in BYTES:
        raise ins.error(f"k is {_K[BYTES[a]]} for .{a}")
    if a != b and not (a in eight and b in eight) and not (integer and b in ("s8", "u8")):
        raise ins.error(f".{a} and .{b} do not go together")
    if (d == "s32") != integer or (d == "f16" and a not in ("f16", *eight)):
        raise ins.error(f".{a} does not give .{d}")
    if not 8 <= n <= 256 or n % 8 or (integer and n > 32 and n % 16) or (integer and n == 40):
        raise ins.error(f"n = {n} is none of the sizes of .{a}")


# ---- running


def _uniform(run: Run, ins: Instruction, lanes: Lanes, slot: int, what: str) -> Array:
    """A value that has to be the same in a warpgroup: [groups]."""
    values = np.broadcast_to(lanes.read(slot), lanes.count).reshape(-1, LANES)
    if not bool((values == values[:, :1]).all()):
        run.find("divergent operand", f"the {what} differs within a warpgroup", ins, lanes, expected="one value in all")
    first: Array = values[:, 0]
    return first


def _issue(run: Run, lanes: Lanes, form: Form, groups: Array) -> None:
    ins, state, watch = form.ins, flight(run), hazards(run)
    keeps = _uniform(run, ins, lanes, form.scale_d, "predicate scale-d").astype(np.bool_)
    where_a = None
    if not form.a_registers:
        where_a = _operand(run, lanes, form, groups, form.a_descriptor, ROWS, form.transposed[0], "descriptor of A")
    where_b = _operand(run, lanes, form, groups, form.b_descriptor, form.n, form.transposed[1], "descriptor of B")
    pieces: list[list[Piece]] = [[] for _ in groups]
    for where in (where_a, where_b):
        if where is None:
            continue
        for own, held in zip(where, pieces, strict=True):
            held.append(state.hold(ins, lanes, own.reshape(-1) * CHUNK, CHUNK))
        if watch is not None:
            issuers = np.repeat(groups * WARP, where[0].size)
            watch.async_access(ins, "wgmma", run.shared, issuers, where.reshape(-1) * CHUNK, CHUNK, "read")
    product = Product(form, groups, keeps, where_a, where_b, pieces)
    if state.late:
        _set_aside(run, product)
    tensor(run).groups.add(lanes.warps, product)
    if not state.late:
        put_accumulated(run, form, groups, added(run, [product], accumulated(run, form, groups)))


def _operand(
    run: Run, lanes: Lanes, form: Form, groups: Array, slot: int, rows: int, transposed: bool, what: str
) -> Array:
    """The chunks of an operand in all shared memory, [groups, …]; those beyond the CTA's are found and wrapped."""
    bits = _uniform(run, form.ins, lanes, slot, what)
    stride, origin = run.shared.stride // CHUNK, run.shared.origin // CHUNK
    found = [chunks(Descriptor.decode(int(each)), rows, transposed) - origin for each in bits]
    where = np.stack(found)
    limit = run.shared.size // CHUNK
    if int(where.min()) < 0 or int(where.max()) >= limit:
        bad = int(where.max() if int(where.min()) >= 0 else where.min())
        message = f"the {what} names shared memory at {(bad + origin) * CHUNK:#x}"
        expected = f"{run.shared.origin:#x} to {run.shared.origin + run.shared.size:#x}"
        run.find("out of bounds", message, form.ins, lanes, (bad + origin) * CHUNK, expected)
        where = np.clip(where, 0, limit - 1)
    cta = groups * WARP // run.threads
    result: Array = where + (cta * stride).reshape(-1, *[1] * (where.ndim - 1))
    return result


def _set_aside(run: Run, product: Product) -> None:
    """The accumulators mean nothing until they are waited for: keep what is needed of them, and spoil them."""
    form, state = product.form, tensor(run)
    fresh = [group for group in product.groups.tolist() if not state.in_flight(form.accumulators, group)]
    if not fresh:
        return
    chosen = np.array(fresh)
    if product.keeps.any():
        for group, values in zip(fresh, accumulated(run, form, chosen), strict=True):
            state.sums[form.accumulators, group] = values
    warps = warps_of(chosen)
    for slot in form.accumulators:
        register = run.regs[slot]
        register.reshape(-1, WARP)[warps] = np.nan if register.dtype.kind == "f" else SPOILT


# ---- groups and fences


@instruction("wgmma.fence", "wgmma.commit_group", "wgmma.wait_group", writes=0, aligned=True)
def _group(ins: Instruction, program: Program) -> Op:
    action = ins.parts[1]
    pending = program.constant(ins, 0) if action == "wait_group" else 0

    def run_group(run: Run, lanes: Lanes, groups: Array) -> None:
        watch = hazards(run)
        if action == "fence":
            return
        if action == "commit_group":
            if watch is not None:
                watch.async_commit(ins, "wgmma", lanes)
            tensor(run).groups.commit(lanes.warps)
            return
        if watch is not None:
            watch.async_wait(ins, "wgmma", lanes, pending)
        done = tensor(run).groups.wait(lanes.warps, pending)
        if flight(run).late:
            _finish(run, done)

    return together(ins, run_group)


def _finish(run: Run, done: Sequence[Product]) -> None:
    """Products whose group was waited for happen now."""
    state = tensor(run)
    batch: list[Product] = []
    for product in done:
        if batch and (len(batch) == MERGED or not product.follows(batch[-1])):
            _finish_batch(run, state, batch)
            batch = []
        batch.append(product)
    if batch:
        _finish_batch(run, state, batch)
    for product in done:
        for piece in (each for own in product.pieces for each in own):
            flight(run).let_go(piece)


def _finish_batch(run: Run, state: Tensor, batch: Sequence[Product]) -> None:
    form, groups = batch[0].form, batch[0].groups.tolist()
    before = [state.sums.pop((form.accumulators, group), None) for group in groups]
    start = None
    if batch[0].keeps.any():
        zeros = np.zeros((ROWS, form.n), np.float32)
        start = np.stack([zeros if values is None else values for values in before])
    total = added(run, batch, start)
    goes_on = [state.in_flight(form.accumulators, group) for group in groups]
    for group, values, more in zip(groups, total, goes_on, strict=True):
        if more:
            state.sums[form.accumulators, group] = values
    ready = ~np.array(goes_on)
    if ready.any():
        put_accumulated(run, form, batch[0].groups[ready], total[ready])
