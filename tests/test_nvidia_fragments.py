"""Layouts of the matrix instructions against tables written out lane by lane, and the products against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx.emulator import formats, fragments, numerics

Array = NDArray[Any]
Place = tuple[int, int]
# For each shape and element size: where register r, element e of the lane with g = lane / 4 and t = lane % 4 lies in A
# (row, column) and in B (k, n); transcribed from the figures of the PTX ISA, "Matrix Fragments for mma".
TABLES: dict[tuple[str, int], tuple[Callable[..., Place], Callable[..., Place]]] = {
    ("m16n8k16", 16): (
        lambda g, t, r, e: ([g, g + 8, g, g + 8][r], [2 * t, 2 * t, 2 * t + 8, 2 * t + 8][r] + e),
        lambda g, t, r, e: ([2 * t, 2 * t + 8][r] + e, g),
    ),
    ("m16n8k8", 16): (lambda g, t, r, e: ([g, g + 8][r], 2 * t + e), lambda g, t, r, e: (2 * t + e, g)),
    ("m16n8k8", 32): (
        lambda g, t, r, e: ([g, g + 8, g, g + 8][r], [t, t, t + 4, t + 4][r]),
        lambda g, t, r, e: ([t, t + 4][r], g),
    ),
    ("m16n8k4", 32): (lambda g, t, r, e: ([g, g + 8][r], t), lambda g, t, r, e: (t, g)),
    ("m16n8k32", 8): (
        lambda g, t, r, e: ([g, g + 8, g, g + 8][r], [4 * t, 4 * t, 4 * t + 16, 4 * t + 16][r] + e),
        lambda g, t, r, e: ([4 * t, 4 * t + 16][r] + e, g),
    ),
    ("m16n8k16", 8): (lambda g, t, r, e: ([g, g + 8][r], 4 * t + e), lambda g, t, r, e: (4 * t + e, g)),
    ("m8n8k16", 8): (lambda g, t, r, e: (g, 4 * t + e), lambda g, t, r, e: (4 * t + e, g)),
    ("m8n8k4", 64): (lambda g, t, r, e: (g, t), lambda g, t, r, e: (t, g)),
    ("m16n8k4", 64): (lambda g, t, r, e: ([g, g + 8][r], t), lambda g, t, r, e: (t, g)),
    ("m16n8k8", 64): (
        lambda g, t, r, e: (g + 8 * (r % 2), t + 4 * (r // 2)),
        lambda g, t, r, e: (t + 4 * r, g),
    ),
    ("m16n8k16", 64): (
        lambda g, t, r, e: (g + 8 * (r % 2), t + 4 * (r // 2)),
        lambda g, t, r, e: (t + 4 * r, g),
    ),
}
SIZES = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "f64": 64}
STORED: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "s8": np.int8,
    "u8": np.uint8,
    "f64": np.float64,
}
CASES = [
    (f"m{m}n{n}k{k}", kind, result)
    for kind, shapes in fragments.SHAPES.items()
    for m, n, k in shapes
    for result in {"f64": ["f64"], "s8": ["s32"], "u8": ["s32"], "f16": ["f32", "f16"]}.get(kind, ["f32"])
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with numerics.quiet():
        yield


def values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Random elements of a type, in the dtype that stores them."""
    if kind in ("s8", "u8"):
        info = np.iinfo(STORED[kind])
        return rng.integers(info.min, info.max, shape, dtype=STORED[kind], endpoint=True)
    x = rng.standard_normal(shape)
    if kind == "tf32":
        return formats.narrow(x.astype(np.float32), "tf32").view(np.float32)
    return x.astype(STORED[kind])


