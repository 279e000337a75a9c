"""What hal's kernels should reach, figure by figure: chosen between what the best known open kernels do and the floor.

A goal is for the config that the hardware of a target is tuned for; other tiles of the same algorithm serve small
problems and have none. Figures are those of measure.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from hal.kernel import Config
from hal_nvidia_ptx.target import CHECKED

AT_LEAST = ("share", "fma", "util", "flight")  # figures that should be high; all others should be low


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds by figure."""

    bounds: Mapping[str, float] = field(default_factory=dict)

    def text(self, figure: str) -> str:
        """The bound as people write it, or nothing."""
        if figure not in self.bounds:
            return ""
        return f"{'>=' if figure in AT_LEAST else '<='}{self.bounds[figure]:g}"

    def to_json(self) -> dict[str, float]:
        return dict(self.bounds)

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> Goal:
        return cls(dict(data))


@dataclass(frozen=True, slots=True)
class _Rule:
    """Bounds for cases that match a pattern, on some targets, with configs that have these numbers."""

    cases: str
    targets: tuple[str, ...]
    tiles: tuple[Mapping[str, int], ...]
    bounds: Mapping[str, float]
    configs: str = "*"


AMPERE = ("sm_80",)
GEFORCE = ("sm_86", "sm_89")
_128X256 = ({"bm": 128, "bn": 256, "bk": 64}, {"bm": 256, "bn": 128, "bk": 64})
_128X128X32 = ({"bm": 128, "bn": 128, "bk": 32},)
_256X128X32 = ({"bm": 256, "bn": 128, "bk": 32},)
_128X128X64 = ({"bm": 128, "bn": 128, "bk": 64},)
_FFMA = ({"bm": 128, "bn": 128, "bk": 8},)
_ANY: tuple[Mapping[str, int], ...] = ({},)

COMMON: Mapping[str, float] = {"spills": 0}  # of every kernel
CODE = 12 * 1024  # bytes of a kernel: more does not stay in the instruction caches

PACKED = tuple(target for target in CHECKED if target != "sm_75")  # that have instructions for pairs of bfloat16
_HALF = "matmul *float16 4096x4096x4096*"
RULES = (
    _Rule("*", CHECKED, _ANY, COMMON),
    _Rule("matmul *", CHECKED, _ANY, {"code": CODE}),
    _Rule(_HALF, ("sm_75",), _256X128X32, {"others": 0.50, "cover": 1.03, "util": 0.93}),
    _Rule(_HALF, AMPERE, _128X256, {"others": 0.75, "cover": 1.02, "util": 0.95, "registers": 240, "port": 0.75}),
    _Rule(_HALF, AMPERE, _128X128X32, {"others": 0.95, "util": 0.93}),
    _Rule(_HALF, GEFORCE, _128X128X64, {"util": 0.99}),
    _Rule(_HALF, ("sm_120",), _128X128X64, {"others": 0.80, "util": 0.97}),
    _Rule("matmul float32 4096x4096x4096*", CHECKED, _FFMA, {"fma": 0.85}, "ffma*"),
    _Rule("softmax bfloat16 1024", PACKED, _ANY, {"slots": 9, "barriers": 0, "flight": 48, "special": 1.1}, "warp"),
    _Rule("softmax bfloat16 4096", PACKED, _ANY, {"slots": 10, "barriers": 1, "flight": 48, "special": 1.1}, "block"),
    _Rule("softmax bfloat16 32768", PACKED, _ANY, {"slots": 10, "special": 1.1}, "block"),
    _Rule("softmax float32 4096", CHECKED, _ANY, {"slots": 11, "special": 1.1}, "block"),
    _Rule("layernorm bfloat16 1024", PACKED, _ANY, {"slots": 11, "barriers": 0}, "warp"),
    _Rule("layernorm bfloat16 4096", PACKED, _ANY, {"slots": 12, "barriers": 2}, "block"),
    _Rule("layernorm bfloat16 32768", PACKED, _ANY, {"slots": 12.5}, "block"),
    # Enough threads to hide memory's latency, with all loads of each under way.
    *(
        _Rule(f"{name} {dtype} *", CHECKED, _ANY, {"share": 0.4}, way)
        for name in ("softmax", "layernorm")
        for dtype in ("bfloat16", "float32")
        for way in ("warp", "block")
    ),
)


def goal_of(case: str, target: str, config: Config) -> Goal:
    """All bounds that apply to this kernel."""
    bounds: dict[str, float] = {}
    for rule in RULES:
        numbers = dict(config.values).items()
        fits = any(tile.items() <= numbers for tile in rule.tiles)
        if fits and target in rule.targets and fnmatchcase(case, rule.cases) and fnmatchcase(config.name, rule.configs):
            bounds.update(rule.bounds)
    return Goal(bounds)


def has_own(goal: Goal) -> bool:
    """Whether there are bounds for just this kernel: those for all kernels do not count."""
    return bool(goal.bounds.keys() - COMMON.keys() - {"code"})


def unmet(goal: Goal, figures: Mapping[str, Any]) -> list[str]:
    """The bounds that these figures miss, as text; a figure that is not there misses nothing."""
    missed = []
    for name, bound in goal.bounds.items():
        value = figures.get(name)
        if value is not None and (value < bound if name in AT_LEAST else value > bound):
            missed.append(f"{name} {value:.4g} {goal.text(name)}")
    return missed
