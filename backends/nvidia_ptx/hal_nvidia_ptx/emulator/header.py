"""The head of a PTX text, `.version`, `.target` and `.address_size`, and what it allows the instructions to be."""

from __future__ import annotations

import re
from functools import cache

from hal_nvidia_ptx.emulator.operands import SPECIAL
from hal_nvidia_ptx.emulator.syntax import Instruction, Module, PtxError, Reg
from hal_nvidia_ptx.requirements import register_requirement, requirement
from hal_nvidia_ptx.target import TARGETS

NEWEST = (9, 5)  # the newest .version of which the assembler that hal is tested with knows
# Targets older than those that are emulated, whose texts newer chips run, with the lowest .version that names each.
OLDER = {
    "sm_50": (4, 0), "sm_52": (4, 1), "sm_53": (4, 2), "sm_60": (5, 0), "sm_61": (5, 0), "sm_62": (5, 0),
    "sm_70": (6, 0), "sm_72": (6, 1),
}  # fmt: skip
_WORD = re.compile(r"\s*([\w.]+)(?:\s*,\s*\w+)*")


def read(module: Module, name: str, text: str, position: int) -> int:
    """Take one directive's word from `position` of the text; the position behind it. Errors have no line."""
    found = _WORD.match(text, position)
    if found is None:
        raise PtxError(f".{name} of what?")
    if name == "version":
        module.version = _version(found[1])
    elif name == "target":
        module.target = _target(found[1], module.version)
    elif found[1] != "64":
        raise PtxError(f".address_size {found[1]}: addresses have 64 bits; 32-bit PTX runs on no chip of today")
    return found.end()


def check_head(module: Module) -> None:
    """Raises PtxError for a text that does not say what it is written for."""
    first = module.lines[0] if module.lines else ""
    if not module.version[0]:
        raise PtxError("the text has no .version", 1, first)
    if not module.target:
        raise PtxError("the text has no .target: write .target sm_80, or what it is for", 1, first)


def _version(word: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)", word)
    if found is None:
        raise PtxError(f".version {word}: write it as 8.0")
    version = int(found[1]), int(found[2])
    if version > NEWEST:
        raise PtxError(f".version {word} is newer than {NEWEST[0]}.{NEWEST[1]}, the newest that is known")
    return version


def _target(word: str, version: tuple[int, int]) -> str:
    if not version[0]:
        raise PtxError("the text has no .version, which comes first")
    lowest = TARGETS[word].ptx if word in TARGETS else OLDER.get(word)
    if lowest is None:
        raise PtxError(f".target {word} is not emulated; known are {', '.join([*OLDER, *TARGETS])}")
    if version < lowest:
        raise PtxError(f".target {word} takes .version {_dotted(lowest)} or newer, the text has {_dotted(version)}")
    return word


def check_instruction(module: Module, ins: Instruction) -> None:
    """Raises PtxError for an instruction that the text's `.version` and `.target` do not have."""
    wrong = _missing(ins.opcode, len(ins.operands), module.version, module.target)
    source = ins.operands[1] if ins.parts[0] == "mov" and len(ins.operands) == 2 else None
    if isinstance(source, Reg) and source.name in SPECIAL:
        wrong = _missing(source.name, 0, module.version, module.target)
    if wrong:
        raise ins.error(wrong)


def check_directive(module: Module, name: str) -> None:
    """The same for a directive of a kernel. Its error has no line."""
    wrong = _missing(f".{name}", 0, module.version, module.target)
    if wrong:
        raise PtxError(wrong)


@cache
def _missing(what: str, operands: int, version: tuple[int, int], target: str) -> str:
    """What an opcode or special register takes that the text does not have, "" where there is nothing."""
    needs = register_requirement(what) if what[0] in "%." else requirement(what, operands)
    if needs.met(version, target):
        return ""
    return f"{what} takes {needs}, the text has .version {_dotted(version)} and .target {target}"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
