"""Tensor maps: what cuTensorMapEncodeTiled makes, and which bytes a box of one names.

The 128 bytes of a real map are opaque; the emulator's have a layout of their own, told by a mark at their beginning.
Dimensions stand innermost first, as in the driver's call. The rules and numbers are those of the CUDA driver's
documentation of cuTensorMapEncodeTiled.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hal.errors import OptionError, UnsupportedError

BYTES = 128
MARK = b"halTMAP1"
# CUtensorMapDataType by number: name and bytes of an element.
DTYPES = (
    ("u8", 1),
    ("u16", 2),
    ("u32", 4),
    ("s32", 4),
    ("u64", 8),
    ("s64", 8),
    ("f16", 2),
    ("f32", 4),
    ("f64", 8),
    ("bf16", 2),
    ("f32_ftz", 4),
    ("tf32", 4),
    ("tf32_ftz", 4),
)
SIZES = dict(DTYPES)
SWIZZLES = (0, 32, 64, 128)  # bytes, by CUtensorMapSwizzle's numbers
PROMOTIONS = (0, 64, 128, 256)  # bytes, by CUtensorMapL2promotion's numbers
FILLS = ("zero", "nan")  # by CUtensorMapFloatOOBfill's numbers
_LAYOUT = struct.Struct("<8s6BxxQ5I4Q5H5B")
_RANKS = 5


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a box that lies in the tensor, outermost dimension first.

    address: of its first element; shape and strides (bytes): of the elements in global memory; begin: its corner in
    the box; box: the box's own shape. An empty part has a 0 in its shape.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def whole(self) -> bool:
        return self.shape == self.box

    @property
    def empty(self) -> bool:
        return 0 in self.shape


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A tiled tensor in global memory and the box that one copy takes from it.

    shape, box, element_strides: elements; strides: bytes between neighbours of dimensions 1 and up; swizzle and
    promotion: bytes; fill: what a load puts where the box leaves the tensor.
    """

    dtype: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    swizzle: int = 0
    promotion: int = 0
    fill: str = "zero"

    def __post_init__(self) -> None:
        """Raises OptionError, which says the rule, for a map that the driver would refuse."""
        _check_rank(self)
        _check_tensor(self)
        _check_box(self)

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return SIZES[self.dtype]

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements of the box in shared memory, innermost first: fewer than `box` where element strides skip some."""
        skipped = zip(self.box[1:], self.element_strides[1:], strict=True)
        return (self.box[0], *(-(-extent // step) for extent, step in skipped))

    @property
    def row(self) -> int:
        """Bytes of one box row in global memory."""
        return self.box[0] * self.size

    @property
    def pitch(self) -> int:
        """Bytes from a row to the next in shared memory: a swizzled row takes the whole span."""
        return max(self.row, self.swizzle)

    @property
    def rows(self) -> int:
        product = 1
        for count in self.counts[1:]:
            product *= count
        return product

    @property
    def box_bytes(self) -> int:
        """Bytes that one load completes on its barrier: the whole box, whatever lies outside the tensor."""
        return self.row * self.rows

    def encode(self) -> bytes:
        """The 128 bytes that a kernel gets as its parameter."""
        dtype = [name for name, _ in DTYPES].index(self.dtype)
        codes = (SWIZZLES.index(self.swizzle), PROMOTIONS.index(self.promotion), FILLS.index(self.fill))
        rank = len(self.shape)
        shape = [extent - 1 for extent in self.shape] + [0] * (_RANKS - rank)
        strides = [*self.strides, *[0] * (_RANKS - rank)]
        box = [*self.box, *[1] * (_RANKS - rank)]
        steps = [*self.element_strides, *[1] * (_RANKS - rank)]
        fields = (MARK, dtype, rank, 0, *codes, self.address, *shape, *strides[:4], *box, *steps)
        return _LAYOUT.pack(*fields).ljust(BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> TensorMap:
        """The map in 128 bytes. Raises OptionError where they are none."""
        if data[:8] != MARK:
            raise OptionError("tensor map: the 128 bytes were not made by cuTensorMapEncodeTiled")
        _, dtype, rank, _, swizzle, promotion, fill, address, *rest = _LAYOUT.unpack_from(data)
        return cls(
            DTYPES[dtype][0],
            address,
            tuple(extent + 1 for extent in rest[:rank]),
            tuple(rest[5 : 4 + rank]),
            tuple(rest[9 : 9 + rank]),
            tuple(rest[14 : 14 + rank]),
            SWIZZLES[swizzle],
            PROMOTIONS[promotion],
            FILLS[fill],
        )

    def window(self, corner: Sequence[int]) -> Window:
        """What of the box at `corner` (elements, innermost first) the tensor has."""
        address = self.address
        begins, extents, steps = [], [], []
        byte_strides = (self.size, *self.strides)
        for axis, first in enumerate(corner):
            step = self.element_strides[axis] if axis else 1
            begin = max(0, -(first // step)) if first < 0 else 0
            end = min(self.counts[axis], -(-(self.shape[axis] - first) // step))
            begins.append(begin)
            extents.append(max(end - begin, 0))
            steps.append(byte_strides[axis] * step)
            address += (first + begin * step) * byte_strides[axis]
        backward = slice(None, None, -1)
        parts = (extents, steps, begins, list(self.counts))
        return Window(address, *(tuple(part[backward]) for part in parts))


def of_driver(
    dtype: int,
    address: int,
    shape: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    element_strides: Sequence[int],
    interleave: int = 0,
    swizzle: int = 0,
    promotion: int = 0,
    fill: int = 0,
) -> TensorMap:
    """A map from the arguments of cuTensorMapEncodeTiled, enumerations as their numbers.

    Raises OptionError for what the driver refuses and UnsupportedError for what it takes and the emulator does not
    have: interleaved layouts, packed 4- and 6-bit elements, swizzles of larger atoms.
    """
    if interleave:
        raise UnsupportedError(
            f"tensor map: interleave {interleave} is not emulated; use CU_TENSOR_MAP_INTERLEAVE_NONE"
        )
    for name, value, known in (("dtype", dtype, DTYPES), ("swizzle", swizzle, SWIZZLES)):
        if not 0 <= value < len(known):
            raise UnsupportedError(f"tensor map: {name} {value} is not emulated; 0 to {len(known) - 1} are")
    for name, value, allowed in (("L2 promotion", promotion, PROMOTIONS), ("out-of-bounds fill", fill, FILLS)):
        if not 0 <= value < len(allowed):
            raise OptionError(f"tensor map: {name} must be 0 to {len(allowed) - 1}, got {value}")
    return TensorMap(
        DTYPES[dtype][0],
        address,
        tuple(shape),
        tuple(strides),
        tuple(box),
        tuple(element_strides),
        SWIZZLES[swizzle],
        PROMOTIONS[promotion],
        FILLS[fill],
    )


def _demand(holds: bool, rule: str, given: object) -> None:
    if not holds:
        raise OptionError(f"tensor map: {rule}, got {given}")


def _check_rank(m: TensorMap) -> None:
    rank = len(m.shape)
    _demand(m.dtype in SIZES, f"the dtype must be one of {', '.join(SIZES)}", m.dtype)
    _demand(1 <= rank <= _RANKS, "the rank must be 1 to 5", rank)
    _demand(len(m.strides) == rank - 1, f"rank {rank} needs {rank - 1} strides (of dimensions 1 and up)", m.strides)
    _demand(len(m.box) == rank, f"the box needs {rank} extents", m.box)
    _demand(len(m.element_strides) == rank, f"rank {rank} needs {rank} element strides", m.element_strides)
    _demand(m.swizzle in SWIZZLES, "the swizzle must be 0, 32, 64 or 128 bytes", m.swizzle)
    _demand(m.promotion in PROMOTIONS, "the L2 promotion must be 0, 64, 128 or 256 bytes", m.promotion)
    _demand(m.fill in FILLS, "the out-of-bounds fill must be zero or nan", m.fill)
    is_float = "f" in m.dtype
    _demand(m.fill == "zero" or is_float, "a fill of NaN needs a floating-point dtype", m.dtype)


def _check_tensor(m: TensorMap) -> None:
    _demand(m.address > 0 and m.address % 16 == 0, "the global address must be a multiple of 16", hex(m.address))
    for axis, extent in enumerate(m.shape):
        _demand(1 <= extent <= 1 << 32, f"dimension {axis} must have 1 to 2^32 elements", extent)
    for axis, stride in enumerate(m.strides, 1):
        _demand(stride % 16 == 0, f"the stride of dimension {axis} must be a multiple of 16 bytes", stride)
        _demand(0 <= stride < 1 << 40, f"the stride of dimension {axis} must be below 2^40 bytes", stride)


def _check_box(m: TensorMap) -> None:
    for axis, extent in enumerate(m.box):
        _demand(1 <= extent <= 256, f"the box must have 1 to 256 elements in dimension {axis}", extent)
    for axis, step in enumerate(m.element_strides):
        _demand(1 <= step <= 8, f"the element stride of dimension {axis} must be 1 to 8", step)
    inner = m.box[0] * SIZES[m.dtype]
    _demand(inner % 16 == 0, "the box's inner dimension must be a multiple of 16 bytes", f"{inner} bytes")
    fits = not m.swizzle or inner <= m.swizzle
    _demand(fits, f"the box's inner dimension must fit the swizzle's span of {m.swizzle} bytes", f"{inner} bytes")
