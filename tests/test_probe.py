"""The probe finds the arithmetic of chips that are set up on purpose, and says the plain thing of an exact one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.cli import main
from hal.conformance.probe import probe
from hal.conformance.subject import Subject
from hal.dtypes import round_to
from hal.errors import UnsupportedError
from hal.op import Op
from hal.registry import open_device
from hal_cpu_reference import operators as reference

Array = NDArray[Any]
Sum = Callable[[Array, Array], Array]  # a float64 accumulator and an exact float64 product


def chip(add: Sum, dtypes: frozenset[str], read: Callable[[Array], Array] = lambda x: x) -> Subject:
    """matmul by one addition after another; everything else is the reference's."""

    def compute(op: Op, inputs: Sequence[Array]) -> list[Array]:
        if op.name != "matmul" or op.dtype == "int8":
            return reference.COMPUTE[op.name](op, inputs)
        a, b = (read(x.astype(np.float64)) for x in inputs[:2])
        total = np.zeros(op.outputs[0][1].shape)
        with np.errstate(all="ignore"):
            for k in range(a.shape[-1]):
                total = add(total, a[:, k : k + 1] * b[k : k + 1])
        return [round_to(total, op.outputs[0][1].dtype)]

    return Subject(compute, "chip", dtypes)


def to_bits(x: Array, bits: int, rounded: Callable[[Array], Array]) -> Array:
    """x with so many bits, rounded by `rounded`."""
    fraction, exponent = np.frexp(x)
    return np.where(np.isfinite(x), np.ldexp(rounded(np.ldexp(fraction, bits)), exponent - bits), x)


def single(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)


def truncating_14(total: Array, product: Array) -> Array:
    """Both are cut to 14 bits below the larger one, as some matrix units do."""
    with np.errstate(all="ignore"):
        _, top = np.frexp(np.maximum(np.abs(total), np.abs(product)))
        unit = np.ldexp(1.0, top - 14)
        return np.trunc(total / unit) * unit + np.trunc(product / unit) * unit


def toward_zero(total: Array, product: Array) -> Array:
    """float32 additions, rounded toward zero: the sum in long double is cut."""
    exact = (total.astype(np.longdouble) + product.astype(np.longdouble)).astype(np.longdouble)
    near = exact.astype(np.float32)
    over = np.abs(near.astype(np.longdouble)) > np.abs(exact)
    return np.where(over, np.nextafter(near, np.float32(0)), near).astype(np.float64)


def unfused(total: Array, product: Array) -> Array:
    return single(total + single(product))


def fused(total: Array, product: Array) -> Array:
    return single(total + product)


def flushing(total: Array, product: Array) -> Array:
    y = fused(total, product)
    return np.where(np.abs(y) < 2.0**-126, 0.0, y)


def flush_inputs(x: Array) -> Array:
    return np.where(np.abs(x) < 2.0**-126, 0.0, x)


def in_half(total: Array, product: Array) -> Array:
    return (total + product).astype(np.float16).astype(np.float64)


def only_tf32(x: Array) -> Array:
    return to_bits(x, 11, np.trunc)


def answers(device: Any) -> dict[tuple[str, str], str]:
    return {(f.what, f.dtype): f.value for f in probe(device)}


SINGLE = frozenset(("float32",))
CHIPS = [
    ("14 bits", chip(truncating_14, frozenset(("float16",))), ("bits of a sum", "float16"), "14"),
    ("toward zero", chip(toward_zero, SINGLE), ("rounding of a sum", "float32"), "toward zero"),
    ("flushed results", chip(flushing, SINGLE), ("subnormal results", "float32"), "flushed to 0"),
    ("flushed operands", chip(fused, SINGLE, flush_inputs), ("subnormal operands", "float32"), "flushed to 0"),
    ("unfused", chip(unfused, SINGLE), ("products before they are added", "float32"), "rounded (not fused)"),
    ("fused", chip(fused, SINGLE), ("products before they are added", "float32"), "exact (fused, or a wider sum)"),
    ("single", chip(unfused, SINGLE), ("bits of a sum", "float32"), "24 (float32)"),
    ("tf32", chip(fused, SINGLE, only_tf32), ("bits of an operand that count", "float32"), "11 (tf32)"),
]


@pytest.mark.parametrize(("device", "what", "value"), [case[1:] for case in CHIPS], ids=[case[0] for case in CHIPS])
def test_the_set_up_arithmetic_is_found(device: Subject, what: tuple[str, str], value: str) -> None:
    assert answers(device)[what] == value


def test_a_sum_in_float16_is_found() -> None:
    """Its range is float16's too: 2^30 is infinite there, and no bit is kept."""
    found = answers(chip(in_half, frozenset(("float16",))))
    assert found["bits of a sum", "float16"] not in ("24 (float32)", "53 (float64)")


def saturating(op: Op, inputs: Sequence[Array]) -> list[Array]:
    total = np.matmul(inputs[0].astype(np.int64), inputs[1].astype(np.int64))
    return [np.clip(total, -(2**31), 2**31 - 1).astype(np.int32)]


def test_integers_that_saturate_are_found() -> None:
    found = answers(Subject(saturating, "chip", frozenset(("int8",))))
    assert found["a sum beyond 32 bits", "int8"] == "saturates"
    assert found["pairs of the largest products", "int8"] == "exact"


def coarse(op: Op, inputs: Sequence[Array]) -> list[Array]:
    results = reference.COMPUTE[op.name](op, inputs)
    return [np.nextafter(np.nextafter(y, np.float32(2)), np.float32(2)) if op.name == "softmax" else y for y in results]


def test_the_error_of_an_exponential_is_found() -> None:
    value = answers(Subject(coarse, "chip", SINGLE))["error of e^x, in softmax", "float32"]
    assert 1.5 <= float(value.split()[0]) <= 2.6


def test_the_reference_is_exact() -> None:
    found = answers(open_device("cpu"))
    assert not {"failed", "not available", "lost", "flushed to 0", "other"} & set(found.values())
    assert found["bits of a sum", "float16"] == "53 (float64)"
    assert found["rounding of a result to 16 bits", "bfloat16"] == "to nearest, ties to even"
    assert found["a sum beyond 32 bits", "int8"] == "wraps"
    assert found["the run", "float64"] == "no influence"


def test_what_a_device_lacks_is_said() -> None:
    def only_softmax(op: Op, inputs: Sequence[Array]) -> list[Array]:
        if op.name != "softmax":
            raise UnsupportedError(f"{op.name}: not here")
        return reference.softmax(op, inputs)

    found = answers(Subject(only_softmax, "chip", SINGLE))
    assert found["bits of a sum", "float32"] == "not available"
    assert found["NaN in a row of softmax", "float32"] == "kept"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "cpu"]) == 0
    assert "bits of a sum" in capsys.readouterr().out
    assert main(["probe", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["device"] == "cpu" and {"what", "dtype", "value", "evidence"} <= set(document["findings"][0])
