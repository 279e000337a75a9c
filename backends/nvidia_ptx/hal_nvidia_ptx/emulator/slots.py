"""Slots: everything an instruction reads or writes by name, as arrays of one dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.syntax import DTYPE, RAW, Imm, Symbol

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.machine import Run

Array: TypeAlias = NDArray[Any]


class Slot(Protocol):
    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        """The array for a batch: of all its lanes, or of one element. `raw` holds the registers' own arrays."""


@dataclass(eq=False, slots=True)  # not frozen: thousands are made for a kernel
class RegisterSlot:
    """A register seen as dtype; of a wider register its low part."""

    name: str
    kind: str
    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        own = raw.get(self.name)
        if own is None:
            own = raw[self.name] = np.zeros(run.total, DTYPE[self.kind])
        if own.dtype == self.dtype:
            return own
        view = own.view(self.dtype)
        return view if len(view) == len(own) else view[:: len(view) // len(own)]


@dataclass(frozen=True, slots=True)
class ConstantSlot:
    """One value."""

    value: Array

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return self.value


@dataclass(frozen=True, slots=True)
class SpecialSlot:
    """A special register: constant while a batch runs."""

    name: str
    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return run.special(self.name).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """Bytes of the kernel's parameters."""

    offset: int
    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return run.parameters[self.offset : self.offset + self.dtype.itemsize].view(self.dtype)


@dataclass(frozen=True, slots=True)
class ParameterWindowSlot:
    """What turns an address in .param space into a generic one, by addition."""

    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return np.array([run.parameter_window], self.dtype)


@dataclass(frozen=True, slots=True)
class AddressSlot:
    """The address of a variable in its own space, known when the kernel is launched."""

    symbol: Symbol
    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return np.array([run.address_of(self.symbol.name) + self.symbol.offset], np.int64).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class ScratchSlot:
    """A register that nobody reads."""

    dtype: np.dtype[Any]

    def array(self, run: Run, raw: dict[str, Array]) -> Array:
        return np.zeros(run.total, self.dtype)


def constant(number: Imm, dtype: np.dtype[Any]) -> Array:
    """[1] of a dtype: integers wrap, floating-point constants in an integer register are their bits."""
    value = number.value
    if dtype.kind == "b":
        return np.array([bool(value)])
    if dtype.kind == "f" and number.bits == RAW and isinstance(value, int):
        return np.array([value], f"u{dtype.itemsize}").view(dtype)
    if dtype.kind == "f":
        return np.array([value], np.float64).astype(dtype)
    if isinstance(value, float):
        kept = np.float32 if dtype.itemsize == 4 else np.float64
        return np.array([value], kept).view(f"u{np.dtype(kept).itemsize}").astype(dtype)
    bits = 8 * dtype.itemsize
    if bits > 64:
        wide = value & ((1 << 128) - 1)
        return np.array([(wide & (1 << 64) - 1, wide >> 64)], dtype)
    return np.array([value & ((1 << bits) - 1)], f"u{dtype.itemsize}").view(dtype)
