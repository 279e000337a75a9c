"""The cases of matmul."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hal.conformance.case import Case
from hal.conformance.cases.common import FLOATS, SHORT, make, spec
from hal.conformance.layout import OF_INPUTS, OF_OUTPUTS
from hal.conformance.values import boundaries, filled, given, integers, normal, planted
from hal.op import Op, TensorSpec

Points: TypeAlias = "tuple[tuple[tuple[int, int], float], ...]"  # ((row, column), value) …
DTYPES = (*FLOATS, "int8")
INF, NAN = float("inf"), float("nan")
# (M, N, K); the tiles of a kernel end in every one of them.
SHAPES_SMOKE = (
    (1, 1, 1), (2, 3, 7), (7, 2, 3), (15, 17, 16), (16, 15, 33), (31, 33, 32), (33, 31, 63), (64, 64, 64), (65, 63, 65),
    (1, 129, 128), (127, 1, 129), (1, 1, 257), (128, 127, 1), (1, 64, 255), (5, 70, 1025),
)  # fmt: skip
SHAPES_FULL = (
    (3, 7, 2), (8, 8, 8), (17, 16, 15), (32, 31, 17), (63, 65, 31), (129, 65, 33), (65, 129, 127), (128, 128, 128),
    (127, 255, 64), (256, 129, 65), (257, 256, 33), (255, 257, 16), (1, 1000, 512), (1000, 1, 513), (1, 4096, 255),
    (4096, 1, 64), (2, 513, 1000), (512, 3, 511), (16, 16, 4096), (9, 11, 4097), (1, 1, 50257), (300, 310, 320),
)  # fmt: skip
BIASES = {"row": (37,), "column": (33, 1), "full": (33, 37), "scalar": (1,)}
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


def cases() -> Iterator[Case]:
    """All of them; the smoke level's are marked."""
    for dtype in DTYPES:
        yield from shapes(dtype)
        yield from layouts(dtype)
        yield from batches(dtype)
        yield from epilogues(dtype)
        yield from witnesses(dtype)
        yield from consistency(dtype)
        if dtype != "int8":
            yield from not_finite(dtype)
    yield from edges_of_one_dtype()


def product(dtype: str, m: int, n: int, k: int, a: str = "contiguous", b: str = "contiguous") -> dict[str, TensorSpec]:
    """Operands of an (m, k) by (k, n) product in the layouts a and b."""
    return {"a": spec(dtype, (m, k), a), "b": spec(dtype, (k, n), b)}


def shapes(dtype: str) -> Iterator[Case]:
    few = SHAPES_SMOKE[::3][:4] if dtype != "float32" else SHAPES_SMOKE
    for m, n, k in (*SHAPES_SMOKE, *SHAPES_FULL):
        if dtype == "float64" and m * n * k > 2**21:
            continue  # double-double in NumPy is slow
        level = "smoke" if (m, n, k) in few else "full"
        yield make("matmul", f"shape/{m}x{n}x{k}", product(dtype, m, n, k), normal(), level)
        if k <= 1025:
            yield make("matmul", f"integers/{m}x{n}x{k}", product(dtype, m, n, k), integers(-4, 4), level)
    level = "smoke" if dtype == "float32" else "full"
    for m, n, k in ((3, 5, 0), (0, 5, 3), (5, 0, 3), (0, 0, 0)):
        yield make("matmul", f"empty/{m}x{n}x{k}", product(dtype, m, n, k), normal(), level)
    bias = {"bias": spec("int32" if dtype == "int8" else dtype, (5,))}
    yield make("matmul", "empty/3x5x0+bias", {**product(dtype, 3, 5, 0), **bias}, normal(), level)


def layouts(dtype: str) -> Iterator[Case]:
    main = dtype in ("float32", "bfloat16")
    for layout in OF_INPUTS:
        level = "smoke" if main or layout in ("transposed", "sliced") else "full"
        yield make("matmul", f"layout/a-{layout}", product(dtype, 33, 37, 35, a=layout), normal(), level)
        yield make("matmul", f"layout/b-{layout}", product(dtype, 33, 37, 35, b=layout), normal(), level)
    for layout in OF_OUTPUTS:
        level = "smoke" if main or layout in ("transposed", "sliced") else "full"
        yield make("matmul", f"layout/out-{layout}", product(dtype, 33, 37, 35), normal(), level, out=layout)
    yield make(
        "matmul", "layout/both-transposed", product(dtype, 65, 67, 66, "transposed", "transposed"), normal(), "smoke"
    )
    every = OF_INPUTS if dtype == "float32" else ("transposed", "sliced", "reversed", "hankel")
    for a in every[1:]:
        for b in every[1:]:
            out = OF_OUTPUTS[(every.index(a) + every.index(b)) % len(OF_OUTPUTS)]
            yield make("matmul", f"layout/{a}-{b}-{out}", product(dtype, 18, 34, 17, a, b), normal(), out=out)
    # Operands that share memory.
    whole = spec(dtype, (33, 35))
    transpose = TensorSpec(dtype, (35, 33), (1, 35), whole.align)
    yield make("matmul", "shared/a@a.T", {"a": whole, "b": transpose}, normal(), "smoke", shared=(("a", "b"),))
    square = spec(dtype, (35, 35))
    yield make("matmul", "shared/a@a", {"a": square, "b": square}, normal(), "smoke", shared=(("a", "b"),))


