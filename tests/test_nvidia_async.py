"""Asynchronous copies, mbarriers and clusters on the emulator: small kernels, right and wrong, in every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx import check
from hal_nvidia_ptx.emulator.groups import Groups
from hal_nvidia_ptx.emulator.mbarrier import Mbarrier, MbarrierFault, pending_count
from hal_nvidia_ptx.emulator.report import Report
from hal_nvidia_ptx.emulator.syntax import PtxError
from hal_nvidia_ptx.notation import Tensor

Array = NDArray[Any]
MIB = 1 << 20


def kernel(body: str, parameters: str, registers: str = "", target: str = "sm_90a") -> str:
    """An entry around a body. tid: the thread; s: address of 4 KiB of shared memory; bar: of four mbarriers."""
    listed = ", ".join(f".param {each}" for each in parameters.split(", "))
    return f""".version 8.6
.target {target}
.address_size 64
.visible .entry k({listed})
{{
    .reg .pred p, q, first;
    .reg .b32 tid, s, bar, a, b, c, d, r<8>;
    .reg .b64 x, y, z, w, t;
    .reg .f32 f<4>;
    {registers}
    .shared .align 1024 .b8 S[4096];
    .shared .align 8 .b64 B[4];
    mov.u32 tid, %tid.x;
    mov.u32 s, S;
    mov.u32 bar, B;
    setp.eq.u32 first, tid, 0;
{body}
    ret;
}}
"""


def line_of(text: str, mark: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


def clean(report: Report) -> Report:
    assert report.clean, report
    return report


def found(report: Report) -> list[tuple[str, str]]:
    """(kind, text of the line) of every finding."""
    return [(finding.kind, finding.place.text.strip()) for finding in report.findings]


def has(report: Report, kind: str, mark: str) -> bool:
    return any(each == kind and mark in line for each, line in found(report))


# ---- cp.async

COPY = """\
    ld.param.u64 x, [X];
    ld.param.u64 y, [Y];
    mul.wide.u32 w, tid, {n};
    add.u64 x, x, w;
    add.u64 y, y, w;
    mul.lo.u32 a, tid, {n};
    add.u32 a, a, s;
    {copy}
    cp.async.commit_group; // close
    cp.async.wait_group 0; // wait
    {load} [a]; // use
    {store}
