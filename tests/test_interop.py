"""Strangers' arrays: the same kind out as in, nothing copied that need not be, nothing taken that would be wrong."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hal
from hal import dlpack
from hal.op import TensorSpec

F32 = np.float32


@pytest.fixture(autouse=True)
def _on_the_reference() -> Any:
    with hal.use("cpu"):
        yield


class Stranger:
    """An array of nobody's library that speaks DLPack."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values
        self.exports = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        self.exports += 1
        itemsize = self.values.dtype.itemsize
        spec = TensorSpec(
            self.values.dtype.name, self.values.shape, tuple(s // itemsize for s in self.values.strides), itemsize
        )
        return dlpack.write(self.values.ctypes.data, spec, self.values)

    def __array_namespace__(self) -> Any:
        class Namespace:
            asarray = staticmethod(Stranger)

        return Namespace


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_any_dlpack_array_comes_in_and_its_kind_comes_out(dtype: Any) -> None:
    values = np.arange(12, dtype=F32).astype(dtype).reshape(3, 4)
    result = hal.softmax(Stranger(values.T), axis=0)
    assert isinstance(result, Stranger)
    np.testing.assert_array_equal(result.values, hal.softmax(values.T, axis=0))
    with pytest.raises(hal.ArgumentError, match="cannot be written"):
        hal.softmax(Stranger(values), out=Stranger(values))


def test_a_capsule_is_released_when_the_last_array_is_gone() -> None:
    values = np.ones((2, 3), F32)
    alive = type("Owner", (), {})()
    watched = weakref.ref(alive)
    array = dlpack.read(dlpack.write(values.ctypes.data, TensorSpec.contiguous("float32", (2, 3)), alive))
    del alive
    gc.collect()
    assert watched() is not None
    np.testing.assert_array_equal(array[1:], values[1:])
    del array
    gc.collect()
    assert watched() is None


def test_what_lives_elsewhere_is_refused_with_advice() -> None:
    class Faraway(Stranger):
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    with pytest.raises(hal.UnsupportedError, match="no hal device shares its memory"):
        hal.softmax(Faraway(np.ones((2, 3), F32)))


def test_a_broken_producer_is_an_error_not_a_crash() -> None:
    class Broken(Stranger):
        def __dlpack__(self, **_: Any) -> Any:
            return "no capsule"

    with pytest.raises(hal.ArgumentError, match="no legacy 'dltensor' capsule"):
        hal.softmax(Broken(np.ones((2, 3), F32)))

    class Integers(Stranger):
        def __dlpack__(self, **_: Any) -> Any:
            return np.ones((2, 3), np.uint16).__dlpack__()

    with pytest.raises(hal.DTypeError, match=r"code 1, 16 bits"):
        hal.softmax(Integers(np.ones((2, 3), F32)))


def test_well_behaved_subclasses_are_arrays(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, 4))
    mapped[...] = np.arange(12).reshape(3, 4)
    result = hal.softmax(mapped)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, hal.softmax(np.array(mapped)))


# ---- torch, where it is installed


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is optional; `make test-full` installs it")


def test_torch_in_torch_out(torch: Any) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        a, b = torch.arange(12).reshape(3, 4).to(dtype), torch.ones(5, 4, dtype=dtype).T
        result = hal.matmul(a, b)
        assert isinstance(result, torch.Tensor) and result.dtype == dtype
        assert torch.equal(result, torch.tensor([[6.0] * 5, [22.0] * 5, [38.0] * 5]).to(dtype))
    out = torch.empty(3, 5)
    assert hal.matmul(a.float(), b.float(), out=out) is out
    x = torch.randn(2, 6)
    in_place = x.clone()
    hal.softmax(in_place, out=in_place)
    assert torch.equal(in_place, hal.softmax(x))
    assert hal.softmax(x.half(), out_dtype=torch.float32).dtype == torch.float32


def test_torch_memory_is_not_copied(torch: Any) -> None:
    x = torch.randn(3, 4)
    from hal.interop import kind_of

    for view in (x, x.T, x[:, 1:], x.bfloat16()):
        assert kind_of(view).host(view).ctypes.data == view.data_ptr()


def test_torch_tensors_that_would_go_wrong_are_refused(torch: Any) -> None:
    x = torch.randn(3, 4)
    for bad, kind, text in (
        (x.clone().requires_grad_(), hal.ArgumentError, r"x\.detach\(\)"),
        (x.to_sparse(), hal.ArgumentError, "no plain memory"),
        (x.to("meta"), hal.ArgumentError, "no plain memory"),
        (x.to(torch.int64), hal.DTypeError, "torch.int64"),
        (torch.view_as_complex(torch.randn(3, 4, 2)).conj().imag, hal.ArgumentError, "resolve_neg"),
    ):
        with pytest.raises(kind, match=text):
            hal.softmax(bad)
    weight = torch.nn.Parameter(torch.ones(4))
    with torch.no_grad():
        assert torch.equal(hal.layernorm(x, weight), hal.layernorm(x, weight.detach()))
    with pytest.raises(hal.ArgumentError, match="requires grad"):
        hal.layernorm(x, weight)


def test_torch_reads_hal_arrays(torch: Any) -> None:
    x = torch.randn(3, 4).bfloat16()
    array = hal.asarray(x)
    assert torch.equal(torch.from_dlpack(array.T), x.T)


# ---- JAX, where it is installed


def test_jax_in_jax_out() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="JAX is optional")
    x = jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4)
    result = hal.softmax(x)
    assert type(result) is type(x) and result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(result), hal.softmax(np.asarray(x)))


def test_torch_s_autograd_learns_of_what_hal_wrote(torch: Any) -> None:
    v, w = torch.ones(3), torch.ones(3, requires_grad=True)
    product = w * v  # autograd saves v for the gradient of w
    hal.softmax(torch.zeros(3), out=v)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
