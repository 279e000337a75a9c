"""wgmma on the emulator: every element type and layout against NumPy, and a warp-specialised GEMM with its faults."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx import check
from hal_nvidia_ptx.emulator import descriptors, program
from hal_nvidia_ptx.emulator.report import Report
from hal_nvidia_ptx.emulator.syntax import PtxError
from hal_nvidia_ptx.notation import DTYPES, Tensor

Array = NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
HEAD = """\
.version 8.6
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 SM[];
"""


# ---- one product: operands are put into shared memory as they are to lie there, registers come back as they are

SIZES = {"f16": 2, "bf16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1, "s8": 1, "u8": 1}


def single(
    d: str, a: str, b: str, n: int, *, p: str = "0", signs: str = "1, 1", trans: str = "0, 0", registers: bool = False
) -> str:
    """A kernel of one warpgroup: shared memory from `image`, D from `start`, one wgmma, D to `out` (b32 each)."""
    size = SIZES[a]
    shape = f"m64n{n}k{32 // size}"
    count = n // 2 if d != "f16" else n // 4
    kind = {"f32": "f32", "s32": "s32", "f16": "b32"}[d]
    flags = [] if d == "s32" else [signs]
    if size == 2:
        flags.append(trans.split(", ")[1] if registers else trans)
    first = "{a0, a1, a2, a3}" if registers else "da"
    sums = "{" + ", ".join(f"d{i}" for i in range(count)) + "}"
    loads = "".join(f"    ld.global.{kind} d{i}, [at+{4 * i}];\n" for i in range(count))
    stores = "".join(f"    st.global.{kind} [at+{4 * i}], d{i};\n" for i in range(count))
    a_loads = "".join(f"    ld.global.b32 a{i}, [q+{4 * i}];\n" for i in range(4)) if registers else ""
    return f"""{HEAD}