"""
WORDS = {
    4: ("ld.shared.b32 r0,", "st.global.b32 [y], r0;"),
    8: ("ld.shared.v2.b32 {r0, r1},", "st.global.v2.b32 [y], {r0, r1};"),
    16: ("ld.shared.v4.b32 {r0, r1, r2, r3},", "st.global.v4.b32 [y], {r0, r1, r2, r3};"),
}


def copy_kernel(n: int, copy: str, before: str = "") -> str:
    load, store = WORDS[n]
    return kernel(before + COPY.format(n=n, copy=copy, load=load, store=store), ".u64 X, .u64 Y", target="sm_80")


def test_a_copy_that_is_waited_for_brings_its_bytes() -> None:
    x = np.arange(1024, dtype=np.uint32)
    for n, form in [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg"), (16, "cg"), (16, "cg")]:
        text = copy_kernel(n, f"cp.async.{form}.shared.global [a], [x], {n};")
        report = clean(check(text, 1, 64, (x, "u32[1024]")))
        count = 16 * n
        np.testing.assert_array_equal(report.outputs["Y"].reshape(-1)[:count], x[:count])


POLICY = "createpolicy.fractional.L2::evict_first.b64 t, 1.0;\n    "


@pytest.mark.parametrize(
    "copy",
    [
        "cp.async.cg.shared::cta.global.L2::128B [a], [x], 16;",
        f"{POLICY}cp.async.cg.shared.global.L2::cache_hint [a], [x], 16, t;",
        f"{POLICY}cp.async.cg.shared.global.L2::cache_hint [a], [x], 16, 16, t;",
    ],
)
def test_hints_change_nothing(copy: str) -> None:
    x = np.arange(256, dtype=np.uint32)
    report = clean(check(copy_kernel(16, copy), 1, 64, (x, "u32[256]")))
    np.testing.assert_array_equal(report.outputs["Y"], x)


def test_bytes_beyond_the_source_size_are_zero_and_not_read() -> None:
    """Thread t has 4 t bytes of 16: those of thread 0 may lie anywhere."""
    text = copy_kernel(
        16, "shl.b32 b, tid, 2;\n    @first mov.u64 x, 64;\n    cp.async.cg.shared.global [a], [x], 16, b;"
    )
    x = np.arange(1, 17, dtype=np.uint32)
    report = clean(check(text, 1, 4, (x, "u32[16]")))
    expected = np.where(np.arange(4) < np.arange(4)[:, None], x.reshape(4, 4), 0)
    np.testing.assert_array_equal(report.outputs["Y"].reshape(4, 4), expected)


def test_an_ignored_source_gives_zeros() -> None:
    text = copy_kernel(16, "cp.async.cg.shared.global [a], [x], 16, first;")
    x = np.arange(1, 17, dtype=np.uint32)
    report = clean(check(text, 1, 4, (x, "u32[16]")))
    np.testing.assert_array_equal(report.outputs["Y"], np.where(x > 4, x, 0))


@pytest.mark.parametrize(
    ("old", "new", "kind", "mark"),
    [
        ("wait_group 0;", "wait_group 1;", "read in flight", "// use"),
        ("cp.async.commit_group;", "", "read in flight", "// use"),
        ("cp.async.wait_group 0;", "", "missing wait", "// use"),
        ("[a], [x], 16;", "[a+4], [x], 16;", "misaligned", "// copy"),
        ("[a], [x], 16;", "[a], [x+4096], 16;", "out of bounds", "// copy"),
        ("[a], [x], 16;", "[a+4096], [x], 16;", "out of bounds", "// copy"),
        ("[a], [x], 16;", "[a], [y], 16;", "uninitialised read", "// copy"),
        ("// copy", "// copy\n    cp.async.cg.shared.global [a], [x], 16; // twice", "write in flight", "// twice"),
        ("// copy", "// copy\n    st.shared.b32 [a+4], tid; // over", "write in flight", "// over"),
    ],
)
def test_a_copy_that_is_used_wrongly_is_found(old: str, new: str, kind: str, mark: str) -> None:
    text = copy_kernel(16, "cp.async.cg.shared.global [a], [x], 16; // copy")
    assert old in text
    report = check(text.replace(old, new), 1, 64, (np.arange(256, dtype=np.uint32), "u32[256]"))
    assert has(report, kind, mark), report


def test_wait_all_covers_what_was_not_committed() -> None:
    text = copy_kernel(16, "cp.async.cg.shared.global [a], [x], 16;").replace("wait_group 0;", "wait_all;")
    x = np.arange(256, dtype=np.uint32)
    clean(check(text.replace("cp.async.commit_group;", ""), 1, 64, (x, "u32[256]")))


def test_sizes_that_ptx_does_not_have_are_errors() -> None:
    for copy in ("cp.async.cg.shared.global [a], [x], 8;", "cp.async.ca.shared.global [a], [x], 32;"):
        with pytest.raises(PtxError, match="4, 8 or 16"):
            check(copy_kernel(16, copy), 1, 64, (np.zeros(256, np.uint32), "u32[256]"))


@pytest.mark.parametrize(("form", "count"), [("", 1), (".noinc", 65)])
def test_an_mbarrier_counts_the_threads_whose_copies_have_landed(form: str, count: int) -> None:
    """Without .noinc the arrivals of the copies are counted besides those that the barrier was made for."""
    copy = f"""cp.async.ca.shared.global [a], [x], 4;
    cp.async.mbarrier.arrive{form}.shared::cta.b64 [bar];
    @first mbarrier.arrive.shared::cta.b64 _, [bar];
