"""Special registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.lanes import WARP

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]
# What changes while a batch runs.
CLOCKS = frozenset(("%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi"))
_AXES = "xyz"


def special(run: Run, name: str) -> Array:
    """The values of a special register that stays as it is while a batch runs: uint64 [total] or [1]."""
    base, _, axis = name.rpartition(".")
    values = _indexed(run, base, _AXES.index(axis)) if base else _plain(run, name)
    return np.atleast_1d(np.asarray(values)).astype(np.uint64)


def _indexed(run: Run, name: str, axis: int) -> Any:
    shape = run.shape
    if name == "%ntid":
        return shape.block[axis]
    if name == "%nctaid":
        return shape.grid[axis]
    if name == "%cluster_nctaid":
        return shape.cluster[axis]
    if name == "%nclusterid":
        return shape.grid[axis] // shape.cluster[axis]
    if name == "%tid":
        return unravel(run.lane_thread, shape.block)[axis]
    cta = unravel(run.cta_ids, shape.grid)[axis][run.lane_cta]
    if name == "%ctaid":
        return cta
    return cta % shape.cluster[axis] if name == "%cluster_ctaid" else cta // shape.cluster[axis]


def unravel(index: Array, shape: tuple[int, int, int]) -> tuple[Array, Array, Array]:
    """Linear indices to x, y, z."""
    return index % shape[0], index // shape[0] % shape[1], index // (shape[0] * shape[1])


def cluster_rank(run: Run) -> Array:
    """[ctas]: the rank of each CTA of the batch in its cluster."""
    x, y, z = unravel(run.cta_ids, run.shape.grid)
    cx, cy, cz = run.shape.cluster
    rank: Array = x % cx + cx * (y % cy + cy * (z % cz))
    return rank


def _plain(run: Run, name: str) -> Any:
    lane = np.arange(run.total) % WARP
    shape, one = run.shape, np.uint64(1)
    bit = one << lane.astype(np.uint64)
    below = bit - one
    everything = np.uint64(0xFFFFFFFF)
    table: dict[str, Any] = {
        "%laneid": lane,
        "%warpid": run.lane_thread // WARP,
        "%nwarpid": run.threads // WARP,
        "%smid": run.cta_ids[run.lane_cta] % run.program.target.sms,
        "%nsmid": run.program.target.sms,
        "%gridid": 1,
        "%lanemask_eq": bit,
        "%lanemask_lt": below,
        "%lanemask_le": below | bit,
        "%lanemask_gt": everything & ~(below | bit),
        "%lanemask_ge": everything & ~below,
        "%cluster_ctarank": cluster_rank(run)[run.lane_cta],
        "%cluster_nctarank": shape.cluster_size,
        "%is_explicit_cluster": int(shape.cluster_size > 1),
        "%dynamic_smem_size": shape.shared,
        "%total_smem_size": run.program.dynamic_start + shape.shared,
        "%aggr_smem_size": run.program.dynamic_start + shape.shared,
        "%reserved_smem_offset_begin": 0,
    }
    return table[name]
