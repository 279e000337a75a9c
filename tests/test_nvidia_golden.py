"""PTX of other compilers runs to right results: nvcc's and Triton's, from the sources in tests/golden/ptx.

The files are made by tools/golden_ptx.py. Each kernel runs under every timing of asynchronous effects and with the race
detector; nothing may be found, and results are held to bounds that follow from the arithmetic of the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import machine, memory, program
from hal_nvidia_ptx.emulator.races import Races
from hal_nvidia_ptx.emulator.shape import Mode, Options, Shape
from hal_nvidia_ptx.emulator.tensormap import TensorMap

Array = NDArray[Any]
FOLDER = Path(__file__).resolve().parent / "golden" / "ptx"
FILES = sorted(path.name for path in FOLDER.glob("*.ptx"))
MODES: tuple[Mode, ...] = ("late", "early", "races")
EPSILON = 2.0**-24  # of a float32 rounding; 2^-11 is that of a float16
# What a compiler leaves out though PTX asks for it. Triton 3.9 puts a barrier, but no fence of the proxy, between
# mbarrier.init and the tensor copies that complete on it.
KNOWN = {("matmul_tma.triton.sm_90a.ptx", "races"): {"missing mbarrier_init fence"}}
BF16 = np.dtype(ml_dtypes.bfloat16)


class Launcher:
    """One golden file, its memory, and launches of its kernel."""

    def __init__(self, name: str, mode: Mode) -> None:
        self.text = (FOLDER / name).read_text()
        target = re.search(r"^\.target (\w+)", self.text, re.MULTILINE)
        assert target is not None
        self.mode = mode
        self.known = KNOWN.get((name, mode), set())
        self.program = program.load(self.text, None, target[1])
        self.arena = memory.Arena(1 << 26)

    def put(self, array: Array) -> int:
        """The address of a copy of the array."""
        block = self.arena.alloc(array.nbytes)
        self.arena.write(block.start, np.ascontiguousarray(array).view(np.uint8).reshape(-1))
        return block.start

    def new(self, nbytes: int) -> int:
        """The address of memory that nobody has written."""
        return self.arena.alloc(nbytes).start

    def get(self, address: int, dtype: Any, *shape: int) -> Array:
        """What lies there now; the kernel has to have written all of it."""
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        first = address - memory.GLOBAL_BASE
        assert (self.arena.shadow[first : first + nbytes] == memory.WRITTEN).all(), "not all of the result was written"
        values: Array = self.arena.read(address, nbytes).copy().view(dtype).reshape(shape)
        return values

    def run(self, grid: tuple[int, ...], block: tuple[int, ...], *arguments: int | float | bytes) -> None:
        """Launch; Triton's kernels get their two unused pointers and the shared memory that their first line states."""
        dynamic = re.search(r"(\d+) bytes of dynamic shared memory", self.text)
        extra = (0, 0) if dynamic else ()
        shape = Shape(grid=_three(grid), block=_three(block), shared=int(dynamic[1]) if dynamic else 0)
        options = Options(mode=self.mode, hazards=Races() if self.mode == "races" else None)
        outcome = machine.launch(self.program, self.arena, shape, [*arguments, *extra], options)
        news = [finding.render() for finding in outcome.findings if finding.kind not in self.known]
        assert news == [] and {finding.kind for finding in outcome.findings} == self.known

    def descriptor(self, address: int, array: Array) -> Sequence[int | bytes]:
        """The arguments that stand for a Triton tensor descriptor of 64x64 boxes of 2-byte elements."""
        rows, columns = array.shape
        kind = "bf16" if array.dtype == BF16 else "f16"
        box = TensorMap(kind, address, (columns, rows), (2 * columns,), (64, 64), (1, 1), swizzle=128)
        return box.encode(), rows, columns, columns, 1


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def close(got: Array, exact: Array, bound: Array) -> None:
    error = np.abs(got.astype(np.float64) - exact)
    assert np.isfinite(error).all() and (error <= bound).all(), f"worst error is {np.max(error / bound):.3g} bounds"


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax_exact(x: Array) -> Array:
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def softmax(launcher: Launcher, triton: bool) -> None:
    """Powers: 2^-22 of ex2, and the rounding of an exponent of up to 2^4; sums: a rounding a step."""
    rows, columns = 6, 700
    x = 2 * random(rows, columns)
    source, target = launcher.put(x), launcher.new(x.nbytes)
    if triton:
        launcher.run((rows,), (128,), source, target, columns, columns)
    else:
        launcher.run((rows,), (96,), source, target, columns)
    exact = softmax_exact(x)
    close(launcher.get(target, np.float32, rows, columns), exact, exact * EPSILON * (2 * (4 + 16) + columns / 96 + 10))


