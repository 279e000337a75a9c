"""Which types and modifiers an ordinary instruction has, from the syntax boxes of the PTX ISA document.

What is not in the table is checked by its builder alone. The order of modifiers does not matter here, nor to the
assembler where it is not ambiguous.
"""

from __future__ import annotations

from functools import cache

# instructions | types | modifiers they may have | modifiers of which they need one
TABLE = """
add sub       | u16 s16 u32 u64 s64 | cc |
add sub       | s32 | sat cc |
addc subc     | u32 s32 u64 s64 | cc |
add           | u16x2 s16x2 | |
add sub mul   | f32 | rn rz rm rp ftz sat |
add sub mul   | f64 | rn rz rm rp |
add sub mul   | f32x2 | rn rz rm rp ftz |
add sub mul   | f16 f16x2 | rn rz rm rp ftz sat f32 |
add sub mul   | bf16 bf16x2 | rn rz rm rp f32 |
mul           | u16 s16 u32 s32 | | lo hi wide
mul           | u64 s64 | | lo hi
mad           | u16 s16 u32 | cc | lo hi wide
mad           | s32 | cc sat | lo hi wide
mad           | u64 s64 | cc | lo hi
madc          | u32 s32 u64 s64 | cc | lo hi
mad fma       | f32 | ftz sat | rn rz rm rp
mad fma       | f64 | | rn rz rm rp
fma           | f32x2 | ftz | rn rz rm rp
fma           | f16 f16x2 | ftz sat relu f32 | rn rz rm rp
fma           | bf16 bf16x2 | relu f32 | rn rz rm rp
mul24         | u32 s32 | | lo hi
mad24         | u32 | | lo hi
mad24         | s32 | sat | lo hi
sad           | u16 s16 u32 s32 u64 s64 | |
div rem       | u16 s16 u32 s32 u64 s64 | |
div           | f32 | ftz | rn rz rm rp approx full
div           | f64 | | rn rz rm rp
rcp           | f32 | ftz | rn rz rm rp approx
rcp           | f64 | ftz | rn rz rm rp approx
sqrt          | f32 | ftz | rn rz rm rp approx
sqrt          | f64 | | rn rz rm rp
rsqrt         | f32 f64 | ftz | approx
ex2           | f32 f16 f16x2 | ftz | approx
ex2           | bf16 bf16x2 | | ftz
lg2 sin cos   | f32 | ftz | approx
tanh          | f32 f16 f16x2 bf16 bf16x2 | | approx
abs neg       | s16 s32 s64 f64 bf16 bf16x2 | |
abs neg       | f32 f16 f16x2 | ftz |
min max       | u16 u32 u64 s16 s64 u16x2 f64 | |
min max       | s32 s16x2 | relu |
min max       | f32 | ftz NaN xorsign abs |
min max       | f16 f16x2 | ftz NaN xorsign abs |
min max       | bf16 bf16x2 | NaN xorsign abs |
copysign      | f32 f64 | |
and or xor    | pred b16 b32 b64 | |
not           | pred b16 b32 b64 | |
cnot          | b16 b32 b64 | |
shl           | b16 b32 b64 | |
shr           | b16 b32 b64 u16 u32 u64 s16 s32 s64 | |
shf           | b32 | l r | wrap clamp
popc clz brev | b32 b64 | |
bfind         | u32 s32 u64 s64 | shiftamt |
bfe           | u32 s32 u64 s64 | |
bfi           | b32 b64 | |
szext         | u32 s32 | | wrap clamp
bmsk          | b32 | | wrap clamp
selp          | b16 b32 b64 u16 u32 u64 s16 s32 s64 f32 f64 | |
mov           | pred b16 b32 b64 b128 u16 u32 u64 s16 s32 s64 f32 f64 | |
nanosleep     | u32 | |
"""
_IMPLIED = {"ex2": "approx"}  # written beside the one that is needed


def _rows() -> dict[str, dict[str, tuple[frozenset[str], frozenset[str]]]]:
    rows: dict[str, dict[str, tuple[frozenset[str], frozenset[str]]]] = {}
    for line in TABLE.strip().splitlines():
        names, types, may, need = (field.split() for field in line.split("|"))
        for name in names:
            for kind in types:
                rows.setdefault(name, {})[kind] = frozenset(may), frozenset(need)
    return rows


_ROWS = _rows()


@cache
def complaint(parts: tuple[str, ...]) -> str:
    """What is wrong with an opcode's modifiers or type, "" for nothing (or an instruction that is not in the table)."""
    name, *modifiers = parts
    types = _ROWS.get(name)
    if types is None or not modifiers:
        return ""
    kind = modifiers.pop()
    if kind not in types:
        return f"{name} has no type .{kind}; it has .{' .'.join(types)}"
    may, need = types[kind]
    for modifier in modifiers:
        if modifier not in may and modifier not in need and _IMPLIED.get(name) != modifier:
            known = " .".join(sorted(may | need))
            return f"{name}.{kind} has no modifier .{modifier}{f'; it has .{known}' if known else ''}"
    if name == "mad" and kind == "s32" and "sat" in modifiers and "hi" not in modifiers:
        return "mad.sat.s32 is .hi"
    if name == "mad24" and "sat" in modifiers and "hi" not in modifiers:
        return "mad24.sat.s32 is .hi"
    if need and need.isdisjoint(modifiers):
        return f"{name}.{kind} needs one of .{' .'.join(sorted(need))}"
    return ""
