"""Instructions of warps, matrices and atomics, run as PTX through the emulated machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.errors import CompileError
from hal_nvidia_ptx.emulator import formats, machine, memory, program

Array = NDArray[Any]

KERNEL = """
.version 9.0
.target {target}
.address_size 64
.visible .entry k({parameters})
{{
    .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<40>; .reg .b64 %d<16>; .reg .f32 %f<24>; .reg .f64 %fd<24>;
    .shared .align 128 .b8 SM[8192];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, SM;
{loads}
{body}
    ret;
}}
"""


@dataclass
class Result:
    """The buffers after the run, and what was found: (kind, text of the line)."""

    buffers: list[Array]
    found: list[tuple[str, str]]


def run(body: str, buffers: Sequence[Array], threads: int = 32, grid: int = 1, target: str = "sm_90a") -> Result:
    """Run a kernel body. Buffer i is at the address in %d<i>; %r0 is the thread, %r1 the address of 8 KB of shared."""
    parameters = ", ".join(f".param .u64 P{i}" for i in range(len(buffers)))
    loads = "\n".join(f"    ld.param.u64 %d{i}, [P{i}];" for i in range(len(buffers)))
    text = KERNEL.format(target=target, parameters=parameters, loads=loads, body=body)
    arena = memory.Arena(1 << 24)
    blocks = []
    for i, buffer in enumerate(buffers):
        block = arena.alloc(buffer.nbytes, f"P{i}")
        arena.write(block.start, buffer.view(np.uint8).reshape(-1))
        blocks.append(block)
    shape = machine.Shape(grid=(grid, 1, 1), block=(threads, 1, 1))
    outcome = machine.launch(program.load(text, None, target), arena, shape, [block.start for block in blocks])
    after = [
        arena.read(block.start, block.nbytes).copy().view(buffer.dtype).reshape(buffer.shape)
        for block, buffer in zip(blocks, buffers, strict=True)
    ]
    return Result(after, [(finding.kind, finding.place.text.strip()) for finding in outcome.findings])


# Lane i loads element i of buffer 0 into %r2; what it leaves in %r3 and %p1 goes to buffers 1 and 2.
EACH = """
    mul.wide.u32 %d10, %r0, 4;
    add.s64 %d11, %d0, %d10;
    ld.global.u32 %r2, [%d11];
    add.s64 %d12, %d1, %d10;
    add.s64 %d13, %d2, %d10;
    mov.u32 %r3, 0;
    setp.ne.u32 %p1, %r0, %r0;
{code}
    st.global.u32 [%d12], %r3;
    selp.u32 %r4, 1, 0, %p1;
    st.global.u32 [%d13], %r4;