.visible .entry single(.param .u64 image, .param .u32 bytes, .param .u64 fragments, .param .u64 start, .param .u64 out,
                       .param .u64 first, .param .u64 second)
{{
    .reg .pred p;
    .reg .b32 tid, i, end, s, a<4>;
    .reg .b64 from, q, at, da, db, w;
    .reg .{kind} d<{count}>;
    .reg .b32 v0, v1, v2, v3;
    mov.u32 tid, %tid.x;
    shl.b32 i, tid, 4;
    ld.param.u32 end, [bytes];
    ld.param.u64 from, [image];
COPY:
    setp.ge.u32 p, i, end;
    @p bra COPIED;
    cvt.u64.u32 w, i;
    add.u64 q, from, w;
    ld.global.v4.b32 {{v0, v1, v2, v3}}, [q];
    mov.u32 s, SM;
    add.u32 s, s, i;
    st.shared.v4.b32 [s], {{v0, v1, v2, v3}};
    add.u32 i, i, 2048;
    bra COPY;
COPIED:
    fence.proxy.async.shared::cta; // what threads wrote
    bar.sync 0;
    ld.param.u64 q, [fragments];
    mul.wide.u32 w, tid, 16;
    add.u64 q, q, w;
{a_loads}    mul.wide.u32 w, tid, {4 * count};
    ld.param.u64 at, [start];
    add.u64 at, at, w;
{loads}    ld.param.u64 da, [first];
    ld.param.u64 db, [second];
    setp.ne.u32 p, {p}, 0;
    wgmma.fence.sync.aligned; // registers are ready
    wgmma.mma_async.sync.aligned.{shape}.{d}.{a}.{b} {sums}, {first}, db, {", ".join(["p", *flags])}; // product
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0; // done
    ld.param.u64 at, [out];
    add.u64 at, at, w;
{stores}    ret;
}}
"""


def values(shape: tuple[int, int], kind: str, seed: int) -> Array:
    """Small whole numbers, exact in every type."""
    low = 0 if kind == "u8" else -4
    return np.random.default_rng(seed).integers(low, 5, shape).astype(DTYPES[kind])


def place(image: Array, matrix: Array, start: int, span: int, mn_major: bool) -> int:
    """Put an operand (rows, k) into an image of shared memory that begins at address 0x400; its descriptor."""
    rows = len(matrix)
    if mn_major:
        leading, stride = (64 * span, 8 * span) if span else (128, 256)
    else:
        leading, stride = (16, 8 * span) if span else (128 * -(-rows // 8), 128)
    descriptor = descriptors.Descriptor(0x400 + start, leading, stride, 0, span)
    chunks = descriptors.chunks(descriptor, rows, mn_major) - 0x40
    data = np.ascontiguousarray(matrix.T if mn_major else matrix).view(np.uint8).reshape(-1, 16)
    image.reshape(-1, 16)[chunks.reshape(-1)] = data
    return descriptor.encode()


def run_single(
    d: str,
    a: str,
    b: str,
    n: int,
    *,
    span: int = 128,
    major: tuple[bool, bool] = (False, False),
    start: Array | None = None,
    factor: int = 1,
    keep: bool = False,
    registers: bool = False,
    **options: Any,
) -> tuple[Report, Array, Array]:
    """The report, D as the kernel has it, and D as it should be."""
    k = 32 // SIZES[a]
    left, right = values((64, k), a, 1), values((n, k), b, 2)
    image = np.zeros(1 << 15, np.uint8)
    first = 0 if registers else place(image, left, 0, span, major[0])
    second = place(image, right, 1 << 14, span, major[1])
    count = n // 2 if d != "f16" else n // 4
    kind = {"f32": np.float32, "s32": np.int32, "f16": np.uint32}[d]
    begin = np.random.default_rng(3).integers(-9, 9, (1, 64, n)).astype(np.float16 if d == "f16" else kind)
    packed = descriptors.packed(begin) if d == "f16" else descriptors.d_registers(begin)
    fragments = np.zeros((128, 4), np.uint32)
    if registers:
        fragments = np.ascontiguousarray(_a_registers(left))
    text = single(d, a, b, n, p="1" if keep else "0", registers=registers, **options)
    arguments = (image, image.nbytes, fragments, np.ascontiguousarray(packed[:, 0].T), np.zeros((128, count), kind))
    report = check(text, 1, 128, (*arguments, first, second), shared=1 << 15)
    out = np.ascontiguousarray(report.outputs["out"].T)[:, None]
    found = descriptors.unpacked(out) if d == "f16" else descriptors.d_matrix(out)
    expected = factor * (left.astype(np.float64) @ right.astype(np.float64).T) + keep * begin[0].astype(np.float64)
    return report, found[0], expected


def _a_registers(matrix: Array) -> Array:
    as_bytes = matrix.view(np.uint8)
    lanes = np.arange(128)[:, None]
    register = np.arange(4)
    rows = 16 * (lanes // 32) + lanes % 32 // 4 + 8 * (register % 2)
    columns = 4 * (lanes % 4) + 16 * (register // 2)
    return as_bytes[rows[..., None], columns[..., None] + np.arange(4)].view(np.uint32)[..., 0]


TYPES = [
    ("f32", "bf16", "bf16"),
    ("f32", "f16", "f16"),
    ("f16", "f16", "f16"),
    ("f32", "tf32", "tf32"),
    ("f32", "e4m3", "e5m2"),
    ("f16", "e5m2", "e4m3"),
    ("s32", "s8", "s8"),
    ("s32", "u8", "s8"),
]


@pytest.mark.parametrize(("d", "a", "b"), TYPES)
@pytest.mark.parametrize("keep", [False, True])
def test_every_type_of_operands_and_sums(d: str, a: str, b: str, keep: bool) -> None:
    report, found, expected = run_single(d, a, b, 32, keep=keep)
    assert report.clean, report
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("a", ["bf16", "tf32", "s8"])
def test_a_from_registers(a: str) -> None:
    d = "s32" if a == "s8" else "f32"
    report, found, expected = run_single(d, a, a, 16, registers=True)
    assert report.clean, report
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("n", [8, 128])
def test_every_swizzle_of_k_major_operands(span: int, n: int) -> None:
    report, found, expected = run_single("f32", "bf16", "bf16", n, span=span)
    assert report.clean, report
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("major", [(True, False), (False, True), (True, True)])
def test_every_swizzle_of_mn_major_operands(span: int, major: tuple[bool, bool]) -> None:
    trans = f"{int(major[0])}, {int(major[1])}"
    report, found, expected = run_single("f32", "f16", "f16", 64, span=span, major=major, trans=trans)
    assert report.clean, report
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("signs", "factor"), [("-1, 1", -1), ("1, -1", -1), ("-1, -1", 1)])
def test_operands_can_be_negated(signs: str, factor: int) -> None:
    _, found, expected = run_single("f32", "bf16", "bf16", 8, signs=signs, factor=factor, keep=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("m64n32k16", "m64n36k16"),
        ("m64n32k16", "m64n32k8"),
        (".f32.bf16.bf16", ".f32.bf16.f16"),
        (".f32.bf16.bf16", ".f16.bf16.bf16"),
        ("p, 1, 1, 0, 0;", "p, 2, 1, 0, 0;"),
        ("p, 1, 1, 0, 0;", "p, 1, 1;"),
        ("{d0, ", "{"),
    ],
)
def test_forms_that_ptx_does_not_have_are_errors_at_their_line(old: str, new: str) -> None:
    text = single("f32", "bf16", "bf16", 32)
    assert old in text
    wrong = text.replace(old, new)
    with pytest.raises(PtxError) as error:
        program.load(wrong, None, "sm_90a")
    assert error.value.line == line_of(wrong, "wgmma.mma_async")


def test_operands_outside_of_shared_memory_are_found() -> None:
    text = single("f32", "bf16", "bf16", 8).replace("ld.param.u64 db, [second];", "mov.u64 db, 0x4000004000013fff;")
    zeros = np.zeros(1 << 12, np.uint8)
    rest = (np.zeros((128, 4), np.uint32), np.zeros((128, 4), np.float32), np.zeros((128, 4), np.float32))
    report = check(text, 1, 128, (zeros, zeros.nbytes, *rest, 0x4000004000010040, 0), shared=1 << 12, modes=["late"])
    assert [(kind, line) for kind, line in report.kinds() if kind == "out of bounds"] == [
        ("out of bounds", line_of(text, "// product"))
    ]


def test_operands_written_before_the_wait_are_found() -> None:
    """A thread's store to the first bytes of A between the commit and the wait."""
    commit = "wgmma.commit_group.sync.aligned;"
    late = "    mov.u32 s, SM;\n    st.shared.u32 [s], tid; // too early\n"
    text = single("f32", "bf16", "bf16", 8).replace(commit, f"{commit}\n{late}")
    image = np.zeros(1 << 15, np.uint8)
    first, second = (
        place(image, values((rows, 16), "bf16", 1), at, 128, False) for rows, at in ((64, 0), (8, 1 << 14))
    )
    rest = (np.zeros((128, 4), np.uint32), np.zeros((128, 4), np.float32), np.zeros((128, 4), np.float32))
    report = check(text, 1, 128, (image, image.nbytes, *rest, first, second), shared=1 << 15, modes=["late"])
    finding = next(finding for finding in report.findings if finding.kind == "write in flight")
    assert finding.line == line_of(text, "// too early")
    assert [note.place.line for note in finding.notes] == [line_of(text, "// product")]


