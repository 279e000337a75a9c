"""The numbers of a config for tensor cores."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hal.kernel import Config
from hal_nvidia_ptx.kernels.values import itemsize

LEAST_ASYNC = 4  # bytes of the narrowest cp.async


@dataclass(frozen=True)
class Tile:
    """bm, bn, bk: of a block, in elements; wm, wn: its warps along m and n; stages of the ring; blocks that an SM
    should hold; sm: the least that the text is for; a_width, b_width: bytes by which the operands are read; splits of
    k."""

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    stages: int
    blocks: int
    sm: int
    a_width: int
    b_width: int
    splits: int

    @classmethod
    def of(cls, config: Config) -> Tile:
        """The numbers of a config of this algorithm."""
        return cls(**dict(config.values))

    def config(self) -> Config:
        """The config with these numbers."""
        return Config("mma", tuple((field.name, getattr(self, field.name)) for field in fields(self)))

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.wm * self.wn

    @property
    def rows(self) -> int:
        """Of the result, of a warp."""
        return self.bm // self.wm

    @property
    def columns(self) -> int:
        """Of the result, of a warp."""
        return self.bn // self.wn

    def width(self, role: str) -> int:
        """Bytes by which an operand is read."""
        return self.a_width if role == "a" else self.b_width

    def is_async(self, role: str) -> bool:
        """Whether cp.async copies an operand."""
        return self.sm >= 80 and self.width(role) >= LEAST_ASYNC

    def stage_bytes(self, dtype: str) -> int:
        """Of shared memory, for one stage of the ring."""
        return (self.bm + self.bn) * self.bk * itemsize(dtype)

    def sums_bytes(self, dtype: str) -> int:
        """Of shared memory, for the sums of one row of warps."""
        return self.rows * self.bn * (8 if dtype == "float64" else 4)

    def rounds(self, dtype: str) -> int:
        """In how many rounds, a few rows of warps each, the sums go through the ring's memory."""
        rounds = 1
        while rounds < self.wm and self.wm // rounds * self.sums_bytes(dtype) > self.stages * self.stage_bytes(dtype):
            rounds *= 2
        return rounds

    def shared_bytes(self, dtype: str) -> int:
        """Of shared memory: the ring, later the sums."""
        sums = self.wm // self.rounds(dtype) * self.sums_bytes(dtype)
        return max(self.stages * self.stage_bytes(dtype), sums)


def along_k(role: str, layout: str) -> bool:
    """Whether the contiguous axis of an operand is k; layout: "row" or "column"."""
    return (layout == "row") == (role == "a")
