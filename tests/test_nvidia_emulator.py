"""The emulated machine: control flow, memory and its checks, barriers, limits of a launch, devices."""

from __future__ import annotations

import os
import signal
import struct
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hal.errors import CompileError, DeviceError, DeviceMemoryError, OptionError
from hal.kernel import I32, Kernel, Launch
from hal_nvidia_ptx import check
from hal_nvidia_ptx.emulator import Backend, machine, memory, program
from hal_nvidia_ptx.emulator.device import EmulatedDevice
from hal_nvidia_ptx.emulator.report import Finding

Array = NDArray[Any]

HEAD = """
.version 8.0
.target {target}
.address_size 64
{module}
.visible .entry k(.param .u64 X, .param .u64 Y, .param .s32 N)
{directives}
{{
    .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %d<16>; .reg .f32 %f<16>;
    mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r3, %r1, %r2, %r0;
    ld.param.u64 %d0, [X]; ld.param.u64 %d1, [Y]; ld.param.s32 %r4, [N];
    mad.wide.s32 %d2, %r3, 4, %d0;
    mad.wide.s32 %d3, %r3, 4, %d1;
{body}
}}
"""


@dataclass
class Ran:
    """y after the run, the findings, and whether the run came to its end."""

    y: Array
    findings: list[Finding]
    outcome: machine.Outcome

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(finding.kind, finding.place.text.strip()) for finding in self.findings]


def text_of(body: str, module: str = "", directives: str = "", target: str = "sm_90") -> str:
    code = textwrap.indent(textwrap.dedent(body), "    ")
    return HEAD.format(body=code, module=module, directives=directives, target=target)


def run(
    body: str,
    x: Array | None = None,
    n: int = 0,
    grid: int = 1,
    block: int = 64,
    y: Array | int = 64,
    shared: int = 0,
    ctas: Sequence[int] | None = None,
    trips: int | None = None,
    cluster: int = 1,
    **text: str,
) -> Ran:
    """Run a body: %r3 is the thread's number in the grid, [%d2] and [%d3] its elements of x and y (32 bits each).

    y: its contents, or the number of its unwritten elements.
    """
    x = np.arange(grid * block, dtype=np.uint32) if x is None else x
    arena = memory.Arena(1 << 22)
    from_ = arena.alloc(x.nbytes, "x")
    arena.write(from_.start, x.view(np.uint8).reshape(-1))
    to = arena.alloc(4 * y if isinstance(y, int) else y.nbytes, "y")
    if not isinstance(y, int):
        arena.write(to.start, y.view(np.uint8).reshape(-1))
    shape = machine.Shape((grid, 1, 1), (block, 1, 1), (cluster, 1, 1), shared)
    options = machine.Options(ctas=ctas, trips=trips, count=True)
    target = text.get("target", "sm_90")
    built = program.load(text_of(body, **text), "k", target)
    outcome = machine.launch(built, arena, shape, [from_.start, to.start, n], options)
    return Ran(arena.read(to.start, to.nbytes).copy().view(np.uint32), list(outcome.findings), outcome)


def clean(body: str, **more: Any) -> Array:
    """y of a run that must find nothing."""
    ran = run(body, **more)
    assert [finding.render() for finding in ran.findings] == []
    return ran.y


# Control flow.


