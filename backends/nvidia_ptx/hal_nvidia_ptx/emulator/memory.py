"""Memory of an emulated device: one arena of global memory, and per batch the CTAs' shared and the lanes' local memory.

Every space is one array of bytes and a shadow with one state per byte. Addresses: shared memory of a CTA starts at
0x400 (as on sm_90), `rank + 1` in bits 24 and up name another CTA of the cluster; generic addresses of shared and local
memory lie in windows of their own, global, constant and parameter addresses are generic as they are.
"""

from __future__ import annotations

import bisect
import mmap
import platform
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.errors import DeviceError, DeviceMemoryError

Array: TypeAlias = NDArray[Any]

GLOBAL_BASE = 0x7F00_0000_0000
SHARED_START = 0x400
SHARED_WINDOW = 1 << 32
LOCAL_WINDOW = 1 << 33
LOCAL_START = 0x100
PARAM_START = 0x1000  # of the kernel's parameters in .param space, whose addresses fit into 32 bits
CLUSTER_SHIFT = 24
ALIGN = 256
GUARD = 256  # bytes between allocations, at least
QUARANTINE = 256  # freed allocations that are not yet given out again

# Without it the system counts the whole arena as used when the process forks, and refuses. Python has the name from
# 3.13 on; the number is that of Linux on x86 and ARM.
_COMMON = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if _COMMON else 0)

UNWRITTEN, WRITTEN, IN_FLIGHT = 0, 1, 2  # states of a byte; in flight: an asynchronous write to it has not completed


