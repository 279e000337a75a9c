"""How many blocks of a kernel an SM holds at once, by plain arithmetic on the target's limits."""

from __future__ import annotations

from dataclasses import dataclass

from hal_nvidia_ptx.target import Target

WARP = 32
QUARTERS = 4  # an SM's schedulers; each has a quarter of the registers and of the warps
REGISTER_UNIT = 256  # registers are given to a warp in portions of this many
SHARED_UNIT = 256  # bytes; 128 on some targets, which makes no difference to any count that matters


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Blocks and warps that reside on one SM, the share of the SM's warps that is, and what limits it."""

    blocks: int
    warps: int
    share: float
    limit: str

    @property
    def threads(self) -> int:
        return self.warps * WARP


def occupancy(target: Target, registers: int, shared: int, threads: int) -> Occupancy:
    """Of a kernel with `registers` a thread, `shared` bytes (static and dynamic) and `threads` a block."""
    warps = -(-threads // WARP)
    portion = _up(max(registers, 1) * WARP, REGISTER_UNIT)
    by_registers = target.registers_sm // QUARTERS // portion * QUARTERS // warps
    limits = {
        "threads": target.threads_sm // (warps * WARP),
        "blocks": target.blocks_sm,
        "registers": by_registers,
        "shared memory": target.shared_sm // max(_up(shared + target.shared_reserved, SHARED_UNIT), 1),
    }
    if shared > target.shared_block:
        limits["shared memory"] = 0
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps * WARP / target.threads_sm, limit)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
