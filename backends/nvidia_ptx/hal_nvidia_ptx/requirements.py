"""Which `.version` and `.target` a PTX text needs for the instructions in it: for the writer, and to check texts.

From the "PTX ISA Notes" and "Target ISA Notes" of each instruction in the PTX ISA document, and held against the
assembler by tests/test_nvidia_stated.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

Version = tuple[int, int]


# A pattern of "opcode operands" (the number of operands counts for some), the lowest version, the lowest target. All
# that match count.
REQUIREMENTS: tuple[tuple[str, Version, int], ...] = (
    # matrices
    (r"ldmatrix\.", (6, 5), 75),
    (r"movmatrix\.", (7, 8), 75),
    (r"stmatrix\.", (7, 8), 90),
    (r"mma\.sync\.aligned\.m8n8k4\.", (6, 4), 70),
    (r"mma\.sync\.aligned\.(m16n8k8|m8n8k16|m8n8k32)\.", (6, 5), 75),
    (r"mma\.sync\.aligned\.(m16n8k(4|16|32|64)\.|m16n8k8\.\S*\.(bf16|tf32)\.|m8n8k4\.\S*\.f64\.)", (7, 0), 80),
    (r"mma\.sync\.aligned\.m16n8k\d+\.\S*\.f64\.", (7, 8), 90),
    (r"mma\.sync\.aligned\.m16n8k\d+\.\S*\.e[45]m[23]\.", (8, 4), 89),
    (r"mma\.sync\.aligned\.(m16n8k16\.\S*\.e[45]m[23]\.|m16n8k32\.\S*\.f16\.e[45]m[23]\.)", (8, 7), 89),
    (r"wmma\.\S*\.(bf16|tf32|f64)\b", (7, 0), 80),
    (r"wgmma\.", (8, 0), 90),
    # asynchronous copies
    (r"cp\.async\.(ca|cg|commit_group|wait_group|wait_all|mbarrier)", (7, 0), 80),
    (r"cp\.async\.\S*(L2::128B|L2::256B|cache_hint)", (7, 4), 80),
    (r"cp\.(reduce\.)?async\.bulk", (8, 0), 90),
    (r"cp\.async\.bulk\.(tensor\.\dd\.)?shared::cta\.global\.", (8, 6), 90),
    (r"cp\.async\.bulk\.\S*cp_mask", (8, 6), 100),
    (r"prefetch\.tensormap", (8, 0), 90),
    (r"(st|red)\.async\.", (8, 1), 90),
    # order and agreement
    (r"mbarrier\.", (7, 0), 80),
    (r"mbarrier\.test_wait\.parity", (7, 1), 80),
    (r"mbarrier\.try_wait", (7, 8), 90),
    (r"mbarrier\.arrive(_drop)?\.(?!noComplete|expect_tx)\S* 3$", (7, 8), 90),
    (r"mbarrier\.\S*(release|acquire|relaxed)\.", (8, 0), 80),
    (r"mbarrier\.\S*\.cluster\.|mbarrier\.\S*(expect|complete)_tx", (8, 0), 90),
    (r"fence\.proxy\.alias", (7, 5), 70),
    (r"fence\.(proxy\.async|mbarrier_init)", (8, 0), 90),
    (r"(fence\.proxy|tensormap\.)\S*tensormap::", (8, 3), 90),
    (r"fence\.(acquire|release)\.", (8, 6), 90),
    (r"fence\.\S*\.cluster\b", (7, 8), 90),
    (r"barrier\.cluster|griddepcontrol|mapa\.|getctarank\.", (7, 8), 90),
    (r"barrier\.cluster\.\S*(acquire|release|relaxed)", (8, 0), 90),
    (r"bar(rier)?\.cta\.", (7, 8), 70),
    (r"elect\.sync|setmaxnreg", (8, 0), 90),
    (r"redux\.sync", (7, 0), 80),
    (r"redux\.sync\.\S*\.f32\b", (8, 6), 100),
    # memory
    (r"(ld|st|atom|red|cvta|isspacep|mbarrier|ldmatrix|cp\.async\.mbarrier)\.\S*shared::c", (7, 8), 70),
    (r"(ld|st|atom|red|cvta|isspacep)\.\S*(shared::cluster|(acquire|release|acq_rel|relaxed)\.cluster)", (7, 8), 90),
    (r"(ld|st)\.\S*L1::", (7, 4), 70),
    (r"(ld|st)\.\S*L2::", (7, 4), 75),
    (r"(ld|st|atom|red)\.\S*(cache_hint|L2::256B)", (7, 4), 80),
    (r"(ld|st)\.\S*(v8\.\w32|v4\.\w64)\b", (8, 8), 100),
    (r"(ld|st)\.mmio", (8, 2), 70),
    (r"ld\.param::", (8, 3), 70),
    (r"(isspacep|cvta)\.param\b", (7, 7), 70),
    (r"createpolicy|discard|applypriority", (7, 4), 80),
    (r"(atom|red)\.\S*\.bf16", (7, 8), 90),
    (r"(atom|red)\.\S*\.v[248]\.", (8, 1), 90),
    # conversions
    (r"cvt\.pack\.", (6, 5), 75),
    (r"cvt\.[a-z.]*(bf16(x2)?\.f32|bf16|tf32)|cvt\.\S*f16x2\.f32|cvt\.\S*relu\.f16", (7, 0), 80),
    (r"cvt\.f32\.bf16", (7, 1), 80),
    (r"cvt\.\S*satfinite\.f16\.f32", (8, 1), 70),
    (r"cvt\.\S*satfinite\.(tf32|bf16)", (8, 1), 80),
    (r"cvt\.(rn|rz)\.\S*tf32\.", (7, 8), 90),
    (r"cvt\.\S*\bbf16\.(?!f32 )|cvt\.(?!\S*\bf32\.bf16 )\S*\.bf16 ", (7, 8), 90),
    (r"cvt\.\S*e[45]m[23]x2", (8, 1), 89),
    # arithmetic
    (r"(tanh|ex2)\.approx\.(f16|bf16|ftz\.bf16)|tanh\.", (7, 0), 75),
    (r"(tanh|ex2)\.approx\.(ftz\.)?bf16", (7, 8), 90),
    (r"(fma|neg|abs|min|max)\.\S*bf16|(min|max)\.\S*(NaN|f16)|fma\.\S*relu\.", (7, 0), 80),
    (r"(add|sub|mul|setp|set)\.\S*\bbf16", (7, 8), 90),
    (r"fma\.\S*oob\.", (8, 1), 90),
    (r"abs\.\S*f16", (6, 5), 70),
    (r"(min|max)\.\S*xorsign", (7, 2), 86),
    (r"(min|max)\.\S*f32 4$", (8, 8), 100),
    (r"(min|max)\.\S*(relu\.s|[su]16x2)|add\.[su]16x2", (8, 0), 90),
    (r"(add|sub|mul|fma)\.\S*(f32x2|f32\.b?f16)\b", (8, 6), 100),
    (r"lop3\.(or|and)\.", (8, 2), 70),
    (r"(szext|bmsk)\.", (7, 6), 70),
)
_REQUIREMENTS = [(re.compile(pattern), version, sm) for pattern, version, sm in REQUIREMENTS]

# Instructions of single architectures, and the targets that have them.
SPECIFIC: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"wgmma\.", ("sm_90a",)),
    (r"setmaxnreg\.", ("sm_90a", "sm_100a", "sm_120a")),
    (r"redux\.sync\.\S*\.f32\b", ("sm_100a",)),
)
_SPECIFIC = [(re.compile(pattern), targets) for pattern, targets in SPECIFIC]

# Special registers and directives that came later.
REGISTERS: tuple[tuple[str, Version, int], ...] = (
    (r"\.(reqnctapercluster|maxclusterrank|explicitcluster|blocksareclusters)", (7, 8), 90),
    (r"%(cluster|ncluster|is_explicit_cluster)", (7, 8), 90),
    (r"%aggr_smem_size", (8, 1), 90),
    (r"%reserved_smem_offset", (7, 6), 80),
)
_REGISTERS = [(re.compile(pattern), version, sm) for pattern, version, sm in REGISTERS]


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a text has to state: the lowest `.version`, the lowest sm, and if not empty the only targets."""

    version: Version
    sm: int
    targets: tuple[str, ...] = ()

    def met(self, version: Version, target: str) -> bool:
        """Whether a text of this `.version` and `.target` may have the instruction."""
        sm = int("".join(filter(str.isdigit, target)))
        return version >= self.version and (target in self.targets if self.targets else sm >= self.sm)

    def __str__(self) -> str:
        target = " or ".join(self.targets) if self.targets else f"sm_{self.sm} or newer"
        return f".version {self.version[0]}.{self.version[1]} or newer and .target {target}"


@cache
def requirement(opcode: str, operands: int = 0) -> Requirement:
    """Of an instruction with this number of operands."""
    text = f"{opcode} {operands}"
    version, sm = (0, 0), 0
    for pattern, lowest, target in _REQUIREMENTS:
        if pattern.match(text):
            version, sm = max(version, lowest), max(sm, target)
    return Requirement(version, sm, next((targets for pattern, targets in _SPECIFIC if pattern.match(text)), ()))


@cache
def register_requirement(name: str) -> Requirement:
    """Of a special register or a directive."""
    found = [(version, sm) for pattern, version, sm in _REGISTERS if pattern.match(name)]
    return Requirement(*found[0]) if found else Requirement((0, 0), 0)
