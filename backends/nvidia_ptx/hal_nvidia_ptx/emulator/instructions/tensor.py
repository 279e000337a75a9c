"""cp.async.bulk.tensor: the Tensor Memory Accelerator's copies of boxes, told by tensor maps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.errors import HalError
from hal_nvidia_ptx.emulator import boxes
from hal_nvidia_ptx.emulator.async_hooks import hazards
from hal_nvidia_ptx.emulator.flight import flight
from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.transfers import Arrival, Store, allowed, bring, check_read, put, targets
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Run, Stop
from hal_nvidia_ptx.emulator.mbarrier import NBYTES
from hal_nvidia_ptx.emulator.memory import GLOBAL_BASE, WRITTEN
from hal_nvidia_ptx.emulator.program import Address, Program
from hal_nvidia_ptx.emulator.syntax import Addr, Instruction
from hal_nvidia_ptx.emulator.tensormap import BYTES, TensorMap, Window

Array: TypeAlias = NDArray[Any]
Bytes: TypeAlias = "NDArray[np.uint8]"
_ALIGN = 128  # bytes, of a box in shared memory
_MAP_ALIGN = 64
_decoded = lru_cache(maxsize=256)(TensorMap.decode)


class _Where:
    """The operand [map, {c0, c1, …}]: a tensor map's address and coordinates, one set for each lane."""

    def __init__(self, ins: Instruction, program: Program, operand: int) -> None:
        address = program.operand(ins, operand)
        if not isinstance(address, Addr) or address.coordinates is None:
            raise ins.error("a tensor is written [map, {c0, …}]")
        rank = next(int(part[0]) for part in ins.parts if part in ("1d", "2d", "3d", "4d", "5d"))
        if any(part.startswith("im2col") for part in ins.parts):
            raise ins.error("im2col tensor maps are not emulated, tiled ones are")
        self.ins = ins
        self.address: Address = program.address(ins, Addr(address.base, address.offset))
        self.coordinates = program.sources(ins, address.coordinates, "s32", rank)

    def get(self, run: Run, lanes: Lanes) -> list[tuple[Lanes, TensorMap, Window]]:
        """For each lane: itself, its map and the window that it names."""
        maps = self.address.get(lanes)
        corners = np.stack([lanes.read(slot) for slot in self.coordinates], axis=1)
        found = []
        for lane, address in enumerate(maps.tolist()):
            one = run.lanes(lanes.index[lane : lane + 1])
            tensor = self._map(run, one, address)
            found.append((one, tensor, tensor.window(corners[lane].tolist())))
        return found

    def _map(self, run: Run, lanes: Lanes, address: int) -> TensorMap:
        ins, rank = self.ins, len(self.coordinates)
        if address % _MAP_ALIGN:
            run.find("misaligned", "a tensor map", ins, lanes, address, f"a multiple of {_MAP_ALIGN}")
        if not allowed(run, ins, lanes, address, address + BYTES, writes=False):
            raise Stop
        first = address - GLOBAL_BASE
        try:
            tensor = _decoded(run.arena.bytes[first : first + BYTES].tobytes())
        except HalError as error:
            run.find("tensor map", str(error), ins, lanes, address, "128 bytes from cuTensorMapEncodeTiled")
            raise Stop from None
        if len(tensor.shape) != rank:
            message = f"{rank} coordinates for a tensor map of rank {len(tensor.shape)}"
            run.find("tensor map", message, ins, lanes, address, f"the form .{len(tensor.shape)}d")
            raise Stop
        return tensor


def _rows(window: Window) -> Array:
    """Offsets into the arena of a window's rows."""
    rows = np.zeros(1, np.int64)
    for count, stride in zip(window.shape[:-1], window.strides[:-1], strict=True):
        rows = (rows[:, None] + np.arange(count) * stride).reshape(-1)
    return rows + (window.address - GLOBAL_BASE)


def _reachable(run: Run, ins: Instruction, lanes: Lanes, tensor: TensorMap, window: Window, writes: bool) -> bool:
    return window.empty or allowed(run, ins, lanes, *boxes.extent(window, tensor.size), writes)


@instruction(
    "cp.async.bulk.prefetch.tensor", "prefetch.tensormap", "prefetch.param.tensormap", writes=0, faith="unmodelled"
)
def _prefetch(ins: Instruction, program: Program) -> Op:
    def run_prefetch(run: Run, lanes: Lanes) -> None:
        """Caches are not modelled."""

    return run_prefetch


