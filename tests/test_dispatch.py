"""Dispatch: layouts, memory shared with `out=`, settings, fallback, checks, and what is remembered."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest

import hal
from hal import dispatch
from hal.array import intern
from hal.op import TensorSpec
from hal.ops import judge
from hal.settings import watch
from hal_cpu_reference.device import Device

F32 = np.float32
Arr = np.ndarray[Any, Any]


def layouts(x: Arr) -> dict[str, Arr]:
    """The same (3, 4) values in many layouts."""
    wide = np.zeros((6, 12), x.dtype)
    wide[::2, 1::3] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    record = np.zeros(x.shape, np.dtype([("pad", np.uint8), ("value", x.dtype)]))
    record["value"] = x
    return {
        "contiguous": x.copy(),
        "fortran": np.asfortranarray(x),
        "sliced": wide[::2, 1::3],
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "unaligned": unaligned,
        "read-only": readonly,
        "field of a record": record["value"],
    }


@pytest.mark.parametrize("name", list(layouts(np.ones((3, 4), F32))))
@pytest.mark.parametrize("where", ["cpu", "distant"])
def test_every_layout_gives_the_values_of_a_contiguous_copy(name: str, where: str, distant: Device) -> None:
    device: Any = "cpu" if where == "cpu" else distant
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(F32)
    x = layouts(values)[name]
    before = x.copy()
    np.testing.assert_array_equal(hal.softmax(x, device=device), hal.softmax(values, device="cpu"))
    np.testing.assert_array_equal(hal.softmax(x, axis=0, device=device), hal.softmax(values, axis=0, device="cpu"))
    np.testing.assert_array_equal(hal.matmul(x, x.T, device=device), hal.matmul(values, values.T, device="cpu"))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("where", ["cpu", "distant"])
def test_broadcast_and_overlapping_views(where: str, distant: Device) -> None:
    device: Any = "cpu" if where == "cpu" else distant
    row = np.arange(8, dtype=F32)
    hankel = np.lib.stride_tricks.as_strided(row, (5, 4), (4, 4))
    stretched = np.broadcast_to(row, (3, 8))
    np.testing.assert_array_equal(hal.softmax(hankel, device=device), hal.softmax(hankel.copy(), device="cpu"))
    np.testing.assert_array_equal(hal.softmax(stretched, device=device), hal.softmax(stretched.copy(), device="cpu"))
    np.testing.assert_array_equal(hal.matmul(hankel, hankel.T, device=device), hankel @ hankel.T)


@pytest.mark.parametrize("where", ["cpu", "distant"])
def test_out_of_any_layout_is_filled_and_nothing_beside_it(where: str, distant: Device) -> None:
    device: Any = "cpu" if where == "cpu" else distant
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(F32)
    wide = np.full((6, 12), 7, F32)
    hal.softmax(x, out=wide[::2, 1::3], device=device)
    np.testing.assert_array_equal(wide[::2, 1::3], hal.softmax(x, device="cpu"))
    wide[::2, 1::3] = 7
    assert (wide == 7).all()
    backwards = np.zeros((3, 4), F32)
    hal.softmax(x, out=backwards[::-1, ::-1], device=device)
    np.testing.assert_array_equal(backwards[::-1, ::-1], hal.softmax(x, device="cpu"))


@pytest.mark.parametrize("where", ["cpu", "distant"])
def test_out_that_overlaps_an_operand_is_right(where: str, distant: Device) -> None:
    device: Any = "cpu" if where == "cpu" else distant
    whole = np.random.default_rng(0).standard_normal((5, 5)).astype(F32)
    want = hal.matmul(whole[:4, :4].copy(), whole[1:, 1:].copy(), device="cpu")
    hal.matmul(whole[:4, :4], whole[1:, 1:], out=whole[:4, 1:], device=device)
    np.testing.assert_array_equal(whole[:4, 1:], want)
    with pytest.raises(hal.ShapeError, match="share memory"):
        hal.layernorm(whole, residual=whole, out=(whole, whole), device=device)


def test_out_that_overlaps_on_a_device_is_refused_unless_in_place(distant: Device) -> None:
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(F32)
    array = hal.asarray(x, device=distant)
    with pytest.raises(hal.ShapeError, match="shares memory"):
        hal.matmul(array, array, out=array)
    with pytest.raises(hal.ShapeError, match="shares memory"):
        hal.softmax(array[:2], out=array[1:3])
    hal.softmax(array, out=array)
    np.testing.assert_array_equal(array.numpy(), hal.softmax(x, device="cpu"))


def test_arrays_of_two_devices_are_refused(distant: Device) -> None:
    x = np.ones((2, 2), F32)
    with pytest.raises(hal.DeviceError, match="on one device"):
        hal.matmul(hal.asarray(x, device="cpu"), hal.asarray(x, device=distant))
    with pytest.raises(hal.DeviceError, match=r"hal\.asarray\(x"):
        hal.softmax(hal.asarray(x, device=distant), device="cpu")


def test_argument_goes_before_use_before_default(distant: Device) -> None:
    x, seen = np.ones((2, 2), F32), []
    original = distant.prepare
    distant.prepare = lambda op: (seen.append(op), original(op))[1]  # type: ignore[assignment, func-returns-value]
    with hal.use(distant):
        hal.softmax(x, device="cpu")
        assert not seen
        hal.softmax(x)
    assert len(seen) == 1


def test_memory_is_given_back_after_each_call(distant: Device) -> None:
    x = np.ones((8, 8), F32)
    for _ in range(3):
        hal.matmul(x, x, device=distant)
    with pytest.raises(hal.UnsupportedError):
        distant.prepare = _refuse  # type: ignore[method-assign]
        hal.softmax(x, device=distant)
    assert not distant._memory


def _refuse(op: Any) -> Any:
    raise hal.UnsupportedError(f"{op.name}: this device has no kernel")


def test_nothing_falls_back_unseen(distant: Device) -> None:
    distant.prepare = _refuse  # type: ignore[method-assign]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(F32)
    with pytest.raises(hal.UnsupportedError, match="no kernel"):
        hal.softmax(x, device=distant)
    with hal.use(fallback="warn"):
        with pytest.warns(RuntimeWarning, match="computed on the reference instead"):
            y = hal.softmax(x, device=distant)
        np.testing.assert_array_equal(y, hal.softmax(x, device="cpu"))
        with pytest.warns(RuntimeWarning, match="no kernel"):
            z = hal.softmax(hal.asarray(x, device=distant))
        assert z.device is distant
        np.testing.assert_array_equal(z.numpy(), y)


def test_watchers_see_what_the_judge_needs(distant: Device) -> None:
    verdicts = []
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float16)
    with watch(lambda op, inputs, outputs: verdicts.append(judge(op, inputs, outputs))), hal.use(distant):
        hal.softmax(x, axis=1, out=x)
        hal.matmul(x.transpose(0, 2, 1), x[0], bias=x[0, 0, 0:1], activation="silu")
        hal.layernorm(x[..., ::-1], residual=x, return_stats=True)
        hal.rmsnorm(hal.asarray(x).T)
    assert len(verdicts) == 4 and all(v.ok for v in verdicts)


def test_hal_check_catches_a_wrong_device() -> None:
    program = """