class Space:
    """Bytes and their shadow. name: "global", "shared", "local"; origin: the address of byte 0 (of each part).

    stride: bytes of one part, a CTA's shared or a lane's local memory; 0 for global memory, which has no parts.
    """

    def __init__(self, name: str, content: Array, shadow: Array, origin: int, stride: int = 0, size: int = 0) -> None:
        self.name, self.bytes, self.shadow, self.origin = name, content, shadow, origin
        self.stride, self.size = stride, size
        self._views: dict[tuple[Any, int], Array] = {}

    def view(self, dtype: Any, n: int = 1) -> Array:
        """The content as [elements] of dtype, or [groups, n]."""
        key = (dtype, n)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = _typed(self.bytes, dtype, n)
        return view

    def states(self, nbytes: int) -> Array:
        """The shadow as [groups] or [groups, n] of unsigned integers that together have nbytes."""
        key = ("shadow", nbytes)
        view = self._views.get(key)
        if view is None:
            word = min(nbytes, 8)
            view = self._views[key] = _typed(self.shadow, np.dtype(f"u{word}"), nbytes // word)
        return view

    def load(self, offsets: Array, dtype: np.dtype[Any], n: int = 1) -> Array:
        """[count] or [count, n] values at byte offsets, which are aligned to the whole access."""
        view = self.view(dtype, n)
        values: Array = view[offsets >> _log2(dtype.itemsize * n)]
        return values

    def store(self, offsets: Array, values: Array) -> None:
        """Put values [count] or [count, n] at byte offsets; the bytes are written from now on."""
        n = 1 if values.ndim == 1 else values.shape[1]
        nbytes = values.dtype.itemsize * n
        self.view(values.dtype, n)[offsets >> _log2(nbytes)] = values
        self.mark(offsets, nbytes)

    def mark(self, offsets: Array, nbytes: int, state: int = WRITTEN) -> None:
        """Set the state of nbytes at each offset, aligned to nbytes."""
        self.states(nbytes)[offsets >> _log2(nbytes)] = pattern(nbytes, state)

    def written(self, offsets: Array, nbytes: int) -> bool:
        """Whether all bytes of all accesses are written."""
        return bool((self.states(nbytes)[offsets >> _log2(nbytes)] == pattern(nbytes, WRITTEN)).all())

    def worst(self, offsets: Array, nbytes: int) -> Array:
        """[count]: for each access WRITTEN if all its bytes are, else IN_FLIGHT if any is, else UNWRITTEN."""
        states = self.shadow[offsets[:, None] + np.arange(nbytes)]
        bad = np.where((states == IN_FLIGHT).any(1), IN_FLIGHT, UNWRITTEN)
        result: Array = np.where((states == WRITTEN).all(1), WRITTEN, bad)
        return result


def _typed(array: Array, dtype: Any, n: int) -> Array:
    usable = len(array) // (np.dtype(dtype).itemsize * n) * (np.dtype(dtype).itemsize * n)
    view: Array = array[:usable].view(dtype)
    return view if n == 1 else view.reshape(-1, n)


def _log2(n: int) -> int:
    return n.bit_length() - 1


def pattern(nbytes: int, state: int) -> Any:
    """An unsigned integer of min(nbytes, 8) bytes each of which is `state`."""
    word = min(nbytes, 8)
    return np.dtype(f"u{word}").type(int.from_bytes(bytes([state]) * word, "little"))


@dataclass(slots=True)
class Allocation:
    """Global memory [start, start + nbytes), addresses. complete: all its bytes are known to be written."""

    start: int
    nbytes: int
    name: str = ""
    freed: bool = False
    readonly: bool = False
    complete: bool = False

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    def __str__(self) -> str:
        return f"{self.name or 'an allocation'} of {self.nbytes} bytes"


class Arena(Space):
    """Global memory: committed by the system page by page when it is touched."""

    def __init__(self, nbytes: int = 1 << 34) -> None:
        self._maps: list[mmap.mmap] = []
        super().__init__("global", self._reserve(nbytes), self._reserve(nbytes), GLOBAL_BASE)
        self.allocations: list[Allocation] = []  # by start
        self._starts: list[int] = []
        self._next = GUARD
        self._quarantine: deque[Allocation] = deque()
        self._reusable: dict[int, list[Allocation]] = {}
        self.touched: set[int] = set()  # starts of allocations that a kernel wrote to
        self.modules: dict[Any, dict[str, int]] = {}  # loaded modules: addresses of their variables

    def _reserve(self, nbytes: int) -> Array:
        flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0) | NORESERVE
        if not hasattr(mmap, "MAP_ANONYMOUS"):
            return np.zeros(nbytes, np.uint8)
        area = mmap.mmap(-1, nbytes, flags=flags)
        self._maps.append(area)
        return np.frombuffer(area, np.uint8)

    def alloc(self, nbytes: int, name: str = "") -> Allocation:
        """Fresh memory, unwritten, aligned to 256, at least 256 bytes away from any other."""
        room = -(-nbytes // ALIGN) * ALIGN + GUARD
        reusable = self._reusable.get(room)
        if reusable:
            old = reusable.pop()
            place = bisect.bisect_left(self._starts, old.start)
            fresh = self.allocations[place] = Allocation(old.start, nbytes, name)
        else:
            if self._next + room > len(self.bytes):
                raise DeviceMemoryError(
                    f"emulated device: {nbytes} bytes wanted, its arena of {len(self.bytes)} is full"
                )
            fresh = Allocation(GLOBAL_BASE + self._next, nbytes, name)
            self._next += room
            self.allocations.append(fresh)
            self._starts.append(fresh.start)
        return fresh

    def free(self, start: int) -> None:
        """Make an allocation inaccessible. Raises DeviceError for an address that is none's start."""
        found = self.at(start)
        if found is None or found.start != start or found.freed:
            raise DeviceError(f"free: {start:#x} is not the start of allocated memory")
        found.freed = True
        self._clear(found)
        self._quarantine.append(found)
        if len(self._quarantine) > QUARANTINE:
            old = self._quarantine.popleft()
            self._reusable.setdefault(-(-old.nbytes // ALIGN) * ALIGN + GUARD, []).append(old)

    def _clear(self, block: Allocation) -> None:
        """Forget the states; give whole pages back to the system."""
        first, last = block.start - GLOBAL_BASE, block.end - GLOBAL_BASE
        page = mmap.PAGESIZE
        low, high = -(-first // page) * page, last // page * page
        if high > low and self._maps and hasattr(mmap, "MADV_DONTNEED"):
            for area in self._maps:
                area.madvise(mmap.MADV_DONTNEED, low, high - low)
            self.shadow[first:low] = UNWRITTEN
            self.shadow[high:last] = UNWRITTEN
        else:
            self.shadow[first:last] = UNWRITTEN

    def at(self, address: int) -> Allocation | None:
        """The last allocation that starts at or below an address; it need not reach so far."""
        place = bisect.bisect_right(self._starts, address) - 1
        return self.allocations[place] if place >= 0 else None

    def covering(self, low: int, high: int) -> Allocation | None:
        """The live allocation that has all of [low, high)."""
        found = self.at(low)
        return found if found is not None and high <= found.end and not found.freed else None

    def allows(self, address: int, nbytes: int, kind: str) -> bool:
        """Whether one access is inside live memory, and no write to constants."""
        block = self.covering(address, address + nbytes)
        if block is None or (block.readonly and kind != "read"):
            return False
        if kind != "read":
            self.touched.add(block.start)
        return True

    def covers(self, addresses: Array, nbytes: int, kind: str) -> bool:
        """`allows` for many addresses, in as many allocations as it takes."""
        places = np.searchsorted(np.array(self._starts, np.int64), addresses, side="right") - 1
        if places.min(initial=-1 if not len(places) else 0) < 0:
            return False
        for place in np.unique(places):
            block = self.allocations[int(place)]
            inside = addresses[places == place]
            if not self.allows(int(inside.min()), nbytes, kind) or int(inside.max()) + nbytes > block.end:
                return False
        return True

    def settle(self) -> None:
        """Note which of the touched allocations are written throughout: loads of them need no look at the shadow."""
        for start in self.touched:
            block = self.at(start)
            if block is None or block.freed or block.complete:
                continue
            part = self.shadow[block.start - GLOBAL_BASE : block.end - GLOBAL_BASE]
            block.complete = int(part.min()) == WRITTEN == int(part.max())
        self.touched.clear()

    def write(self, address: int, data: Array) -> None:
        """From the host. Raises DeviceError where that is not allocated."""
        block = self._checked(address, len(data))
        first = address - GLOBAL_BASE
        self.bytes[first : first + len(data)] = data
        if not block.complete:
            self.shadow[first : first + len(data)] = WRITTEN
            block.complete = len(data) == block.nbytes

    def read(self, address: int, nbytes: int) -> Array:
        """The bytes for the host; those that nobody has written are 0xff, which makes a NaN of most."""
        block = self._checked(address, nbytes)
        part = slice(address - GLOBAL_BASE, address - GLOBAL_BASE + nbytes)
        if block.complete:
            return self.bytes[part]
        return np.where(self.shadow[part] == WRITTEN, self.bytes[part], np.uint8(0xFF))

    def _checked(self, address: int, nbytes: int) -> Allocation:
        block = self.covering(address, address + nbytes)
        if block is None:
            raise DeviceError(f"{nbytes} bytes at {address:#x} are not inside one live allocation")
        return block


def parts(name: str, count: int, size: int, origin: int) -> Space:
    """Shared or local memory: `count` parts of `size` bytes, each padded to a multiple of 1024 (local: 16)."""
    unit = 1024 if name == "shared" else 16
    stride = max(-(-size // unit), 1) * unit
    return Space(name, np.zeros(count * stride, np.uint8), np.zeros(count * stride, np.uint8), origin, stride, size)
