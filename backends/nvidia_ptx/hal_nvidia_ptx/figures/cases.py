"""Representative calls, whose kernels are assembled and measured for every target; plain Ops, no data, no device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hal.device import DeviceInfo
from hal.dtypes import DTYPES
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal_nvidia_ptx.target import TARGETS

ROWS = 8192  # of the row operators: enough for every device, and kernels must not depend on it


@dataclass(frozen=True, slots=True)
class Case:
    """A call by a short name. `usual` ones are held to figures in every run of the tests, the others in full runs."""

    name: str
    op: Op
    usual: bool = True

    @property
    def is_matmul(self) -> bool:
        return self.op.name == "matmul"

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the result."""
        return self.op.outputs[0][1].itemsize


def device_info(target: str) -> DeviceInfo:
    """What a kernel generator is told of a device of this target: the largest common part."""
    known = TARGETS[target]
    props = {"target": target, "sms": known.sms}
    return DeviceInfo(target, frozenset(DTYPES), 8 << 30, props=props)


def cases(usual_only: bool = False) -> list[Case]:
    """All cases, or those of every run."""
    return [case for case in _all() if case.usual or not usual_only]


@cache
def _all() -> tuple[Case, ...]:
    return (*_matmuls(), *_rows())


# ---------------------------------------------------------------- matmul


def _matmuls() -> Iterable[Case]:
    big = (4096, 4096, 4096)
    for dtype in ("bfloat16", "float16", "float32", "float64", "int8"):
        yield _matmul(dtype, *big)
    yield _matmul("float32", *big, precision="tf32")
    yield _matmul("bfloat16", 1, 4096, 4096)
    for dtype in ("bfloat16", "float32"):
        for layouts in ("nt", "tn", "tt"):
            yield _matmul(dtype, *big, layouts, usual=False)
        yield _matmul(dtype, *big, bias=True, activation="gelu", usual=False)
        yield _matmul(dtype, 4095, 4093, 4097, usual=False)
        yield _matmul(dtype, 128, 128, 8192, usual=False)
        yield _matmul(dtype, 4096, 1, 4096, usual=False)
        yield _matmul(dtype, 256, 256, 256, batch=(8,), usual=False)
        yield _matmul(dtype, 4096, 4096, 4096, deterministic="batch", usual=False)
    for dtype in ("float16", "int8", "float64"):
        yield _matmul(dtype, *big, "nt", usual=False)
        yield _matmul(dtype, 4095, 4093, 4097, usual=False)
    yield _matmul("int8", 256, 256, 4096, usual=False)


def _matmul(
    dtype: str,
    m: int,
    n: int,
    k: int,
    layouts: str = "nn",
    batch: tuple[int, ...] = (),
    bias: bool = False,
    usual: bool = True,
    **options: Any,
) -> Case:
    """`layouts`: n for row-major, t for a transposed view, of a and of b."""
    shapes = ((*batch, m, k), (*batch, k, n))
    operands = {
        role: _transposed(dtype, shape) if letter == "t" else TensorSpec.contiguous(dtype, shape, 256)
        for role, shape, letter in zip("ab", shapes, layouts, strict=True)
    }
    if bias:
        operands["bias"] = TensorSpec.contiguous(dtype, (n,), 256)
    words = [f"matmul {dtype}", "x".join(map(str, (*batch, m, n, k)))]
    words += [layouts] if layouts != "nn" else []
    words += ["bias"] if bias else []
    words += [str(value) for value in options.values()]
    return Case(" ".join(words), _op("matmul", operands, options), usual)


def _transposed(dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return TensorSpec.contiguous(dtype, tuple(shape[i] for i in axes), 256).permute(axes)


# ---------------------------------------------------------------- rows


def _rows() -> Iterable[Case]:
    for operator in ("softmax", "layernorm"):
        for n in (1024, 4096, 32768):
            yield _row(operator, "bfloat16", n)
        yield _row(operator, "float32", 4096)
    yield _row("rmsnorm", "bfloat16", 4096)
    for operator in ("softmax", "log_softmax", "layernorm", "rmsnorm"):
        for dtype in ("float16", "float32", "float64", "bfloat16"):
            for n in (48, 256, 1024, 4096, 16384, 32768, 131072, 1023, 50257):
                case = _row(operator, dtype, n, usual=False)
                if not any(case.name == usual for usual in _USUAL_ROWS):
                    yield case
        yield _row(operator, "float32", 1024, strided=True, usual=False)
        yield _row(operator, "bfloat16", 4096, extras=True, usual=False)


_USUAL_ROWS = (
    *(f"{operator} bfloat16 {n}" for operator in ("softmax", "layernorm") for n in (1024, 4096, 32768)),
    *("softmax float32 4096", "layernorm float32 4096", "rmsnorm bfloat16 4096"),
)


def _row(operator: str, dtype: str, n: int, strided: bool = False, extras: bool = False, usual: bool = True) -> Case:
    """`strided`: rows along the first axis. `extras`: with all optional operands and results."""
    x = TensorSpec.contiguous(dtype, (ROWS, n), 256)
    if strided:
        x = TensorSpec.contiguous(dtype, (n, ROWS), 256).permute((1, 0))
    operands = {"x": x}
    options: dict[str, Any] = {}
    if operator in ("layernorm", "rmsnorm"):
        operands["weight"] = TensorSpec.contiguous(dtype, (n,), 256)
        if operator == "layernorm":
            operands["bias"] = TensorSpec.contiguous(dtype, (n,), 256)
        if extras:
            operands["residual"] = x
            options["return_stats"] = True
    elif extras:
        operands["mask"] = TensorSpec.contiguous("bool", (ROWS, n), 256)
        options["scale"] = 0.125
    words = [operator, dtype, str(n), *(["strided"] if strided else []), *(["extras"] if extras else [])]
    return Case(" ".join(words), _op(operator, operands, options), usual)


def _op(operator: str, operands: dict[str, TensorSpec], options: dict[str, Any]) -> Op:
    known = OPERATORS[operator]
    complete = {**known.options, "deterministic": "run", **options}
    results = known.infer(operands, complete)
    return known.build(operands, [TensorSpec.contiguous(r.dtype, r.shape, 256) for r in results], complete)