def batches(dtype: str) -> Iterator[Case]:
    pairs = {
        "dot": ((37,), (37,)),
        "vector@matrix": ((37,), (37, 19)),
        "matrix@vector": ((19, 37), (37,)),
        "batch@vector": ((3, 19, 37), (37,)),
        "vector@batch": ((37,), (3, 37, 19)),
        "batch": ((5, 9, 17), (5, 17, 11)),
        "batch-of-two-axes": ((2, 3, 9, 17), (2, 3, 17, 11)),
        "broadcast-a": ((9, 17), (4, 17, 11)),
        "broadcast-b": ((4, 9, 17), (17, 11)),
        "broadcast-both": ((5, 1, 9, 17), (1, 4, 17, 11)),
        "broadcast-more-axes": ((2, 1, 3, 9, 17), (4, 1, 17, 11)),
        "batch-of-vectors": ((129, 1, 33), (129, 33, 1)),
    }
    empty = {"empty-batch": ((0, 9, 17), (0, 17, 11)), "empty-and-one": ((0, 9, 17), (1, 17, 11))}
    for label, (a, b) in {**pairs, **empty}.items():
        level = "smoke" if dtype == "float32" or label == "broadcast-both" else "full"
        yield make("matmul", f"batch/{label}", {"a": spec(dtype, a), "b": spec(dtype, b)}, normal(), level)
    for layout in ("fortran", "transposed", "sliced", "reversed", "rows_reversed", "broadcast", "constant", "hankel"):
        operands = {"a": spec(dtype, (3, 2, 9, 17), layout), "b": spec(dtype, (3, 2, 17, 11), layout)}
        out = layout if layout in OF_OUTPUTS else "fortran"
        level = "smoke" if dtype == "float32" and layout in ("fortran", "sliced", "broadcast") else "full"
        yield make("matmul", f"batch/layout-{layout}", operands, normal(), level, out=out)


def epilogues(dtype: str) -> Iterator[Case]:
    other = "int32" if dtype == "int8" else dtype
    operands = product(dtype, 33, 37, 35)
    for label, shape in BIASES.items():
        yield make("matmul", f"bias/{label}", {**operands, "bias": spec(other, shape)}, normal(), "smoke")
    for layout in ("sliced", "transposed", "reversed", "hankel"):
        yield make("matmul", f"bias/{layout}", {**operands, "bias": spec(other, (33, 37), layout)}, normal())
    batch = {"a": spec(dtype, (3, 9, 17)), "b": spec(dtype, (3, 17, 11)), "bias": spec(other, (3, 1, 1))}
    level = "smoke" if dtype == "float32" else "full"
    yield make("matmul", "bias/one-a-matrix", batch, normal(), level)
    vectors = {"a": spec(dtype, (3, 19, 37)), "b": spec(dtype, (37,)), "bias": spec(other, (19,))}
    yield make("matmul", "bias/of-vectors", vectors, normal(), level)
    if dtype == "int8":
        return
    for activation in ACTIVATIONS:
        biased = {**operands, "bias": spec(dtype, (37,))}
        options: dict[str, Any] = {"activation": activation, "alpha": 0.75}
        yield make("matmul", f"activation/{activation}", biased, normal(), "smoke", **options)
        yield make("matmul", f"activation/{activation}/large", operands, normal(9.0), activation=activation)
        yield make("matmul", f"activation/{activation}/small", operands, normal(1e-3), activation=activation)
    for alpha in (0.5, -2.25, 0.1, 0.0, 1000.0):
        biased = {**operands, "bias": spec(dtype, (37,))}
        level = "smoke" if alpha in (-2.25, 0.0) else "full"
        yield make("matmul", f"alpha/{alpha}", operands, normal(), level, alpha=alpha)
        yield make("matmul", f"alpha/{alpha}+bias", biased, normal(), level, alpha=alpha)
    if dtype in SHORT:
        yield make("matmul", "out-float32", operands, normal(), "smoke", out_dtype="float32")
        for bias in (dtype, "float32"):
            biased = {**operands, "bias": spec(bias, (37,))}
            yield make("matmul", f"out-float32/bias-{bias}", biased, normal(), "smoke", out_dtype="float32")
            yield make("matmul", f"out-float32/silu-{bias}", biased, normal(), out_dtype="float32", activation="silu")
        yield make("matmul", "out-float32/sliced", operands, normal(), out_dtype="float32", out="sliced")
    if dtype == "float32":
        yield make("matmul", "precision-tf32", operands, normal(), "smoke", precision="tf32")
        yield make("matmul", "precision-tf32/large", product(dtype, 129, 130, 131), normal(), precision="tf32")


