"""What a run did, counted: instructions by class, shared memory's wavefronts, global memory's sectors, barriers.

Only when asked for, since it costs as much again as the run. The rules are those of sm_75 and later:

Shared memory has 32 banks of 4 bytes. A warp's access of up to 4 bytes a lane is one request, of 8 bytes one for each
half of the warp, of 16 bytes one for each quarter (a matrix of ldmatrix is a quarter). A request takes as many
wavefronts as the fullest bank has different words; the least that its words could take is one for every 32.

Global memory is moved in sectors of 32 bytes. The least for a request is its bytes, each counted once, by 32.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.hooks import Access
    from hal_nvidia_ptx.emulator.lanes import Lanes
    from hal_nvidia_ptx.emulator.memory import Space
    from hal_nvidia_ptx.emulator.program import Program
    from hal_nvidia_ptx.emulator.syntax import Instruction

Array: TypeAlias = NDArray[Any]

WARP, BANKS, WORD, SECTOR = 32, 32, 4, 32
NOBODY = -1  # the word of a lane that takes no part

# Classes by the first part of an opcode; what is in none is "other".
CLASSES = {
    "matrix": "mma wmma wgmma",
    "special function": "ex2 lg2 rcp rsqrt sqrt sin cos tanh div",
    "memory": "ld ldu st ldmatrix stmatrix atom red prefetch cp",
    "synchronise": "bar barrier membar fence mbarrier",
    "control": "bra brx call ret exit trap nanosleep",
    "across lanes": "shfl vote match redux activemask elect movmatrix",
    "move and convert": "mov cvt cvta prmt selp slct mapa pack",
    "compare": "setp set testp",
}  # fmt: skip
_CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes.split()}
_FLOATING = ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64", "tf32")


class Counted:
    """Implements hooks.Counters."""

    def __init__(self) -> None:
        self.shared = _Requests()
        self.memory = _Requests()
        self.read = Counter[str]()
        self.written = Counter[str]()
        self.barriers = 0

    def access(
        self,
        ins: Instruction,
        space: Space,
        lanes: Lanes,
        offsets: Array,
        nbytes: int,
        kind: Access,
        values: Array | None = None,
    ) -> None:
        """One instruction's access by its lanes."""
        moved = nbytes * len(offsets)
        if kind != "write":
            self.read[space.name] += moved
        if kind != "read":
            self.written[space.name] += moved
        if space.name == "shared":
            self.shared.add(ins, *wavefronts(lanes.spread(offsets, NOBODY * WORD), nbytes))
        elif space.name == "global":
            self.memory.add(ins, *sectors(lanes.spread(offsets, NOBODY * SECTOR), nbytes))

    def barrier(self, ins: Instruction, arrived: Array, waiting: Array, barrier: int) -> None:
        """A barrier completed; counted once for each warp that arrived."""
        self.barriers += len(np.unique(arrived // WARP))

    def result(self, program: Program, executed: Array) -> dict[str, Any]:
        """All counters by name. executed: how often a warp ran each instruction."""
        classes = Counter[str]()
        for ins, times in zip(program.instructions, executed, strict=True):
            classes[class_of(ins)] += int(times)
        return {
            "warp instructions": {"all": int(executed.sum()), **dict(classes.most_common())},
            "lane slots": int(executed.sum()) * WARP,
            "shared memory": self.shared.result("wavefronts"),
            "global memory": self.memory.result("sectors"),
            "bytes read": dict(self.read),
            "bytes written": dict(self.written),
            "barriers": self.barriers,
        }


class _Requests:
    """Requests of one space: how many, what they took, and what they could have taken, altogether and by line."""

    def __init__(self) -> None:
        self.count = 0
        self.taken, self.least = Counter[int](), Counter[int]()

    def add(self, ins: Instruction, count: int, taken: int, least: int) -> None:
        self.count += count
        self.taken[ins.line] += taken
        self.least[ins.line] += least

    def result(self, unit: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "requests": self.count,
            unit: sum(self.taken.values()),
            "least": sum(self.least.values()),
        }
        worse = {line: taken / self.least[line] for line, taken in self.taken.items() if taken > self.least[line]}
        for line, ratio in sorted(worse.items(), key=lambda item: -item[1])[:5]:
            found[f"line {line}: times the least"] = round(ratio, 2)
        return found


def wavefronts(offsets: Array, nbytes: int) -> tuple[int, int, int]:
    """(requests, wavefronts, least) of shared accesses at byte offsets [warps, 32], negative where a lane is absent."""
    words = max(nbytes // WORD, 1)
    lanes = WARP // words if words in (2, 4) else WARP
    touched = (offsets // WORD).reshape(-1, lanes)[:, :, None] + np.arange(words)
    touched = np.where((offsets >= 0).reshape(-1, lanes)[:, :, None], touched, NOBODY).reshape(len(touched), -1)
    touched = np.sort(touched, axis=1)
    fresh = touched != NOBODY
    fresh[:, 1:] &= touched[:, 1:] != touched[:, :-1]
    different = fresh.sum(axis=1)
    row = np.broadcast_to(np.arange(len(touched))[:, None], touched.shape)[fresh]
    banks = np.bincount(row * BANKS + touched[fresh] % BANKS, minlength=len(touched) * BANKS).reshape(-1, BANKS)
    return int((different > 0).sum()), int(banks.max(axis=1, initial=0).sum()), int((-(-different // BANKS)).sum())


def sectors(offsets: Array, nbytes: int) -> tuple[int, int, int]:
    """(requests, sectors, least) of global accesses at byte offsets [warps, 32], negative where a lane is absent."""
    touched = np.sort(offsets, axis=1)
    fresh = touched >= 0
    fresh[:, 1:] &= touched[:, 1:] != touched[:, :-1]
    least = -(-(fresh.sum(axis=1) * nbytes) // SECTOR)
    lines = touched // SECTOR
    new = touched >= 0
    new[:, 1:] &= lines[:, 1:] != lines[:, :-1]
    return int((fresh.sum(axis=1) > 0).sum()), int(new.sum()), int(least.sum())


def class_of(ins: Instruction) -> str:
    """The class that an instruction counts to."""
    name = _CLASS_OF.get(ins.parts[0])
    if name is not None:
        return name
    return "floating point" if ins.has(*_FLOATING) else "integer"
