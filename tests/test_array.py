"""hal.Array: views, memory and the way to the host."""

from __future__ import annotations

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hal
from hal.array import Memory


@pytest.fixture
def x() -> np.ndarray[Any, Any]:
    return np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(None, None, -1),
        (slice(1), 2),
        (..., 3),
        (None, 1, ..., None),
        (slice(None), slice(3, 0, -2), slice(1, 4)),
        (slice(5, 9),),
        (2, 3, 4),
        ...,
    ],
)
def test_views_index_as_numpy_does(x: np.ndarray[Any, Any], index: Any) -> None:
    view = hal.asarray(x, device="cpu")[index]
    assert view.shape == x[index].shape
    np.testing.assert_array_equal(view.numpy(), x[index])


def test_a_view_of_a_view_still_names_the_right_elements(x: np.ndarray[Any, Any]) -> None:
    device = hal.asarray(x, device="cpu")
    np.testing.assert_array_equal(device[::-1, 1:].T[1::2, ::-1].numpy(), x[::-1, 1:].T[1::2, ::-1])
    np.testing.assert_array_equal(device.transpose(1, 0, 2)[2].numpy(), x.transpose(1, 0, 2)[2])
    np.testing.assert_array_equal(device[1].reshape(2, -1).numpy(), x[1].reshape(2, -1))
    np.testing.assert_array_equal(device[:, :1].broadcast_to((3, 4, 5)).numpy(), np.broadcast_to(x[:, :1], (3, 4, 5)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_zero_sized_and_zero_dimensional_arrays_go_there_and_back(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float16)
    np.testing.assert_array_equal(hal.asarray(x, device="cpu").numpy(), x)


def test_what_cannot_be_a_view_is_refused(x: np.ndarray[Any, Any]) -> None:
    device = hal.asarray(x, device="cpu")
    with pytest.raises(IndexError, match="out of range"):
        device[3]
    with pytest.raises(hal.ShapeError, match="4 indices"):
        device[0, 0, 0, 0]
    with pytest.raises(hal.ArgumentError, match="integers, slices"):
        device[[0, 1]]
    with pytest.raises(hal.ShapeError, match="not contiguous"):
        device.T.reshape(60)
    with pytest.raises(hal.ShapeError, match="another number"):
        device.reshape(7, 9)
    with pytest.raises(hal.ShapeError, match="does not broadcast"):
        device.broadcast_to((3, 4, 6))
    with pytest.raises(hal.OptionError, match="no order"):
        device.transpose(0, 0, 1)


def test_nothing_is_copied_to_the_host_unasked(x: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"\.numpy\(\)"):
        np.asarray(hal.asarray(x, device="cpu"))


def test_memory_goes_back_when_the_last_view_is_gone(x: np.ndarray[Any, Any]) -> None:
    device = hal.device("cpu")
    gc.collect()
    before = len(device._memory)  # type: ignore[attr-defined]
    array = hal.asarray(x, device="cpu")
    view = array[1:]
    del array
    gc.collect()
    assert len(device._memory) == before + 1  # type: ignore[attr-defined]
    np.testing.assert_array_equal(view.numpy(), x[1:])
    del view
    gc.collect()
    assert len(device._memory) == before  # type: ignore[attr-defined]


def test_memory_is_aligned_as_promised() -> None:
    device = hal.device("cpu")
    assert all(Memory(device, n).handle % 64 == 0 for n in (1, 3, 64, 1000))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8", "int32", "bool"])
def test_every_dtype_goes_there_and_back(dtype: str) -> None:
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x = np.array([[1, 0, 3]]).astype(numpy_dtype)
    array = hal.asarray(x, device="cpu")
    assert array.dtype == numpy_dtype and array.nbytes == x.nbytes and array.size == 3 and array.ndim == 2
    np.testing.assert_array_equal(array.numpy(), x)


def test_asarray_converts_with_one_rounding_and_only_when_asked(x: np.ndarray[Any, Any]) -> None:
    fine = np.array([1 + 2.0**-8 + 2.0**-40], np.float64)  # through float32 this would be a tie, rounded down
    assert float(hal.asarray(fine, device="cpu", dtype="bfloat16").numpy()[0]) == 1 + 2.0**-7
    same = hal.asarray(x, device="cpu")
    assert hal.asarray(same) is same
    assert hal.asarray(same, copy=True) is not same
    with pytest.raises(hal.OptionError, match="without a copy"):
        hal.asarray(same, dtype="float64", copy=False)
    with pytest.raises(hal.ArgumentError, match="dtype would be a guess"):
        hal.asarray([1.0, 2.0])


def test_empty_refuses_what_is_no_shape() -> None:
    assert hal.empty(3, "float32", device="cpu").shape == (3,)
    for shape, text in (((-1,), "lengths >= 0"), ((2.0,), "integers"), (None, "integers")):
        with pytest.raises(hal.ArgumentError, match=text):
            hal.empty(shape, "float32", device="cpu")  # type: ignore[arg-type]


def test_dlpack_shares_memory_and_keeps_it(x: np.ndarray[Any, Any]) -> None:
    array = hal.asarray(x, device="cpu")
    shared = np.from_dlpack(array.transpose(2, 0, 1))
    address = array.memory.handle
    del array
    gc.collect()
    np.testing.assert_array_equal(shared, x.transpose(2, 0, 1))
    assert shared.ctypes.data == address
    capsule = hal.asarray(x, device="cpu").__dlpack__()
    del capsule  # never consumed: its memory goes back all the same
    gc.collect()
