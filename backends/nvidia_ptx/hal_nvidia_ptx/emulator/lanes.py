"""Lanes: which threads of the batch run an instruction, and their registers as NumPy arrays.

A batch has `run.total` lanes, one per thread, CTA after CTA; each CTA's threads are padded to whole warps, so that
lane // 32 is the warp. A register is one array over all lanes. A program refers to *slots*: a register seen as one
dtype, a constant, a special register or a kernel parameter. `lanes.regs[slot]` is the slot's array for a contiguous (or
strided) span of lanes that covers these; constants and other uniform slots have one element there, which NumPy
broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]
WARP = 32
GATHER = 4  # where less than 1/GATHER of a span's lanes take part, values are gathered rather than masked


class Registers(dict[int, Array]):
    """slot -> array over all lanes of the batch (or one element), made at first use."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._raw: dict[str, Array] = {}

    def __missing__(self, slot: int) -> Array:
        array = self[slot] = self._run.program.slots[slot].array(self._run, self._raw)
        return array


class Views(dict[int, Array]):
    """slot -> the array's part for one slice of lanes."""

    def __init__(self, base: Registers, span: slice) -> None:
        super().__init__()
        self._base, self._span = base, span

    def __missing__(self, slot: int) -> Array:
        array = self._base[slot]
        view = self[slot] = array if len(array) == 1 else array[self._span]
        return view