"""


def each(code: str, values: Array, target: str = "sm_90a") -> tuple[Array, Array, list[tuple[str, str]]]:
    """(%r3, %p1, findings) of every lane after `code`."""
    values = values.astype(np.uint32)
    result = run(
        EACH.format(code=code), [values, np.zeros_like(values), np.zeros_like(values)], len(values), target=target
    )
    return result.buffers[1], result.buffers[2].astype(bool), result.found


def shuffled(mode: str, values: Array, amount: int, clamp: int) -> tuple[Array, Array]:
    """The pseudo-code of the PTX ISA for shfl.sync, lane after lane."""
    out, valid = values.copy(), np.zeros(len(values), bool)
    last, segment = clamp & 31, (clamp >> 8) & 31
    for lane in range(32):
        bound = (lane & segment) | (last & ~segment)
        source = {
            "up": lane - amount,
            "down": lane + amount,
            "bfly": lane ^ amount,
            "idx": (lane & segment) | (amount & ~segment),
        }[mode]
        valid[lane] = source >= bound if mode == "up" else source <= bound
        for warp in range(len(values) // 32):
            if valid[lane]:
                out[warp * 32 + lane] = values[warp * 32 + source]
    return out, np.tile(valid[:32], len(values) // 32)


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("constant", [True, False])
def test_shuffles_follow_the_pseudo_code(mode: str, width: int, constant: bool) -> None:
    values = np.random.default_rng(1).integers(0, 1 << 32, 96)
    clamp = ((32 - width) << 8) | (0 if mode == "up" else 31)
    for amount in (0, 1, 5, 16):
        code = f"shfl.sync.{mode}.b32 %r3|%p1, %r2, {amount}, {clamp:#x}, 0xffffffff;"
        if not constant:
            code = f"mov.u32 %r5, {amount}; mov.u32 %r6, {clamp}; mov.u32 %r7, -1;\n"
            code += f"shfl.sync.{mode}.b32 %r3|%p1, %r2, %r5, %r6, %r7;"
        got, valid, found = each(code, values)
        expected, expected_valid = shuffled(mode, values.astype(np.uint32), amount, clamp)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(valid, expected_valid)
        assert found == []


def test_a_shuffle_of_floats_into_its_own_source() -> None:
    values = np.arange(32, dtype=np.float32)
    code = "mov.b32 %f1, %r2; shfl.sync.down.b32 %f1, %f1, 4, 31, -1; mov.b32 %r3, %f1;"
    got, _, found = each(code, values.view(np.uint32))
    assert got.view(np.float32)[:28].tolist() == list(range(4, 32)) and found == []


HALF = "setp.lt.u32 %p2, %r0, 16;\n@!%p2 bra OTHER;\n{first}\nbra DONE;\nOTHER:\n{second}\nDONE:"


def test_two_halves_of_a_warp_shuffle_on_their_own() -> None:
    values = np.arange(32)
    line = "shfl.sync.bfly.b32 %r3, %r2, 1, 31, {mask};"
    code = HALF.format(first=line.format(mask="0xffff"), second=line.format(mask="0xffff0000"))
    got, _, found = each(code, values)
    assert got.tolist() == [i ^ 1 for i in range(32)] and found == []


def test_lanes_that_arrive_late_are_waited_for() -> None:
    """The mask names all lanes; one half takes a longer way to the same instruction."""
    code = HALF.format(first="add.u32 %r2, %r2, 100;", second="") + "\nshfl.sync.idx.b32 %r3, %r2, 3, 31, -1;"
    got, _, found = each(code, np.arange(32))
    assert got.tolist() == [103] * 32 and found == []


def test_a_mask_that_names_absent_lanes_is_found() -> None:
    line = "shfl.sync.bfly.b32 %r3, %r2, 1, 31, 0xffffffff;"
    _, _, found = each(HALF.format(first=line, second=""), np.arange(32))
    assert ("divergent warp", line) in found


def test_lanes_outside_their_own_mask_are_found() -> None:
    line = "shfl.sync.idx.b32 %r3, %r2, 0, 31, 0xffff;"
    _, _, found = each(line, np.arange(32))
    assert ("wrong member mask", line) in found


def test_masks_that_differ_are_found() -> None:
    line = "shfl.sync.idx.b32 %r3, %r2, 0, 31, %r5;"
    _, _, found = each("setp.lt.u32 %p2, %r0, 16; selp.u32 %r5, 0xffffffff, 0xffff0001, %p2;\n" + line, np.arange(32))
    assert ("wrong member mask", line) in found


def test_reading_an_inactive_lane_is_found() -> None:
    line = "shfl.sync.down.b32 %r3, %r2, 8, 31, 0xffff;"
    _, _, found = each(HALF.format(first=line, second=""), np.arange(32))
    assert found == [("shuffle from an inactive lane", line)]
    ended = "setp.gt.u32 %p2, %r0, 15;\n@%p2 ret;\nshfl.sync.idx.b32 %r3, %r2, 20, 31, -1;"
    _, _, found = each(ended, np.arange(32))
    assert found == [("shuffle from an inactive lane", ended.splitlines()[-1])]


def test_votes() -> None:
    values = np.zeros(96, int)
    values[3], values[32:64] = 1, 1
    setp = "setp.ne.u32 %p3, %r2, 0;\n"
    for mode, expected in (("all", [0, 1, 0]), ("any", [1, 1, 0]), ("uni", [0, 1, 1])):
        _, got, found = each(setp + f"vote.sync.{mode}.pred %p1, %p3, -1;", values)
        assert got[::32].tolist() == [bool(e) for e in expected] and (got.reshape(3, 32) == got[::32, None]).all()
        assert found == []
    got, _, _ = each(setp + "vote.sync.ballot.b32 %r3, %p3, -1;", values)
    assert got[::32].tolist() == [8, 0xFFFFFFFF, 0]
    _, got, _ = each(setp + "vote.sync.all.pred %p1, !%p3, -1;", values)
    assert got[::32].tolist() == [False, False, True]
    first = "vote.sync.ballot.b32 %r3, %p3, 0xffff;"
    got, _, found = each(
        setp + HALF.format(first=first, second="vote.sync.ballot.b32 %r3, !%p3, 0xffff0000;"), values[:32]
    )
    assert got[[0, 31]].tolist() == [8, 0xFFFF0000] and found == []


def test_activemask_and_elect() -> None:
    got, _, found = each(
        HALF.format(first="activemask.b32 %r3;", second="nanosleep.u32 20; activemask.b32 %r3;"), np.arange(32)
    )
    assert got[[0, 31]].tolist() == [0xFFFF, 0xFFFF0000] and found == []
    got, leader, found = each("elect.sync %r3|%p1, -1;", np.arange(64))
    assert got.tolist() == [0] * 64 and np.flatnonzero(leader).tolist() == [0, 32] and found == []
    got, leader, _ = each(HALF.format(first="", second="elect.sync %r3|%p1, 0xffff0000;"), np.arange(32))
    assert got[31] == 16 and np.flatnonzero(leader).tolist() == [16]


def test_match() -> None:
    values = np.random.default_rng(2).integers(0, 4, 64)
    got, _, found = each("match.any.sync.b32 %r3, %r2, -1;", values)
    expected = [sum(1 << j for j in range(32) if values[i // 32 * 32 + j] == values[i]) for i in range(64)]
    assert got.tolist() == expected and found == []
    values[:32] = 7
    got, same, _ = each("match.all.sync.b32 %r3|%p1, %r2, -1;", values)
    assert got[[0, 40]].tolist() == [0xFFFFFFFF, 0] and same[[0, 40]].tolist() == [True, False]


@pytest.mark.parametrize("op", ["add", "min", "max", "and", "or", "xor"])
@pytest.mark.parametrize("kind", ["u32", "s32", "b32"])
def test_redux(op: str, kind: str) -> None:
    if (kind == "b32") != (op in ("and", "or", "xor")):
        return
    values = np.random.default_rng(3).integers(0, 1 << 32, 64).astype(np.uint32)
    function = {
        "add": np.add, "min": np.minimum, "max": np.maximum,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }[op]  # fmt: skip
    typed = values.view(np.int32 if kind == "s32" else np.uint32).reshape(2, 32)
    got, _, found = each(f"redux.sync.{op}.{kind} %r3, %r2, -1;", values)
    assert (
        got[::32].tolist() == function.reduce(typed, axis=1, dtype=typed.dtype).view(np.uint32).tolist() and found == []
    )
    line = f"redux.sync.{op}.{kind} %r3, %r2, {{}};"
    got, _, found = each(HALF.format(first=line.format("0xffff"), second=line.format("0xffff0000")), values[:32])
    halves = typed[:1].reshape(2, 16)
    assert (
        got[::16].tolist() == function.reduce(halves, axis=1, dtype=typed.dtype).view(np.uint32).tolist()
        and found == []
    )


def test_redux_of_floats() -> None:
    values = np.random.default_rng(4).standard_normal(32).astype(np.float32)
    values[5] = np.nan
    code = "mov.b32 %f1, %r2; redux.sync.{op}.f32 %f2, %f1, -1; mov.b32 %r3, %f2;"
    for op, expected in (("min", np.nanmin(values)), ("max.abs", np.nanmax(np.abs(values))), ("max.NaN", np.nan)):
        got, _, found = each(code.format(op=op), values.view(np.uint32), "sm_100a")
        np.testing.assert_array_equal(got.view(np.float32)[0], expected)
        assert found == []


LANES_TO_SHARED = """
    shl.b32 %r5, %r0, 4;
    add.u32 %r6, %r1, %r5;
    mul.wide.u32 %d10, %r0, 16;
    add.s64 %d11, %d0, %d10;
    ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%d11];
    st.shared.v4.b32 [%r6], {%r10, %r11, %r12, %r13};
    bar.warp.sync -1;
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix_and_stmatrix_move_rows(count: int, trans: str) -> None:
    rows = np.random.default_rng(5).integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    stores = "\n".join(f"st.global.b32 [%d12+{128 * i}], %r{20 + i};" for i in range(count))
    body = f"""{LANES_TO_SHARED}
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%r6];
    mul.wide.u32 %d13, %r0, 4;
    add.s64 %d12, %d1, %d13;
    {stores}
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r6+1024], {{{registers}}};
    bar.warp.sync -1;
    setp.lt.u32 %p1, %r0, {8 * count};
    add.s64 %d12, %d2, %d10;
    @%p1 ld.shared.v4.b32 {{%r10, %r11, %r12, %r13}}, [%r6+1024];
    @%p1 st.global.v4.b32 [%d12], {{%r10, %r11, %r12, %r13}};
    """
    result = run(body, [rows, np.zeros((count, 32, 2), np.uint16), np.zeros((count, 8, 8), np.uint16)])
    assert result.found == []
    for i in range(count):
        matrix = rows[i].T if trans else rows[i]
        np.testing.assert_array_equal(result.buffers[1][i].reshape(8, 8), matrix)
    np.testing.assert_array_equal(result.buffers[2], rows[:count])


