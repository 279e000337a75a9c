"""What softmax and the norms share on the host: which lanes take which row, and the arguments of a launch.

    warp     1 to 32 lanes share a row, which they hold in registers; several rows a block, no barrier
    block    64 to 1024 lanes share a row, which they hold in registers; they meet in shared memory
    stream   any length: 512 lanes go over the row in chunks, once for each sweep of the algorithm
    gather   rows whose elements are not neighbours in memory: `stream` element by element, at index times stride

A lane holds `slots` vectors of `vector` neighbours; vector i of a lane lies i * lanes vectors behind its first one,
whatever the operands' alignment: narrower accesses change neither who holds an element nor the order of a sum. All
this depends on the row's length, the dtypes and the layouts, never on how many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hal.device import DeviceInfo
from hal.dtypes import accumulator
from hal.errors import UnsupportedError
from hal.kernel import F32, F64, I32, I64, Argument, Config, In, Launch, Out, Schedule
from hal.op import Op, OpClass, next_pow2
from hal.ops.rows import PER_ROW_RESULTS, Rows, row_length, walk
from hal_nvidia_ptx.kernels import batch
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize
from hal_nvidia_ptx.target import TARGETS

SHARED = ("weight", "bias")  # one row for the whole batch
VECTOR_BYTES = 16
WARP, MOST_LANES = 32, 1024
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
    batch.check_axes(op.name, len(rows.batch))
    axes = max(len(rows.row), 1)
    operands = (*op.outputs, *op.inputs)
    if 8 * (len(operands) + 4 + (len(rows.batch) + axes) * (len(operands) + 1)) > PARAMETER_BYTES:
        raise UnsupportedError(
            f"{op.name}: {axes} axes of a row remain after merging, more than a kernel's parameters can tell the "
            "strides of; make an operand contiguous"
        )
    sm = 80 if TARGETS[info.props["target"]].sm >= 80 else 75
    bucket = next_pow2(n)
    if any(len(rows.row) > 1 or strides[:1] not in ((), (1,)) for strides in _gatherable(op, rows)):
        return [_gather(bucket, axes, sm)]
    vector = VECTOR_BYTES // itemsize(op.dtype)
    most = _slots(op, vector)
    ways = [_held(bucket, vector, most, sm)] if bucket <= MOST_LANES * vector * most else []
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


# ---------------------------------------------------------------- arguments


def batched(op_class: OpClass) -> list[str]:
    """The operands that vary from row to row."""
    return [operand.role for operand in (*op_class.outputs, *op_class.inputs) if operand.role not in SHARED]


def gathered(op_class: OpClass, way: Way) -> list[str]:
    """The operands that are read or written at index times stride."""
    operands = (*op_class.outputs, *op_class.inputs)
    return [operand.role for operand in operands if way.gathered and operand.layout != "single"]


def parameters(op_class: OpClass, way: Way, numbers: Sequence[str]) -> list[tuple[str, str]]:
    """Names and types. numbers: the names of the operator's own, in the accumulator's type."""
    kind = ARITHMETIC[op_class.inputs[0].dtype]
    roles = gathered(op_class, way)
    return [
        *((operand.role, "u64") for operand in (*op_class.outputs, *op_class.inputs)),
        *((name, kind) for name in numbers),
        ("n", "s32"),
        *([("rows", "s32")] if way.rows > 1 else []),
        *((f"length{axis}", "s32") for axis in range(1, way.axes)),
        *((f"{role}_step{axis}", "s64") for role in roles for axis in range(way.axes)),
        *batch.parameters(op_class.batch_ndim, batched(op_class)),
    ]


def schedule(op: Op, config: Config, numbers: Sequence[float]) -> Schedule:
    """One launch, or none where nothing is to be written. numbers: as in `parameters`."""
    if not any(spec.size for _, spec in op.outputs):
        return Schedule(())
    way, rows = Way.of(config), walk(op)
    operands = (*op.outputs, *op.inputs)
    steps = dict(zip((role for role, _ in operands), rows.row_strides, strict=True))
    strides = dict(zip((role for role, _ in operands), rows.batch_strides, strict=True))
    number: type[F64] | type[F32] = F64 if op.dtype == "float64" else F32
    arguments: tuple[Argument, ...] = (
        *map(Out, range(len(op.outputs))),
        *map(In, range(len(op.inputs))),
        *(number(value) for value in numbers),
        I32(row_length(op)),
        *([I32(rows.count)] if way.rows > 1 else []),
        *map(I32, rows.row[1:]),
        *(I64(step) for step in _steps(op, way, steps)),
        *batch.arguments(rows.batch, strides, [role for role, _ in operands if role not in SHARED]),
    )
    blocks = -(-rows.count // way.rows)
    return Schedule((Launch(0, (blocks, 1, 1), (way.threads, 1, 1), arguments),))


def _steps(op: Op, way: Way, strides: dict[str, tuple[int, ...]]) -> list[int]:
    """Bytes from one index of a row's axis to the next, for each operand that is gathered. Axes of length 1 are gone
    from the walk: a row of one element has none."""
    if not way.gathered:
        return []
    sizes = {role: itemsize(spec.dtype) for role, spec in (*op.outputs, *op.inputs)}
    return [
        step * sizes[role]
        for role in sizes
        if role not in PER_ROW_RESULTS
        for step in (strides[role] or (0,) * way.axes)
    ]