@instruction("cp.async.bulk.tensor", writes=0)
def _tensor(ins: Instruction, program: Program) -> Op:
    spaces = [part for part in ins.parts if part.split("::")[0] in ("global", "shared")]
    if spaces[0] == "global":
        return _store(ins, program, "")
    multicast, hint = ins.has("multicast::cluster"), ins.has("L2::cache_hint")
    program.count(ins, 3 + multicast + hint)
    target, where, barrier = program.address(ins, 0), _Where(ins, program, 1), program.address(ins, 2)
    mask = program.source(ins, 3, "u16") if multicast else None

    def run_load(run: Run, lanes: Lanes) -> None:
        state = flight(run)
        boxed = where.get(run, lanes)
        longest = max(boxes.span(tensor) for _, tensor, _ in boxed)
        places = state.offsets(ins, spaces[0], lanes, target.get(lanes), longest, _ALIGN)
        bars = state.offsets(ins, spaces[0], lanes, barrier.get(lanes), NBYTES, NBYTES)
        masks = None if mask is None else lanes.read(mask)
        for lane, (one, tensor, window) in enumerate(boxed):
            if not _reachable(run, ins, one, tensor, window, writes=False):
                continue
            _check_source(run, ins, one, tensor, window)
            chosen = None if masks is None else int(masks[lane])
            ways = zip(targets(run, int(places[lane]), chosen), targets(run, int(bars[lane]), chosen), strict=True)
            for place, bar in ways:
                arrival = Arrival(ins, one, place, boxes.span(tensor), bar, tensor.box_bytes)
                _load(run, arrival, tensor, window)

    return run_load


def _check_source(run: Run, ins: Instruction, lanes: Lanes, tensor: TensorMap, window: Window) -> None:
    if window.empty:
        return
    states = boxes.strided(run.arena.shadow, window.address - GLOBAL_BASE, window, tensor.size)
    check_read(run, ins, lanes, states, window.address)
    watch = hazards(run)
    if watch is not None:
        rows = _rows(window)
        issuers = np.full(len(rows), lanes.index[0])
        watch.async_access(ins, "mbar", run.arena, issuers, rows, window.shape[-1] * tensor.size, "read")


def _load(run: Run, arrival: Arrival, tensor: TensorMap, window: Window) -> None:
    def move() -> None:
        source = 0 if window.empty else window.address - GLOBAL_BASE
        boxes.load(tensor, window, run.arena.bytes, source, run.shared.bytes, arrival.target)

    bring(run, arrival, move)


@instruction("cp.reduce.async.bulk.tensor", writes=0)
def _reduce(ins: Instruction, program: Program) -> Op:
    known = ("add", "min", "max", "inc", "dec", "and", "or", "xor")
    return _store(ins, program, next(part for part in ins.parts if part in known))


def _store(ins: Instruction, program: Program, operation: str) -> Op:
    program.count(ins, 2 + ins.has("L2::cache_hint"))
    where, start = _Where(ins, program, 0), program.address(ins, 1)

    def run_store(run: Run, lanes: Lanes) -> None:
        boxed = where.get(run, lanes)
        longest = max(boxes.span(tensor) for _, tensor, _ in boxed)
        places = flight(run).offsets(ins, "shared::cta", lanes, start.get(lanes), longest, _ALIGN)
        for lane, (one, tensor, window) in enumerate(boxed):
            if _reachable(run, ins, one, tensor, window, writes=True):
                _put(run, ins, one, tensor, window, places[lane : lane + 1], operation)

    return run_store


def _put(
    run: Run, ins: Instruction, lanes: Lanes, tensor: TensorMap, window: Window, where: Array, operation: str
) -> None:
    state, watch, place = flight(run), hazards(run), int(where[0])
    first = 0 if window.empty else window.address - GLOBAL_BASE
    piece = state.hold(ins, lanes, where, boxes.span(tensor))
    if watch is not None:
        watch.async_access(ins, "bulk", run.shared, lanes.index, where, piece.nbytes, "read")
        rows = _rows(window)
        issuers = np.full(len(rows), lanes.index[0])
        if len(rows):
            watch.async_access(ins, "bulk", run.arena, issuers, rows, window.shape[-1] * tensor.size, "write")

    def read() -> Bytes:
        tile = boxes.box(tensor, run.shared.bytes, place)
        return tile if tensor.swizzle else tile.copy()

    def write(tile: Bytes) -> None:
        if window.empty:
            return
        states = boxes.strided(run.arena.shadow, first, window, tensor.size)
        if operation:
            check_read(run, ins, lanes, states, window.address)
            boxes.reduce(tensor, window, tile, run.arena.bytes, first, operation)
        else:
            boxes.store(tensor, window, tile, run.arena.bytes, first)
        states[...] = WRITTEN

    put(run, Store(ins, lanes, piece, read, write))