def test_movmatrix_transposes() -> None:
    matrix = np.random.default_rng(6).integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    got, _, found = each("movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r2;", matrix.view(np.uint32).reshape(32))
    np.testing.assert_array_equal(got.view(np.uint16).reshape(8, 8), matrix.T)
    assert found == []


def test_a_misaligned_row_of_ldmatrix_is_found() -> None:
    line = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r6+8];"
    result = run(LANES_TO_SHARED + line, [np.zeros((32, 4), np.uint32)])
    assert ("misaligned", line) in result.found


SOURCES = "{%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f4, %f4, %f4, %f4}"
MMA = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, " + SOURCES + ";"


def test_mma_in_a_divergent_or_incomplete_warp_is_found() -> None:
    zeros = "\n".join(f"mov.b32 %r{i}, 0;" for i in range(10, 16)) + "\nmov.f32 %f4, 0f00000000;\n"
    _, _, found = each(zeros + "setp.lt.u32 %p2, %r0, 16;\n@%p2 " + MMA, np.arange(32))
    assert [kind for kind, _ in found] == ["divergent warp"]
    _, _, found = each(zeros + "setp.ge.u32 %p2, %r0, 16;\n@%p2 ret;\n" + MMA, np.arange(32))
    assert [kind for kind, _ in found] == ["divergent warp"]
    _, _, found = each(zeros + MMA, np.arange(64))
    assert found == []


