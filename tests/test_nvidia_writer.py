import struct

import pytest

from hal_nvidia_ptx.ptx import Entry, at, f32, f64, module
from hal_nvidia_ptx.target import CHECKED, TARGETS, of_capability


def scale() -> Entry:
    k = Entry("scale", [("x", "u64"), ("n", "s32")], threads=256, doc="x[i] *= 2 for i < n.")
    x, n = k.param("x"), k.param("n")
    block, thread = k.let("s32", "block", "mov.u32", "%ctaid.x"), k.let("s32", "thread", "mov.u32", "%tid.x")
    i = k.let("s32", "i", "mad.lo.s32", block, 256, thread)
    inside = k.let("pred", "inside", "setp.lt.s32", i, n, note="the last block is not full")
    with k.when(inside, "element"):
        address = k.let("s64", "address", "mad.wide.s32", i, 4, x)
        value = k.let("f32", "value", "ld.global.f32", at(address))
        k("add.f32", value, value, value)
        k("st.global.f32", at(address), value)
    return k


SCALE = """\
.version 6.3
.target sm_75
.address_size 64

// x[i] *= 2 for i < n.
.visible .entry scale(
    .param .u64 x,
    .param .s32 n
)
.maxntid 256, 1, 1
{
    .reg .u64  %x;
    .reg .s32  %n, %block, %thread, %i;
    .reg .pred %inside;
    .reg .s64  %address;
    .reg .f32  %value;
    ld.param.u64             %x, [x];
    cvta.to.global.u64       %x, %x;
    ld.param.s32             %n, [n];
    mov.u32                  %block, %ctaid.x;
    mov.u32                  %thread, %tid.x;
    mad.lo.s32               %i, %block, 256, %thread;
    setp.lt.s32              %inside, %i, %n;                        // the last block is not full
    @!%inside bra            element_end;
        mad.wide.s32             %address, %i, 4, %x;
        ld.global.f32            %value, [%address];
        add.f32                  %value, %value, %value;
        st.global.f32            [%address], %value;
element_end:
    ret;
}
"""


def test_the_text_is_what_one_would_have_written() -> None:
    assert module(scale()) == SCALE


def test_the_text_depends_on_the_calls_alone() -> None:
    assert module(scale()) == module(scale())


def test_a_taken_name_gets_a_number_and_many_of_them_one_range() -> None:
    k = Entry("names", [])
    names = [k.reg("f32", "sum").name for _ in range(4)]
    assert names == ["sum", "sum_2", "sum_3", "sum_4"]
    assert ".reg .f32  %sum, %sum_<5>;" in k.body()


def test_ranges_of_numbered_names_do_not_meet() -> None:
    k = Entry("names", [])
    first, second = k.regs("b32", "a1", 2), k.regs("b32", "a1", 2)
    assert len({r.name for r in (*first, *second)}) == 4


def test_literals_are_the_numbers_bit_for_bit() -> None:
    assert f32(0.1) == f"0f{struct.unpack('<I', struct.pack('<f', 0.1))[0]:08X}"
    assert f64(-0.0) == "0d8000000000000000"
    k = Entry("numbers", [])
    k("add.f64", k.reg("f64", "x"), k.reg("f64", "y"), 1.0)
    assert "0d3FF0000000000000" in k.body()


@pytest.mark.parametrize(
    ("opcode", "types"),
    [
        ("add.f32", ("b32", "f32")),
        ("fma.rn.f32", ("f32", "f64")),
        ("mul.lo.s32", ("s32", "s64")),
        ("add.s32", ("f32",)),
    ],
)
def test_operands_of_another_type_are_refused(opcode: str, types: tuple[str, ...]) -> None:
    k = Entry("types", [])
    with pytest.raises(TypeError, match=r"types: .* the types have to agree"):
        k(opcode, *(k.reg(type, f"x{i}") for i, type in enumerate(types)))


def test_a_loop_repeats_by_its_condition_or_until_it_is_left() -> None:
    k = Entry("loops", [])
    done = k.reg("pred", "done")
    with k.loop("outer") as outer, k.loop("inner") as inner:
        inner.repeat(unless=done)
        outer.leave(when=done)
    lines = [" ".join(line.split()) for line in k.body().splitlines()]
    assert lines[lines.index("outer:") :] == [
        *("outer:", "inner:", "@!%done bra inner;", "@%done bra outer_end;"),
        *("inner_end:", "bra outer;", "outer_end:", "ret;", "}"),
    ]


@pytest.mark.parametrize(
    ("opcode", "version", "target"),
    [
        ("cp.async.cg.shared.global", "7.0", "sm_80"),
        ("cvt.rn.bf16x2.f32", "7.0", "sm_80"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", "6.5", "sm_75"),
        ("ld.global.nc.L1::no_allocate.v4.b32", "7.4", "sm_75"),
        ("mbarrier.try_wait.parity.shared::cta.b64", "7.8", "sm_90"),
        ("add.f32", "6.3", "sm_75"),
    ],
)
def test_version_and_target_are_the_lowest_that_will_do(opcode: str, version: str, target: str) -> None:
    k = Entry("needs", [])
    k(opcode)
    assert module(k).startswith(f".version {version}\n.target {target}\n")


def test_targets() -> None:
    assert set(CHECKED) <= TARGETS.keys()
    assert TARGETS["sm_89"].runs(TARGETS["sm_80"]) and not TARGETS["sm_80"].runs(TARGETS["sm_86"])
    assert not TARGETS["sm_100"].runs(TARGETS["sm_90a"])
    assert of_capability(9, 0).name == "sm_90a" and of_capability(8, 9).name == "sm_89"
    assert of_capability(12, 1).sm == 120, "a chip that came later runs what is older"
    with pytest.raises(ValueError, match=r"needs 7\.5"):
        of_capability(7, 0)


def test_text_is_ascii_for_drivers_that_refuse_more_in_comments() -> None:
    with pytest.raises(ValueError, match=r"PTX is ASCII.*first, second, …"):
        module(Entry("scale", [], doc="Blocks come first, second, …"))
