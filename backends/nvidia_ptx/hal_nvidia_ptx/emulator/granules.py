"""How finely the race detector watches the memory of a program: by its smallest access to each space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from hal_nvidia_ptx.emulator.syntax import WIDTH, Imm, Instruction

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.program import Program

ASYNCHRONOUS = ("cp.async", "cp.reduce.async", "wgmma", "mbarrier", "st.async", "red.async")
_TRAITS: WeakKeyDictionary[Program, tuple[dict[str, int], bool]] = WeakKeyDictionary()


def traits(program: Program) -> tuple[dict[str, int], bool]:
    """Granules of a program's memory, and whether it has asynchronous instructions; looked at once."""
    found = _TRAITS.get(program)
    if found is None:
        asynchronous = any(ins.opcode.startswith(ASYNCHRONOUS) for ins in program.instructions)
        found = _TRAITS[program] = granules(program.instructions), asynchronous
    return found


def granules(instructions: Iterable[Instruction]) -> dict[str, int]:
    """The smallest access to shared and to global memory, bytes, 16 at most."""
    smallest = {"shared": 16, "global": 16}
    for ins in instructions:
        nbytes = _nbytes(ins)
        spaces = [space for space in smallest if any(part.startswith(space) for part in ins.parts)]
        for space in spaces or smallest:
            smallest[space] = min(smallest[space], nbytes)
    return smallest


def _nbytes(ins: Instruction) -> int:
    """Bytes of one access of the instruction; 16 for those that access no memory or more."""
    parts = ins.parts
    if parts[0] in ("ld", "ldu", "st", "atom", "red", "wmma") and not ins.has(
        "param", "const", "local", "async", "bulk"
    ):
        count = int(next((part[1:] for part in parts if part in ("v2", "v4", "v8")), 1))
        return min(16, count * WIDTH.get(parts[-1], 16))
    if parts[:2] == ("cp", "async") and len(ins.operands) > 2 and "bulk" not in parts:
        size = ins.operands[2]
        return int(size.value) if isinstance(size, Imm) else 16
    return 4 if "tensor" in parts else 16