def test_a_matmul_by_ldmatrix_and_mma() -> None:
    """One warp a CTA: C[16, 8] = A[16, 16] B[8, 16]^T, four CTAs on four problems."""
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((4, 16, 16)).astype(np.float32), rng.standard_normal((4, 8, 16)).astype(np.float32)
    left, right = (formats.narrow(x, "bf16") for x in (a, b))
    body = """
    mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %d10, %r2, 512;  // A: 32 lanes x 16 bytes
    add.s64 %d0, %d0, %d10;
    mul.wide.u32 %d10, %r2, 256;  // B: 16 lanes x 16 bytes
    add.s64 %d1, %d1, %d10;
    mul.wide.u32 %d10, %r2, 512;
    add.s64 %d2, %d2, %d10;
    mul.wide.u32 %d10, %r0, 16;
    add.s64 %d11, %d0, %d10;
    ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%d11];
    shl.b32 %r5, %r0, 4;
    add.u32 %r6, %r1, %r5;
    st.shared.v4.b32 [%r6], {%r10, %r11, %r12, %r13};
    setp.lt.u32 %p1, %r0, 16;
    add.s64 %d11, %d1, %d10;
    @%p1 ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%d11];
    @%p1 st.shared.v4.b32 [%r6+512], {%r10, %r11, %r12, %r13};
    bar.warp.sync -1;
    and.b32 %r7, %r0, 15;  // row of A; lanes 16-31 its second half
    shr.u32 %r8, %r0, 4;
    mad.lo.u32 %r6, %r7, 32, %r1;
    mad.lo.u32 %r6, %r8, 16, %r6;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r6];
    and.b32 %r7, %r0, 7;
    shr.u32 %r8, %r0, 3;
    and.b32 %r8, %r8, 1;
    mad.lo.u32 %r6, %r7, 32, %r1;
    mad.lo.u32 %r6, %r8, 16, %r6;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r14, %r15}, [%r6+512];
    mov.f32 %f4, 0f3F800000;
    """ + MMA + """
    shr.u32 %r7, %r0, 2;
    and.b32 %r8, %r0, 3;
    mul.wide.u32 %d10, %r7, 32;
    mul.wide.u32 %d11, %r8, 8;
    add.s64 %d10, %d10, %d11;
    add.s64 %d10, %d2, %d10;
    st.global.v2.f32 [%d10], {%f0, %f1};
    st.global.v2.f32 [%d10+256], {%f2, %f3};
    """  # fmt: skip
    result = run(body, [left, right, np.zeros((4, 16, 8), np.float32)], grid=4)
    exact = (
        formats.widen(left, "bf16").astype(np.float64)
        @ formats.widen(right, "bf16").astype(np.float64).transpose(0, 2, 1)
        + 1
    )
    np.testing.assert_array_equal(result.buffers[2], exact.astype(np.float32))
    assert result.found == []


