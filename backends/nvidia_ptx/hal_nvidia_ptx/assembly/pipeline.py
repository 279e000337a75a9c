"""A small simulation of a main loop on one quarter of an SM: does it keep the tensor pipe busy?

Warps issue in order, one instruction a clock for all together, the same warp as long as it can; each keeps its stall
counts and six scoreboards. One tensor pipe and one port to shared memory serve the quarter; a barrier joins the warps
of a block. Latencies are round numbers: off by 40 % they move the result by at most 0.03. Global memory is taken to be
prefetched far enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hal_nvidia_ptx.assembly.paths import Loop
from hal_nvidia_ptx.assembly.sass import FMA, GROUP_MMA, MMA, NO_SCOREBOARD, Instruction
from hal_nvidia_ptx.target import Target

# Multiply-adds per clock and SM quarter, f32 sums, by the class of the operands: NVIDIA's published peak rates over
# clock and SMs. sm_86, 89 and 120 at the rate of the GeForce parts, half of the workstation parts'; sm_90 and 100 at
# what a single warp's instructions reach, which on sm_90 is 60 % of a warp group's.
_RATES = {
    75: {"half": 128.0, "int8": 256.0, "double": 0.5, "single": 16.0},
    80: {"half": 256.0, "tf32": 128.0, "int8": 512.0, "double": 16.0, "single": 16.0},
    86: {"half": 64.0, "tf32": 32.0, "int8": 256.0, "double": 0.5, "single": 32.0},
    89: {"half": 64.0, "tf32": 32.0, "int8": 256.0, "double": 0.5, "single": 32.0},
    90: {"half": 307.2, "tf32": 153.6, "int8": 614.4, "double": 32.0, "single": 32.0},
    100: {"half": 256.0, "tf32": 128.0, "int8": 512.0, "double": 16.0, "single": 32.0},
    120: {"half": 64.0, "tf32": 32.0, "int8": 256.0, "double": 0.5, "single": 32.0},
}
_GROUP_GAIN = 5 / 3  # a warp group's instructions over a warp's, on sm_90
_SHAPES = {"16816": (16, 8, 16), "1688": (16, 8, 8), "16832": (16, 8, 32), "884": (8, 8, 4), "1684": (16, 8, 4)}
_SHAPES.update({"8816": (8, 8, 16), "8832": (8, 8, 32), "16864": (16, 8, 64)})

# Clocks from issue to result.
SHARED_LOAD = 33
SHARED_STORE = 20
GLOBAL_LOAD = 400
SPECIAL = 22  # MUFU, conversions
SHUFFLE = 24
BARRIER = 20
OPERAND_READ = 12  # until a store has read its registers
PORT_PER_BYTE = 1.0  # of a lane: a warp's 512 bytes take 4 wavefronts, and four quarters share the port: 16 clocks

WARM, MEASURED = 4, 12  # trips of each warp


def mma_clocks(instruction: Instruction, target: Target) -> float:
    """Clocks that one MMA, FFMA or DFMA of a warp takes of its quarter's pipe (an HGMMA: of each quarter's)."""
    rates = _RATES[_generation(target)]
    if instruction.name in FMA:
        pairs = 2 if instruction.name == "FFMA2" else 1
        return 32 * pairs / rates["double" if instruction.name == "DFMA" else "single"]
    m, n, k = _shape(instruction)
    rate = rates[_operands(instruction)]
    if instruction.name in GROUP_MMA:
        return m * n * k / 4 / (rate * _GROUP_GAIN)
    return m * n * k / rate


def _generation(target: Target) -> int:
    return max(sm for sm in _RATES if sm <= target.sm)


def _shape(instruction: Instruction) -> tuple[int, int, int]:
    for part in instruction.opcode.split(".")[1:]:
        if part in _SHAPES:
            return _SHAPES[part]
        wide = re.fullmatch(r"(\d+)x(\d+)x(\d+)", part)
        if wide:
            return int(wide[1]), int(wide[2]), int(wide[3])
    raise ValueError(f"an MMA of unknown shape: {instruction.opcode}")


def _operands(instruction: Instruction) -> str:
    if instruction.name in ("IMMA", "IGMMA", "QGMMA", "QMMA"):
        return "int8"
    if instruction.name == "DMMA":
        return "double"
    return "tf32" if "TF32" in instruction.opcode else "half"


def tensor_clocks(loop: Loop, target: Target) -> float:
    """Clocks that one trip of one warp takes of the pipe that does its arithmetic."""
    names = MMA if loop.mmas else FMA
    return sum(mma_clocks(i, target) for i in loop.instructions if i.name in names)


def cover(loop: Loop, target: Target) -> float:
    """Sum of the stall counts over the tensor clocks: at 1 a single warp of a quarter fills the pipe."""
    return sum(max(i.stall, 1) for i in loop.instructions) / tensor_clocks(loop, target)


def shared_load(loop: Loop, target: Target) -> float:
    """Clocks of the quarter's port to shared memory over the tensor clocks."""
    return sum(_port(i) for i in loop.instructions) / tensor_clocks(loop, target)


