"""Whether an operand may stand where an instruction wants a type: "Operand Type Checking" of the PTX ISA document.

Sizes have to be the same, and integers, floats and packed floats do not mix; registers of bits (.b32) go with all.
Loads, stores and conversions may use registers that are wider than their type. The tests compare with the assembler.
"""

from __future__ import annotations

from hal_nvidia_ptx.emulator.syntax import RAW, WIDTH, Imm

# Types that share a class agree; b8 to b128 are in none, and agree with all.
CLASSES = {
    "pred": "pred", "f16": "half", "bf16": "brain half", "f16x2": "halves", "bf16x2": "brain halves", "tf32": "tf32",
    "f32": "float", "f64": "float", "f32x2": "floats", "e4m3x2": "bytes", "e5m2x2": "bytes",
} | {f"{sign}{bits}": "integer" for sign in "su" for bits in (8, 16, 32, 64)}  # fmt: skip
FLOATING = ("f32", "f64")
_ARITHMETIC = frozenset(
    ("add", "sub", "mul", "mad", "div", "rem", "min", "max", "and", "or", "xor", "not", "shl", "shr", "setp", "selp")
    + ("cvt", "neg", "abs")
)
_WIDE_SPECIAL = frozenset(("%clock64", "%globaltimer"))
_ANY_SPECIAL = frozenset(("%gridid",))  # 32 bits before PTX 3.0


def agrees(declared: str, wanted: str, wider: bool = False) -> bool:
    """Whether a register of one type may be used as the other; wider: it may have more bits."""
    own, other = CLASSES.get(declared, ""), CLASSES.get(wanted, "")
    if "pred" in (own, other):
        return own == other
    more = WIDTH[declared] - WIDTH[wanted]
    if more and not (wider and more > 0):
        return False
    if more and own == other == "float":
        return False
    return not own or not other or own == other


def constant_agrees(number: Imm, wanted: str, wider: bool = False) -> bool:
    """The same for a constant: integers for integers and bits, floating-point for floats and bits of their width."""
    if number.bits == RAW:
        return agrees(number.kind, wanted, wider)
    whole = isinstance(number.value, int)
    if wanted in CLASSES and not wanted.startswith(("s", "u", "p")):
        return not whole and wanted in FLOATING
    return whole or (wanted not in CLASSES and number.bits == 8 * WIDTH[wanted])


def symbol_agrees(name: str, wanted: str) -> bool:
    """The same for a variable's address as an operand of the instruction `name`; in brackets it is no such operand."""
    return CLASSES.get(wanted, "integer") == "integer" and name not in _ARITHMETIC


def special_agrees(name: str, wanted: str) -> bool:
    """The same for a special register, which `mov` reads; those of old had 16 bits."""
    if wanted == "pred" or CLASSES.get(wanted, "integer") != "integer":
        return False
    if name in _ANY_SPECIAL:
        return True
    return WIDTH[wanted] == 8 if name in _WIDE_SPECIAL else WIDTH[wanted] == 4 or ("." in name and WIDTH[wanted] == 2)