def atomics(line: str, memory_before: Array, values: Array) -> tuple[Array, Array, list[tuple[str, str]]]:
    """Lane i's 4-byte value goes to word i % len(memory): (memory, what the lanes got, findings)."""
    code = f"rem.u32 %r5, %r0, {len(memory_before)}; mul.wide.u32 %d14, %r5, 4; add.s64 %d14, %d3, %d14;\n{line}"
    values = values.view(np.uint32)
    buffers = [values, np.zeros_like(values), np.zeros_like(values), memory_before]
    result = run(EACH.format(code=code), buffers, len(values))
    return result.buffers[3], result.buffers[1], result.found


@pytest.mark.parametrize("op", ["add", "min", "max", "exch", "inc", "dec", "and", "or", "xor"])
def test_atomics_take_turns_in_lane_order(op: str) -> None:
    rng = np.random.default_rng(8)
    values, before = rng.integers(0, 50, 64).astype(np.uint32), rng.integers(0, 50, 5).astype(np.uint32)
    kind = {"exch": "b32", "and": "b32", "or": "b32", "xor": "b32"}.get(op, "u32")
    after, got, found = atomics(f"atom.global.{op}.{kind} %r3, [%d14], %r2;", before, values)
    expected, olds = before.copy(), []
    for i, value in enumerate(values):
        old = int(expected[i % 5])
        olds.append(old)
        v = int(value)
        new = {
            "add": old + v, "min": min(old, v), "max": max(old, v), "exch": v, "and": old & v, "or": old | v,
            "xor": old ^ v, "inc": 0 if old >= v else old + 1, "dec": v if old == 0 or old > v else old - 1,
        }[op]  # fmt: skip
        expected[i % 5] = new
    assert after.tolist() == expected.tolist() and got.tolist() == olds and found == []


