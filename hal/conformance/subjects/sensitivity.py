"""The generic bound: what an operator that hal has no bound for may give, from how its exact result reacts to rounding.

The reference is the operator in float64 on the CPU. Its floating inputs are moved by half a unit in the last place of
their own dtype: all away from zero, all towards it, operands by turns, and by random signs; Python numbers too that the
dtype has not exactly. D is FACTOR times the largest change of an element, or its change when inputs move FAR times as
much, if that is more (at a jump, such as that of floor). With |r|max the largest finite result of the tensor:

    e = D + ULPS * u * |r|max + smallest normal number,        u = 2^-24, 2^-11, 2^-8

and a result is right within hal's common rule, RN(r - e) <= got <= RN(r + e). A backward stable algorithm errs by a
modest multiple of such a change; FACTOR is that multiple, and generous, since sums of a few thousand elements in one
chain are lawful; |r|max, because x (1 + erf x) and its like are lawful too. So this finds what is grossly wrong (a
wrong index, a dropped term, 16-bit sums that no longer grow, NaN and infinities), and no lost bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.bound import Exact, Verdict, judge_output
from hal.conformance.subjects import tree
from hal.dtypes import round_to

FACTOR = 32.0
ULPS = 8.0
FAR = 8.0
DRAWS = ("up", "down", "by turns", *("random",) * 3, *("far",) * 4)  # the perturbed runs
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


class Reference:
    """The results of a call in float64, and how much they move. Raises whatever the operator raises.

    values: one float64, integer or bool array for each result (complex ones as pairs). moves: D of each.
    random: a second run gave other values, so nothing can be judged. mutates: the call changes its arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        dtype: str,
        change: Callable[[Any], Any] = lambda tensor: tensor,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)

        def given(move: Callable[[Any], Any] | None = None) -> Any:
            # A broadcast operand's elements round each on its own, so what is moved has no layout any more.
            return tree.float64((args, kwargs), move or _same, _same if move else change)

        first = given()
        versions = [x._version for x in tree.tensors(first)]
        self.values = results(function, first)
        # batch_norm writes its statistics past the counter; some write what was there before.
        self.mutates = versions != [x._version for x in tree.tensors(first)] or any(
            not same(x, y) for x, y in zip(_arrays(first), _arrays(given()), strict=True)
        )
        again = results(function, given())
        self.random = len(again) != len(self.values) or any(
            not same(x, y) for x, y in zip(self.values, again, strict=True)
        )
        self.moves = [np.zeros(x.shape) for x in self.values]
        for name in DRAWS if not self.random else ():
            weight = 1.0 if name == "far" else FACTOR
            moved = results(function, given(Move(name, dtype, rng)))
            for most, x, y in zip(self.moves, self.values, moved, strict=False):
                np.fmax(most, weight * distance(x, y), out=most)

    def judge(self, got: list[NDArray[Any]], names: list[str], dtype: str) -> Verdict:
        """Hold the device's results, of the dtypes `names`, against the bound."""
        if len(got) != len(self.values):
            return Verdict(False, float("inf"), f"{len(got)} results; the reference has {len(self.values)}")
        verdicts = [
            self._judge_one(x, name, value, move, dtype, f"result {i}" if len(got) > 1 else "out")
            for i, (x, name, value, move) in enumerate(zip(got, names, self.values, self.moves, strict=True))
        ]
        worst = max((v.ratio for v in verdicts), default=0.0)
        return Verdict(all(v.ok for v in verdicts), worst, "; ".join(v.message for v in verdicts if v.message))

    def _judge_one(
        self, got: NDArray[Any], name: str, value: NDArray[Any], move: NDArray[Any], dtype: str, role: str
    ) -> Verdict:
        if got.shape != value.shape:
            return Verdict(False, float("inf"), f"{role} has shape {got.shape}; the reference has {value.shape}")
        if name not in UNIT or value.dtype.kind != "f":  # integers and truth values are right or wrong
            right = (got == value) | (move > 0)
            wrong = int(np.size(right) - np.count_nonzero(right))
            at = tuple(int(i) for i in np.argwhere(~right)[0]) if wrong else ()
            text = (
                f"{wrong} of {got.size} elements of {role} are wrong; first {list(at)}: {got[at]!s}, not {value[at]!s}"
            )
            return Verdict(True, 0.0) if not wrong else Verdict(False, float("inf"), text, wrong, got.size)
        unit = max(UNIT[name], UNIT[dtype])
        with np.errstate(all="ignore"):
            size = np.max(np.abs(value), where=np.isfinite(value), initial=0.0)
            error = move + ULPS * unit * size + max(TINY[name], TINY[dtype])
        return judge_output(got, Exact(name, value, error), role=role)


def results(function: Callable[..., Any], given: Any) -> list[NDArray[Any]]:
    """The results of a call on the CPU as arrays."""
    import torch

    args, kwargs = given
    with torch.no_grad():
        return _arrays(function(*args, **kwargs))


def _arrays(made: Any) -> list[NDArray[Any]]:
    """Tensors and Python numbers of a tree as arrays; complex ones as pairs of real numbers."""
    import torch

    found = []
    for x in tree.leaves(made):
        if isinstance(x, torch.Tensor):
            x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
            found.append(x.resolve_neg().cpu().numpy())
        elif isinstance(x, (bool, int, float)):
            found.append(np.asarray(x))
    return found


class Move:
    """What moves the floating inputs of one perturbed run; called for each in turn."""

    def __init__(self, name: str, dtype: str, rng: np.random.Generator) -> None:
        self.name, self.dtype, self.rng, self.count = name, dtype, rng, 0

    def __call__(self, x: Any) -> Any:
        """A tensor or Python number, moved. A number that the dtype has exactly stays."""
        import torch

        self.count += 1
        if isinstance(x, float):
            exact = not np.isfinite(x) or float(round_to(np.asarray(x), self.dtype)) == x
            return x if exact else x * (1.0 + float(self.signs(())))
        return x * (1.0 + torch.from_numpy(self.signs(tuple(x.shape))))

    def signs(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """By how much of itself each element moves."""
        unit = UNIT[self.dtype] * (FAR if self.name == "far" else 1.0)
        if self.name in ("random", "far"):
            return np.asarray(unit * (self.rng.integers(0, 2, shape) * 2.0 - 1.0))
        up = self.name == "up" or (self.name == "by turns" and self.count % 2 == 1)
        return np.full(shape, unit if up else -unit)


def _same(x: Any) -> Any:
    return x


def distance(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """How far an element moved; 0 where either is no number, both are the same infinity, or the shape has changed."""
    if x.shape != y.shape:
        return np.zeros(x.shape)
    with np.errstate(all="ignore"):
        if x.dtype.kind == "b" or y.dtype.kind == "b":
            return np.asarray(x != y, np.float64)
        moved: NDArray[np.float64] = np.abs(x.astype(np.float64) - y.astype(np.float64))
    found: NDArray[np.float64] = np.where(np.isnan(moved) | (x == y), 0.0, moved)
    return found


def same(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Equal in shape and value, NaN to NaN."""
    return x.shape == y.shape and bool(np.all((x == y) | ((x != x) & (y != y))))
