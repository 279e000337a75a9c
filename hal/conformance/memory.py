"""What the suite puts into a device's memory: operands laid out by their strides, between guards.

An `Image` is the host's copy of one allocation. Before and behind the elements, and in the gaps between them, lies a
pattern; whatever of it changes was written without right. In inputs the pattern is NaN (as far as the dtype has one),
so that a kernel which reads a neighbour and multiplies it by 0 is found out too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.dtypes import DTYPES
from hal.op import TensorSpec

GUARD = 256  # bytes before and behind: more than any vector store, and a multiple of every alignment
NAN_FILL = 0xFF  # all bits set: NaN in every floating dtype, -1 in the integers
FINITE_FILL = 0x47  # an ordinary number in every dtype: what was not written differs from run to run


@dataclass(frozen=True)
class Image:
    """Bytes of one allocation. `start` is the byte at which element [0, …, 0] stands."""

    spec: TensorSpec
    data: NDArray[np.uint8]
    start: int

    @classmethod
    def blank(cls, spec: TensorSpec, fill: int, extra: Sequence[TensorSpec] = ()) -> Image:
        """Filled with the pattern `fill`. `extra`: further operands that share the memory and the start."""
        low = min(s.extent()[0] for s in (spec, *extra)) * spec.itemsize
        high = max(s.extent()[1] for s in (spec, *extra)) * spec.itemsize
        start = GUARD - low
        # Element [0, …, 0] stands on a multiple of `align`, but of no larger power of two that alloc gives.
        align = min(s.align & -s.align for s in (spec, *extra))
        start += -start % align
        if align < 64 and start % (2 * align) == 0:
            start += align
        # A bool is 0 or 1; no other pattern is one.
        pattern = fill & 1 if spec.dtype == "bool" else fill
        return cls(spec, np.full(start + high + GUARD, pattern, np.uint8), start)

    @classmethod
    def of(cls, spec: TensorSpec, values: NDArray[Any], fill: int = NAN_FILL) -> Image:
        """With `values` stored through the strides. Where indices share an element the last of them stays."""
        image = cls.blank(spec, fill)
        image.elements[...] = values
        return image

    @property
    def elements(self) -> NDArray[Any]:
        """The operand, as a view of `data`."""
        return self.view(self.spec)

    def view(self, spec: TensorSpec) -> NDArray[Any]:
        """An operand of this memory that starts where this one does."""
        strides = tuple(s * spec.itemsize for s in spec.strides)
        if spec.size == 0:
            return np.empty(spec.shape, DTYPES[spec.dtype].numpy)
        return np.ndarray(spec.shape, DTYPES[spec.dtype].numpy, self.data, self.start, strides)

    def surroundings_equal(self, other: Image) -> str:
        """Empty if all bytes that belong to no element are the same in both; else where the first change is."""
        if self.spec.is_contiguous:
            end = self.start + self.spec.size * self.spec.itemsize
            outside = np.ones(len(self.data), np.bool_)
            outside[self.start : end] = False
        else:
            flags = Image(self.spec, np.zeros(len(self.data), np.uint8), self.start)
            flags.elements.view(f"V{self.spec.itemsize}")[...] = b"\x01" * self.spec.itemsize
            outside = flags.data == 0
        changed = np.flatnonzero(outside & (self.data != other.data))
        if not len(changed):
            return ""
        at, (low, high) = int(changed[0]) - self.start, (n * self.spec.itemsize for n in self.spec.extent())
        where = "before the first element" if at < low else "behind the last" if at >= high else "in a gap"
        return f"{len(changed)} bytes outside the elements were written, the first {where} (byte {at} from element 0)"