def _port(instruction: Instruction) -> float:
    """Clocks of the port to shared memory, without bank conflicts."""
    if instruction.name == "LDSM":
        return 16.0 * int(instruction.opcode[-1]) / 4 if instruction.opcode[-1] in "24" else 4.0
    if instruction.name in ("LDS", "STS", "LDGSTS"):
        return PORT_PER_BYTE * instruction.width
    return 0.0


def _latency(instruction: Instruction) -> float:
    """Clocks until the result's scoreboard is free, counted from when its unit takes the instruction up."""
    name = instruction.name
    if name in ("LDSM", "LDS"):
        return SHARED_LOAD
    if name in ("LDG", "LD"):
        return GLOBAL_LOAD
    if name in ("STS", "LDGSTS"):
        return SHARED_STORE
    return SHUFFLE if name == "SHFL" else SPECIAL


@dataclass
class _Warp:
    block: int
    ready: float = 0.0
    place: int = 0
    trips: int = 0
    issued: float = 0.0  # when it last issued: of two that can, the same warp goes on
    free: list[float] = field(default_factory=lambda: [0.0] * 8)  # when each scoreboard is; the last two are nobody's


def utilization(loop: Loop, target: Target, warps_a_block: int, blocks: int) -> float:
    """Share of the time that the tensor pipe works, with `blocks` of `warps_a_block` warps on the SM: 0 to 1."""
    here = max(1, warps_a_block // 4)
    warps = [_Warp(block) for block in range(max(blocks, 1)) for _ in range(here)]
    busy = {place: mma_clocks(i, target) for place, i in enumerate(loop.instructions) if i.name in (*MMA, *FMA)}
    if loop.mmas:
        busy = {place: clocks for place, clocks in busy.items() if loop.instructions[place].name in MMA}
    return _Quarter(loop.instructions, busy, warps).run()


class _Quarter:
    """The state of one scheduler and its units; times in clocks."""

    def __init__(self, code: Sequence[Instruction], busy: dict[int, float], warps: list[_Warp]) -> None:
        self.code, self.busy, self.warps = code, busy, warps
        self.issue = self.pipe = self.port = 0.0
        self.worked = 0.0
        self.arrived: dict[int, list[_Warp]] = {}

    def run(self) -> float:
        """Warm up, then measure; trips count on the average, since a greedy warp may leave the others behind."""
        begin, done = 0.0, 0.0
        warm = False
        while True:
            warp, start = self.next_warp()
            trips = sum(w.trips for w in self.warps) / len(self.warps)
            if not warm and trips >= WARM:
                warm, begin, done = True, self.pipe, self.worked
            if trips >= WARM + MEASURED:
                return (self.worked - done) / max(self.pipe - begin, 1.0)
            self.step(warp, start)

    def next_warp(self) -> tuple[_Warp, float]:
        """The warp that can issue first, and when."""
        waiting = {id(w) for block in self.arrived.values() for w in block}
        # A barrier lets its warps go when the last arrives, so some warp is always free.
        free = [(self.possible(warp), warp) for warp in self.warps if id(warp) not in waiting]
        when, warp = min(free, key=lambda pair: (pair[0], -pair[1].issued))
        return warp, when

    def possible(self, warp: _Warp) -> float:
        code = self.code[warp.place]
        when = max(warp.ready, self.issue)
        for scoreboard in range(6):
            if code.wait >> scoreboard & 1:
                when = max(when, warp.free[scoreboard])
        return max(when, self.pipe) if warp.place in self.busy else when

    def step(self, warp: _Warp, start: float) -> None:
        code = self.code[warp.place]
        self.issue = start + 1
        warp.issued = start
        warp.ready = start + max(code.stall, 1)
        begun = start
        port = _port(code)
        if port:
            begun = max(start, self.port)
            self.port = begun + port
        if warp.place in self.busy:
            self.pipe = start + self.busy[warp.place]
            self.worked += self.busy[warp.place]
        if code.write != NO_SCOREBOARD:
            warp.free[code.write] = max(warp.free[code.write], begun + _latency(code))
        if code.read != NO_SCOREBOARD:
            warp.free[code.read] = max(warp.free[code.read], begun + OPERAND_READ)
        warp.place += 1
        if warp.place == len(self.code):
            warp.place, warp.trips = 0, warp.trips + 1
        if code.name == "BAR":
            self.meet(warp)

    def meet(self, warp: _Warp) -> None:
        """A barrier: the last warp of the block to come lets all of them go."""
        here = self.arrived.setdefault(warp.block, [])
        here.append(warp)
        if len(here) == sum(w.block == warp.block for w in self.warps):
            release = max(w.ready for w in here) + BARRIER
            for waiting in here:
                waiting.ready = release
            del self.arrived[warp.block]
