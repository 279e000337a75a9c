"""TorchSubject: a torch device as a device of hal, so that what computes there can be judged.

Memory is byte tensors; operands are strided views of them. torch has no negative strides: such an operand is a
flipped copy. Works with torch 2.1 and newer; nothing of torch is changed.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hal.conformance.subjects import by_torch
from hal.conformance.subjects.functions import Function, FunctionSubject, WhyNot
from hal.device import Bytes, Operand
from hal.dtypes import DTYPES
from hal.errors import BackendUnavailable, DeviceMemoryError
from hal.op import Op, TensorSpec

PROBED = ("float64", "float32", "float16", "bfloat16", "int8")
SPARE = 64  # bytes: sizes are rounded up to it, so that every dtype's view fits


def open_torch(text: str) -> TorchSubject:
    """torch's own operators on the torch device `text`: "cpu", "cuda:1", "npu" …"""
    device = torch_device(text)
    return TorchSubject(f"torch@{text}", device, by_torch.OPERATORS, by_torch.why_not)


def torch_device(text: str) -> Any:
    """The torch.device of that name, tried out. Raises BackendUnavailable that says what to install or which are."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            f"torch@{text}: torch cannot be imported ({error}); install it (pip install torch), or run hal with the "
            "Python of the image that has the vendor's torch"
        ) from error
    kind = text.partition(":")[0]
    if kind not in ("cpu", "cuda", "meta"):  # plug-ins of torch before 2.5 have to be imported first
        with contextlib.suppress(ImportError):
            importlib.import_module(f"torch_{kind}")
    try:
        device = torch.device(text)
        if device.type == "meta":
            raise BackendUnavailable("torch@meta: meta tensors have no values to judge")
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise BackendUnavailable(
            f"torch@{text}: torch {torch.__version__} has no such device here ({first}). Known to work: "
            f"{', '.join(known_devices(torch))}; a vendor's plug-in (torch_npu, torch_musa …) has to be installed"
        ) from error
    return device


def known_devices(torch: Any) -> list[str]:
    """Device strings that this torch would take."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6
    if accelerator is not None and accelerator.is_available():
        found.append(str(accelerator.current_accelerator()))
    return [f"torch@{name}" for name in dict.fromkeys(found)]


class TorchSubject(FunctionSubject):
    """Functions on tensors of one torch device."""

    def __init__(
        self, name: str, device: Any, functions: Mapping[str, Function], why_not: WhyNot | None = None
    ) -> None:
        import torch

        self.torch, self.device = torch, device
        dtypes = frozenset(dtype for dtype in PROBED if self.multiplies(dtype))
        super().__init__(name, functions, self.description(), dtypes, why_not)

    def multiplies(self, dtype: str) -> bool:
        """Whether the device knows a dtype: a product of two small matrices decides (int8: of int32)."""
        kind = getattr(self.torch, "int32" if dtype == "int8" else dtype)
        try:
            ones = self.torch.ones((2, 2), dtype=kind, device=self.device)
            return bool((self.torch.matmul(ones, ones).cpu() == 2).all())
        except (RuntimeError, TypeError, NotImplementedError):
            return False

    def description(self) -> str:
        """The chip's name as torch has it."""
        named = getattr(self.module(), "get_device_name", None)
        chip = str(named(self.device)) if callable(named) else self.device.type
        return f"{chip} by torch {self.torch.__version__}"

    def module(self) -> Any:
        """torch.cuda, torch.npu …; None for the CPU of an old torch."""
        return getattr(self.torch, self.device.type, None)

    def properties(self) -> dict[str, Any]:
        return {"torch": self.torch.__version__, "torch_device": str(self.device)}

    def alloc(self, nbytes: int) -> Any:
        size = -(-nbytes // SPARE) * SPARE
        try:
            return self.torch.empty(size, dtype=self.torch.uint8, device=self.device)
        except RuntimeError as error:
            raise DeviceMemoryError(f"{self.name}: no memory for {nbytes} bytes: {error}") from error

    def copy_in(self, target: Any, offset: int, source: Bytes) -> None:
        # A copy of its own: device copies may be asynchronous, and torch warns of read-only arrays.
        target[offset : offset + source.nbytes].copy_(self.torch.from_numpy(np.array(source)))

    def copy_out(self, target: Bytes, source: Any, offset: int) -> None:
        target[...] = source[offset : offset + target.nbytes].cpu().numpy()

    def synchronize(self) -> None:
        wait = getattr(self.module(), "synchronize", None)
        if wait is not None and self.device.type != "cpu":
            wait()

    def run(self, op: Op, outputs: Sequence[Operand], inputs: Sequence[Operand]) -> None:
        tensors = [self.tensor(spec, operand) for (_, spec), operand in zip(op.inputs, inputs, strict=True)]
        with self.torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = self.call(op, tensors)
            for (_, spec), operand, result in zip(op.outputs, outputs, results, strict=True):
                view, flipped = self.view(spec, operand)
                view.copy_(self.torch.flip(result, flipped) if flipped else result)

    def tensor(self, spec: TensorSpec, operand: Operand) -> Any:
        """An input."""
        view, flipped = self.view(spec, operand)
        return self.torch.flip(view, flipped) if flipped else view

    def view(self, spec: TensorSpec, operand: Operand) -> tuple[Any, list[int]]:
        """A view with positive strides over an operand's memory, and the axes along which it runs backwards."""
        memory, offset = operand
        dtype = getattr(self.torch, DTYPES[spec.dtype].name)
        if spec.size == 0:
            return self.torch.empty(spec.shape, dtype=dtype, device=self.device), []
        flipped = [i for i, step in enumerate(spec.strides) if step < 0]
        start = offset // spec.itemsize + sum((spec.shape[i] - 1) * spec.strides[i] for i in flipped)
        strides = [abs(step) for step in spec.strides]
        return self.torch.as_strided(memory.view(dtype), spec.shape, strides, start), flipped