W:  mbarrier.test_wait.parity.shared::cta.b64 p, [bar], 0;
    @!p bra W;
    xor.b32 a, a, 4;"""
    init = f"    @first mbarrier.init.shared::cta.b64 [bar], {count};\n    bar.sync 0;\n"
    text = copy_kernel(4, copy, init).replace("cp.async.commit_group;", "").replace("cp.async.wait_group 0;", "")
    x = np.arange(64, dtype=np.uint32)
    report = clean(check(text, 1, 64, (x, "u32[64]")))
    np.testing.assert_array_equal(report.outputs["Y"], x ^ 1)
    eager = text.replace("@!p bra W;", "")
    assert has(check(eager, 1, 64, (x, "u32[64]")), "read in flight", "// use")


def test_groups_are_counted_by_each_thread() -> None:
    groups = Groups(4, lambda work, mask: work[mask])
    everyone, odd = np.arange(4), np.array([1, 3])
    groups.add(everyone, np.array([10, 11, 12, 13]))
    groups.commit(odd)
    groups.add(odd, np.array([21, 23]))
    groups.commit(odd)
    assert [work.tolist() for work in groups.wait(everyone, 1)] == [[11, 13]]
    assert [work.tolist() for work in groups.open()] == [[10, 12]]
    assert [work.tolist() for work in groups.drain(np.array([0, 1]))] == [[10], [21]]
    assert [work.tolist() for work in groups.wait(everyone, 0)] == [[23]]
    assert groups.wait(everyone, 0) == []


# ---- mbarriers


def test_a_phase_ends_with_its_last_arrival_and_byte() -> None:
    barrier = Mbarrier.init(2)
    assert barrier.parity_done(1) and not barrier.parity_done(0)
    token = barrier.token()
    assert pending_count(token) == 2
    barrier.land(32)  # before it is expected
    barrier.arrive()
    barrier.expect(64)
    barrier.arrive()
    assert not barrier.done(token) and "64 bytes are expected and 32 arrived" in str(barrier)
    with pytest.raises(MbarrierFault, match="too many"):
        barrier.arrive()
    barrier.land(32)
    assert barrier.done(token) and barrier.parity_done(0) and not barrier.parity_done(1)
    assert (barrier.phase, barrier.pending, barrier.transactions) == (1, 2, 0)


def test_an_arrival_can_leave_the_barrier_for_good() -> None:
    barrier = Mbarrier.init(3)
    barrier.arrive(1, drop=True)
    barrier.arrive(2)
    assert (barrier.phase, barrier.pending) == (1, 2)
    barrier.arrive(5)
    assert (barrier.phase, barrier.pending) == (3, 1)


@pytest.mark.parametrize(
    "act",
    [
        lambda b: Mbarrier.init(0),
        lambda b: Mbarrier.init(MIB),
        lambda b: b.arrive(0),
        lambda b: b.expect(MIB),
        lambda b: b.land(MIB),
    ],
)
def test_counts_beyond_the_limits_are_faults(act: Any) -> None:
    with pytest.raises(MbarrierFault):
        act(Mbarrier.init(1))


EXCHANGE = """\
    @first mbarrier.init.shared::cta.b64 [bar], 64; // make
    bar.sync 0; // made
    shl.b32 a, tid, 2;
    add.u32 a, a, s;
    st.shared.u32 [a], tid;
    mbarrier.arrive.shared::cta.b64 x, [bar]; // arrive
W:  mbarrier.try_wait.shared::cta.b64 p, [bar], x; // wait
    @!p bra W;
    xor.b32 b, a, 128;
    ld.shared.u32 r0, [b]; // use
    ld.param.u64 y, [Y];
    mul.wide.u32 w, tid, 4;
    add.u64 y, y, w;
    st.global.u32 [y], r0;
