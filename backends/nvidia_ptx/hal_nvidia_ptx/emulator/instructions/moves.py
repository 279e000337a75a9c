"""mov, cvta and the like."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hal_nvidia_ptx.emulator.instructions import Op, instruction
from hal_nvidia_ptx.emulator.instructions.scalar import plain, predicated, several
from hal_nvidia_ptx.emulator.lanes import Array, Lanes
from hal_nvidia_ptx.emulator.memory import LOCAL_WINDOW, SHARED_WINDOW
from hal_nvidia_ptx.emulator.program import Program
from hal_nvidia_ptx.emulator.slots import ParameterWindowSlot
from hal_nvidia_ptx.emulator.special import CLOCKS
from hal_nvidia_ptx.emulator.syntax import DTYPE, Imm, Instruction, Operand, Reg, Sink, Vector

NANOSECONDS = 1_000  # of %globaltimer for each instruction that the batch has run: time has to pass
_SPACES = {
    "shared": SHARED_WINDOW,
    "shared::cta": SHARED_WINDOW,
    "shared::cluster": SHARED_WINDOW,
    "local": LOCAL_WINDOW,
}


def copy(a: Array, out: Array) -> None:
    """out = a, for equal or NumPy-convertible types."""
    np.copyto(out, a, casting="unsafe")


@instruction("mov", guarded=True)
def _mov(ins: Instruction, program: Program) -> Op:
    program.count(ins, 2)
    op = _moved(ins, program)
    if ins.guard is None:
        return op
    target, source = ins.operands
    simple = not isinstance(target, Vector) and not isinstance(source, Vector)
    predicate = program.source(ins, ins.guard, "pred")
    if simple and not (isinstance(source, Reg) and source.name in CLOCKS):
        kind = _kind(ins, program)
        slots = [program.source(ins, 1, kind)]
        return predicated(copy, slots, [program.dest(ins, 0, kind)], predicate, ins.guard_not)
    from hal_nvidia_ptx.emulator.guards import guarded

    return guarded(op, ins, predicate)


def _kind(ins: Instruction, program: Program) -> str:
    """mov.u32 into a 64-bit register is not allowed, but .b32 from .f32 is: the instruction's width decides."""
    kind = ins.parts[-1]
    if kind not in DTYPE:
        raise ValueError(f"type .{kind}")
    return kind


def _moved(ins: Instruction, program: Program) -> Op:
    target, source = ins.operands
    kind = _kind(ins, program)
    if (isinstance(target, Vector) or isinstance(source, Vector)) and kind[0] != "b":
        raise ins.error("mov of a vector has a type of bits: .b32 .b64 .b128")
    if isinstance(source, Reg) and source.name in CLOCKS:
        program.source(ins, source, kind)
    if isinstance(target, Vector):
        return _split(ins, program, target, source, kind)
    if isinstance(source, Vector):
        return _join(ins, program, target, source, kind)
    if isinstance(source, Reg) and source.name in CLOCKS:
        return _clock(program.dest(ins, target, kind), source.name)
    return plain(copy, [program.source(ins, source, kind)], program.dest(ins, target, kind))


def _clock(result: int, name: str) -> Op:
    scale = NANOSECONDS if "timer" in name else 1
    shift = 32 if name.endswith("_hi") else 0

    def read(run: object, lanes: Lanes) -> None:
        value = lanes.run.clock * scale >> shift
        lanes.put(result, lanes.regs[result].dtype.type(value & 0x7FFFFFFF))

    return read


def _parts(ins: Instruction, program: Program, vector: Vector, kind: str) -> str:
    """The type of a vector's items."""
    size = DTYPE[kind].itemsize
    if size % len(vector.items):
        raise ins.error(f"{len(vector.items)} registers for {size} bytes")
    return f"b{8 * size // len(vector.items)}"


def _join(ins: Instruction, program: Program, target: Operand, vector: Vector, kind: str) -> Op:
    part = _parts(ins, program, vector, kind)
    sources = [program.source(ins, item, part) for item in program.items(ins, vector)]
    if kind == "b128":
        return _join128(program.dest(ins, target, "b128"), sources)
    bits = int(part[1:])
    unsigned = DTYPE[kind]

    def join(*args: Array) -> None:
        *values, out = args
        total = values[0].astype(unsigned)
        for number, value in enumerate(values[1:], 1):
            total = total | value.astype(unsigned) << unsigned.type(bits * number)
        np.copyto(out, total)

    return several(join, sources, [program.dest(ins, target, kind)])


def _join128(result: int, sources: list[int]) -> Op:
    def join(low: Array, high: Array, out: Array) -> None:
        out["low"], out["high"] = low, high

    return several(join, sources, [result])


def _split(ins: Instruction, program: Program, vector: Vector, source: Operand, kind: str) -> Op:
    part = _parts(ins, program, vector, kind)
    if isinstance(source, Vector):
        raise ins.error("a vector from a vector")
    value = program.source(ins, source, kind)
    bits = int(part[1:])
    wanted = [(number, item) for number, item in enumerate(program.items(ins, vector)) if not isinstance(item, Sink)]
    results = [program.dest(ins, item, part) for _, item in wanted]

    def split(a: Array, *outs: Array) -> None:
        pieces = []
        for number, _ in wanted:
            if kind == "b128":
                pieces.append(a["high" if number else "low"].copy())
            else:
                pieces.append(a >> a.dtype.type(bits * number))
        for out, piece in zip(outs, pieces, strict=True):
            np.copyto(out, piece, casting="unsafe")

    return several(split, [value], results)


@instruction("cvta", guarded=False)
def _cvta(ins: Instruction, program: Program) -> Op:
    """To or from a generic address."""
    parts = ins.parts
    kind = parts[-1]
    space = parts[2] if parts[1] == "to" else parts[1]
    source, result = program.source(ins, 1, kind), program.dest(ins, 0, kind)
    function = np.subtract if parts[1] == "to" else np.add
    if space.startswith("param"):
        return plain(function, [source, program.add(ParameterWindowSlot(DTYPE[kind]))], result)
    window = _SPACES.get(space, 0)
    if not window or kind == "u32":
        return plain(copy, [source], result)
    return plain(function, [source, program.source(ins, Imm(window), kind)], result)


@instruction("createpolicy")
def _createpolicy(ins: Instruction, program: Program) -> Op:
    """Cache policies are values that change nothing here."""
    result = program.dest(ins, 0, "b64")

    def run(run: object, lanes: Lanes) -> None:
        lanes.put(result, np.uint64(0x12F0000000000000))

    return run


@instruction("alloca", "stacksave", "stackrestore")
def _stack(ins: Instruction, program: Program) -> Op:
    raise ins.error("a stack of variable size is not supported")


@instruction("isspacep")
def _isspacep(ins: Instruction, program: Program) -> Op:
    space = ins.parts[1]
    source, result = program.source(ins, 1, "u64"), program.dest(ins, 0, "pred")
    windows: dict[str, Callable[[Array], Array]] = {
        "global": lambda a: a >> np.uint64(32) > 2,
        "shared": lambda a: a >> np.uint64(32) == 1,
        "shared::cta": lambda a: a >> np.uint64(24) == 1 << 8,
        "shared::cluster": lambda a: a >> np.uint64(32) == 1,
        "local": lambda a: a >> np.uint64(32) == 2,
        "const": lambda a: np.zeros(a.shape, np.bool_),
        "param": lambda a: np.zeros(a.shape, np.bool_),
    }
    inside = windows[space]
    return several(lambda a, out: np.copyto(out, inside(a)), [source], [result])
