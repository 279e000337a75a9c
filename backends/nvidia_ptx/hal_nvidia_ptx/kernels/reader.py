"""Loads of fragments: one operand's units from shared memory into registers, as the matrix instructions want them."""

from __future__ import annotations

from collections.abc import Sequence

from hal_nvidia_ptx.kernels.fragments import CHUNK, LINE_OF_BANKS, Shared, fields, swizzled_offset, way
from hal_nvidia_ptx.ptx import Address, Entry, Register, at


class Reader:
    """Reads one operand's units from shared memory.

    A lane's address differs from unit to unit and step to step in constants only, and in the three chunk bits that the
    swizzle turns: there is a register for each value of these that occurs. The stage is added anew in each step, since
    it is the same for all threads: the assembler then puts it into the load's own address.
    """

    def __init__(self, k: Entry, role: str, dtype: str, along_k: bool, tile: Shared) -> None:
        self.k, self.role, self.dtype, self.tile = k, role, dtype, tile
        self.way = way(role, dtype, along_k)
        self.wide = dtype == "float64"
        self.transposes = dtype == "int8" and not along_k
        self._lanes: dict[int, Register] = {}
        self._at: dict[int, Register] = {}

    def start(
        self, base: Register | str, lane: Register, first_line: Register | int, first_chunk: Register | int
    ) -> None:
        """The lane's address; the first line or chunk is that of the warp's part of the tile."""
        k, name = self.k, self.role
        line = fields(k, f"{name}_line", lane, self.way.line)
        line = k.let("s32", f"{name}_line", "add.s32", line, first_line) if first_line != 0 else line
        chunk: Register | None = fields(k, f"{name}_chunk", lane, self.way.chunk) if self.way.chunk else None
        if first_chunk != 0:
            chunk = k.let("s32", f"{name}_chunk", "add.s32", first_chunk, chunk if chunk is not None else 0)
        offset = swizzled_offset(k, name, self.tile, line, chunk)
        if self.way.byte:
            k("add.s32", offset, offset, fields(k, f"{name}_byte", lane, self.way.byte))
        self._lanes[0] = k.let("s32", f"{name}_lane", "add.s32", offset, base, note="this lane's, in stage 0")

    def prepare(self, units: int, steps: int) -> None:
        """The addresses in stage 0 of all that is going to be loaded."""
        k, halves = self.k, (0, 1) if self.way.name == "ld" else (0,)
        places = [(u, s, h, q) for u in range(units) for s in range(steps) for h in halves for q in halves]
        for turned in dict.fromkeys(self._turned(*place) for place in places):
            if turned not in self._lanes:
                self._lanes[turned] = k.let("s32", f"{self.role}_lane_x{turned}", "xor.b32", self._lanes[0], turned)

    def aim(self, stage: Register) -> None:
        """What is loaded from here on lies in the stage at this offset, in bytes."""
        self._stage, self._at = stage, {}

    def registers(self, units: int, name: str) -> list[list[Register]]:
        """Four for each unit."""
        flat = self.k.regs("f64" if self.wide else "b32", name, 4 * units)
        return [flat[i : i + 4] for i in range(0, 4 * units, 4)]

    def load(self, unit: int, step: int, into: Sequence[Register], when: Register | None = None) -> None:
        """One unit's registers for one step."""
        if self.way.name.startswith("ldmatrix"):
            trans = ".trans" if self.way.name.endswith("trans") else ""
            self.k(f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16", into, self._address(unit, step, 0, 0), when=when)
            return
        for i, register in enumerate(into):
            h, q = (i & 1, i >> 1) if self.role == "a" else (i >> 1, i & 1)
            self.k(f"ld.shared.{register.type}", register, self._address(unit, step, h, q), when=when)

    def _constant(self, unit: int, step: int, h: int, q: int) -> tuple[int, int]:
        """(lines, chunks) of a register's place beyond the lane's own."""
        w = self.way
        line, chunk = (unit * w.unit[i] + step * w.step[i] + h * w.h[i] + q * w.q[i] for i in (0, 1))
        return line, chunk

    def _turned(self, unit: int, step: int, h: int, q: int) -> int:
        """The part of the constant, in bytes, that goes through the exclusive or."""
        return self._constant(unit, step, h, q)[1] * CHUNK % min(self.tile.pitch, LINE_OF_BANKS)

    def _address(self, unit: int, step: int, h: int, q: int) -> Address:
        line, chunk = self._constant(unit, step, h, q)
        turned = self._turned(unit, step, h, q)
        if turned not in self._at:
            name = f"{self.role}_at" + (f"_x{turned}" if turned else "")
            self._at[turned] = self.k.let("s32", name, "add.s32", self._lanes[turned], self._stage)
        return at(self._at[turned], line * self.tile.pitch + chunk * CHUNK - turned)

    def ready(self, unit: Sequence[Register]) -> list[Register]:
        """The unit as the instruction wants it: float32 rounded to tf32; pairs of bytes put in order."""
        k = self.k
        if self.dtype == "float32":
            for register in unit:
                k("cvt.rna.tf32.f32", register, register)
        if not self.transposes:
            return list(unit)
        # The first two registers are k 4t … 4t+1 and 4t+2 … 4t+3 of two neighbouring rows, for q = 0; then q = 1.
        half = [
            [k.let("b32", f"{self.role}_bytes", "prmt.b32", unit[2 * q], unit[2 * q + 1], pick) for q in (0, 1)]
            for pick in ("0x6420", "0x7531")
        ]
        order = ((0, 0), (1, 0), (0, 1), (1, 1)) if self.role == "a" else ((0, 0), (0, 1), (1, 0), (1, 1))
        return [half[h][q] for h, q in order]