"""
PARITY = ("try_wait.shared::cta.b64 p, [bar], x;", "try_wait.parity.shared::cta.b64 p, [bar], 0;")


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [PARITY],
        [("try_wait", "test_wait")],
        [("shared::cta.b64 x, [bar];", "release.cta.shared::cta.b64 x, [bar], 1;")],
        [("mbarrier.arrive.shared::cta.b64 x, [bar];", "cvta.shared.u64 y, z;\n    mbarrier.arrive.b64 x, [y];"),
         ("shl.b32 a, tid, 2;", "shl.b32 a, tid, 2;\n    cvt.u64.u32 z, bar;")],
        [PARITY, ("arrive.shared::cta.b64 x, [bar];", "arrive_drop.shared::cta.b64 x, [bar];")],
        [PARITY, ("b64 x, [bar];", "b64 _, [bar], b;"), ("[bar], 64; // make", "[bar], 128; // make"),
         ("shl.b32 a", "mov.u32 b, 2;\n    shl.b32 a")],
    ],
    ids=["token", "parity", "test_wait", "release", "generic", "drop", "count"],
)  # fmt: skip
def test_threads_meet_at_an_mbarrier(changes: list[tuple[str, str]]) -> None:
    text = kernel(EXCHANGE, ".u64 Y")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    report = clean(check(text, 1, 64, ("u32[64]",)))
    np.testing.assert_array_equal(report.outputs["Y"], np.arange(64) ^ 32)


@pytest.mark.parametrize(
    ("old", "new", "kind", "mark"),
    [
        ("[bar], 64; // make", "[bar], 65; // make", "deadlock", "// wait"),
        ("[bar], 64; // make", "[bar+8], 64; // make", "uninitialised mbarrier", "// arrive"),
        ("    @first mbarrier.init", "    mbarrier.init", "mbarrier", "// make"),
        ("[bar], 64; // make", "[bar], 0; // make", "mbarrier", "// make"),
        ("bar.sync 0; // made", "", "race", "// arrive"),
        ("W:  mbarrier", "    mbarrier.inval.shared::cta.b64 [bar]; // gone\nW:  mbarrier", "uninitialised", "// "),
        ("arrive.shared::cta.b64 x, [bar];", "arrive.noComplete.shared::cta.b64 x, [bar], 1;", "mbarrier", "// arr"),
        ("[bar]; // arrive", "[bar+4]; // arrive", "misaligned", "// arrive"),
        ("[bar]; // arrive", "[bar+65536]; // arrive", "out of bounds", "// arrive"),
    ],
)
def test_an_mbarrier_that_is_used_wrongly_is_found(old: str, new: str, kind: str, mark: str) -> None:
    text = kernel(EXCHANGE, ".u64 Y")
    assert old in text
    report = check(text.replace(old, new), 1, 64, ("u32[64]",))
    assert any(each.startswith(kind) and mark in line for each, line in found(report)), report


def test_the_pending_count_is_in_the_token() -> None:
    body = """\
    @first mbarrier.init.shared::cta.b64 [bar], 8;
    @first mbarrier.arrive.shared::cta.b64 x, [bar];
    @first mbarrier.pending_count.b64 r0, x;
    ld.param.u64 y, [Y];
    @first st.global.u32 [y], r0;
"""
    report = clean(check(kernel(body, ".u64 Y"), 1, 32, ("u32[1]",)))
    assert report.outputs["Y"].tolist() == [8]


# ---- ranges of bytes

BULK = """\
    @!first bra END;
    mbarrier.init.shared::cta.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    ld.param.u64 x, [X];
    ld.param.u64 y, [Y];
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256; // expect
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [x], 256, [bar]; // load
W:  mbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0; // wait
    @!p bra W;
    ld.shared.u32 r0, [s+4]; // read
    add.u32 r0, r0, 1;
    st.shared.u32 [s+4], r0; // change
    fence.proxy.async.shared::cta; // shown
    cp.async.bulk.global.shared::cta.bulk_group [y], [s], 256; // store
    cp.async.bulk.commit_group; // close
    cp.async.bulk.wait_group.read 0; // read back
    st.shared.u32 [s+8], r0; // again
    cp.async.bulk.wait_group 0; // done