def test_loops_of_different_length_and_paths_that_meet_again() -> None:
    y = clean(
        """
        mov.u32 %r5, 0; mov.u32 %r6, %r0;
        LOOP:
        setp.eq.u32 %p0, %r6, 0;
        @%p0 bra DONE;
        and.b32 %r7, %r6, 1;
        setp.ne.u32 %p1, %r7, 0;
        @%p1 bra ODD;
        add.u32 %r5, %r5, 100;
        bra NEXT;
        ODD:
        add.u32 %r5, %r5, 1;
        NEXT:
        sub.u32 %r6, %r6, 1;
        bra.uni LOOP;
        DONE:
        st.global.u32 [%d3], %r5;
        ret;
        """
    )
    assert y.tolist() == [(i + 1) // 2 + 100 * (i // 2) for i in range(64)]


def test_labels_are_scoped_by_braces() -> None:
    y = clean(
        """
        mov.u32 %r5, 0;
        { .reg .b32 a; mov.u32 a, %r0; W: add.u32 %r5, %r5, 1; sub.u32 a, a, 1; setp.ge.s32 %p0, a, 0; @%p0 bra W; }
        { .reg .b64 a; cvt.u64.u32 a, %r0; W: add.u32 %r5, %r5, 2; sub.s64 a, a, 1; setp.ge.s64 %p0, a, 0; @%p0 bra W; }
        st.global.u32 [%d3], %r5;
        ret;
        """
    )
    assert y.tolist() == [3 * (i + 1) for i in range(64)]


def test_a_table_of_branches() -> None:
    y = clean(
        """
        and.b32 %r5, %r0, 3;
        T: .branchtargets A, B, C, A;
        brx.idx %r5, T;
        A: mov.u32 %r6, 10; bra END;
        B: mov.u32 %r6, 20; bra END;
        C: mov.u32 %r6, 30;
        END: st.global.u32 [%d3], %r6;
        ret;
        """
    )
    assert y.tolist() == [[10, 20, 30, 10][i & 3] for i in range(64)]


def test_functions_with_parameters_results_and_loops() -> None:
    module = """
    .func (.param .b32 out) power(.param .b32 base, .param .b32 count)
    {
        .reg .b32 %r<4>; .reg .pred %p;
        ld.param.b32 %r1, [base]; ld.param.b32 %r2, [count];
        mov.b32 %r3, 1;
        AGAIN: setp.eq.s32 %p, %r2, 0; @%p bra OUT;
        mul.lo.s32 %r3, %r3, %r1; sub.s32 %r2, %r2, 1; bra AGAIN;
        OUT: st.param.b32 [out], %r3;
        ret;
    }
    .func (.reg .u32 %sum) plus(.reg .u32 %one, .reg .u32 %two) { add.u32 %sum, %one, %two; ret; }
    """
    y = clean(
        """
        and.b32 %r5, %r0, 7;
        { .param .b32 a; .param .b32 b; .param .b32 c;
          st.param.b32 [a], 3; st.param.b32 [b], %r5;
          call.uni (c), power, (a, b);
          ld.param.b32 %r6, [c]; }
        call (%r7), plus, (%r6, %r0);
        st.global.u32 [%d3], %r7;
        ret;
        """,
        module=module,
    )
    assert y.tolist() == [3 ** (i & 7) + i for i in range(64)]


def test_a_lock_that_lanes_of_one_warp_contend_for() -> None:
    y = clean(
        """
        TRY: atom.global.cas.b32 %r5, [%d1], 0, 1;
        setp.ne.u32 %p0, %r5, 0;
        @%p0 bra TRY;
        ld.volatile.global.u32 %r6, [%d1+4];
        add.u32 %r6, %r6, 1;
        st.volatile.global.u32 [%d1+4], %r6;
        membar.gl;
        atom.global.exch.b32 %r5, [%d1], 0;
        ret;
        """,
        y=np.zeros(64, np.uint32),
        grid=2,
    )
    assert y[:2].tolist() == [0, 128]


def test_the_last_arriver_of_a_grid_adds_up() -> None:
    y = clean(
        """
        .shared .b32 last;
        st.global.u32 [%d3+16], %r0;
        membar.gl; bar.sync 0;
        setp.ne.u32 %p0, %r0, 0;
        @%p0 bra WAIT;
        atom.global.add.u32 %r5, [%d1], 1;
        st.shared.u32 [last], %r5;
        WAIT: bar.sync 0;
        ld.shared.u32 %r5, [last];
        mov.u32 %r6, %nctaid.x; sub.u32 %r6, %r6, 1;
        setp.ne.u32 %p1, %r5, %r6;
        @%p1 ret;
        mov.u32 %r8, 0; mov.u32 %r7, 0; add.s64 %d4, %d1, 16;
        SUM: ld.global.u32 %r9, [%d4]; add.u32 %r8, %r8, %r9; add.s64 %d4, %d4, 4;
        add.u32 %r7, %r7, 1; setp.lt.u32 %p2, %r7, 1280; @%p2 bra SUM;
        setp.eq.u32 %p3, %r0, 0;
        @%p3 st.global.u32 [%d1+4], %r8;
        ret;
        """,
        y=np.zeros(4 + 1280, np.uint32),
        grid=20,
    )
    assert y[1] == 20 * sum(range(64))


def test_an_endless_loop_is_reported_at_its_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hal_nvidia_ptx.emulator.scheduler.TRIPS", 1000)
    ran = run("SPIN: ld.volatile.global.u32 %r5, [%d2]; setp.ne.u32 %p0, %r5, 77;\n@%p0 bra SPIN; // until 77\nret;")
    assert ran.kinds == [("endless loop", "@%p0 bra SPIN; // until 77")]
    assert ran.findings[0].place.comment == "until 77" and ran.outcome.ran.stopped == "endless loop"


def test_trips_bound_every_loop_and_the_report_says_so() -> None:
    ran = run(
        "mov.u32 %r5, 0;\nL: add.u32 %r5, %r5, 1; setp.lt.u32 %p0, %r5, 1000;\n@%p0 bra L;\n"
        "st.global.u32 [%d3], %r5; ret;",
        trips=10,
    )
    assert set(ran.y) == {10} and len(ran.outcome.ran.cut) == 1 and not ran.findings


def test_a_sample_of_the_grid() -> None:
    ran = run("st.global.u32 [%d3], 7; ret;", grid=8, y=np.zeros(512, np.uint32), ctas=[0, 5])
    assert np.flatnonzero(ran.y[::64]).tolist() == [0, 5]
    assert (ran.outcome.ran.ctas, ran.outcome.ran.grid) == (2, 8)


def test_clusters_are_sampled_whole_and_ranked() -> None:
    ran = run(
        "mov.u32 %r5, %cluster_ctarank; mov.u32 %r6, %clusterid.x; mad.lo.u32 %r5, %r6, 10, %r5;\n"
        "add.u32 %r5, %r5, 100; st.global.u32 [%d3], %r5; ret;",
        grid=8,
        y=np.zeros(512, np.uint32),
        ctas=[3],
        cluster=4,
    )
    assert ran.y.reshape(8, 64)[:, 0].tolist() == [100, 101, 102, 103, 0, 0, 0, 0] and not ran.findings


# Memory.


def test_vectors_spaces_and_generic_addresses() -> None:
    y = clean(
        """
        .shared .align 16 .b8 tile[1024]; .local .align 16 .b8 own[32];
        mov.u32 %r10, tile; shl.b32 %r11, %r0, 4; add.u32 %r10, %r10, %r11;
        st.shared.v4.u32 [%r10], {%r0, 1, 2, %r3};
        cvt.u64.u32 %d4, %r10; cvta.shared.u64 %d4, %d4;
        ld.v2.u32 {%r5, _}, [%d4]; ld.u32 %r6, [%d4+12];
        mov.u64 %d5, own; st.local.u64 [%d5+8], %d4; cvta.local.u64 %d6, %d5; ld.u64 %d7, [%d6+8];
        ld.shared.u8 %r7, [%r10+8];
        setp.eq.s64 %p0, %d4, %d7; selp.u32 %r8, 1000, 0, %p0;
        add.u32 %r5, %r5, %r6; add.u32 %r5, %r5, %r7; add.u32 %r5, %r5, %r8;
        and.b32 %r12, %r0, 1; setp.ne.u32 %p1, %r12, 0;
        selp.b64 %d8, %d4, %d2, %p1;  // odd lanes shared, even lanes global memory
        ld.u32 %r13, [%d8];
        add.u32 %r5, %r5, %r13;
        st.global.u32 [%d3], %r5;
        ret;
        """
    )
    assert y.tolist() == [3 * i + 1002 for i in range(64)]


def test_variables_of_the_module_keep_their_values() -> None:
    module = """
    .const .align 4 .f32 table[3] = {0f3F800000, 2.5, -1};
    .global .align 4 .u32 counter = 5;
    .global .align 8 .u64 where[2] = {counter, generic(counter)};
    """
    y = clean(
        """
        ld.const.f32 %f1, [table+4]; cvt.rzi.u32.f32 %r5, %f1;
        ld.global.u64 %d4, [where+8]; ld.global.u32 %r6, [%d4];
        add.u32 %r5, %r5, %r6; st.global.u32 [%d3], %r5;
        ret;
        """,
        module=module,
    )
    assert set(y.tolist()) == {7}


def test_array_parameters_are_read_by_constant_and_by_address() -> None:
    text = """
    .version 8.0
    .target sm_80
    .address_size 64
    .visible .entry k(.param .align 8 .b8 P[24], .param .u64 Y)
    { .reg .b64 %d<8>; .reg .b32 %r<8>;
      ld.param.u32 %r1, [P+8]; mov.b64 %d1, P; ld.param.u32 %r2, [%d1+20]; ld.param.v2.u32 {%r3, %r4}, [P+16];
      add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; ld.param.u64 %d2, [Y]; st.global.u32 [%d2], %r1; ret; }
    """
    arena = memory.Arena(1 << 20)
    y = arena.alloc(4)
    built = program.load(text, None, "sm_80")
    data = struct.pack("<QIIII", 1, 20, 0, 300, 4000)
    outcome = machine.launch(built, arena, machine.Shape((1, 1, 1), (1, 1, 1)), [data, y.start])
    assert not list(outcome.findings) and arena.read(y.start, 4).view(np.uint32)[0] == 4320


def test_addresses_of_parameters_fit_into_32_bits_and_become_generic() -> None:
    y = clean(
        """
        mov.b32 %r5, N; ld.param.u32 %r6, [%r5];
        cvt.u64.u32 %d4, %r5; cvta.param.u64 %d5, %d4; ld.u32 %r7, [%d5]; cvta.to.param.u64 %d6, %d5;
        setp.eq.u64 %p0, %d6, %d4; selp.u32 %r8, 1000, 0, %p0;
        add.u32 %r6, %r6, %r7; add.u32 %r6, %r6, %r8; st.global.u32 [%d3], %r6;
        ret;
        """,
        n=21,
    )
    assert set(y.tolist()) == {1042}
    ran = run("mov.b64 %d4, N;\nld.u32 %r7, [%d4];\nret;")
    assert ran.kinds == [("wild address", "ld.u32 %r7, [%d4];")] and "cvta.param" in ran.findings[0].message


def test_zeros_of_both_signs_are_different_constants() -> None:
    y = clean("add.f32 %f1, 0f00000000, 0f00000000; copysign.f32 %f2, 0f80000000, 0f3F800000;\n"
              "mov.b32 %r5, %f2; st.global.u32 [%d3], %r5; ret;")  # fmt: skip
    assert set(y.tolist()) == {0xBF800000}


FAULTS = {
    "out of bounds": "ld.global.u32 %r5, [%d2+4];",
    "misaligned": "ld.global.u32 %r5, [%d2+2];",
    "wild address": "mov.u64 %d4, 4096; ld.global.u32 %r5, [%d4];",
    "uninitialised read": "ld.global.u32 %r5, [%d3];",
    "uninitialised register": "add.u32 %r5, %r31, 1;",
    "write to constant memory": "mov.u64 %d4, C; st.global.u32 [%d4], 1;",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_with_line_threads_and_address(kind: str) -> None:
    ran = run(FAULTS[kind] + " // the comment\nret;", module=".const .u32 C = 1;")
    assert [found for found, _ in ran.kinds] == [kind]
    finding = ran.findings[0]
    assert finding.place.comment == "the comment" and finding.kernel == "k"
    assert finding.thread_count in (1, 64) and finding.threads and finding.expected
    assert finding.kind == "uninitialised register" or finding.address is not None


def test_only_the_lane_at_fault_is_named() -> None:
    ran = run("ld.global.u32 %r5, [%d2+4]; st.global.u32 [%d3], %r5; ret;")
    assert [str(thread) for thread in ran.findings[0].threads] == ["CTA 0 thread 63"]
    assert "+256 of x of 256 bytes" in ran.findings[0].message
    assert ran.y.tolist() == [*range(1, 64), 0]


def test_shared_memory_is_checked_to_its_own_size() -> None:
    body = ".shared .align 4 .b8 s[256];\nmov.u32 %r5, s; shl.b32 %r6, %r0, 2; add.u32 %r5, %r5, %r6;\n"
    assert run(body + "st.shared.u32 [%r5], 1; ret;").kinds == []
    assert run(body + "ld.shared.u32 %r7, [%r5]; ret;").kinds[0][0] == "uninitialised read"
    assert run(body + "st.shared.u32 [%r5+4], 1; ret;").kinds[0][0] == "out of bounds"


def test_memory_that_was_freed_is_found() -> None:
    arena = memory.Arena(1 << 20)
    x, y = arena.alloc(256), arena.alloc(256)
    arena.write(x.start, np.zeros(256, np.uint8))
    arena.free(x.start)
    built = program.load(text_of("ld.global.u32 %r5, [%d2]; ret;"), "k", "sm_90")
    outcome = machine.launch(built, arena, machine.Shape((1, 1, 1), (32, 1, 1)), [x.start, y.start, 0])
    assert [finding.kind for finding in outcome.findings] == ["use after free"]
    with pytest.raises(DeviceError, match="not the start"):
        arena.free(x.start)


def test_registers_that_are_written_on_every_path_are_not_watched() -> None:
    body = """
    setp.lt.u32 %p0, %r0, 16;
    @%p0 bra A;
    mov.u32 %r5, 1; bra B;
    A: mov.u32 %r5, 2;
    B: st.global.u32 [%d3], %r5; ret;
    """
    built = program.load(text_of(body), "k", "sm_90")
    assert not built.unassigned
    half = "setp.lt.u32 %p0, %r0, 16;\n@%p0 mov.u32 %r5, 1;\nst.global.u32 [%d3], %r5;\nret;"
    ran = run(half)
    assert ran.kinds == [("uninitialised register", "st.global.u32 [%d3], %r5;")]
    assert ran.findings[0].thread_count == 48


def test_wmma_multiplies_matrices_of_any_layout() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 8, (16, 16)).astype(np.float16) for _ in range(2))
    y = clean(
        """
        .reg .b32 %a<8>, %b<8>; .reg .f32 %c<8>;
        mov.f32 %f0, 0f00000000;
        wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%a0, %a1, %a2, %a3, %a4, %a5, %a6, %a7}, [%d0], 16;
        wmma.load.b.sync.aligned.col.m16n16k16.global.f16 {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7}, [%d0+512];
        wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7},
            {%a0, %a1, %a2, %a3, %a4, %a5, %a6, %a7}, {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7},
            {%f0, %f0, %f0, %f0, %f0, %f0, %f0, %f0};
        mul.f32 %c0, %c0, 0f40000000;  mul.f32 %c1, %c1, 0f40000000;  // every value once, wherever it lies
        mul.f32 %c2, %c2, 0f40000000;  mul.f32 %c3, %c3, 0f40000000;
        mul.f32 %c4, %c4, 0f40000000;  mul.f32 %c5, %c5, 0f40000000;
        mul.f32 %c6, %c6, 0f40000000;  mul.f32 %c7, %c7, 0f40000000;
        wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%d1], {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7}, 16;
        ret;
        """,
        x=np.concatenate([a.reshape(-1), b.T.reshape(-1)]).view(np.uint32),
        y=256,
        block=32,
    )
    assert np.array_equal(y.view(np.float32).reshape(16, 16), 2 * a.astype(np.float32) @ b.astype(np.float32))