import numpy as np, hal
from hal_cpu_reference.device import Backend, Device
from hal_cpu_reference import operators
x = np.arange(6, dtype=np.float32).reshape(2, 3)
hal.softmax(x, device="cpu")
operators.COMPUTE["softmax"] = lambda op, inputs: [inputs[0] * 0]
try:
    hal.softmax(x[:1], device="cpu")
except hal.WrongResult as error:
    print("caught", error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], env=_environment(HAL_CHECK="1"), capture_output=True, text=True, check=True
    )
    assert "caught" in run.stdout and "left its bound" in run.stdout


def _environment(**extra: str) -> dict[str, str]:
    import os

    return {**os.environ, **extra}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MOST_CALLS", 10)
    monkeypatch.setattr(dispatch, "_calls", {})
    for n in range(1, 40):
        hal.softmax(np.ones((1, n), F32), device="cpu")
    assert len(dispatch._calls) <= 10


def test_a_remembered_call_is_the_same_call(distant: Device) -> None:
    """Every way in which two calls can differ is part of the key."""
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(F32)
    calls: list[Any] = [
        lambda: hal.softmax(x),
        lambda: hal.softmax(x.T),
        lambda: hal.softmax(x, axis=0),
        lambda: hal.softmax(x, scale=2),
        lambda: hal.softmax(x, mask=x > 0),
        lambda: hal.softmax(x[:, ::-1]),
        lambda: hal.log_softmax(x),
        lambda: hal.softmax(x.astype(np.float16)),
        lambda: hal.softmax(x.astype(np.float16), out_dtype="float32"),
    ]
    with hal.use(distant):
        first = [call() for call in calls]
        second = [call() for call in calls]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for i, a in enumerate(first):
        assert not any(a.dtype == b.dtype and np.array_equal(a, b) for b in first[:i])