def test_compare_and_swap_gives_one_lane_the_lock() -> None:
    code = "mov.u32 %r6, 0; add.u32 %r7, %r0, 1; atom.global.cas.b32 %r3, [%d14], %r6, %r7;"
    after, got, found = atomics(code, np.zeros(1, np.uint32), np.zeros(64, np.uint32))
    assert after.tolist() == [1] and got.tolist() == [0] + [1] * 63 and found == []


def test_float_sums_round_after_every_lane() -> None:
    values = np.random.default_rng(9).standard_normal(64).astype(np.float32)
    code = "mov.b32 %f1, %r2; red.global.add.f32 [%d14], %f1;"
    after, _, found = atomics(code, np.zeros(1, np.float32), values)
    total = np.float32(0)
    for value in values:
        total += value
    assert after[0] == total and found == []
    halves = np.random.default_rng(9).standard_normal(64).astype(np.float16)
    after, _, _ = atomics("red.global.add.noftz.f16x2 [%d14], %r2;", np.zeros(2, np.float16).view(np.uint32), halves)
    sums = np.zeros(2, np.float16)
    for two in halves.reshape(32, 2):
        sums += two
    assert after.view(np.float16).tolist() == sums.tolist()


def test_subnormal_sums_are_flushed_in_global_and_kept_in_shared_memory() -> None:
    tiny = np.array([1e-40], np.float32)
    code = "mov.b32 %f1, %r2; red.global.add.f32 [%d14], %f1;"
    assert atomics(code, tiny, np.full(1, 1e-40, np.float32))[0].tolist() == [0.0]
    code = "mov.b32 %f1, %r2; st.shared.f32 [%r1], %f1; atom.shared.add.f32 %f2, [%r1], %f1; ld.shared.u32 %r3, [%r1];"
    got = atomics(code, tiny, np.full(1, 1e-40, np.float32))[1].view(np.float32)
    assert got.tolist() == [float(tiny[0] + tiny[0])]


def test_wide_and_vector_atomics() -> None:
    body = """
    mov.u64 %d10, 0x100000001;
    atom.global.add.u64 %d11, [%d0], %d10;
    mov.f32 %f1, 0f3F800000;
    red.global.add.v4.f32 [%d1], {%f1, %f1, %f1, %f1};
    mov.f64 %fd1, 0d3FE0000000000000;
    atom.add.f64 %fd2, [%d2], %fd1;
    mov.s64 %d12, -5;
    red.relaxed.gpu.global.min.s64 [%d3], %d12;
    """
    buffers: list[Array] = [np.zeros(1, np.uint64), np.arange(4, dtype=np.float32), np.zeros(1), np.zeros(1, np.int64)]
    result = run(body, buffers, threads=40)
    assert result.found == []
    assert result.buffers[0][0] == 40 * 0x100000001 and result.buffers[1].tolist() == [40.0, 41.0, 42.0, 43.0]
    assert result.buffers[2][0] == 20.0 and result.buffers[3][0] == -5


@pytest.mark.parametrize(
    "line",
    [
        "shfl.sync.left.b32 %r3, %r2, 1, 31, -1;",
        "shfl.sync.up.b32 %r3, %r2, 1, 31;",
        "vote.sync.most.pred %p1, %p2, -1;",
        "redux.sync.mul.u32 %r3, %r2, -1;",
        "atom.global.cas.b128 %r3, [%d0], %r2, %r2;",
        "atom.global.min.f16x2 %r3, [%d0];",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r3, %r4}, [%r1];",
        "mma.sync.aligned.m16n8k16.col.row.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, " + SOURCES + ";",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2}, " + SOURCES + ";",
    ],
)
def test_forms_that_are_unknown_point_at_their_line(line: str) -> None:
    with pytest.raises(CompileError, match=r"line \d+"):
        run(line, [np.zeros(1, np.uint32)])
