"""Which part of which matrix a block of the tensor-core kernel computes."""

from __future__ import annotations

from collections.abc import Mapping

from hal_nvidia_ptx.kernels.tile import Tile
from hal_nvidia_ptx.ptx import Entry, Register

GROUP = 8  # rows of tiles that are walked together: their parts of a and b then stay in the L2 cache


class Where:
    """The block's tile, matrix, and slice of k.

    row, column: its first ones; last: its last block of k, start: its first, left: how many. offsets: of an operand's
    matrix, in bytes. sizes: bytes of an element of each operand that has batch strides, in the parameters' order.
    """

    def __init__(self, k: Entry, tile: Tile, batch_axes: int, sizes: Mapping[str, int]) -> None:
        self.k, self.tile = k, tile
        k.section(f"Which tile of which matrix: groups of {GROUP} rows of tiles, in a group column by column.")
        self.m, self.n, self.size_k = k.param("m"), k.param("n"), k.param("k")
        tiles_m, tiles_n = k.param("tiles_m"), k.param("tiles_n")
        rest = k.let("u32", "tile", "mov.u32", "%ctaid.x")
        self.matrix: Register | None = None
        if batch_axes or tile.splits > 1:
            tiles = k.let("u32", "tiles", "mul.lo.u32", tiles_m, tiles_n)
            self.matrix, rest = self._divide("matrix", rest, tiles)
        self._tile(rest, tiles_m, tiles_n)
        self.offsets: dict[str, Register] = {}
        if batch_axes and self.matrix is not None:
            self._offsets(self.matrix, batch_axes, sizes)
        self._slice()

    def base(self, role: str) -> Register:
        """The address of an operand's matrix."""
        pointer = self.k.param(role)
        if role in self.offsets:
            self.k("add.s64", pointer, pointer, self.offsets[role])
        return pointer

    def _divide(self, name: str, number: Register, by: Register) -> tuple[Register, Register]:
        """Quotient and remainder."""
        k = self.k
        quotient = k.let("u32", name, "div.u32", number, by)
        product = k.let("u32", f"{name}_times", "mul.lo.u32", quotient, by)
        return quotient, k.let("u32", f"{name}_rest", "sub.u32", number, product)

    def _tile(self, number: Register, tiles_m: Register, tiles_n: Register) -> None:
        k = self.k
        of_group = k.let("u32", "tiles_of_group", "mul.lo.u32", tiles_n, GROUP)
        group, rest = self._divide("group", number, of_group)
        above = k.let("u32", "rows_above", "mul.lo.u32", group, GROUP)
        height = k.let("u32", "height", "sub.u32", tiles_m, above)
        k("min.u32", height, height, GROUP, note="the last group may be lower")
        column, in_group = self._divide("tile_column", rest, height)
        row = k.let("u32", "tile_row", "add.u32", in_group, above)
        self.row = k.let("s32", "first_row", "mul.lo.s32", row, self.tile.bm)
        self.column = k.let("s32", "first_column", "mul.lo.s32", column, self.tile.bn)

    def _offsets(self, matrix: Register, axes: int, sizes: Mapping[str, int]) -> None:
        """As batch.py's, but in 32 bits: blocks are counted in those, so matrices are too."""
        k = self.k
        self.offsets = {role: k.let("s64", f"{role}_offset", "mov.s64", 0) for role in sizes}
        rest = matrix
        for axis in reversed(range(axes)):
            index = rest
            if axis:
                length = k.let("u32", f"batch{axis}_length", "cvt.u32.s64", k.param(f"batch{axis}"))
                rest, index = self._divide(f"rest{axis}", rest, length)
            wide = k.let("s64", f"index{axis}", "cvt.u64.u32", index)
            for role in sizes:
                offset = self.offsets[role]
                k("mad.lo.s64", offset, wide, k.param(f"{role}_batch{axis}"), offset)
        for role, size in sizes.items():
            k("mul.lo.s64", self.offsets[role], self.offsets[role], size, note="bytes")

    def _slice(self) -> None:
        """Blocks of k: [start, end), never none; for K = 0 one of zeros."""
        k, tile = self.k, self.tile
        end = k.let("s32", "blocks", "add.s32", self.size_k, tile.bk - 1)
        k("shr.s32", end, end, tile.bk.bit_length() - 1)
        k("max.s32", end, end, 1, note="K = 0: one block of zeros")
        self.start: Register | int = 0
        if tile.splits > 1:
            self.slice = k.let("s32", "slice", "mov.u32", "%ctaid.y")
            length = k.param("slice_blocks")
            self.start = k.let("s32", "slice_start", "mul.lo.s32", self.slice, length)
            stop = k.let("s32", "slice_end", "add.s32", self.start, length)
            k("min.s32", end, end, stop)
        self.last = k.let("s32", "last_block", "sub.s32", end, 1)
        self.left = k.let("s32", "blocks_left", "mov.s32", end)
        if tile.splits > 1:
            k("sub.s32", self.left, self.left, self.start)