def test_a_held_plan_checks_what_it_is_given() -> None:
    a, b = (hal.asarray(np.ones(s, F32), device="cpu") for s in ((2, 3), (3, 4)))
    out = hal.empty((2, 4), "float32", device="cpu")
    step = hal.plan("matmul", a, b, bias=TensorSpec.contiguous("float32", (4,)))
    with pytest.raises(hal.ArgumentError, match="4 arrays wanted"):
        step(a, b, out)
    step = hal.plan("matmul", a, b)
    step(a, b, out)
    np.testing.assert_array_equal(out.numpy(), np.full((2, 4), 3))
    with pytest.raises(hal.ShapeError, match="planned for"):
        step(a, a, out)
    for bad, text in (({"alpha": "x"}, "real number"), ({"beta": 1}, "no option 'beta'")):
        with pytest.raises(hal.HalError, match=text):
            hal.plan("matmul", a, b, **bad)
    with pytest.raises(hal.OptionError, match="no operator"):
        hal.plan("convolve", a)
    with pytest.raises(hal.ArgumentError, match="operand b is missing"):
        hal.plan("matmul", a)


def test_the_layout_of_a_remembered_out_is_kept(distant: Device) -> None:
    """A key names layouts by id; were the layout gone, another one of another size could get that id."""
    x = hal.asarray(np.ones((4, 8), F32), device=distant)
    out = hal.empty((8, 4), "float32", device=distant).T
    hal.softmax(x, out=out)
    layout = out.spec
    del out
    intern.cache_clear()  # as if thousands of other layouts had been met since
    gc.collect()
    assert sys.getrefcount(layout) > 2  # besides this name and the argument: what the key leads to


def test_a_held_plan_refuses_an_out_that_lies_in_an_operand() -> None:
    a, b = (hal.asarray(np.ones((4, 4), F32), device="cpu") for _ in range(2))
    step = hal.plan("matmul", a, b)
    with pytest.raises(hal.ShapeError, match="shares memory"):
        step(a, b, a)
    in_place = hal.plan("softmax", a)
    in_place(a, a)
    np.testing.assert_array_equal(a.numpy(), np.full((4, 4), 0.25))


def test_an_observer_is_let_go() -> None:
    class Observer:
        def __call__(self, *_: Any) -> None: ...

    observer = Observer()
    watched = weakref.ref(observer)
    with watch(observer):
        hal.softmax(np.ones((2, 2), F32), device="cpu")
    del observer
    gc.collect()
    assert watched() is None
