"""Every access to memory: which window it goes to, whether it is allowed, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.memory import (
    CLUSTER_SHIFT,
    GLOBAL_BASE,
    IN_FLIGHT,
    LOCAL_START,
    LOCAL_WINDOW,
    PARAM_START,
    SHARED_WINDOW,
    WRITTEN,
    Space,
)
from hal_nvidia_ptx.emulator.syntax import Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]
Access: TypeAlias = Literal["read", "write", "atomic"]


@dataclass(slots=True)
class Segment:
    """Part of an access: `lanes` at byte `offsets` [count] of one space. where: None if these are all lanes of the
    access, else their positions among them."""

    space: Space
    lanes: Lanes
    offsets: Array
    where: Array | None = None


def touch(
    run: Run, ins: Instruction, space: str, lanes: Lanes, addresses: Array, nbytes: int, kind: Access, values: Any
) -> list[Segment]:
    """See Run.touch."""
    if nbytes > 1 and int(np.bitwise_or.reduce(addresses)) & (nbytes - 1):
        good = (addresses & (nbytes - 1)) == 0
        bad = int(np.argmin(good))
        run.find(
            "misaligned",
            f"an access of {nbytes} bytes",
            ins,
            lanes.where(~good),
            int(addresses[bad]),
            f"an address that is a multiple of {nbytes}",
        )
        return _subset(run, ins, space, lanes, addresses, nbytes, kind, values, good)
    place = _place(run, space, lanes, addresses, nbytes, ins, kind)
    if isinstance(place, list):
        segments = []
        for name, chosen in place:
            segments += _subset(run, ins, name, lanes, addresses, nbytes, kind, values, chosen)
        return segments
    where, offsets = place
    if kind != "write":
        _written(run, ins, where, lanes, addresses, offsets, nbytes)
    if run.hazards is not None:
        run.hazards.access(ins, where, lanes, offsets, nbytes, kind, values)
    if run.counters is not None:
        run.counters.access(ins, where, lanes, offsets, nbytes, kind, values)
    return [Segment(where, lanes, offsets)]


def _subset(
    run: Run,
    ins: Instruction,
    space: str,
    lanes: Lanes,
    addresses: Array,
    nbytes: int,
    kind: Access,
    values: Any,
    chosen: Array,
) -> list[Segment]:
    """`touch` for some of the lanes, positions kept."""
    if not chosen.any():
        return []
    positions = np.flatnonzero(chosen)
    some = None if values is None else values[positions]
    segments = touch(run, ins, space, lanes.where(chosen), addresses[positions], nbytes, kind, some)
    for part in segments:
        part.where = positions if part.where is None else positions[part.where]
    return segments


Parts: TypeAlias = "list[tuple[str, Array]]"


def _place(
    run: Run, space: str, lanes: Lanes, addresses: Array, nbytes: int, ins: Instruction, kind: Access
) -> tuple[Space, Array] | Parts:
    """The space and the offsets in it; or parts that have to be looked at one by one: (space, mask)."""
    low, high = int(addresses.min()), int(addresses.max()) + nbytes
    if space == "param":
        window = run.parameter_window
        addresses, low, high = addresses + window, low + window, high + window
    if space in ("global", "const", "param"):
        return _global(run, space, lanes, addresses, nbytes, low, high, ins, kind)
    if space in ("shared", "shared::cta") or (space == "shared::cluster" and high <= 1 << CLUSTER_SHIFT):
        if low >= run.shared.origin and high <= run.shared.origin + run.shared.size:
            return run.shared, addresses + lanes.of(run.lane_shared)
        return _outside(run, run.shared, space, lanes, addresses, nbytes, ins)
    if space == "shared::cluster":
        return _cluster(run, lanes, addresses, nbytes, ins)
    if space == "local":
        if low >= LOCAL_START and high <= LOCAL_START + run.local.size:
            return run.local, addresses + (lanes.index * run.local.stride - LOCAL_START)
        return _outside(run, run.local, space, lanes, addresses, nbytes, ins)
    return _generic(run, lanes, addresses, nbytes, low, high, ins, kind)


def _global(
    run: Run,
    space: str,
    lanes: Lanes,
    addresses: Array,
    nbytes: int,
    low: int,
    high: int,
    ins: Instruction,
    kind: Access,
) -> tuple[Space, Array] | Parts:
    arena = run.arena
    block = arena.covering(low, high)
    if block is not None and not (block.readonly and kind != "read"):
        if kind != "read" and not block.complete:
            arena.touched.add(block.start)
        return arena, addresses - GLOBAL_BASE
    if arena.covers(addresses, nbytes, kind):
        return arena, addresses - GLOBAL_BASE
    good = np.array([arena.allows(int(address), nbytes, kind) for address in addresses])
    bad = int(np.argmin(good))
    address = int(addresses[bad])
    run.find(*_fault(run, address, nbytes, kind), ins, lanes.where(~good), address, "an access inside one allocation")
    return [(space, good)]


def _fault(run: Run, address: int, nbytes: int, kind: Access) -> tuple[str, str]:
    """(kind, message) of a bad global address."""
    block = run.arena.at(address)
    following = run.arena.at(address + nbytes + 256)
    if block is not None and block.freed and address < block.end:
        return "use after free", f"{nbytes} bytes at +{address - block.start} of {block}, which was freed"
    if block is not None and address + nbytes <= block.end:
        return "write to constant memory", f"a {kind} at +{address - block.start} of {block}"
    if block is not None and address - block.end < 1 << 20:
        return "out of bounds", f"{nbytes} bytes at +{address - block.start} of {block}"
    if following is not None and following is not block:
        return "out of bounds", f"{nbytes} bytes at {address - following.start} of {following}"
    if 0 <= address - PARAM_START < run.program.parameter_bytes:
        return "wild address", f"{address:#x} is a parameter in .param space: cvta.param makes it generic"
    return "wild address", f"{nbytes} bytes at {address:#x}, where nothing is"


def _outside(run: Run, space: Space, name: str, lanes: Lanes, addresses: Array, nbytes: int, ins: Instruction) -> Parts:
    good = (addresses >= space.origin) & (addresses + nbytes <= space.origin + space.size)
    bad = int(np.argmin(good))
    offset = int(addresses[bad]) - space.origin
    run.find(
        "out of bounds",
        f"{nbytes} bytes at +{offset} of {space.name} memory of {space.size} bytes",
        ins,
        lanes.where(~good),
        int(addresses[bad]),
        f"{space.origin:#x} to {space.origin + space.size:#x}",
    )
    return [(name, good)]


def _cluster(run: Run, lanes: Lanes, addresses: Array, nbytes: int, ins: Instruction) -> tuple[Space, Array] | Parts:
    """Addresses with a rank go to that CTA of the own cluster, others to the own CTA."""
    own = lanes.cta
    size = run.shape.cluster_size
    rank = (addresses >> CLUSTER_SHIFT) - 1
    cta = np.where(rank < 0, own, own // size * size + rank)
    inner = addresses & ((1 << CLUSTER_SHIFT) - 1)
    good = (inner >= run.shared.origin) & (inner + nbytes <= run.shared.origin + run.shared.size) & (rank < size)
    if good.all():
        return run.shared, cta * run.shared.stride + (inner - run.shared.origin)
    bad = int(np.argmin(good))
    run.find(
        "out of bounds",
        f"{nbytes} bytes at {int(inner[bad]):#x} of the shared memory of rank {int(rank[bad])} of a cluster of {size}",
        ins,
        lanes.where(~good),
        int(addresses[bad]),
        f"{run.shared.size} bytes from {run.shared.origin:#x} on",
    )
    return [("shared::cluster", good)]


def _generic(
    run: Run, lanes: Lanes, addresses: Array, nbytes: int, low: int, high: int, ins: Instruction, kind: Access
) -> tuple[Space, Array] | Parts:
    if low >= GLOBAL_BASE:
        return _global(run, "global", lanes, addresses, nbytes, low, high, ins, kind)
    window = low >> 32
    if window == (high - 1) >> 32 and window in (1, 2):
        base, name = (SHARED_WINDOW, "shared::cluster") if window == 1 else (LOCAL_WINDOW, "local")
        return _place(run, name, lanes, addresses - base, nbytes, ins, kind)
    is_shared, is_local = addresses >> 32 == 1, addresses >> 32 == 2
    if is_shared.all() or is_local.all() or not (is_shared.any() or is_local.any()):
        return _global(run, "global", lanes, addresses, nbytes, low, high, ins, kind)
    return [("", is_shared), ("", is_local), ("global", ~is_shared & ~is_local)]


def _written(
    run: Run, ins: Instruction, space: Space, lanes: Lanes, addresses: Array, offsets: Array, nbytes: int
) -> None:
    """Record reads of bytes that nobody has written."""
    if space is run.arena:
        first, last = int(offsets.min()) + GLOBAL_BASE, int(offsets.max()) + GLOBAL_BASE
        block = run.arena.at(first)
        if block is not None and block.complete and last < block.end:
            return
    if space.written(offsets, nbytes):
        return
    states = space.worst(offsets, nbytes)
    for state, kind, message, expected in (
        (
            IN_FLIGHT,
            "read in flight",
            "that an asynchronous operation has not finished writing",
            "a wait before the read",
        ),
        (0, "uninitialised read", "that nothing was written to", "a write to all of it before"),
    ):
        bad = states == state
        if bad.any():
            first = int(np.argmax(bad))
            address = int(addresses[first])
            run.find(kind, f"{nbytes} bytes of {space.name} memory {message}", ins, lanes.where(bad), address, expected)
    assert WRITTEN
