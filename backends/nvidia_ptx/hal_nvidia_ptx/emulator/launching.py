"""What happens before a kernel runs: the launch against the target's limits, arguments as bytes, module variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator.declarations import encode
from hal_nvidia_ptx.emulator.memory import Arena
from hal_nvidia_ptx.emulator.shape import LaunchError, Shape
from hal_nvidia_ptx.emulator.syntax import Imm, Variable

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.program import Program

Array: TypeAlias = NDArray[Any]

# "Technical Specifications per Compute Capability" of NVIDIA's CUDA programming guide; the same for sm_75 and later.
GRID = (2**31 - 1, 65535, 65535)
BLOCK = (1024, 1024, 64)
THREADS = 1024


def check_shape(program: Program, shape: Shape) -> None:
    """Raises LaunchError for a launch that hardware would refuse."""

    def need(good: bool, text: str) -> None:
        if not good:
            raise LaunchError(f"kernel {program.name} cannot be launched: {text}")

    target = program.target
    for name, sizes, limits in (("grid", shape.grid, GRID), ("block", shape.block, BLOCK)):
        fits = all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True))
        need(fits, f"{name} {sizes}, the limits are 1 to {limits}")
    need(shape.threads <= THREADS, f"{shape.threads} threads in a block, the limit is {THREADS}")
    directives = program.function.directives
    most = directives.get("maxntid")
    if most is not None:
        limit = int(np.prod(most))
        need(shape.threads <= limit, f"{shape.threads} threads in a block, .maxntid allows {limit}")
    exact = directives.get("reqntid")
    if exact is not None:
        wanted = tuple(exact) + (1,) * (3 - len(exact))
        need(shape.block == wanted, f"block {shape.block}, .reqntid asks for {wanted}")
    total = program.dynamic_start + shape.shared if shape.shared else program.shared_static
    need(
        total <= target.shared_block,
        f"{total} bytes of shared memory, {target.name} has {target.shared_block} for a block",
    )
    fixed = directives.get("reqnctapercluster")
    if fixed:
        wanted = tuple(fixed) + (1,) * (3 - len(fixed))
        need(shape.cluster == wanted, f"clusters of {shape.cluster}, .reqnctapercluster asks for {wanted}")
    need(
        shape.cluster_size <= max(target.cluster, 1),
        f"clusters of {shape.cluster_size}, {target.name} has {target.cluster}",
    )
    fits = all(g % c == 0 for g, c in zip(shape.grid, shape.cluster, strict=True))
    need(fits, f"grid {shape.grid} is no multiple of the cluster {shape.cluster}")


def bind(program: Program, arguments: Sequence[int | float | bytes]) -> Array:
    """The kernel's parameters as bytes. Raises LaunchError for a wrong count, kind or size."""
    parameters = program.function.params
    if len(arguments) != len(parameters):
        names = ", ".join(each.name for each in parameters)
        raise LaunchError(f"kernel {program.name} takes {len(parameters)} arguments ({names}), {len(arguments)} given")
    data = np.zeros(max(program.parameter_bytes, 1), np.uint8)
    for parameter, argument in zip(parameters, arguments, strict=True):
        raw = _bytes(program, parameter, argument)
        start = program.parameters[parameter.name]
        data[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
    return data


def _bytes(program: Program, parameter: Variable, argument: int | float | bytes) -> bytes:
    if isinstance(argument, (bytes, bytearray)):
        if len(argument) != parameter.nbytes:
            raise LaunchError(
                f"kernel {program.name}: parameter {parameter.name} has {parameter.nbytes} bytes, {len(argument)} given"
            )
        return bytes(argument)
    if parameter.array:
        raise LaunchError(
            f"kernel {program.name}: parameter {parameter.name} is an array, give its {parameter.nbytes} bytes"
        )
    number = argument.item() if hasattr(argument, "item") else argument
    whole = parameter.kind not in ("f32", "f64")
    if whole and not isinstance(number, int):
        raise LaunchError(f"kernel {program.name}: parameter {parameter.name} is .{parameter.kind}, {argument!r} given")
    return encode(Imm(number), parameter.kind)


def chosen(shape: Shape, ctas: Sequence[int] | None) -> Array:
    """Linear indices of the CTAs to run, in the order in which they do: cluster by cluster, whole clusters.

    Raises LaunchError for an index that the grid does not have.
    """
    order = np.arange(shape.ctas)
    beyond = [cta for cta in ctas or () if not 0 <= cta < shape.ctas]
    if beyond:
        raise LaunchError(f"CTA {beyond[0]} of a grid of {shape.ctas}")
    if shape.cluster_size == 1:
        return order if ctas is None else np.unique(np.asarray(list(ctas), np.int64))
    x, y, z = order % shape.grid[0], order // shape.grid[0] % shape.grid[1], order // (shape.grid[0] * shape.grid[1])
    (cx, cy, cz), (gx, gy, _) = shape.cluster, shape.grid
    cluster = x // cx + (gx // cx) * (y // cy + (gy // cy) * (z // cz))
    rank = x % cx + cx * (y % cy + cy * (z % cz))
    order = order[np.lexsort((rank, cluster))]
    if ctas is None:
        return order
    wanted = np.unique(cluster[np.asarray(list(ctas), np.int64)])
    return order[np.isin(cluster[order], wanted)]


def load_variables(program: Program, arena: Arena) -> dict[str, int]:
    """Addresses of the module's .global and .const variables, which are put into the arena at the first launch."""
    known = arena.modules.get(program.module)
    if known is None:
        known = arena.modules[program.module] = {}
        stored = [v for v in program.module.variables.values() if v.space in ("global", "const") and v.nbytes]
        for variable in stored:
            block = arena.alloc(variable.nbytes, f"variable {variable.name}")
            known[variable.name] = block.start
        for variable in stored:
            _initialise(variable, known, arena)
    return dict(known)


def _initialise(variable: Variable, addresses: dict[str, int], arena: Arena) -> None:
    data = bytearray(variable.initial or bytes(variable.nbytes))
    for offset, symbol in variable.relocations:
        value = addresses.get(symbol.name, 0) + symbol.offset
        data[offset : offset + 8] = value.to_bytes(8, "little")
    start = addresses[variable.name]
    arena.write(start, np.frombuffer(bytes(data), np.uint8))
    block = arena.at(start)
    assert block is not None
    block.readonly = variable.space == "const"
