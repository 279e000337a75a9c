"""`check`: run any PTX on the CPU under every timing, and say what is wrong with it.

    report = hal_nvidia_ptx.check("softmax.ptx", 64, 256, [x, "f32[64x1024]", 1024])
    assert report.clean, report
    report.outputs["y"]

Each mode is a run of its own on fresh memory: "late" lets asynchronous work take effect at the last moment that a wait
allows, "early" at once, "races" looks for accesses that nothing orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.errors import ArgumentError, OptionError
from hal_nvidia_ptx.emulator import machine, program
from hal_nvidia_ptx.emulator.counters import Counted
from hal_nvidia_ptx.emulator.memory import GLOBAL_BASE, WRITTEN, Arena
from hal_nvidia_ptx.emulator.races import Races
from hal_nvidia_ptx.emulator.report import Faithful, Finding, Report, place_of
from hal_nvidia_ptx.emulator.source import parse
from hal_nvidia_ptx.emulator.syntax import PtxError, Variable
from hal_nvidia_ptx.emulator.tensormap import TensorMap
from hal_nvidia_ptx.notation import DTYPES, Argument, Number, Tensor, Unwritten, holds, read, span
from hal_nvidia_ptx.target import TARGETS

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = "int | Sequence[int]"

MODES = ("late", "early", "races")
LOOSE = 2.0**-6  # of an array's largest value: more than a sum's order changes, less than a missing wait does
OLDEST = "sm_75"  # runs PTX for targets older than those in the table


def check(
    path_or_text: str | Path,
    grid: Size,
    block: Size | None = None,
    args: Sequence[Any] = (),
    *,
    target: str | None = None,
    entry: str | None = None,
    shared: int = 0,
    cluster: Size | None = None,
    ctas: str | Sequence[int] | None = None,
    trips: int | None = None,
    modes: str | Sequence[str] = MODES,
    counters: bool = False,
) -> Report:
    """Run an entry of a PTX file or text once in each mode; the findings of all runs.

    grid, block, cluster: X or (X, Y, Z); block and cluster may be left out where the text fixes them. args: one for
    each parameter: arrays (copied; what the kernel made of them is in the report's `outputs`), numbers, notation.Tensor
    for tensor maps, or texts as in notation.py. target: the text's own by default. entry: where there are several.
    shared: bytes of dynamic shared memory. ctas: which CTAs run: indices, or words joined by commas: first, last, and a
    number of CTAs spread over the grid. trips: every loop ends after so many.

    Raises PtxError (which names the line) for what is no PTX or is not known; LaunchError for an impossible launch;
    ArgumentError, OptionError for wrong arguments.
    """
    file, text = source(path_or_text)
    module = parse(text)
    known = target or (module.target if module.target in TARGETS else OLDEST)
    if known not in TARGETS:
        raise OptionError(f"target {known!r}: there are {', '.join(TARGETS)}")
    modes = (modes,) if isinstance(modes, str) else modes
    for mode in modes:
        if mode not in MODES:
            raise OptionError(f"mode {mode!r}: there are {', '.join(MODES)}")
    compiled = program.build(module, entry, known)
    shape = shape_of(compiled, grid, block, cluster, shared)
    chosen = choose(ctas, shape.ctas) if isinstance(ctas, str) else ctas
    arguments = [read(given, position) for position, given in enumerate(args)]
    report = Report(file, compiled.name, known)
    made: dict[str, dict[str, tuple[Array, Array]]] = {}
    for number, mode in enumerate(modes):
        counted = Counted() if counters and not number else None
        options = machine.Options(
            mode=mode,  # type: ignore[arg-type]
            hazards=Races() if mode == "races" else None,
            counters=counted,
            count=not number,
            ctas=chosen,
            trips=trips,
        )
        arena = Arena()
        values, places = place(compiled, arguments, arena)
        outcome = machine.launch(compiled, arena, shape, values, options)
        merge(report.findings, outcome.findings)
        report.ran.append(outcome.ran)
        made[mode] = {name: contents(arena, start, one) for name, (start, one) in places.items()}
        if not number:
            report.faithful = faithful(compiled, outcome.executed)
            report.outputs = {name: array for name, (array, _) in made[mode].items()}
        if counted is not None:
            report.counters = counted.result(compiled, outcome.executed)
    if not any(ran.stopped for ran in report.ran):
        report.findings += depends_on_timing(compiled, made)
    report.findings.sort(key=lambda finding: finding.line)
    return report


def source(path_or_text: str | Path) -> tuple[str, str]:
    """(name for messages, text): no path has several lines, and no text has one. Raises ArgumentError for no file."""
    if isinstance(path_or_text, str) and ("\n" in path_or_text or ".version" in path_or_text):
        return "<ptx>", path_or_text
    path = Path(path_or_text)
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path_or_text)!r}; a path or the text of PTX is wanted")
    return str(path), path.read_text(encoding="utf-8")


def shape_of(
    compiled: program.Program, grid: Size, block: Size | None, cluster: Size | None, shared: int
) -> machine.Shape:
    """The launch, with what the text fixes filled in."""
    fixed = compiled.function.directives
    if block is None and "reqntid" not in fixed:
        raise ArgumentError(f"kernel {compiled.name}: the size of a block is needed; its text has no .reqntid")
    return machine.Shape(
        triple("grid", grid),
        triple("block", fixed["reqntid"] if block is None else block),
        triple("cluster", (fixed.get("reqnctapercluster") or 1) if cluster is None else cluster),
        shared,
    )


def triple(name: str, size: Size) -> tuple[int, int, int]:
    """X or up to three numbers as (X, Y, Z)."""
    sizes = [size] if isinstance(size, (int, np.integer)) else list(size)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(each, (int, np.integer)) for each in sizes):
        raise ArgumentError(f"{name}: X, (X, Y) or (X, Y, Z), not {size!r}")
    x, y, z = (int(each) for each in (*sizes, 1, 1)[:3])
    return x, y, z


def choose(words: str, count: int) -> list[int]:
    """CTAs by words: "first,last,16" are the first, the last and 16 spread over the grid of `count`."""
    chosen: set[int] = set()
    for word in words.split(","):
        if word == "first":
            chosen.add(0)
        elif word == "last":
            chosen.add(count - 1)
        elif word.isdecimal() and int(word):
            chosen.update(np.linspace(0, count - 1, min(int(word), count)).astype(int).tolist())
        else:
            raise OptionError(f"ctas: {word!r} is none of first, last, and a number of CTAs spread over the grid")
    return sorted(chosen)


# ---- arguments in emulated memory


def place(
    compiled: program.Program, arguments: Sequence[Argument], arena: Arena
) -> tuple[list[int | float | bytes], dict[str, tuple[int, Unwritten]]]:
    """Put arrays into memory: what the kernel gets, and for each array by name where it is and what it looks like."""
    parameters = compiled.function.params
    values: list[int | float | bytes] = []
    places: dict[str, tuple[int, Unwritten]] = {}
    for position, argument in enumerate(arguments):
        parameter = parameters[position] if position < len(parameters) else None
        name = argument.name or (parameter.name if parameter else f"argument {position + 1}")
        value = argument.value
        if isinstance(value, Number):
            values.append(_number(compiled, name, value, parameter))
            continue
        content = value.values if isinstance(value, Tensor) else None if isinstance(value, Unwritten) else value
        dtype = value.dtype if isinstance(value, (Tensor, Unwritten)) else _name_of(value.dtype, name)
        block = arena.alloc(int(np.prod(value.shape)) * DTYPES[dtype].itemsize, name)
        if content is not None:
            data = np.ascontiguousarray(content, dtype=DTYPES[dtype])
            arena.write(block.start, data.reshape(-1).view(np.uint8))
        places[name] = block.start, Unwritten(value.shape, dtype)
        values.append(_pointer(compiled, name, value, block.start, parameter))
    return values, places


def _pointer(compiled: program.Program, name: str, value: Any, start: int, parameter: Variable | None) -> int | bytes:
    """What stands for an array: its address, or a tensor map of it."""
    if isinstance(value, Tensor):
        return tensor_map(value, start).encode()
    if parameter is not None and (parameter.array or parameter.kind not in ("u64", "s64", "b64")):
        wanted = f"an array of {parameter.nbytes} bytes" if parameter.array else f".{parameter.kind}"
        raise ArgumentError(
            f"kernel {compiled.name}: parameter {parameter.name} is {wanted}, an array is given ({name})"
        )
    return start


def tensor_map(value: Tensor, start: int) -> TensorMap:
    """The map of a row-major array at `start`; maps count dimensions from the innermost."""
    itemsize = DTYPES[value.dtype].itemsize
    dtype = {"b8": "u8", "s8": "u8", "e4m3": "u8", "e5m2": "u8", "b16": "u16", "s16": "u16", "b32": "u32"}.get(
        value.dtype, value.dtype
    )
    if len(value.box) != len(value.shape):
        raise ArgumentError(f"a tensor map of shape {value.shape} cannot have a box of shape {value.box}")
    shape = value.shape[::-1]
    strides = tuple(itemsize * int(np.prod(shape[: axis + 1])) for axis in range(len(shape) - 1))
    return TensorMap(
        dtype, start, shape, strides, value.box[::-1], (1,) * len(shape), swizzle=value.swizzle, fill=value.fill
    )


def _number(compiled: program.Program, name: str, number: Number, parameter: Variable | None) -> int | float:
    """A number as its parameter wants it; machine.launch checks the rest."""
    if parameter is None or parameter.array:
        return number.value
    stated = DTYPES[number.dtype].itemsize if number.dtype else parameter.nbytes
    if stated != parameter.nbytes:
        raise ArgumentError(f"kernel {compiled.name}: parameter {name} is .{parameter.kind}, not {number.dtype}")
    if not holds(parameter.kind, number.value):
        wanted = f"{parameter.kind}: {span(parameter.kind)}"
        raise ArgumentError(f"kernel {compiled.name}: parameter {name}: {number.value!r} does not fit {wanted}")
    return float(number.value) if parameter.kind in ("f32", "f64", "f16") else number.value


def _name_of(dtype: np.dtype[Any], name: str) -> str:
    """The PTX type of a NumPy dtype."""
    for known, kind in DTYPES.items():
        if kind == dtype:
            return known
    raise ArgumentError(f"argument {name}: arrays of {dtype} have no PTX type")


def contents(arena: Arena, start: int, look: Unwritten) -> tuple[Array, Array]:
    """An array in memory after the run, and which of its bytes are written."""
    nbytes = int(np.prod(look.shape)) * DTYPES[look.dtype].itemsize
    first = start - GLOBAL_BASE
    written = arena.shadow[first : first + nbytes] == WRITTEN
    return arena.read(start, nbytes).copy().view(DTYPES[look.dtype]).reshape(look.shape), written


# ---- findings of several runs


def merge(findings: list[Finding], more: Any) -> None:
    """Add the findings of a run; what was found in an earlier mode gets this mode's name added."""
    for finding in more:
        for index, old in enumerate(findings):
            if (old.kind, old.line) == (finding.kind, finding.line) and _others(old) == _others(finding):
                findings[index] = replace(old, mode=f"{old.mode}, {finding.mode}")
                break
        else:
            findings.append(finding)


def _others(finding: Finding) -> tuple[int, ...]:
    return tuple(note.place.line for note in finding.notes)


def depends_on_timing(
    compiled: program.Program, made: Mapping[str, Mapping[str, tuple[Array, Array]]]
) -> list[Finding]:
    """A finding for every array that late and early asynchronous effects leave with different values."""
    if "late" not in made or "early" not in made:
        return []
    found = []
    loose = _adds_in_any_order(compiled)
    for name, (late, written) in made["late"].items():
        early, _ = made["early"][name]
        differ = _different(late.reshape(-1), early.reshape(-1), loose)
        differ &= written.reshape(len(differ), -1).all(axis=1)
        if differ.any():
            element = int(np.argmax(differ))
            where = ", ".join(map(str, np.unravel_index(element, late.shape)))
            message = (
                f"{name}[{where}] is {late.reshape(-1)[element]} with late asynchronous effects"
                f" and {early.reshape(-1)[element]} with early ones"
            )
            place = place_of(compiled.lines, compiled.function.line)
            expected = "results that do not depend on when asynchronous work is done: a wait is missing or too lax"
            found.append(
                Finding("depends on timing", message, compiled.name, place, expected=expected, mode="late, early")
            )
    return found


def _different(late: Array, early: Array, loose: bool) -> Array:
    """bool [elements]: other bits, or if `loose` another value by more than orders of addition explain."""
    bits: Array = np.asarray((late.view(np.uint8) != early.view(np.uint8)).reshape(len(late), -1).any(axis=1))
    if not loose or late.dtype.kind in "iub":
        return bits
    values = [array.astype(np.float64) for array in (late, early)]
    scale = np.nanmax(np.abs(values[1]), initial=0.0)
    with np.errstate(invalid="ignore"):
        far: Array = ~(np.abs(values[0] - values[1]) <= LOOSE * scale)
    bits &= far
    return bits


def _adds_in_any_order(compiled: program.Program) -> bool:
    """Whether the kernel has sums whose order hardware does not promise: matrix products, floating-point atomics."""
    floating = ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2")
    return any(
        ins.opcode.startswith(("mma", "wmma", "wgmma"))
        or (ins.opcode.startswith(("atom", "red", "cp.reduce")) and ins.has(*floating))
        for ins in compiled.instructions
    )


def faithful(compiled: program.Program, executed: Array) -> Faithful:
    """How the opcodes that ran were computed."""
    names: dict[str, set[str]] = {"exact": set(), "approximate": set(), "unmodelled": set()}
    for ins, handler, times in zip(compiled.instructions, compiled.handlers, executed, strict=True):
        if times:
            names[handler.faith(ins) if callable(handler.faith) else handler.faith].add(ins.opcode)
    return Faithful(*(tuple(sorted(names[kind])) for kind in ("exact", "approximate", "unmodelled")))


__all__ = ["MODES", "PtxError", "check"]