END:
"""


def test_ranges_are_copied_in_and_out() -> None:
    x = np.arange(64, dtype=np.uint32)
    report = clean(check(kernel(BULK, ".u64 X, .u64 Y"), 1, 32, (x, "u32[64]")))
    np.testing.assert_array_equal(report.outputs["Y"], np.where(x == 1, 2, x))


@pytest.mark.parametrize(
    ("old", "new", "kind", "mark"),
    [
        ("@!p bra W;", "", "read in flight", "// read"),
        ("[bar], 256; // expect", "[bar], 272; // expect", "mbarrier bytes", "// expect"),
        ("[bar], 256; // expect", "[bar], 240; // expect", "mbarrier bytes", "// expect"),
        ("fence.proxy.async.shared::cta;", "", "missing proxy fence", "// store"),
        ("fence.mbarrier_init.release.cluster;", "", "missing mbarrier_init fence", "// load"),
        ("cp.async.bulk.commit_group;", "", "copy in flight at the end", "// store"),
        ("[x], 256,", "[x+16], 256,", "out of bounds", "// load"),
        ("[x], 256,", "[x], 250,", "misaligned", "// load"),
        ("[s], [x], 256,", "[s+8], [x], 256,", "misaligned", "// load"),
        ("[y], [s], 256;", "[y+8], [s], 240;", "misaligned", "// store"),
        ("[y], [s], 256;", "[y], [s+256], 256;", "uninitialised read", "// store"),
        ("[y], [s], 256;", "[y+128], [s], 256;", "out of bounds", "// store"),
        ("[s], [x], 256,", "[bar], [x], 256,", "out of bounds", "// load"),
        ("cp.async.bulk.wait_group.read 0;", "", "write in flight", "// again"),
        ("st.shared.u32 [s+8], r0;", "st.shared.u32 [bar], r0;", "write to an mbarrier", "// again"),
        ("cp.async.bulk.wait_group 0;", "mbarrier.init.shared::cta.b64 [bar], 1;", "write to an mbarrier", "// done"),
        ("cp.async.bulk.wait_group.read 0;", "mbarrier.init.shared::cta.b64 [s], 1;", "write in flight", "// read"),
    ],
)
def test_a_range_that_is_copied_wrongly_is_found(old: str, new: str, kind: str, mark: str) -> None:
    text = kernel(BULK, ".u64 X, .u64 Y")
    assert old in text
    report = check(text.replace(old, new), 1, 32, (np.arange(64, dtype=np.uint32), "u32[64]"))
    assert has(report, kind, mark), report


@pytest.mark.parametrize(("operation", "expected"), [("add.u32", 7), ("max.u32", 4), ("min.s32", 3), ("xor.b32", 7)])
def test_ranges_are_reduced_into_global_memory(operation: str, expected: int) -> None:
    text = kernel(BULK, ".u64 X, .u64 Y").replace("add.u32 r0, r0, 1;", "")
    store = "cp.async.bulk.global.shared::cta.bulk_group [y]"
    text = text.replace(store, f"cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation} [y]")
    report = clean(check(text, 1, 32, (np.full(64, 4, np.uint32), np.full(64, 3, np.uint32))))
    assert set(report.outputs["Y"].tolist()) == {expected}


# ---- tensors

TENSOR = """\
    @!first bra END;
    mbarrier.init.shared::cta.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    mov.b64 x, X;
    cvta.param.u64 x, x;
    mov.b64 y, Y;
    cvta.param.u64 y, y;
    prefetch.tensormap [x];
    ld.param.s32 r0, [C];
    mov.u32 r1, 1;
    mov.u32 r2, 0;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes}; // expect
    cp.async.bulk.tensor.{rank}d.shared::cta.global.mbarrier::complete_tx::bytes [s], [x, {{{at}}}], [bar]; // load
