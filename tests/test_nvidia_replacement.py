"""`hal_nvidia_ptx.replace`: one's own kernel computes once the judge has passed it, and only what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hal
from hal.errors import UnsupportedError, WrongResult
from hal.kernel import F32, I32, In, Launch, Out
from hal.op import Op
from hal_nvidia_ptx import replace

# One thread a row; the row twice through memory. Contiguous float32 without mask.
SOFTMAX = """\
.version 7.0
.target sm_80
.address_size 64

.visible .entry plain_softmax(
    .param .u64 y, .param .u64 x, .param .f32 factor, .param .s32 rows, .param .s32 n)
{
    .reg .pred %p;
    .reg .s32 %row, %block, %size, %rows, %n, %j;
    .reg .f32 %v, %most, %sum, %factor, %r;
    .reg .s64 %x, %y, %px, %py, %offset;

    mov.u32 %row, %tid.x;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mad.lo.s32 %row, %block, %size, %row;
    ld.param.s32 %rows, [rows];
    setp.ge.s32 %p, %row, %rows;
    @%p bra done;
    ld.param.s32 %n, [n];
    ld.param.f32 %factor, [factor];     // scale / ln 2
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mul.lo.s32 %j, %row, %n;
    mul.wide.s32 %offset, %j, 4;
    add.s64 %x, %x, %offset;
    add.s64 %y, %y, %offset;

    mov.f32 %most, 0fFF800000;          // -inf
    mov.s64 %px, %x;
    mov.s32 %j, 0;
largest:
    ld.global.f32 %v, [%px];
    max.NaN.f32 %most, %most, %v;
    add.s64 %px, %px, 4;
    add.s32 %j, %j, 1;
    setp.lt.s32 %p, %j, %n;
    @%p bra largest;

    mov.f32 %sum, 0f00000000;
    mov.s64 %px, %x;
    mov.s64 %py, %y;
    mov.s32 %j, 0;
sums:
    ld.global.f32 %v, [%px];
    sub.f32 %v, %v, %most;
    mul.f32 %v, %v, %factor;
    ex2.approx.f32 %v, %v;
    st.global.f32 [%py], %v;
    add.f32 %sum, %sum, %v;
    add.s64 %px, %px, 4;
    add.s64 %py, %py, 4;
    add.s32 %j, %j, 1;
    setp.lt.s32 %p, %j, %n;
    @%p bra sums;

    rcp.rn.f32 %r, %sum;
    mov.s64 %py, %y;
    mov.s32 %j, 0;
divide:
    ld.global.f32 %v, [%py];
    mul.f32 %v, %v, %r;
    st.global.f32 [%py], %v;
    add.s64 %py, %py, 4;
    add.s32 %j, %j, 1;
    setp.lt.s32 %p, %j, %n;
    @%p bra divide;
done:
    ret;
}
"""


def simple(op: Op) -> bool:
    """What the kernel is for: rows of small numbers, one after the other."""
    x = op.inputs[0][1]
    plain = len(op.inputs) == 1 and op.outputs[0][1].is_contiguous and x.is_contiguous
    return (
        plain
        and op.dtype == op.outputs[0][1].dtype == "float32"
        and x.ndim == 2
        and 0 < x.shape[-1] <= 64
        and op.param("scale") > 0
    )


def launch(op: Op) -> Launch:
    rows, n = op.inputs[0][1].shape
    if not rows:
        raise UnsupportedError("no rows")
    factor = op.param("scale") / float(np.log(2))
    return Launch(0, (-(-rows // 32), 1, 1), (32, 1, 1), (Out(0), In(0), F32(factor), I32(rows), I32(n)))


GOOD = ("plain_softmax", SOFTMAX, launch)


def computes(x: Any, device: str = "ptx:sm_80") -> str:
    return str(hal.explain("softmax", x, device=device).plan.describe()["launches"][0]["entry"])


def test_a_good_kernel_computes_what_it_takes_until_removed() -> None:
    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    before = hal.softmax(x, device="ptx:sm_80")
    own = computes(x)
    with replace("softmax", GOOD, when=simple, device="ptx:sm_80") as mine:
        assert mine.cases >= 3
        assert computes(x) == "plain_softmax" == computes(x, "ptx:sm_90")
        assert computes(x.T) != "plain_softmax", "`when` does not match"
        again = hal.softmax(x, device="ptx:sm_80")  # the call of before is prepared anew
        assert again.tobytes() != before.tobytes()
        np.testing.assert_allclose(again, before, rtol=1e-6)
        second = replace("softmax", GOOD, when=simple, device="ptx:sm_80")
        mine.remove()
        assert computes(x) == "plain_softmax", "the other one is still there"
        second.remove()
        second.remove()
    assert computes(x) == own
    assert hal.softmax(x, device="ptx:sm_80").tobytes() == before.tobytes()


def test_a_wrong_kernel_is_refused_with_its_case() -> None:
    x = np.ones((4, 8), np.float32)
    own = computes(x)
    wrong = ("plain_softmax", SOFTMAX.replace("rcp.rn.f32 %r, %sum;", "mov.f32 %r, 0f3F800000;"), launch)
    with pytest.raises(WrongResult, match=r"the kernel fails case softmax/float32/\S+ on ptx:"):
        replace("softmax", wrong, when=simple, device="ptx:sm_80")
    beyond = ("plain_softmax", SOFTMAX.replace("mov.s32 %j, 0;\ndivide", "mov.s32 %j, -1;\ndivide"), launch)
    with pytest.raises(WrongResult, match="the kernel fails case softmax/float32/"):
        replace("softmax", beyond, when=simple, device="ptx:sm_80")
    assert computes(x) == own


def test_what_was_not_judged_is_not_put_in() -> None:
    with pytest.raises(hal.OptionError, match="`when` matches none"):
        replace("softmax", GOOD, when=lambda op: op.inputs[0][1].shape == (12345, 7), device="ptx:sm_80")

    def refuse(op: Op) -> Launch:
        raise UnsupportedError("never")

    with pytest.raises(hal.OptionError, match="the kernel takes none of them: never"):
        replace("softmax", ("plain_softmax", SOFTMAX, refuse), when=simple, device="ptx:sm_80")
    with pytest.raises(hal.OptionError, match="no operator 'relu'"):
        replace("relu", GOOD)
    with pytest.raises(hal.ArgumentError, match="a kernel is an object with configs"):
        replace("softmax", "softmax.ptx")  # type: ignore[arg-type]
    with pytest.raises(hal.OptionError, match="device cpu runs no PTX"):
        replace("softmax", GOOD, device="cpu")


def test_an_algorithm_of_several_configs_is_taken(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np

        import hal
        from hal.kernel import Config
        from hal_nvidia_ptx import replace
        from hal_nvidia_ptx.kernels import ALGORITHMS

        own = ALGORITHMS["softmax"]

        class Own:
            """hal's own kernels."""

            def configs(self, op, info):
                return own.configs(op, info)

            def kernels(self, op_class, config):
                return own.kernels(op_class, config)

            def schedule(self, op, config):
                return own.schedule(op, config)

        def some(op):
            return op.dtype == "float32" and op.inputs[0][1].size < 3000

        with replace("softmax", Own(), when=some, level="smoke") as mine:
            assert mine.cases > 3
            config = hal.explain("softmax", np.ones((4, 8), np.float32), device="cuda:0").plan.config
            assert isinstance(config, Config) and config.name.startswith(f"{mine.name}, ")
            assert hal.softmax(np.ones((4, 8), np.float32), device="cuda:0").shape == (4, 8)

    stand_in(body)
