"""Which lanes take which row of softmax and the norms: their configs.

    warp     1 to 32 lanes share a row, which they hold in registers; several rows a block, no barrier
    block    64 to 1024 lanes share a row, which they hold in registers; they meet in shared memory
    stream   any length: 512 lanes go over the row in chunks, once for each sweep of the algorithm
    gather   rows whose elements are not neighbours in memory: `stream` element by element, at index times stride

A lane holds `slots` vectors of `vector` neighbours; vector i of a lane lies i * lanes vectors behind its first one,
whatever the operands' alignment: narrower accesses change neither who holds an element nor the order of a sum. All
this depends on the row's length, the dtypes and the layouts, never on how many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from hal.device import DeviceInfo
from hal.dtypes import accumulator
from hal.errors import UnsupportedError
from hal.kernel import Config
from hal.op import Op, OpClass, next_pow2
from hal.ops.rows import PER_ROW_RESULTS, Rows, row_length, walk
from hal_nvidia_ptx.kernels.values import itemsize
from hal_nvidia_ptx.target import TARGETS

SHARED = ("weight", "bias")  # one row for the whole batch
VECTOR_BYTES = 16
WARP, MOST_LANES = 32, 1024
BUSY, LESS_BUSY = 896, 640  # threads that an SM should hold at least, of 72 and (with a mask, a residual) 96 registers
BLOCK = 128  # threads of a block that holds several rows
STREAM_LANES = 512
ELEMENTS = 32  # a lane holds at most, and of what it loads at most this many 32-bit registers, float64 half
GATHER_SLOTS, GATHER_ELEMENTS = 4, 16  # in flight; and of a row that a lane takes before a second one helps it
LONGEST = 2**31 - 2**16  # so that an index stays below 2^31, a chunk behind the row's end too
MOST_ROWS = 2**31 - 2**8  # and a row number, in the last block too
PARAMETER_BYTES = 4096  # that every target takes


@dataclass(frozen=True)
class Way:
    """A config in words.

    lanes: that share a row; rows: of a block; vector: elements; slots: vectors of a lane at a time; axes: of a row
    whose elements are gathered; sm: 80 where bfloat16 and packed conversions are there, else 75.
    """

    name: str
    lanes: int
    rows: int
    vector: int
    slots: int
    axes: int
    sm: int

    @classmethod
    def of(cls, config: Config) -> Way:
        return cls(config.name, **dict(config.values))

    @property
    def held(self) -> bool:
        """Whether a row stays in registers from its one reading to its writing."""
        return self.name in ("warp", "block")

    @property
    def gathered(self) -> bool:
        return self.name == "gather"

    @property
    def threads(self) -> int:
        return self.lanes * self.rows

    def min_blocks(self, op_class: OpClass) -> int:
        """That an SM should hold: without a word on it the assembler spills rather than use a few registers more."""
        alone = sum(operand.role not in SHARED for operand in op_class.inputs) == 1
        return max((BUSY if alone else LESS_BUSY) // self.threads, 1)

    @property
    def step(self) -> int:
        """Elements from one vector of a lane to its next."""
        return self.lanes * self.vector

    @property
    def chunk(self) -> int:
        """Elements of a row that its lanes hold at a time."""
        return self.step * self.slots


def configs(op: Op, info: DeviceInfo) -> list[Config]:
    """The way for rows of this length and layout, and `stream` as the second choice where neighbours are neighbours."""
    rows, n = walk(op), row_length(op)
    if n > LONGEST or rows.count > MOST_ROWS:
        raise UnsupportedError(
            f"{op.name}: {rows.count} rows of {n} elements; rows and elements of a row are counted in 31 bits: split x"
        )
    axes = max(len(rows.row), 1)
    operands = (*op.outputs, *op.inputs)
    if 8 * (len(operands) + 4 + (len(rows.batch) + axes) * (len(operands) + 1)) > PARAMETER_BYTES:
        raise UnsupportedError(
            f"{op.name}: {axes} axes of a row and {len(rows.batch)} of the batch remain after merging, more than a "
            "kernel's parameters can tell the strides of; make an operand contiguous"
        )
    sm = 80 if TARGETS[info.props["target"]].sm >= 80 else 75
    bucket = next_pow2(n)
    if any(len(rows.row) > 1 or strides[:1] not in ((), (1,)) for strides in _gatherable(op, rows)):
        return [_gather(bucket, axes, sm)]
    vector = VECTOR_BYTES // itemsize(op.dtype)
    most = _slots(op, vector)
    lanes = MOST_LANES if len([role for role, _ in op.inputs if role not in SHARED]) == 1 else MOST_LANES // 2
    ways = [_held(bucket, vector, most, sm)] if bucket <= lanes * vector * most else []
    if n == 1:
        return ways  # one element is exactly 1: its exponential has to be about itself, and `stream` has its reference
    return [*ways, _config("stream", STREAM_LANES, vector, max(most // 2, 1), 1, sm)]


def _gatherable(op: Op, rows: Rows) -> list[tuple[int, ...]]:
    """The strides along the row of the operands that have some."""
    roles = [role for role, _ in (*op.outputs, *op.inputs)]
    return [strides for role, strides in zip(roles, rows.row_strides, strict=True) if role not in PER_ROW_RESULTS]


def _slots(op: Op, vector: int) -> int:
    """Vectors that a lane can hold: what comes from all operands that vary from row to row has to fit its registers."""
    loaded = sum(max(itemsize(spec.dtype) * vector // 4, 1) for role, spec in op.inputs if role not in SHARED)
    registers = ELEMENTS // 2 if accumulator(op.dtype) == "float64" else ELEMENTS
    most = min(registers // loaded, ELEMENTS // vector)
    return 1 << (most.bit_length() - 1)


def _config(name: str, lanes: int, vector: int, slots: int, axes: int, sm: int) -> Config:
    rows = BLOCK // lanes if lanes <= WARP else 1
    values = (("lanes", lanes), ("rows", rows), ("vector", vector), ("slots", slots), ("axes", axes), ("sm", sm))
    return Config(name, values)


def _held(bucket: int, vector: int, most: int, sm: int) -> Config:
    """A warp as long as its lanes can hold the row, then as few more lanes as can."""
    lanes = min(max(bucket // vector, 1), WARP)
    slots = max(bucket // (vector * lanes), 1)
    if slots > most:
        lanes, slots = bucket // (vector * most), most
    return _config("warp" if lanes <= WARP else "block", lanes, vector, slots, 1, sm)


def _gather(bucket: int, axes: int, sm: int) -> Config:
    lanes = min(max(bucket // GATHER_ELEMENTS, 1), STREAM_LANES)
    return _config("gather", lanes, 1, GATHER_SLOTS, axes, sm)