def to_registers(matrix: Array, place: Callable[..., Place], count: int, kind: str) -> list[Array]:
    """The registers of one warp that hold a matrix, element by element from its table."""
    elements = max(1, 32 // SIZES[kind])
    out = np.zeros((count, 32, elements), matrix.dtype)
    for r in range(count):
        for lane in range(32):
            for e in range(elements):
                out[r, lane, e] = matrix[place(lane // 4, lane % 4, r, e)]
    word = np.float64 if kind == "f64" else np.uint32
    return [np.ascontiguousarray(register).view(word).reshape(1, 32) for register in out]


def c_place(g: int, t: int, r: int, _: int = 0) -> Place:
    return g + 8 * (r // 2), 2 * t + r % 2


@pytest.mark.parametrize(("shape", "kind", "result"), CASES)
def test_products_follow_the_tables(shape: str, kind: str, result: str) -> None:
    product = fragments.product(shape, (result, kind, kind, result))
    assert product is not None
    rng = np.random.default_rng(20)
    a, b = values(kind, (product.m, product.k), rng), values(kind, (product.k, product.n), rng)
    c = (
        rng.integers(-1000, 1000, (product.m, product.n))
        if result == "s32"
        else values(result, (product.m, product.n), rng)
        if result in STORED
        else rng.standard_normal((product.m, product.n)).astype(np.float32)
    )
    place_a, place_b = TABLES[shape, SIZES[kind]]
    d_count, a_count, b_count, c_count = product.registers
    a_registers, b_registers = to_registers(a, place_a, a_count, kind), to_registers(b, place_b, b_count, kind)
    results = product.m * product.n // 32
    lanes = [np.array([[c[c_place(i // 4, i % 4, r)] for i in range(32)]]) for r in range(results)]
    if result == "f16":
        c_registers = [np.stack(lanes[i : i + 2], -1).view(np.uint32)[..., 0] for i in range(0, results, 2)]
    else:
        c_registers = [x.astype(np.int32).view(np.uint32) if result == "s32" else x for x in lanes]
    assert len(c_registers) == c_count
    got = product(a_registers, b_registers, c_registers)
    assert len(got) == d_count
    expected = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    if result == "f16":
        halves = [register.view(np.float16).reshape(32, 2) for register in got]
        got = [half[None, :, i] for half in halves for i in (0, 1)]
    for r in range(results):
        for lane in range(32):
            want = expected[c_place(lane // 4, lane % 4, r)]
            have = got[r].view(np.int32)[0, lane] if result == "s32" else got[r][0, lane]
            rounding = {"f16": 2.0**-11, "f32": 2.0**-24, "s32": 0.0, "f64": 2.0**-48}[result]
            assert abs(float(have) - want) <= rounding * (abs(want) + 1e-3), (r, lane)


def test_integer_sums_wrap_or_clamp() -> None:
    ones = np.full((1, 32), 0x01010101, np.uint32)
    top = [np.full((1, 32), 2**31 - 1, np.uint32)] * 4
    for satfinite, expected in ((False, -(2**31) + 31), (True, 2**31 - 1)):
        product = fragments.product("m16n8k32", ("s32", "s8", "u8", "s32"), satfinite)
        assert product is not None
        got = product([ones] * 4, [ones] * 2, top)
        assert all((register.view(np.int32) == expected).all() for register in got)


def test_warps_do_not_mix() -> None:
    rng = np.random.default_rng(21)
    product = fragments.product("m16n8k16", ("f32", "bf16", "bf16", "f32"))
    assert product is not None
    a, b = (
        [rng.integers(0, 0x3F80, (5, 32, 2)).astype(np.uint16).view(np.uint32)[..., 0] for _ in range(n)]
        for n in (4, 2)
    )
    c = [rng.standard_normal((5, 32)).astype(np.float32) for _ in range(4)]
    together = product(a, b, c)
    for w in range(5):
        alone = product(*([register[w : w + 1] for register in registers] for registers in (a, b, c)))
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[w])


def test_products_that_ptx_lacks_are_none() -> None:
    assert fragments.product("m16n8k16", ("f16", "bf16", "bf16", "f16")) is None
    assert fragments.product("m16n8k32", ("f32", "f16", "f16", "f32")) is None
    assert fragments.product("m16n8k16", ("f32", "f16", "bf16", "f32")) is None
    assert fragments.product("m16n8k32", ("s32", "s8", "e4m3", "s32")) is None


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_ldmatrix_and_stmatrix(count: int, transposed: bool) -> None:
    rows = np.random.default_rng(22).integers(0, 1 << 16, (3, count, 8, 8)).astype(np.uint16)
    registers = fragments.from_rows(rows, transposed)
    for i, register in enumerate(registers):
        pairs = np.ascontiguousarray(register).view(np.uint16).reshape(3, 32, 2)
        for lane in range(32):
            for e in (0, 1):
                row, column = lane >> 2, 2 * (lane & 3) + e
                at = (column, row) if transposed else (row, column)
                assert (pairs[:, lane, e] == rows[:, i, at[0], at[1]]).all()
    np.testing.assert_array_equal(fragments.to_rows(registers, transposed), rows)
