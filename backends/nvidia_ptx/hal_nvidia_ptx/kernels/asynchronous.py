"""Copies by cp.async: nothing passes through registers, and zeros can take the place of what lies past the end of k."""

from __future__ import annotations

from hal_nvidia_ptx.kernels.copies import Copies, Emit
from hal_nvidia_ptx.kernels.fragments import CHUNK
from hal_nvidia_ptx.ptx import Register, at


class AsyncCopies(Copies):
    """Of whole blocks in parts, between other instructions; of the first blocks in one go."""

    def fill(self, stage: Register, remaining: Register, when: Register) -> None:
        """A block that ends after `remaining` steps of k, where `when` holds: before the main loop."""
        self.aim(stage)
        guard = self._working(when)
        if self.walks and self.walk.passes > 2 and not any(map(self._turn, range(self.walk.passes))):
            self._fill_walking(remaining, guard)
        else:
            self._fill_straight(remaining, guard)
        self.step()

    def _fill_straight(self, remaining: Register, guard: Register) -> None:
        k, width = self.k, self.walk.width
        nbytes, before_end = k.reg("s32", f"{self.role}_bytes"), self._before_end(remaining)
        for i in range(self.walk.passes):
            if i == 0 or not self.walk.along_k:
                k("selp.s32", nbytes, width, 0, self._inside_k(before_end, i), note="the rest is filled with zeros")
            target, constant = self._place(i)
            k(self._opcode, at(target, constant), at(self._source(i)), width, nbytes, when=guard)

    def _fill_walking(self, remaining: Register, guard: Register) -> None:
        """Piece by piece in a loop: little text, and little code."""
        k, walk, name = self.k, self.walk, self.role
        into = k.let("s32", f"{name}_filled", "mov.s32", self._turned[0])
        line = k.let("s32", f"{name}_k", "mov.s32", self.line)
        left = k.let("s32", f"{name}_pieces", "mov.s32", walk.passes)
        with k.loop(f"fill_{name}") as loop:
            k('.pragma "nounroll"')
            inside = k.let("pred", f"{name}_inside", "setp.gt.s32", remaining, line)
            nbytes = k.let("s32", f"{name}_bytes", "selp.s32", walk.width, 0, inside, note="else zeros")
            k(self._opcode, at(into), at(self._source(0)), walk.width, nbytes, when=guard)
            k("add.s32", into, into, walk.lines * walk.tile.pitch)
            k("add.s32", line, line, walk.lines)
            k("sub.s32", left, left, 1)
            loop.repeat(when=k.let("pred", f"{name}_more", "setp.gt.s32", left, 0))

    def part(self, number: int, parts: int, when: Register) -> list[Emit]:
        """One of `parts` parts of a whole block's copies, where `when` holds, to the stage that `aim` chose;
        instructions to be written between others."""
        k, guard, passes = self.k, [when], self.walk.passes

        def begin() -> None:
            guard[0] = self._working(when)

        def copy(i: int) -> Emit:
            def emit() -> None:
                target, constant = self._place(i)
                k(self._opcode, at(target, constant), at(self._source(i)), self.walk.width, when=guard[0])

            return emit

        chosen = range(passes * number // parts, passes * (number + 1) // parts)
        return [begin, *map(copy, chosen), *([self.step] if number == parts - 1 else [])]

    @property
    def _opcode(self) -> str:
        return f"cp.async.{'cg' if self.walk.width == CHUNK else 'ca'}.shared.global"
