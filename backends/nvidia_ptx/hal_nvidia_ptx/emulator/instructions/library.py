"""Functions of the driver that compilers call without a body: printf, and what a failed assert ends in.

`inline` makes an instruction of the call: its results, then its arguments, each a variable of the caller's.
"""

from __future__ import annotations

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.lanes import Lanes
from hal_nvidia_ptx.emulator.machine import Run, Stop
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.syntax import DTYPE, Instruction


@instruction("call.vprintf", writes=0, faith="unmodelled")
def _vprintf(ins: Instruction, program: Program) -> Op:
    """(arguments printed) = vprintf(format, arguments). Nothing is printed here."""
    program.count(ins, 3)
    result = program.address(ins, 0)

    def run_vprintf(run: Run, lanes: Lanes) -> None:
        run.store(ins, "local", lanes, result.get(lanes), np.zeros(lanes.count, np.int32))

    return run_vprintf


@instruction("call.__assertfail", writes=0)
def _assertfail(ins: Instruction, program: Program) -> Op:
    """__assertfail(message, file, line, function, size of a character)"""
    program.count(ins, 5)
    places = [program.address(ins, index) for index in range(4)]
    kinds = [DTYPE[kind] for kind in ("u64", "u64", "u32", "u64")]

    def run_assertfail(run: Run, lanes: Lanes) -> bool:
        one = lanes.where(np.arange(lanes.count) == 0)
        message, file, line, function = (
            int(run.load(ins, "local", one, place.get(one), kind)[0]) for place, kind in zip(places, kinds, strict=True)
        )
        said = f"{_text(run, message)} does not hold at {_text(run, file)}:{line}, in {_text(run, function)}"
        run.find("assertion failed", said, ins, lanes, expected="the kernel's own assert holds")
        raise Stop

    return run_assertfail


def _text(run: Run, address: int) -> str:
    """The characters in global memory up to a zero; "?" where there is nothing to read."""
    block = run.arena.covering(address, address + 1)
    if block is None:
        return "?"
    data = run.arena.read(address, block.end - address).tobytes()
    return data.partition(b"\0")[0].decode(errors="replace")