# Barriers.

STAGE = ".shared .align 4 .b8 s[256];\nmov.u32 %r5, s; shl.b32 %r6, %r0, 2; add.u32 %r7, %r5, %r6;\n"


def test_a_barrier_orders_warps_that_took_different_ways() -> None:
    y = clean(
        STAGE
        + """
        setp.lt.u32 %p0, %r0, 32;
        @%p0 bra FIRST;
        bar.sync 1;
        ld.shared.u32 %r8, [%r7+-128]; st.global.u32 [%d3], %r8;
        ret;
        FIRST: mov.u32 %r9, 0;
        WORK: add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 50; @%p1 bra WORK;
        st.shared.u32 [%r7], %r0;
        bar.sync 1;
        st.global.u32 [%d3], 5;
        ret;
        """
    )
    assert y.tolist() == [5] * 32 + list(range(32))


def test_producers_arrive_and_consumers_wait() -> None:
    y = clean(
        STAGE
        + """
        setp.lt.u32 %p0, %r0, 32;
        @%p0 bra CONSUMER;
        st.shared.u32 [%r7+-128], %r0;
        bar.arrive 3, 64;
        st.global.u32 [%d3], 1;
        ret;
        CONSUMER: bar.sync 3, 64;
        ld.shared.u32 %r8, [%r7]; st.global.u32 [%d3], %r8;
        ret;
        """
    )
    assert y.tolist() == [i + 32 for i in range(32)] + [1] * 32