W:  mbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0; // wait
    @!p bra W;
    cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [y, {{{at}}}], [s]; // store
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0; // done
END:
"""
BOXES = {
    1: ((50,), (16,), "r0"),
    2: ((12, 40), (8, 16), "r0, r1"),
    3: ((3, 12, 40), (2, 8, 8), "r0, r1, r2"),
    4: ((3, 2, 12, 24), (2, 2, 4, 8), "r0, r1, r2, r1"),
    5: ((2, 3, 2, 4, 24), (1, 2, 2, 4, 8), "r0, r1, r2, r1, r2"),
}


def boxed(rank: int) -> str:
    _, box, at = BOXES[rank]
    body = TENSOR.format(rank=rank, at=at, bytes=2 * int(np.prod(box)))
    return kernel(body, ".align 64 .b8 X[128], .align 64 .b8 Y[128], .s32 C")


@pytest.mark.parametrize("rank", BOXES)
@pytest.mark.parametrize("corner", [0, -3, 38])
def test_boxes_of_every_rank_are_copied_with_what_hangs_over_left_out(rank: int, corner: int) -> None:
    shape, box, at = BOXES[rank]
    x = np.arange(1, 1 + np.prod(shape), dtype=np.uint16).reshape(shape)
    where = [{"r0": corner, "r1": 1, "r2": 0}[name] for name in reversed(at.split(", "))]
    part = tuple(
        slice(max(first, 0), max(min(first + count, extent), 0))
        for first, count, extent in zip(where, box, shape, strict=True)
    )
    expected = np.zeros_like(x)
    expected[part] = x[part]
    arguments = (Tensor(shape, "u16", box, x), Tensor(shape, "u16", box, np.zeros_like(x)), corner)
    report = clean(check(boxed(rank), 1, 32, arguments))
    np.testing.assert_array_equal(report.outputs["Y"], expected)


def test_a_box_is_added_to_memory() -> None:
    text = boxed(2).replace("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group",
                            "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group")  # fmt: skip
    shape, box, _ = BOXES[2]
    x, y = np.ones(shape, np.uint16), np.full(shape, 5, np.uint16)
    report = clean(check(text, 1, 32, (Tensor(shape, "u16", box, x), Tensor(shape, "u16", box, y), 0)))
    y[1:9, :16] += 1
    np.testing.assert_array_equal(report.outputs["Y"], y)


@pytest.mark.parametrize(
    ("old", "new", "kind", "mark"),
    [
        (".2d.shared::cta.global", ".1d.shared::cta.global", "tensor map", "// load"),
        ("[s], [x,", "[s+64], [x,", "misaligned", "// load"),
        ("[x, {r0, r1}]", "[x+64, {r0, r1}]", "tensor map", "// load"),
        ("[x, {r0, r1}]", "[x+16, {r0, r1}]", "misaligned", "// load"),
        ("[x, {r0, r1}]", "[y, {r0, r1}]", "uninitialised read", "// load"),
        ("@!p bra W;", "", "read in flight", "// store"),
        ("cp.async.bulk.wait_group 0;", "", "copy in flight at the end", "// store"),
        ("cp.async.bulk.wait_group 0;", "bra DONE;\nDONE: st.shared.u32 [s+8192], r0;", "out of bounds", "DONE"),
        ("W:  mbarrier", "    bra END;\nW:  mbarrier", "copy in flight at the end", "// load"),
    ],
)
def test_a_box_that_is_copied_wrongly_is_found(old: str, new: str, kind: str, mark: str) -> None:
    text, (shape, box, _) = boxed(2), BOXES[2]
    assert old in text
    text = text.replace(old, new)
    if ".1d" in text:
        text = text.replace("{r0, r1}], [bar]", "{r0}], [bar]")
    arguments = (Tensor(shape, "u16", box, np.zeros(shape, np.uint16)), Tensor(shape, "u16", box), 0)
    report = check(text, 1, 32, arguments)
    assert has(report, kind, mark), report


def test_im2col_and_other_unknown_forms_are_errors() -> None:
    for old, new in (("2d.shared::cta.global.", "2d.shared::cta.global.im2col."), ("[x, {r0, r1}]", "[x]")):
        with pytest.raises(PtxError):
            check(boxed(2).replace(old, new, 1), 1, 32, (0, 0, 0))


# ---- clusters

PEER = """\
    mov.u32 c, %cluster_ctarank;
    xor.b32 d, c, 1;
    @first mbarrier.init.shared::cta.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    barrier.cluster.arrive.release.aligned; // first arrive
    barrier.cluster.wait.acquire.aligned; // first wait
    shl.b32 a, tid, 2;
    add.u32 a, a, s;
    shl.b32 b, c, 8;
    add.u32 b, b, tid;
{send}
    barrier.cluster.arrive.release.aligned; // arrive
    barrier.cluster.wait.acquire.aligned; // wait
{receive}
    ld.param.u64 y, [Y];
    mov.u32 r1, %ctaid.x;
    mad.lo.u32 r1, r1, 32, tid;
    mul.wide.u32 w, r1, 4;
    add.u64 y, y, w;
    st.global.u32 [y], r0;
    barrier.cluster.arrive.aligned; // last arrive
    barrier.cluster.wait.aligned; // last wait
"""
EXPECT = "@first mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 128;\n    "
OTHER_BAR = "mapa.shared::cluster.u32 r3, bar, d;\n    "
RECEIVED = """\
W:  mbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0;
    @!p bra W;
    ld.shared.u32 r0, [a]; // use"""
