"""Edge layouts of torch tensors: the same call with its tensors laid out in ways that kernels forget.

Each function gives a tensor with its argument's values (`broadcast` and `empty` change them) in another layout; a
tensor that cannot have it stays as it is. What lies between the elements is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def transposed(x: Any) -> Any:
    """The last two axes swapped in memory."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.ndim > 1 else strided(x)


def strided(x: Any) -> Any:
    """Every second element of a row twice as long."""
    if x.ndim == 0:
        return x
    filler = float("nan") if x.is_floating_point() or x.is_complex() else 0
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), filler)
    view = wide[..., ::2]
    view.copy_(x)
    return view


def offset(x: Any) -> Any:
    """Contiguous, one element behind where memory begins."""
    memory = x.new_zeros(x.numel() + 1)
    view = memory[1:].view(x.shape)
    view.copy_(x)
    return view


def broadcast(x: Any) -> Any:
    """The first of the leading axis in place of all (stride 0)."""
    return x[:1].expand(x.shape) if x.ndim > 0 and x.shape[0] > 1 else x


def empty(x: Any) -> Any:
    """No element along the leading axis."""
    return x[:0] if x.ndim > 0 else x


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": transposed,
    "strided": strided,
    "offset": offset,
    "broadcast": broadcast,
    "empty": empty,
}
