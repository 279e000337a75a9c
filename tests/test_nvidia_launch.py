"""`hal_nvidia_ptx.load`: one's own PTX on an emulated device, and on a GPU (stood in for)."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hal
import hal_nvidia_ptx
from hal_nvidia_ptx.launch import default_device

TEXTS = runpy.run_path(str(Path(__file__).parent / "stand_in" / "stand_in_texts.py"))
SCALE, SHARED = TEXTS["SCALE"], TEXTS["SHARED"]
TYPES = """\
.version 8.0
.target sm_80
.address_size 64
.visible .entry types(
    .param .u64 out,
    .param .b32 bits,
    .param .u16 small,
    .param .f64 wide,
    .param .align 8 .b8 raw[16]
)
{
    .reg .b32 %b;
    .reg .u32 %s;
    .reg .u16 %h;
    .reg .f64 %w;
    .reg .u64 %out, %r;
    ld.param.u64 %out, [out];
    ld.param.b32 %b, [bits];
    st.global.b32 [%out], %b;
    ld.param.u16 %h, [small];
    cvt.u32.u16 %s, %h;
    st.global.u32 [%out+4], %s;
    ld.param.f64 %w, [wide];
    st.global.f64 [%out+8], %w;
    ld.param.u64 %r, [raw+8];
    st.global.u64 [%out+16], %r;
    ret;
}
"""


@pytest.fixture(scope="module")
def scale() -> Any:
    return hal_nvidia_ptx.load(SCALE)["scale"]


def test_numpy_arrays_are_copied_in_and_out(scale: Any) -> None:
    x, y = np.arange(1000, dtype=np.float32), np.full(1000, 7, np.float32)
    scale(4, 256, x, y, 2.5, 1000, device="ptx:sm_80")
    np.testing.assert_array_equal(y, x * np.float32(2.5))
    scale((2,), (256, 1, 1), y, y, np.float32(2), np.int64(500), device="ptx:sm_90")  # one array twice: in place
    np.testing.assert_array_equal(y[:500], x[:500] * 5)
    np.testing.assert_array_equal(y[500:], x[500:] * np.float32(2.5))


def test_arrays_on_the_device_decide_where_it_runs(scale: Any) -> None:
    x = hal.asarray(np.arange(64, dtype=np.float32), device="ptx:sm_89")
    y = hal.empty((64,), dtype="float32", device="ptx:sm_89")
    scale(1, 32, x[32:], y, 1.0, 32)
    np.testing.assert_array_equal(y.numpy()[:32], np.arange(32, 64, dtype=np.float32))
    with pytest.raises(hal.DeviceError, match="its arrays are on ptx"):
        scale(1, 32, x, y, 1.0, 32, device="ptx:sm_80")
    with pytest.raises(hal.DeviceError, match="arrays on several devices"):
        scale(1, 32, x, hal.empty((64,), dtype="float32", device="ptx:sm_80"), 1.0, 32)
    with pytest.raises(hal.DeviceError, match="device cpu runs no PTX"):
        scale(1, 32, hal.asarray(x.numpy(), device="cpu"), hal.empty((64,), dtype="float32", device="cpu"), 1.0, 32)
    with pytest.raises(hal.UnsupportedError, match="no streams"):
        scale(1, 32, x, y, 1.0, 32, stream=5)


def test_numbers_are_of_the_parameter_s_type() -> None:
    types = hal_nvidia_ptx.load(TYPES)["types"]
    out = np.zeros(6, np.uint32)
    types(1, 1, out, -2, 65535, 1.5, bytes(8) + b"\1\2\3\4\5\6\7\b", device="ptx:sm_80")
    assert out[0] == 2**32 - 2 and out[1] == 65535
    assert out[2:4].view(np.float64)[0] == 1.5 and out[4:].tobytes() == b"\1\2\3\4\5\6\7\b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1, 2.0), r"4 wanted \(x .u64, y .u64, a .f32, n .s32\), 2 given\n  line 5: .visible .entry scale\("),
        ((0, 0, 1.0, 1.5), r"parameter n \(.s32\): an integer wanted, 1.5 given\n  line 9: .param .s32 n"),
        ((0, 0, 1.0, 2**40), r"parameter n \(.s32\): 1099511627776 does not fit"),
        ((0, 0, "a", 1), r"parameter a \(.f32\): a number wanted, str given\n  line 8"),
        ((0, 0, np.ones(1, np.float32), 1), r"parameter a \(.f32\): a number wanted, ndarray given"),
        ((0, [1.0], 1.0, 1), r"parameter y \(.u64\): list is no array"),
        ((0, np.ones(8)[::2], 1.0, 1), r"parameter y \(.u64\): a host array has to be C-contiguous"),
        ((0, b"12", 1.0, 1), r"parameter y \(.u64\): 8 bytes wanted, 2 given"),
        ((-1, 0, 1.0, 1), r"parameter x \(.u64\): -1 does not fit"),
    ],
)
def test_a_wrong_argument_points_at_its_parameter(scale: Any, arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(hal.ArgumentError, match=said):
        scale(1, 1, *arguments, device="ptx:sm_80")


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    path = tmp_path / "scale.ptx"
    path.write_text(SCALE)
    loaded = hal_nvidia_ptx.load(path)
    assert list(loaded) == ["scale"] and repr(loaded["scale"]).startswith("<PTX entry scale(x .u64, y .u64, a .f32")
    with pytest.raises(hal.OptionError, match="no entry 'other'; it has: scale"):
        loaded["other"]
    with pytest.raises(hal.CompileError, match="line 3"):
        hal_nvidia_ptx.load(SCALE.replace(".address_size 64", "nonsense here"))
    with pytest.raises(hal.OptionError, match="grid: one to three positive numbers"):
        loaded["scale"](0, 1, 0, 0, 1.0, 1, device="ptx:sm_80")
    with pytest.raises(FileNotFoundError):
        hal_nvidia_ptx.load(tmp_path / "absent.ptx")
    with pytest.raises(hal.BackendUnavailable, match="PTX for sm_999"):
        default_device(SCALE.replace("sm_80", "sm_999"))


def test_an_access_beyond_an_array_is_an_error_and_nothing_is_copied_back(scale: Any) -> None:
    x, y = np.ones(100, np.float32), np.zeros(100, np.float32)
    with pytest.raises(hal.DeviceError, match="out of bounds"):
        scale(1, 128, x, y, 2.0, 101, device="ptx:sm_80")
    assert not y.any()


def test_torch_tensors_of_the_host_are_taken(scale: Any) -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.arange(8.0), torch.zeros(8)
    scale(1, 32, x, y, 3.0, 8, device="ptx:sm_80")
    assert torch.equal(y, x * 3)


def test_without_a_device_the_gpu_is_chosen(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        import stand_in_driver
        from stand_in_texts import SCALE

        from hal_nvidia_ptx import load

        x, y = np.arange(50, dtype=np.float32), np.zeros(50, np.float32)
        load(SCALE)["scale"](2, 32, x, y, 2.0, 50, cluster=(2, 1, 1))
        assert np.array_equal(y, 2 * x)
        assert stand_in_driver.CURRENT.gpus[0]._machine is None, "sm_75 does not run PTX for sm_80"
        assert stand_in_driver.CURRENT.used[1] == 0, "the copies are given back"

    stand_in(body, targets=["sm_75", "sm_90"])


def test_tensor_maps_are_made_for_the_device_that_gets_them(stand_in: Any) -> None:
    """TMA loads, wgmma, a TMA store: on the emulated device, and by cuTensorMapEncodeTiled on the GPU stood in for."""

    def body() -> None:
        import os

        import ml_dtypes
        import numpy as np

        import hal
        from hal_nvidia_ptx import load
        from hal_nvidia_ptx.notation import Tensor

        hopper = load(os.environ["HOPPER"])["hopper"]
        rng = np.random.default_rng(0)
        a, b = (rng.integers(-4, 5, (n, 256)).astype(ml_dtypes.bfloat16) for n in (64, 16))
        for device in ("ptx:sm_90a", "cuda:0"):
            c = np.zeros((64, 16), np.float32)
            on_device = hal.asarray(b, device=device)
            maps = (
                Tensor(a.shape, "bf16", (64, 64), a, swizzle=128),
                Tensor(b.shape, "bf16", (16, 64), on_device, swizzle=128),
                Tensor(c.shape, "f32", (64, 16), c),
            )
            hopper(1, 160, *maps, 256, device=device)
            assert np.array_equal(c, a.astype(np.float32) @ b.astype(np.float32).T)
            for wrong in (maps[0], Tensor((64, 16), "f32", (64, 16))):
                try:
                    hopper(1, 160, wrong, a, maps[2], 256, device=device)
                except hal.ArgumentError as error:
                    assert "128 bytes wanted" in str(error), error
                else:
                    raise AssertionError("no tensor map was taken for one")

    text = Path(__file__).parent / "faults" / "hopper.ptx"
    os.environ["HOPPER"] = str(text)
    try:
        stand_in(body, targets=["sm_90a"])
    finally:
        del os.environ["HOPPER"]


def test_bfloat16_arrays_are_bytes_like_any_other(scale: Any) -> None:
    x = np.ones(64, ml_dtypes.bfloat16)
    scale(1, 32, x, x, 1.0, 32, device="ptx:sm_80")  # two of them, seen as one float32
    assert (x == 1).all()