def witnesses(dtype: str) -> Iterator[Case]:
    for k in (16, 33, 128, 257, 1024, 1025, 2560, 4097):
        level = "smoke" if k in (33, 257, 1025) else "full"
        # One product counts in each row: the first, the last, and those at the edges of blocks.
        one_hot = product(dtype, len(boundaries(k)), 9, k)
        yield make("matmul", f"one-term/{k}", one_hot, one_term, level)
        # Sums of +1 and -1 stay small enough for 16 bits to show a single missing term.
        yield make("matmul", f"signs/{k}", product(dtype, 7, 33, k), signs, level)
    if dtype == "int8":
        return
    for k in (34, 258, 1026):
        level = "smoke" if k == 258 else "full"
        yield make("matmul", f"cancelling/{k}", product(dtype, 17, 19, k), cancelling, level)
    for k in (1024, 4096):
        yield make("matmul", f"ones/{k}", product(dtype, 3, 5, k), filled(a=1.0, b=1.0), "smoke")
    yield make("matmul", "identity", product(dtype, 67, 5, 67), identity, "smoke")
    yield make("matmul", "large-mean", product(dtype, 17, 33, 129), normal(1.0, 100.0))
    yield make("matmul", "many-magnitudes", product(dtype, 17, 33, 129), magnitudes, "smoke")