FAR_COPY = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
# what a thread does to give its value to the peer, and to have the peer's in r0
WAYS = {
    "store": (
        "mapa.shared::cluster.u32 r2, a, d;\n    st.shared::cluster.u32 [r2], b; // there",
        "ld.shared.u32 r0, [a]; // use",
    ),
    "load": (
        "st.shared.u32 [a], b; // here",
        "mapa.shared::cluster.u32 r2, a, d;\n    ld.shared::cluster.u32 r0, [r2]; // use",
    ),
    "generic": (
        "st.shared.u32 [a], b;",
        "cvt.u64.u32 x, a;\n    cvta.shared.u64 x, x;\n    mapa.u64 x, x, d;\n    ld.u32 r0, [x];",
    ),
    "async": (
        (
            f"{EXPECT}mapa.shared::cluster.u32 r2, a, d;\n    {OTHER_BAR}"
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [r2], b, [r3]; // there"
        ),
        RECEIVED,
    ),
    "bulk": (
        (
            f"st.shared.u32 [a+1024], b;\n    fence.proxy.async.shared::cta;\n    bar.sync 0;\n    {EXPECT}{OTHER_BAR}"
            f"mapa.shared::cluster.u32 r2, s, d;\n    @first {FAR_COPY} [r2], [s+1024], 128, [r3]; // there"
        ),
        RECEIVED,
    ),
}


def peers(way: str) -> str:
    send, receive = WAYS[way]
    return kernel(PEER.format(send=f"    {send}", receive=f"    {receive}"), ".u64 Y")


@pytest.mark.parametrize("way", WAYS)
def test_ctas_of_a_cluster_exchange_values(way: str) -> None:
    report = clean(check(peers(way), 4, 32, ("u32[128]",), cluster=2))
    expected = np.arange(32) + 256 * (1 - np.arange(4) % 2)[:, None]
    np.testing.assert_array_equal(report.outputs["Y"].reshape(4, 32), expected)


@pytest.mark.parametrize(
    ("way", "old", "new", "kind", "mark"),
    [
        ("store", "barrier.cluster.wait.acquire.aligned; // wait", "", "race", "// use"),
        ("store", "barrier.cluster.arrive.release.aligned; // arrive", "", "barrier count", "// wait"),
        ("store", "barrier.cluster.wait.acquire.aligned; // first", "// first", "barrier count", "// arrive"),
        ("store", "a, d;", "a, 2;", "wrong rank", "mapa"),
        ("store", "[r2], b;", "[r2+4096], b;", "out of bounds", "// there"),
        ("async", "@!p bra W;", "", "read in flight", "// use"),
        ("bulk", "@!p bra W;", "", "read in flight", "// use"),
        ("bulk", "[bar], 128;", "[bar], 144;", "deadlock", "try_wait"),
        ("bulk", "fence.proxy.async.shared::cta;", "", "missing proxy fence", "// there"),
    ],
)
def test_an_exchange_that_is_wrong_is_found(way: str, old: str, new: str, kind: str, mark: str) -> None:
    text = peers(way)
    assert old in text
    report = check(text.replace(old, new), 2, 32, ("u32[64]",), cluster=2)
    assert has(report, kind, mark), report


def test_an_address_tells_its_rank() -> None:
    text = peers("store").replace(
        "st.global.u32 [y], r0;", "getctarank.shared::cluster.u32 r0, r2;\n    st.global.u32 [y], r0;"
    )
    report = clean(check(text, 2, 32, ("u32[64]",), cluster=2))
    np.testing.assert_array_equal(report.outputs["Y"], [1] * 32 + [0] * 32)


def test_registers_are_handed_over_within_limits() -> None:
    body = "    setmaxnreg.inc.sync.aligned.u32 {};\n"
    clean(check(kernel(body.format(128), ".u32 N"), 1, 384, (0,)))
    assert has(check(kernel(body.format(232), ".u32 N"), 1, 384, (0,)), "registers", "setmaxnreg")
    for count in (20, 100, 264):
        with pytest.raises(PtxError, match="multiple of 8"):
            check(kernel(body.format(count), ".u32 N"), 1, 384, (0,))