class Lanes:
    """A set of lanes that run together.

    count: how many; regs: slot -> array over a span that covers them; pick: None if the span is exactly these lanes,
    else their positions in the span; dense: whether an instruction may write the whole span (its other lanes have
    ended); whole: whether these are all lanes of the batch that have not ended.
    """

    __slots__ = ("_by_warp", "_index", "count", "dense", "pick", "regs", "run", "span")

    def __init__(self, run: Run, span: slice, count: int, pick: Array | None, dense: bool, index: Array | None) -> None:
        self.run, self.span, self.count, self.pick, self.dense = run, span, count, pick, dense
        self.regs: dict[int, Array] = run.views(span)
        self._index = index
        self._by_warp: tuple[Array, Array | None] | None = None

    @property
    def whole(self) -> bool:
        return self.count == self.run.alive

    @property
    def index(self) -> Array:
        """The lanes' numbers in the batch, sorted, int64."""
        if self._index is None:
            self._index = np.arange(self.run.total)[self.span]
        return self._index

    @property
    def cta(self) -> Array:
        """The CTA of each lane, counted in the batch."""
        return self.of(self.run.lane_cta)

    def of(self, per_lane: Array) -> Array:
        """The elements for these lanes of an array over all lanes of the batch."""
        part = per_lane[self.span]
        return part if self.pick is None else part[self.pick]

    def read(self, slot: int) -> Array:
        """The slot's values, [count]. May be a view of the register: do not write it."""
        array = self.regs[slot]
        if len(array) == 1 and self.count > 1:
            return array.repeat(self.count)
        return array if self.pick is None or len(array) == 1 else array[self.pick]

    def put(self, slot: int, values: Any) -> None:
        """Write [count] values (or a scalar) to a register; wider integers than the values are extended."""
        if self.pick is None:
            np.copyto(self.regs[slot], values, casting="unsafe")
        else:
            self.regs[slot][self.pick] = values

    def where(self, mask: Array) -> Lanes:
        """Those of these lanes for which mask [count] holds; at least one must."""
        return self.run.lanes(self.index[mask])

    def apply(self, function: Callable[..., Any], sources: Sequence[int], outs: Sequence[int]) -> None:
        """function(*sources, *outs) where it must not write the other lanes of the span."""
        regs = self.regs
        if self.dense:
            function(*[regs[s] for s in sources], *[regs[d] for d in outs])
            return
        assert self.pick is not None
        first = regs[outs[0]]
        if self.count * GATHER < len(first):
            pick = self.pick
            inputs = [regs[s] if len(regs[s]) == 1 else regs[s][pick] for s in sources]
            results = [np.empty(self.count, regs[d].dtype) for d in outs]
            function(*inputs, *results)
            for d, result in zip(outs, results, strict=True):
                regs[d][pick] = result
            return
        mask = self.mask
        results = [np.empty(len(first), regs[d].dtype) for d in outs]
        function(*[regs[s] for s in sources], *results)
        for d, result in zip(outs, results, strict=True):
            np.copyto(regs[d], result, where=mask)

    def apply_where(
        self, mask: Array, function: Callable[..., Any], sources: Sequence[int], outs: Sequence[int]
    ) -> None:
        """As `apply`, for the lanes of the span where mask holds only. Needs a dense set."""
        regs = self.regs
        results = [np.empty(len(mask), regs[d].dtype) for d in outs]
        function(*[regs[s] for s in sources], *results)
        for d, result in zip(outs, results, strict=True):
            np.copyto(regs[d], result, where=mask)

    @property
    def mask(self) -> Array:
        """bool over the span: which of it are these lanes."""
        mask = np.zeros(len(self.run.lane_cta[self.span]), np.bool_)
        mask[slice(None) if self.pick is None else self.pick] = True
        return mask

    # Warps: every view below has one row of 32 for each warp that has at least one of these lanes.

    @property
    def warps(self) -> Array:
        """The warps' numbers in the batch, sorted."""
        return self._warps()[0]

    @property
    def present(self) -> Array | None:
        """bool [warps, 32]: which lanes take part; None if all do, the usual case."""
        return self._warps()[1]

    def _warps(self) -> tuple[Array, Array | None]:
        if self._by_warp is None:
            index = self.index
            first, last = int(index[0]), int(index[-1])
            if self.count == last - first + 1 and not first % WARP and not self.count % WARP:
                self._by_warp = np.arange(first // WARP, last // WARP + 1), None
            else:
                present = np.zeros(self.run.total, np.bool_)
                present[index] = True
                rows = present.reshape(-1, WARP)
                warps = np.flatnonzero(rows.any(1))
                rows = rows[warps]
                self._by_warp = warps, None if bool(rows.all()) else rows
        return self._by_warp

    def by_warp(self, slot: int) -> Array:
        """The slot's values as [warps, 32]; absent lanes have what their register holds. May be a view."""
        array = self.run.regs[slot]
        warps = self.warps
        if len(array) == 1:
            return np.broadcast_to(array, (len(warps), WARP))
        rows = array.reshape(-1, WARP)
        return rows[slice(int(warps[0]), int(warps[-1]) + 1)] if self._contiguous(warps) else rows[warps]

    def put_by_warp(self, slot: int, values: Array, where: Array | None = None) -> None:
        """Write [warps, 32] values: to the lanes that take part, and of those only `where`."""
        present, warps = self.present, self.warps
        rows = self.run.regs[slot].reshape(-1, WARP)
        allowed = present if where is None else where if present is None else present & where
        if self._contiguous(warps):
            target = rows[int(warps[0]) : int(warps[-1]) + 1]
            np.copyto(target, values, where=True if allowed is None else allowed, casting="unsafe")
        elif allowed is None:
            rows[warps] = values
        else:
            rows[warps] = np.where(allowed, values, rows[warps])

    def flat(self, by_warp: Array) -> Array:
        """[warps, 32] -> [count]: the elements of the lanes that take part."""
        return by_warp.reshape(-1) if self.present is None else by_warp[self.present]

    def spread(self, values: Array, fill: Any = 0) -> Array:
        """[count, …] -> [warps, 32, …], absent lanes get `fill`."""
        present = self.present
        if present is None:
            return values.reshape(-1, WARP, *values.shape[1:])
        out = np.full((*present.shape, *values.shape[1:]), fill, values.dtype)
        out[present] = values
        return out

    @staticmethod
    def _contiguous(warps: Array) -> bool:
        return int(warps[-1]) - int(warps[0]) == len(warps) - 1