def layernorm(launcher: Launcher, triton: bool) -> None:
    """float16 results of float32 sums over 256 values: the last rounding, and a rounding a step before."""
    rows, columns = 5, 256
    x = (random(rows, columns) * 3 + 1).astype(np.float16)
    weight, bias = random(columns, seed=1), random(columns, seed=2)
    arguments = [launcher.put(x), launcher.put(weight), launcher.put(bias), target := launcher.new(x.nbytes)]
    if triton:
        launcher.run((rows,), (128,), *arguments, columns, 1e-5)
    else:
        launcher.run((2,), (32, 4), *arguments, rows, 1e-5)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weight
    bound = 2.0**-11 * np.abs(scaled + bias) + 64 * EPSILON * (np.abs(scaled) + np.abs(weight) + np.abs(bias))
    close(launcher.get(target, np.float16, rows, columns), scaled + bias, bound)


def product(a: Array, b: Array) -> tuple[Array, Array]:
    """A B in float64, and the bound of a float32 sum of exact products in any order."""
    wide = a.astype(np.float64), b.astype(np.float64)
    return wide[0] @ wide[1], 2 * a.shape[1] * EPSILON * (np.abs(wide[0]) @ np.abs(wide[1]))


def matmul(launcher: Launcher, triton: bool) -> None:
    m, n, k = (70, 80, 48) if triton else (20, 37, 27)
    a, b = random(m, k), random(k, n, seed=1)
    if triton:
        a, b = a.astype(BF16), b.astype(BF16)
    arguments = [launcher.put(a), launcher.put(b), target := launcher.new(4 * m * n), m, n, k]
    if triton:
        launcher.run((-(-m // 64), -(-n // 64)), (128,), *arguments)
    else:
        launcher.run((-(-n // 16), -(-m // 16)), (16, 16), *arguments)
    close(launcher.get(target, np.float32, m, n), *product(a, b))


def matmul_tma(launcher: Launcher, triton: bool) -> None:
    m, n, k = 128, 64, 192
    a, b = random(m, k).astype(BF16), random(k, n, seed=1).astype(BF16)
    target = launcher.new(2 * m * n)
    arguments = [*launcher.descriptor(launcher.put(a), a), *launcher.descriptor(launcher.put(b), b)]
    arguments += launcher.descriptor(target, np.empty((m, n), np.float16))
    launcher.run((m // 64, n // 64), (128,), *arguments, k)
    exact, bound = product(a, b)
    close(launcher.get(target, np.float16, m, n), exact, bound + 2.0**-11 * np.abs(exact))


def tensorcore(launcher: Launcher, triton: bool) -> None:
    m, n, k = 128, 64, 96
    a, b = random(m, k).astype(np.float16), random(n, k, seed=1).astype(np.float16)
    arguments = [launcher.put(a), launcher.put(b), target := launcher.new(4 * m * n)]
    launcher.run((n // 64, m // 64), (128,), *arguments, n, k)
    close(launcher.get(target, np.float32, m, n), *product(a, b.T))


KERNELS: dict[str, Callable[[Launcher, bool], None]] = {
    "softmax": softmax,
    "layernorm": layernorm,
    "matmul": matmul,
    "matmul_tma": matmul_tma,
    "tensorcore": tensorcore,
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    yield request.param


@pytest.mark.parametrize("name", FILES)
def test_golden_files_run_to_right_results(name: str, mode: Mode) -> None:
    kernel, compiler, *_ = name.split(".")
    KERNELS[kernel](Launcher(name, mode), compiler == "triton")


def test_golden_files_cover_every_source_and_target() -> None:
    sources = {path.stem for path in FOLDER.glob("*.cu")}
    assert {f"{source}.nvcc.{target}.ptx" for source in sources for target in ("sm_75", "sm_80", "sm_90a")} <= set(
        FILES
    )
    text = (FOLDER / "matmul_tma.triton.sm_90a.ptx").read_text()
    assert "wgmma.mma_async" in text and "cp.async.bulk.tensor" in text
