"""Arguments of torch operators: tensors among lists, tuples, dictionaries and plain values.

`convert` maps every leaf of such a tree; `float64` and `perturbed` make of a call's arguments those of its reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def convert(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree with `leaf` applied to everything that is no list, tuple or dictionary."""
    if isinstance(tree, dict):
        return {key: convert(value, leaf) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(convert(value, leaf) for value in tree))
    if isinstance(tree, (list, tuple)):
        made = [convert(value, leaf) for value in tree]
        return made if isinstance(tree, list) else tuple(made)
    return leaf(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Everything in a tree that is no list, tuple or dictionary, in order."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        yield tree
        return
    for value in tree:
        yield from leaves(value)


def tensors(tree: Any) -> list[Any]:
    """The tensors of a tree."""
    import torch

    return [x for x in leaves(tree) if isinstance(x, torch.Tensor)]


def on_device(tree: Any, device: Any, change: Callable[[Any], Any] = lambda tensor: tensor) -> Any:
    """Every tensor copied to a device and then through `change`; arguments that name a device name that one."""
    import torch

    def leaf(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return change(x.detach().to(device, copy=True))
        return device if isinstance(x, torch.device) else x

    return convert(tree, leaf)


def float64(tree: Any, move: Callable[[Any], Any], change: Callable[[Any], Any]) -> Any:
    """The arguments of the reference: floating tensors as float64 on the CPU, dtypes widened.

    move: applied to floating tensors and Python floats. change: to every tensor in the end; gives it its layout.
    """
    import torch

    wide = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
    wide.update(dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64))

    def leaf(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            made = x.detach().to("cpu", wide.get(x.dtype, x.dtype), copy=True)
            return change(move(made) if x.is_floating_point() or x.is_complex() else made)
        if isinstance(x, torch.dtype):
            return wide.get(x, x)
        if isinstance(x, float):
            return move(x)
        return torch.device("cpu") if isinstance(x, torch.device) else x

    return convert(tree, leaf)