def one_term(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Row i of a has 3 at the i-th boundary of K and 0 elsewhere; b has integers without 0."""
    a, b = (s.shape for _, s in op.inputs)
    left = np.zeros(a)
    for row, mark in enumerate(boundaries(a[-1])):
        left[row, mark] = 3
    return [left, rng.integers(1, 9, b) * rng.choice((-1, 1), b)]


def signs(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """+1 and -1."""
    return [rng.choice((-1, 1), s.shape) for _, s in op.inputs]


def cancelling(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Two halves of K cancel but for a small rest, after partial sums that no 16-bit accumulator holds."""
    (m, k), n = op.inputs[0][1].shape, op.inputs[1][1].shape[-1]
    left, right = rng.integers(-63, 64, (m, k // 2)), rng.integers(-63, 64, (k // 2, n))
    rest = rng.integers(-1, 2, (m, k // 2)) * (rng.random((m, k // 2)) < 0.1)
    return [np.concatenate([left, rest - left], 1), np.concatenate([right, right])]


def identity(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """3 times the identity: every element of b shows."""
    return [3 * np.eye(op.inputs[0][1].shape[0]), rng.integers(-99, 100, op.inputs[1][1].shape)]


def magnitudes(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Values from 2^-6 to 2^6 of both signs: order of additions and precision of products matter."""
    return [rng.standard_normal(s.shape) * 2.0 ** rng.integers(-6, 7, s.shape) for _, s in op.inputs]


def consistency(dtype: str) -> Iterator[Case]:
    level = "smoke" if dtype in ("float32", "bfloat16") else "full"
    for n, k in ((64, 65), (257, 128), (5, 1024)):
        operands = {**product(dtype, 129, n, k), "bias": spec("int32" if dtype == "int8" else dtype, (n,))}
        yield make(
            "matmul", f"rows-alone/{n}x{k}", operands, normal(), level if n == 64 else "full",
            check="batch", deterministic="batch",
        )  # fmt: skip
    yield make("matmul", "two-threads", product(dtype, 65, 67, 66), normal(), level, check="threads")


def not_finite(dtype: str) -> Iterator[Case]:
    operands = product(dtype, 18, 20, 19)
    planted_at: dict[str, dict[str, Points]] = {
        "nan-in-a": {"a": (((3, 5), NAN),)},
        "nan-in-b": {"b": (((5, 3), NAN),)},
        "inf-in-a": {"a": (((17, 18), INF), ((0, 0), -INF))},
        "inf-in-b": {"b": (((18, 19), -INF), ((0, 0), INF))},
        "inf-and-minus-inf": {"a": (((2, 3), INF), ((2, 4), INF)), "b": (((3, 1), 1.0), ((4, 1), -1.0))},
        "zero-times-inf": {"a": (((4, 18), 0.0),), "b": (((18, 2), INF),)},
    }
    for label, points in planted_at.items():
        yield make("matmul", f"edge/{label}", operands, planted(normal(), **points), "smoke")
    bias = {**operands, "bias": spec(dtype, (20,))}
    yield make("matmul", "edge/inf-in-bias", bias, planted(normal(), bias=(((0, 3), INF), ((0, 4), NAN))))
    # An alpha of zero is a factor like any other.
    yield make(
        "matmul", "edge/zero-alpha-inf", operands, planted(normal(), a=(((3, 5), INF),)), "smoke", alpha=0.0
    )  # fmt: skip
    for activation in ACTIVATIONS:
        special: dict[str, Points] = {
            "a": (((1, 0), INF), ((2, 0), -INF), ((3, 0), NAN)),
            "b": tuple(((0, j), 1.0) for j in range(37)),
        }
        # As in activation/…, so that they share kernels.
        biased = {**product(dtype, 33, 37, 35), "bias": spec(dtype, (37,))}
        label, data = f"edge/{activation}-of-inf", planted(normal(), **special)
        yield make("matmul", label, biased, data, "smoke", activation=activation, alpha=0.75)


def edges_of_one_dtype() -> Iterator[Case]:
    """What the rules say of single dtypes by number."""
    row = np.array([[60000.0, 60000.0, -60000.0]])
    triple = {"a": spec("float16", (1, 3)), "b": spec("float16", (3, 1))}
    yield make("matmul", "edge/60000+60000-60000", triple, given(a=row, b=1.0), "smoke")
    yield make("matmul", "edge/120000-is-inf", triple, given(a=np.abs(row) * [[1, 1, 0]], b=1.0), "smoke")
    tiny = {"a": spec("float16", (3, 2)), "b": spec("float16", (2, 5))}
    yield make("matmul", "edge/subnormal-results", tiny, given(a=2.0**-12, b=2.0**-11), "smoke")
    yield make("matmul", "edge/subnormal-inputs", tiny, given(a=2.0**-23, b=3.0), "smoke")
    for dtype, small, large in (
        ("float32", 2.0**-65, 1e30),
        ("bfloat16", 2.0**-65, 1e30),
        ("float64", 2.0**-514, 1e200),
    ):
        operands = product(dtype, 3, 5, 4)
        yield make("matmul", "edge/subnormal-results", operands, given(a=small, b=3 * small), "smoke")
        yield make("matmul", "edge/subnormal-inputs", operands, given(a=small * small * 4, b=1.5), "smoke")
        yield make("matmul", "edge/overflow", operands, given(a=large, b=large), "smoke")
        yield make("matmul", "edge/overflow-between", operands, given(a=large, b=[[large], [-large], [1.0], [-2.0]]))
    # 13 bits of mantissa, which TF32 and bfloat16 lack.
    yield make("matmul", "long-mantissa", product("float32", 9, 11, 16), long_mantissa, "smoke")
    # Sums of int8 products wrap modulo 2^32; saturation is another operator.
    for k in (131072, 131073, 131079):
        level = "smoke" if k == 131073 else "full"
        yield make("matmul", f"edge/wraps/{k}", product("int8", 1, 2, k), given(a=-128, b=-128), level)
    wrapping = {**product("int8", 3, 5, 7), "bias": spec("int32", (5,))}
    yield make("matmul", "edge/bias-wraps", wrapping, given(a=127, b=127, bias=2**31 - 1), "smoke")
    yield make("matmul", "edge/extremes", product("int8", 17, 19, 300), extremes, "smoke")


def long_mantissa(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Odd integers of 13 bits times +1 and -1."""
    a, b = (s.shape for _, s in op.inputs)
    return [2 * rng.integers(-4096, 4096, a) + 1, rng.choice((-1, 1), b)]


def extremes(op: Op, rng: np.random.Generator) -> list[NDArray[Any]]:
    """-128 and 127."""
    return [rng.choice((-128, 127), s.shape) for _, s in op.inputs]