def test_threads_that_ended_are_not_waited_for() -> None:
    y = clean(
        "setp.lt.u32 %p0, %r0, 7;\n@%p0 ret;\nbar.sync 0;\nst.global.u32 [%d3], 3; ret;", y=np.zeros(64, np.uint32)
    )
    assert y.tolist() == [0] * 7 + [3] * 57


@pytest.mark.parametrize(("how", "wanted"), [("popc.u32 %r8", 20), ("and.pred %p2", 0), ("or.pred %p2", 1)])
def test_reductions_at_a_barrier(how: str, wanted: int) -> None:
    select = "" if "r8" in how else "selp.u32 %r8, 1, 0, %p2;"
    y = clean(f"setp.lt.u32 %p1, %r0, 20;\nbar.red.{how}, 0, %p1;\n{select}\nst.global.u32 [%d3], %r8; ret;")
    assert set(y.tolist()) == {wanted}


def test_a_divergent_barrier_is_found() -> None:
    ran = run("setp.lt.u32 %p0, %r0, 16;\n@%p0 bar.sync 0; // half a warp\nret;")
    assert ran.kinds[0] == ("divergent warp", "@%p0 bar.sync 0; // half a warp") or ran.kinds == []
    ran = run(
        "setp.lt.u32 %p0, %r0, 16;\n@%p0 bra A;\nbar.sync 0; // high\nbra B;\nA: bar.sync 0; // low\nB: ret;", block=32
    )
    assert {kind for kind, _ in ran.kinds} == {"divergent warp"}
    assert ran.findings[0].notes


