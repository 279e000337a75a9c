"""What of a kernel's machine code is executed again and again: its main loop, or the path that one thread takes.

Both are read off the code alone. Where a branch depends on data, the path is the one that stores most by the widest
stores of the kernel, and the shortest of those: the one of a full, aligned row. Every loop on it counts once, so the
figures of code with loops are those of one trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hal_nvidia_ptx.assembly.sass import BYTES, FMA, MMA, NO_SCOREBOARD, Function, Instruction

GLOBAL_STORES = ("STG", "ST", "RED", "REDG", "ATOMG", "UTMASTG")


# ---------------------------------------------------------------- the main loop


@dataclass(frozen=True, slots=True)
class Loop:
    """The instructions of one trip, less what does nothing and what the loop jumps over on most trips."""

    instructions: tuple[Instruction, ...]

    def count(self, *names: str) -> int:
        """How many have one of these opcodes."""
        return sum(instruction.name in names for instruction in self.instructions)

    @property
    def mmas(self) -> int:
        return self.count(*MMA)

    @property
    def fmas(self) -> int:
        return self.count(*FMA)

    @property
    def mix(self) -> dict[str, int]:
        """Opcodes and how often, the commonest first."""
        counts: dict[str, int] = {}
        for instruction in self.instructions:
            counts[instruction.name] = counts.get(instruction.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def others_per_mma(self) -> float:
        return (len(self.instructions) - self.mmas) / self.mmas

    @property
    def fma_share(self) -> float:
        return self.fmas / len(self.instructions)


def main_loop(function: Function) -> Loop | None:
    """The innermost loop around the tensor cores' instructions, or around FFMA or DFMA where there are none.

    None where no loop has any. Of several the one with most of them: remainders are shorter.
    """
    for names in (MMA, FMA):
        if not function.count(*names):
            continue
        bodies = [body for body in _loops(function) if any(i.name in names for i in body)]
        inner = [body for body in bodies if not any(_contains(body, other) for other in bodies)]
        if inner:
            best = max(inner, key=lambda body: sum(i.name in names for i in body))
            return Loop(tuple(_usual(best)))
    return None


def _loops(function: Function) -> list[tuple[Instruction, ...]]:
    """Every loop as the code between a backward branch and its goal."""
    ends: dict[int, int] = {}
    for instruction in function.instructions:
        if instruction.name == "BRA" and instruction.target is not None and instruction.target < instruction.address:
            ends[instruction.target] = instruction.address
    bodies = [tuple(_between(function.instructions, start, end + BYTES)) for start, end in ends.items()]
    # Blocks that the assembler moved behind the end of the code jump back too, but over an unconditional EXIT.
    return [body for body in bodies if not any(i.name == "EXIT" and not i.predicate for i in body)]


def _between(instructions: Iterable[Instruction], start: int, end: int) -> list[Instruction]:
    return [instruction for instruction in instructions if start <= instruction.address < end]


def _contains(outer: Sequence[Instruction], inner: Sequence[Instruction]) -> bool:
    return outer[0].address <= inner[0].address and inner[-1].address <= outer[-1].address and outer != inner


def _usual(body: Sequence[Instruction]) -> list[Instruction]:
    """Without the blocks that end in a global store: results leave a tile once, not on every trip of its main loop."""
    kept = [instruction for instruction in body if not instruction.idle]
    for branch in body:
        if branch.name == "BRA" and branch.target is not None and branch.address < branch.target <= body[-1].address:
            block = _between(body, branch.address + BYTES, branch.target)
            if any(instruction.name in GLOBAL_STORES for instruction in block):
                kept = [instruction for instruction in kept if instruction not in block]
    return kept


# ---------------------------------------------------------------- one thread's path


@dataclass(frozen=True, slots=True)
class Path:
    """The instructions from entry to exit, each loop once."""

    instructions: tuple[Instruction, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes that the thread writes to global memory by its widest stores."""
        widths = [i.width for i in self.instructions if i.name == "STG"]
        return sum(width for width in widths if width == max(widths))

    def count(self, *names: str) -> int:
        """How many have one of these opcodes."""
        return sum(instruction.name in names for instruction in self.instructions)

    @property
    def bytes_in_flight(self) -> int:
        """Most bytes of global loads that one thread has under way when it first has to wait for one of them."""
        pending: dict[int, int] = {}
        most = 0
        for instruction in self.instructions:
            for scoreboard in [s for s in pending if instruction.wait >> s & 1]:
                del pending[scoreboard]
            if instruction.name == "LDG" and instruction.write != NO_SCOREBOARD:
                pending[instruction.write] = pending.get(instruction.write, 0) + instruction.width
                most = max(most, sum(pending.values()))
        return most


def main_path(function: Function) -> Path:
    """The path that stores most bytes by the widest stores, the shortest of those."""
    code = function.instructions  # with what does nothing, since branches go there too
    places = {instruction.address: place for place, instruction in enumerate(code)}
    widest = max((i.width for i in code if i.name == "STG"), default=0)
    # best[p]: bytes stored from place p to the end, less a little for each instruction, and the place that follows.
    best: list[tuple[float, int]] = [(0.0, END)] * len(code)
    for place in reversed(range(len(code))):
        following = _successors(code, place, places)
        worth, first = max((best[n][0] if n != END else 0.0, n) for n in following)
        best[place] = (worth + _worth(code[place], widest), first)
    path, place = [], 0
    while place != END:
        if not code[place].idle:
            path.append(code[place])
        place = best[place][1]
    return Path(tuple(path))


END = -1  # behind the last instruction of a path


def _worth(instruction: Instruction, widest: int) -> float:
    stored = instruction.name == "STG" and instruction.width == widest
    return (widest if stored else 0) - 1e-6


def _successors(code: Sequence[Instruction], place: int, places: dict[int, int]) -> list[int]:
    """Places that may follow, without those behind: of a loop only one trip is walked."""
    here = code[place]
    following = [place + 1 if place + 1 < len(code) else END]
    if here.name in ("EXIT", "RET"):
        return [*following, END] if here.predicate else [END]
    if here.name == "BRA" and here.target is not None:
        goal = places.get(here.target, END)
        conditional = bool(here.predicate) or "U" in here.operands.partition("`")[0]
        if not conditional:
            return [goal if goal > place else END]
        if goal > place and ".DIV" not in here.opcode:
            following.append(goal)
    return following