def line_of(text: str, mark: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


# ---- a whole GEMM


LOAD = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
STORE = "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group"


def gemm(bn: int, stages: int = 2, mn_major: bool = False, cluster: int = 1) -> tuple[str, int]:
    """C[M, N] = A[M, K] B in bf16, and the bytes of shared memory it needs.

    A CTA has a tile of 128 x bn: one warpgroup loads, two multiply 64 rows each. B is [N, K], or [K, N] if mn_major.
    A cluster is CTAs along M that each load a part of B for all.
    """
    a_bytes, b_bytes = 128 * 128, bn * 128
    stage = a_bytes + b_bytes
    staging = stages * stage
    barriers = staging + 128 * bn * 2
    acc = ", ".join(f"acc{i}" for i in range(bn // 2))
    part = bn // cluster
    if mn_major:
        b_high, b_step, trans = 0x4000004000000000 | (8192 >> 4) << 16, 128, 1
        loads = [(box * 8192, f"{{n0{'' if not box else '_' + str(box)}, k}}") for box in range(part // 64)]
    else:
        b_high, b_step, trans = 0x4000004000010000, 2, 0
        loads = [(0, "{k, n0}")]
    t = [HEAD]
    add = t.append
    add(f"""\
.visible .entry gemm(
    .param .align 64 .b8 TA[128], .param .align 64 .b8 TB[128], .param .align 64 .b8 TC[128], .param .u32 K)
.maxntid 384, 1, 1
.minnctapersm 1
{f".reqnctapercluster {cluster}, 1, 1" if cluster > 1 else ""}
{{
    .reg .pred p, q, first, lead, some;
    .reg .b32 tid, wg, sm, full, empty, rank, m0, n0, n0_1, n0_2, n0_3, k, kend, s, par, bar, a, b, t, u, v;
    .reg .b32 lane, row, peer, prev, c, x, pair;
    .reg .b64 ta, tb, tc, da, db, high, off, e;
    .reg .b16 mask;
    .reg .f32 acc<{bn // 2}>;
    mov.u32 tid, %tid.x;
    shr.u32 wg, tid, 7;
    and.b32 lane, tid, 31;
    mov.u32 sm, SM;
    add.u32 full, sm, {barriers};
    add.u32 empty, full, {8 * stages};
    ld.param.u32 kend, [K];
    mov.b64 ta, TA;
    cvta.param.u64 ta, ta;
    mov.b64 tb, TB;
    cvta.param.u64 tb, tb;
    mov.b64 tc, TC;
    cvta.param.u64 tc, tc;
    mov.u32 m0, %ctaid.x;
    shl.b32 m0, m0, 7;
    mov.u32 n0, %ctaid.y;
    mul.lo.u32 n0, n0, {bn};
    mov.u32 rank, %cluster_ctarank;
    setp.ne.u32 p, tid, 0;
    @p bra READY;
""")
    for s in range(stages):
        add(f"    mbarrier.init.shared::cta.b64 [full+{8 * s}], 1;\n")
        add(f"    mbarrier.init.shared::cta.b64 [empty+{8 * s}], {8 * cluster};\n")
    add("    fence.mbarrier_init.release.cluster; // barriers are visible\n")
    add("READY:\n")
    if cluster > 1:
        add("    barrier.cluster.arrive.release.aligned;\n    barrier.cluster.wait.acquire.aligned;\n")
    else:
        add("    bar.sync 0; // barriers are made\n")
    add("""\
    mov.u32 k, 0;
    mov.u32 s, 0;
    setp.ne.u32 p, wg, 0;
    @p bra CONSUMER;
    setmaxnreg.dec.sync.aligned.u32 40;
    setp.ne.u32 p, tid, 0;
    @p bra DONE;
    mov.u32 par, 1;
""")
    if cluster > 1:
        add(f"    mov.b16 mask, {(1 << cluster) - 1};\n    mad.lo.u32 n0, rank, {part}, n0;\n")
    for i in range(1, part // 64 if mn_major else 0):
        add(f"    add.u32 n0_{i}, n0, {64 * i};\n")
    add(f"""\
LOAD:
    shl.b32 t, s, 3;
    add.u32 bar, empty, t;
FREE:
    mbarrier.try_wait.parity.shared::cta.b64 q, [bar], par; // stage is free
    @!q bra FREE;
    add.u32 bar, full, t;
    mad.lo.u32 a, s, {stage}, sm;
    add.u32 b, a, {a_bytes};
""")
    if cluster > 1:
        add(f"    mad.lo.u32 b, rank, {part * 128}, b;\n")
    add(f"    mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {stage}; // announce the bytes\n")
    add(f"    {LOAD} [a], [ta, {{k, m0}}], [bar]; // load A\n")
    cast, mask = (".multicast::cluster", ", mask") if cluster > 1 else ("", "")
    for offset, where in loads:
        add(f"    {LOAD}{cast} [b+{offset}], [tb, {where}], [bar]{mask}; // load B\n")
    add(f"""\
    add.u32 s, s, 1;
    setp.eq.u32 p, s, {stages};
    selp.u32 s, 0, s, p;
    xor.b32 t, par, 1;
    selp.u32 par, t, par, p;
    add.u32 k, k, 64;
    setp.lt.u32 p, k, kend;
    @p bra LOAD;
    bra DONE;
CONSUMER:
    setmaxnreg.inc.sync.aligned.u32 232;
    sub.u32 wg, wg, 1;
    mov.u32 par, 0;
    mov.u32 prev, 0;
    setp.ne.u32 first, 0, 0;
    setp.lt.u32 lead, lane, {cluster};
LOOP:
    shl.b32 t, s, 3;
    add.u32 bar, full, t;
FILLED:
    mbarrier.try_wait.parity.shared::cta.b64 q, [bar], par; // stage is full
    @!q bra FILLED;
    mad.lo.u32 a, s, {stage}, sm;
    add.u32 b, a, {a_bytes};
    mad.lo.u32 a, wg, 8192, a;
    shr.u32 a, a, 4;
    shr.u32 b, b, 4;
    cvt.u64.u32 da, a;
    cvt.u64.u32 db, b;
    or.b64 da, da, 0x4000004000010000;
    or.b64 db, db, {b_high:#x};
    wgmma.fence.sync.aligned; // registers are ready
""")
    for step in range(4):
        add(
            f"    wgmma.mma_async.sync.aligned.m64n{bn}k16.f32.bf16.bf16 {{{acc}}}, da, db,"
            f" {'first' if not step else '1'}, 1, 1, 0, {trans}; // k-step {step}\n"
        )
        add(f"    add.u64 da, da, 2;\n    add.u64 db, db, {b_step};\n")
    arrive = (
        "    @some mapa.shared::cluster.u32 peer, prev, lane;\n"
        "    @some mbarrier.arrive.shared::cluster.b64 _, [peer]; // release the stage\n"
        if cluster > 1
        else "    @some mbarrier.arrive.shared::cta.b64 _, [prev]; // release the stage\n"
    )
    add(f"""\
    wgmma.commit_group.sync.aligned; // close the group
    wgmma.wait_group.sync.aligned 1; // the block before is done
    and.pred some, lead, first;
{arrive}\
    shl.b32 t, s, 3;
    add.u32 prev, empty, t;
    setp.eq.u32 first, 0, 0;
    add.u32 s, s, 1;
    setp.eq.u32 p, s, {stages};
    selp.u32 s, 0, s, p;
    xor.b32 t, par, 1;
    selp.u32 par, t, par, p;
    add.u32 k, k, 64;
    setp.lt.u32 p, k, kend;
    @p bra LOOP;
    wgmma.wait_group.sync.aligned 0; // the last block is done
    shr.u32 t, tid, 5;
    and.b32 t, t, 3;
    shr.u32 row, lane, 2;
    shl.b32 x, row, 4; // the swizzle of this row
    mad.lo.u32 row, t, 16, row;
    mad.lo.u32 c, wg, {64 * bn * 2}, sm;
    add.u32 c, c, {staging};
    mad.lo.u32 t, row, 128, c;
    and.b32 u, lane, 3;
    mad.lo.u32 t, u, 4, t;
""")
    for j in range(bn // 8):
        add(f"    xor.b32 u, x, {16 * (j % 8)};\n    add.u32 u, u, t;\n")
        for half in range(2):
            lo, hi = 4 * j + 2 * half, 4 * j + 2 * half + 1
            add(f"    cvt.rn.bf16x2.f32 pair, acc{hi}, acc{lo};\n")
            add(f"    st.shared.b32 [u+{j // 8 * 8192 + half * 1024}], pair;\n")
    add("""\
    fence.proxy.async.shared::cta; // stores are visible to the copy
    add.u32 u, wg, 1;
    bar.sync u, 128; // the tile is whole
    and.b32 t, tid, 127;
    setp.ne.u32 p, t, 0;
    @p bra DONE;
    mad.lo.u32 m0, wg, 64, m0;
""")
    for box in range(bn // 64):
        add(f"    {STORE} [tc, {{n0, m0}}], [c+{8192 * box}]; // store\n")
        add("    add.u32 n0, n0, 64;\n")
    add("""\
    cp.async.bulk.commit_group; // close the stores
    cp.async.bulk.wait_group 0; // stores are done
DONE:
""")
    if cluster > 1:
        add("    barrier.cluster.arrive.aligned;\n    barrier.cluster.wait.aligned;\n")
    add("    ret;\n}\n")
    return "".join(t), barriers + 16 * stages


def run_gemm(
    text: str, shared: int, bn: int, mn_major: bool = False, cluster: int = 1, k: int = 256
) -> tuple[Report, Array]:
    """C[128 cluster, 2 bn], and what it should be."""
    rng = np.random.default_rng(0)
    m, n = 128 * cluster, 2 * bn
    a, b = (rng.integers(-3, 4, (rows, k)).astype(BF16) for rows in (m, n))
    stored = np.ascontiguousarray(b.T) if mn_major else b
    arguments = (
        Tensor(a.shape, "bf16", (128, 64), a, 128),
        Tensor(stored.shape, "bf16", (64, 64) if mn_major else (bn // cluster, 64), stored, 128),
        Tensor((m, n), "bf16", (64, 64), None, 128),
        k,
    )
    report = check(text, (cluster, 2), 384, arguments, shared=shared)
    return report, (a.astype(np.float32) @ b.astype(np.float32).T).astype(BF16)


@pytest.mark.parametrize(
    "options",
    [
        {"bn": 128},
        {"bn": 128, "mn_major": True},
        {"bn": 256, "stages": 3},
        {"bn": 128, "cluster": 2},
        {"bn": 128, "cluster": 2, "mn_major": True},
    ],
    ids=str,
)
def test_a_warp_specialised_gemm_is_right_and_clean_in_every_mode(options: dict[str, Any]) -> None:
    text, shared = gemm(**options)
    options.pop("stages", None)
    report, expected = run_gemm(text, shared, **options)
    assert report.clean, report
    np.testing.assert_array_equal(report.outputs["TC"], expected)


FULL = "mbarrier.try_wait.parity.shared::cta.b64 q, [bar], par; // stage is full"
BEFORE = "wgmma.wait_group.sync.aligned 1; // the block before is done\n"
NOW = BEFORE + "    shl.b32 t, s, 3;\n    add.u32 prev, empty, t;\n    setp.eq.u32 first, 0, 0;\n"
LAST = "wgmma.wait_group.sync.aligned 0; // the last block is done"
# name: cluster, what is found, part of the line, what stands in the working kernel, what stands there then
FAULTS = {
    "no wait for a full stage": (1, "read in flight", "k-step 0", FULL, "setp.eq.u32 q, 0, 0;"),
    "lax wgmma wait": (1, "write in flight", "load A", "aligned 1; // the block", "aligned 2; // the block"),
    "consumers begin with parity 1": (
        1,
        "read in flight",
        "k-step 0",
        "par, 0;\n    mov.u32 prev",
        "par, 1;\n    mov.u32 prev",
    ),
    "producer begins with parity 0": (1, "deadlock", "stage is free", "mov.u32 par, 1;", "mov.u32 par, 0;"),
    "no expect_tx": (
        1,
        "read in flight",
        "k-step 0",
        "arrive.expect_tx.shared::cta.b64 _, [bar], 32768;",
        "arrive.shared::cta.b64 _, [bar];",
    ),
    "expect_tx of too few bytes": (1, "mbarrier bytes", "announce", "[bar], 32768;", "[bar], 16384;"),
    "expect_tx of too many bytes": (1, "mbarrier bytes", "announce", "[bar], 32768;", "[bar], 32784;"),
    "no proxy fence before the store": (1, "missing proxy fence", "// store", "fence.proxy.async.shared::cta;", ""),
    "no fence after mbarrier.init": (
        1,
        "missing mbarrier_init fence",
        "load A",
        "fence.mbarrier_init.release.cluster;",
        "",
    ),
    "no commit of the wgmma": (1, "write in flight", "load A", "wgmma.commit_group.sync.aligned;", ""),
    "stage released while it is read": (1, "write in flight", "load A", BEFORE, NOW),
    "no barrier before the store": (1, "race", "// store", "bar.sync u, 128;", ""),
    "no commit of the stores": (1, "copy in flight at the end", "// store", "cp.async.bulk.commit_group;", ""),
    "no wait for the stores": (1, "copy in flight at the end", "// store", "cp.async.bulk.wait_group 0;", ""),
    "half of a warpgroup": (
        1,
        "partial warpgroup",
        "registers are ready",
        "wgmma.fence.sync.aligned;",
        "and.b32 v, tid, 64;\n    setp.ne.u32 p, v, 0;\n    @p bra ARRIVED;\n    wgmma.fence.sync.aligned;",
    ),
    "no wgmma.fence": (1, "missing wgmma.fence", "k-step 0", "wgmma.fence.sync.aligned;", ""),
    "no wait for the last products": (1, "register in flight", "acc1, acc0;", LAST, ""),
    "one lane too many releases a stage": (
        1,
        "deadlock",
        "stage",
        "setp.lt.u32 lead, lane, 1;",
        "setp.lt.u32 lead, lane, 2;",
    ),
    "peers are not told that a stage is free": (
        2,
        "write in flight",
        "load B",
        "peer, prev, lane;",
        "peer, prev, rank;",
    ),
    "no cluster barrier after mbarrier.init": (2, "race", "load B", "barrier.cluster.wait.acquire.aligned;", ""),
    "only one CTA of the cluster gets the bytes": (
        2,
        "mbarrier bytes",
        "announce",
        "mov.b16 mask, 3;",
        "mov.b16 mask, 1;",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_line(name: str) -> None:
    cluster, kind, mark, old, new = FAULTS[name]
    text, shared = gemm(128, cluster=cluster)
    text = text.replace("    wgmma.commit_group", "ARRIVED:\n    wgmma.commit_group")
    assert old in text
    report, _ = run_gemm(text.replace(old, new), shared, 128, cluster=cluster)
    found = [(finding.kind, finding.place.text) for finding in report.findings]
    assert any(each == kind and mark in line for each, line in found), report
