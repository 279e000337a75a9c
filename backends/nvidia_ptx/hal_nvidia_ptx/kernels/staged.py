"""Copies through registers, for what cp.async cannot do: sm_75, and pieces of less than 4 bytes.

A block's loads go out a whole block before its stores: piece by piece the store of one and the load of the next.
"""

from __future__ import annotations

from hal_nvidia_ptx.kernels.copies import Copies, Emit, Walk
from hal_nvidia_ptx.kernels.fragments import CHUNK
from hal_nvidia_ptx.ptx import Entry, Register, at


class StagedCopies(Copies):
    """Loads into registers, stores of 16 bytes into shared memory."""

    def __init__(self, k: Entry, role: str, walk: Walk, sm: int) -> None:
        super().__init__(k, role, walk, sm)
        self._type = {1: "b32", 2: "b16"}.get(walk.width, "b32")
        each = CHUNK // min(walk.width, 4)
        flat = k.regs(self._type, f"{role}_staged", each * walk.passes)
        self._staged = [flat[i : i + each] for i in range(0, len(flat), each)]

    def first(self, remaining: Register) -> None:
        """The block that ends after `remaining` steps of k: zeros, then what there is."""
        for piece in self._staged:
            for register in piece:
                self.k(f"mov.{self._type}", register, 0)
        before_end = self._before_end(remaining)
        for i in range(self.walk.passes):
            for j in range(CHUNK // self.walk.width):
                if j == 0 or self.walk.along_k:
                    inside = self._working(self._inside_k(before_end, i, j * self.walk.width // self.walk.size))
                self._load(i, j, inside)

    def load(self, when: Register) -> None:
        """A whole block, where `when` holds."""
        working = self._working(when)
        for i in range(self.walk.passes):
            self._load_piece(i, working)
        self.step()

    def exchange(self, stage: Register, store: Register, load: Register) -> list[Emit]:
        """What was loaded goes to the stage at this offset, where `store` holds, and piece by piece the next block
        comes, where `load` holds; instructions to be written between others."""
        guards = [store, load]

        def begin() -> None:
            self.aim(stage)
            guards[:] = self._working(store), self._working(load)

        def put(i: int) -> Emit:
            return lambda: self._store_piece(i, guards[0])

        def get(i: int) -> Emit:
            return lambda: self._load_piece(i, guards[1])

        return [begin, *(emit for i in range(self.walk.passes) for emit in (put(i), get(i))), self.step]

    def _load_piece(self, i: int, when: Register) -> None:
        for j in range(CHUNK // self.walk.width):
            self._load(i, j, when)

    def _load(self, i: int, j: int, when: Register) -> None:
        """Part j of piece i."""
        k, width, walk = self.k, self.walk.width, self.walk
        if j == 0:
            self._from = self._source(i)
        if not walk.along_k and width < walk.piece:
            there = k.reg("pred", f"{self.role}_there")
            k("setp.gt.and.s32", there, self.left, j * width // walk.size, when)
            when = there
        registers = self._staged[i]
        if width >= 4:
            words = registers[j * width // 4 : (j + 1) * width // 4]
            vector = f".v{len(words)}" if len(words) > 1 else ""
            k(f"ld.global.nc{vector}.b32", words if vector else words[0], at(self._from, j * width), when=when)
        else:
            k(f"ld.global.nc.{'b16' if width == 2 else 'u8'}", registers[j], at(self._from, j * width), when=when)

    def store(self, stage: int) -> None:
        """What was loaded, to the stage at this offset."""
        self.aim(stage)
        for i in range(self.walk.passes):
            self._store_piece(i, self.works)

    def _store_piece(self, i: int, when: Register | None) -> None:
        target, constant = self._place(i)
        self.k("st.shared.v4.b32", at(target, constant), self._words(self._staged[i]), when=when)

    def _words(self, registers: list[Register]) -> list[Register]:
        """Four words from elements of one or two bytes."""
        k, name = self.k, f"{self.role}_word"
        if self.walk.width >= 4:
            return registers
        if self.walk.width == 2:
            return [k.let("b32", name, "mov.b32", registers[i : i + 2]) for i in range(0, 8, 2)]
        words = []
        for i in range(0, 16, 4):
            low, high = (
                k.let("b32", f"{self.role}_half", "prmt.b32", registers[j], registers[j + 1], "0x0040")
                for j in (i, i + 2)
            )
            words.append(k.let("b32", name, "prmt.b32", low, high, "0x5410"))
        return words