def test_a_deadlock_names_the_lines_where_lanes_wait() -> None:
    ran = run("setp.lt.u32 %p0, %r0, 32;\n@%p0 bra A;\nbar.sync 1, 64; // one\nret;\nA: bar.sync 2, 64; // two\nret;")
    assert [kind for kind, _ in ran.kinds] == ["deadlock"]
    assert ran.findings[0].place.comment == "one" and ran.findings[0].notes[0].place.comment == "two"
    assert ran.outcome.ran.stopped == "deadlock"


def test_counts_of_a_barrier_have_to_agree() -> None:
    ran = run("setp.lt.u32 %p0, %r0, 32;\n@%p0 bra A;\nbar.sync 1, 64;\nret;\nA: bar.sync 1, 96;\nret;")
    assert ran.kinds[0][0] == "barrier count"
    assert run("mov.u32 %r5, %ntid.x; sub.u32 %r5, %r5, 16; bar.sync 1, %r5; ret;").kinds[0][0] == "barrier count"


# Launches.


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"block": 2048}, "the limits are"),
        ({"block": 64, "directives": ".maxntid 32, 1, 1"}, ".maxntid allows 32"),
        ({"block": 64, "directives": ".reqntid 32"}, ".reqntid asks for"),
        ({"shared": 300_000}, "bytes of shared memory, sm_90 has"),
        ({"cluster": 3, "grid": 4}, "no multiple of the cluster"),
        ({"directives": ".reqnctapercluster 2", "grid": 2}, ".reqnctapercluster asks for"),
        ({"ctas": [4], "grid": 4}, "CTA 4"),
    ],
)
def test_launches_beyond_the_limits_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(machine.LaunchError, match=message):
        run("ret;", **more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([1, 2], "takes 3 arguments"), ([1, 2, 3.5], "N is .s32"), ([1, 2, b"1234567"], "has 4 bytes, 7 given")],
)
def test_wrong_arguments_are_refused(arguments: list[Any], message: str) -> None:
    built = program.load(text_of("ret;"), "k", "sm_90")
    with pytest.raises(machine.LaunchError, match=message):
        machine.launch(built, memory.Arena(1 << 20), machine.Shape((1, 1, 1), (32, 1, 1)), arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "no PTX statement"),
        (".version 8.0\n.target sm_80\n.visible .entry k() { ret;", "has no end"),
        (".version 8.0\n.target sm_80\n.visible .entry k() { add.s32 %r1, 1, 2; }", "line 3: register %r1"),
        (".version 8.0\n.target sm_90a\n.visible .entry k() { ret; }", "for .target sm_90a"),
        (".version 8.0\n.target sm_80\n.visible .entry other() { ret; }", "no entry k"),
        (".target sm_80\n.visible .entry k() { ret; }", "no .version"),
        (".version 8.0\n.target sm_80\n.visible .entry k() { call f; }", "only functions whose body"),
        (".version 8.0\n.target sm_80\n.func f() { call f; ret; }\n.entry k() { call f; ret; }", "nested too deeply"),
    ],
)
def test_texts_that_cannot_be_loaded(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        program.load(text, "k", "sm_80")


def test_executed_instructions_are_counted_by_warps() -> None:
    ran = run("setp.lt.u32 %p0, %r0, 32;\n@%p0 bra A;\nmov.u32 %r5, 1;\nA: st.global.u32 [%d3], 1; ret;", grid=2, y=128)
    assert ran.outcome.executed[-4:].tolist() == [4, 2, 4, 4]


# Devices.


def device(name: str = "sm_80") -> EmulatedDevice:
    backend = Backend()
    opened = backend.open(next(info for info in backend.devices() if info.name == name))
    assert isinstance(opened, EmulatedDevice)
    return opened


def test_a_device_runs_kernels_and_raises_what_they_do_wrong() -> None:
    ptx = device()
    x, y = ptx.alloc(256), ptx.alloc(256)
    ptx.copy_in(x, 0, np.arange(64, dtype=np.int32).view(np.uint8))
    good = "ld.global.s32 %r5, [%d2]; mad.lo.s32 %r5, %r5, %r4, 1; st.global.s32 [%d3], %r5; ret;"
    compiled = ptx.compiled(Kernel("k", text_of(good, target="sm_80")))
    launch = Launch(0, (1, 1, 1), (64, 1, 1), ())
    ptx.launch(compiled, launch, [(x, 0), (y, 0), I32(3)], None)
    out = np.empty(256, np.uint8)
    ptx.copy_out(out, y, 0)
    assert np.array_equal(out.view(np.int32), 3 * np.arange(64) + 1)
    with pytest.raises(DeviceError, match="out of bounds"):
        ptx.launch(compiled, launch, [(x, 4), (y, 0), I32(3)], None)
    ptx.free(x)
    with pytest.raises(DeviceError):
        ptx.copy_in(x, 0, out)


def test_unwritten_memory_is_no_number_for_the_host() -> None:
    ptx = device()
    out = np.zeros(8, np.uint8)
    ptx.copy_out(out, ptx.alloc(8), 0)
    assert np.isnan(out.view(np.float32)).all()


def test_memory_is_given_out_apart_and_runs_out() -> None:
    arena = memory.Arena(1 << 16)
    first, second = arena.alloc(1), arena.alloc(300)
    assert second.start - first.end >= memory.GUARD and second.start % memory.ALIGN == 0
    with pytest.raises(DeviceMemoryError, match="is full"):
        arena.alloc(1 << 16)


def test_the_mode_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAL_PTX_MODE", "races")
    assert device().mode == "races"
    monkeypatch.setenv("HAL_PTX_MODE", "sometimes")
    with pytest.raises(OptionError, match="late, early, races"):
        device()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_its_own_memory_and_waits_for_no_thread_of_its_parent() -> None:
    ptx = device()
    x = ptx.alloc(4)
    ptx.copy_in(x, 0, np.zeros(4, np.uint8))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ptx._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # ends the child should it wait
        ptx.copy_in(x, 0, np.ones(4, np.uint8))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    done.set()
    thread.join()
    out = np.empty(4, np.uint8)
    ptx.copy_out(out, x, 0)
    assert status == 0 and out.tolist() == [0, 0, 0, 0]


# Functions of the driver.

LIBRARY = """
.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
.extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s) .noreturn;
.global .align 1 .b8 said[8] = {120, 91, 105, 93, 32, 62, 49, 0};
.global .align 1 .b8 file[5] = {107, 46, 99, 117};
.global .align 1 .b8 name[2] = {107};
"""


def test_printf_prints_nothing_and_is_named_as_not_modelled() -> None:
    body = """
    { .param .b64 a; st.param.b64 [a], %d0; .param .b64 b; st.param.b64 [b], %d0; .param .b32 r;
      call.uni (r), vprintf, (a, b); ld.param.b32 %r5, [r]; }
    st.global.u32 [%d3], %r5; ret;
    """
    ran = run(body, module=LIBRARY, block=32, y=32)
    assert ran.findings == [] and ran.y.tolist() == [0] * 32
    report = check(text_of(body, module=LIBRARY), 1, 32, ["x:f32[32]", "y:f32[32]", 0])
    assert report.faithful.unmodelled == ("call.vprintf",)


def test_a_failed_assert_is_a_finding_with_its_words() -> None:
    ran = run(
        """
        setp.lt.u32 %p0, %r3, 3;
        @%p0 bra GOOD;
        { .param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 s;
          mov.u64 %d4, said; cvta.global.u64 %d4, %d4; st.param.b64 [m], %d4;
          mov.u64 %d4, file; cvta.global.u64 %d4, %d4; st.param.b64 [f], %d4;
          mov.u64 %d4, name; cvta.global.u64 %d4, %d4; st.param.b64 [n], %d4;
          st.param.b32 [l], 12; st.param.b64 [s], 1;
          call.uni __assertfail, (m, f, l, n, s); }
        GOOD: st.global.u32 [%d3], 1; ret;
        """,
        module=LIBRARY,
    )
    (finding,) = ran.findings
    assert (finding.kind, finding.message) == ("assertion failed", "x[i] >1 does not hold at k.cu:12, in k")
    assert ran.outcome.ran.stopped == "assertion failed" and str(finding.threads[0]) == "CTA 0 thread 3"


def test_only_the_kernel_that_runs_has_to_be_known() -> None:
    other = ".visible .entry other() { .reg .b32 %a; mov.u32 %a, %envreg2; unheard.of %a, %b; ret; }"
    assert clean("st.global.u32 [%d3], 1; ret;", module=other).tolist() == [1] * 64
    text = ".version 8.0\n.target sm_80\n.visible .entry k() {\n.reg .b32 %a;\nmov.u32 %a, %envreg2;\nret; }"
    with pytest.raises(CompileError, match="line 5: register %envreg2 is not declared, and is no special register"):
        program.load(text, "k", "sm_80")
