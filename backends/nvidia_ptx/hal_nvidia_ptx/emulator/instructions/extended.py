"""Integers of several registers: the carry is a bit per lane beside the registers."""

from __future__ import annotations

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.integer import high
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import Instruction


def _carry(lanes: Lanes) -> Array:
    state = lanes.run.state
    if "carry" not in state:
        state["carry"] = np.zeros(lanes.run.total, np.bool_)
    carry: Array = state["carry"]
    return carry


@instruction("add.cc", "addc", "sub.cc", "subc", "mad.lo.cc", "mad.hi.cc", "madc")
def _extended(ins: Instruction, program: Program) -> Op:
    name, kind = ins.parts[0], ins.parts[-1]
    if kind not in ("u32", "s32", "u64", "s64"):
        raise ValueError(f"type .{kind}")
    kind = "u" + kind[1:]
    reads, writes = name.endswith("c"), "cc" in ins.parts
    sources = [program.source(ins, 1 + i, kind) for i in range(3 if name.startswith("mad") else 2)]
    result = program.dest(ins, 0, kind)
    minus = name.startswith("sub")
    upper = "hi" in ins.parts

    def run(run: object, lanes: Lanes) -> None:
        a, b, *rest = (lanes.read(slot) for slot in sources)
        if rest:
            a, b = high(a, b, kind) if upper else a * b, rest[0]
        carry = lanes.of(_carry(lanes)).astype(a.dtype) if reads else a.dtype.type(0)
        partial = a - b if minus else a + b
        total = partial - carry if minus else partial + carry
        if writes:
            over = (a < b) | (partial < carry) if minus else (partial < a) | (total < partial)
            _carry(lanes)[lanes.index] = over
        lanes.put(result, total)

    return run
