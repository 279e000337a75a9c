"""What counts as ordered: each way of ordering two accesses, the ways that look alike and are none, and their cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hal_nvidia_ptx import check
from hal_nvidia_ptx.emulator.counters import sectors, wavefronts
from hal_nvidia_ptx.emulator.report import Report

HEAD = """.version 8.0
.target {target}
.address_size 64
.visible .entry kernel(.param .u64 data)
{{
    .reg .pred %p, %q, %odd, %leader;
    .reg .b16 %h;
    .reg .b32 %t, %cta, %lane, %warp, %a, %b, %c, %rank, %v<4>;
    .reg .b64 %data, %at, %to, %x;
    .shared .align 16 .b8 room[4096];
    ld.param.u64 %data, [data];
    mov.u32 %t, %tid.x;
    mov.u32 %cta, %ctaid.x;
    and.b32 %lane, %t, 31;
    shr.u32 %warp, %t, 5;
    and.b32 %a, %t, 1;
    setp.ne.s32 %odd, %a, 0;
    setp.eq.s32 %leader, %t, 0;
    shl.b32 %a, %t, 2;
    mov.u32 %b, room;
    add.s32 %a, %a, %b;
    mul.wide.u32 %at, %t, 4;
    add.s64 %at, %data, %at;
    add.s64 %to, %data, 4096;
"""


def races(body: str, grid: int = 1, block: int = 64, target: str = "sm_80", **options: Any) -> Report:
    """Run a body on 32 KiB of zeros; %a is the thread's own word of shared memory, %at of global memory."""
    text = HEAD.format(target=target) + body + "\n    ret;\n}\n"
    return check(text, grid, block, [np.zeros(8192, np.uint32)], modes=["races"], **options)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


ORDERED = {
    "a barrier": "st.shared.u32 [%a], %t; bar.sync 0; xor.b32 %a, %a, 128; ld.shared.u32 %c, [%a];",
    "two barriers around a second use": """st.shared.u32 [%a], %t; bar.sync 0; xor.b32 %b, %a, 128;
        ld.shared.u32 %c, [%b]; bar.sync 0; st.shared.u32 [%a], %c;""",
    "halves of one word by two warps": """shl.b32 %a, %lane, 2; shl.b32 %c, %warp, 1; add.s32 %a, %a, %c;
        add.s32 %a, %a, %b; cvt.u16.u32 %h, %t; st.shared.u16 [%a], %h;""",
    "one value by all lanes of a warp": "setp.lt.u32 %p, %t, 32; @%p st.shared.u32 [%b], 7;",
    "the thread's own data": "st.shared.u32 [%a], %t; ld.shared.u32 %c, [%a]; st.shared.u32 [%a], %c;",
    "atomics": """@%leader st.shared.u32 [%b], 0; bar.sync 0; atom.shared.add.u32 %c, [%b], 1;
        atom.global.add.u32 %c, [%data], 1;""",
    "global memory and a barrier": """st.global.u32 [%at], %t; bar.sync 0; xor.b32 %c, %t, 32;
        mul.wide.u32 %x, %c, 4; add.s64 %x, %data, %x; ld.global.u32 %c, [%x];""",
    "in place": "ld.global.u32 %c, [%at]; add.s32 %c, %c, 1; st.global.u32 [%at], %c;",
    "many readers, a barrier, a writer": """ld.global.u32 %c, [%data]; bar.sync 0;
        @%leader st.global.u32 [%data], %c;""",
    "a barrier of two warps out of three": """setp.ge.u32 %p, %t, 64; @%p bra out; st.shared.u32 [%a], %t;
        bar.sync 1, 64; xor.b32 %a, %a, 128; ld.shared.u32 %c, [%a];
        out:""",
}


@pytest.mark.parametrize("name", ORDERED)
def test_what_is_ordered_is_no_race(name: str) -> None:
    report = races(ORDERED[name], block=96 if "three" in name else 64)
    assert report.clean, report.render()


UNORDERED = {
    "no barrier": ("st.shared.u32 [%a], %t; xor.b32 %a, %a, 128; ld.shared.u32 %c, [%a];", "race"),
    "a barrier too early": ("bar.sync 0; st.shared.u32 [%a], %t; xor.b32 %a, %a, 128; ld.shared.u32 %c, [%a];", "race"),
    "a write after another warp's read": (
        "st.shared.u32 [%a], %t; bar.sync 0; xor.b32 %b, %a, 128; ld.shared.u32 %c, [%b]; st.shared.u32 [%a], %c;",
        "race",
    ),
    "one value by two warps": ("st.shared.u32 [%b], 7;", "race"),
    "an atomic and a plain store": ("atom.shared.add.u32 %c, [%b], 1; @%leader st.shared.u32 [%b], 0;", "race"),
    "another lane's word": (
        "st.shared.u32 [%a], %t; xor.b32 %a, %a, 4; ld.shared.u32 %c, [%a];",
        "missing bar.warp.sync",
    ),
    "a word that another lane has read": (
        "st.shared.u32 [%a], %t; bar.sync 0; xor.b32 %b, %a, 4; ld.shared.u32 %c, [%b]; st.shared.u32 [%a], %c;",
        "missing bar.warp.sync",
    ),
    "different values by lanes of a warp": ("setp.lt.u32 %p, %t, 32; @%p st.shared.u32 [%b], %t;", "conflicting lanes"),
    "global memory without a barrier": (
        """st.global.u32 [%at], %t; xor.b32 %c, %t, 32; mul.wide.u32 %x, %c, 4; add.s64 %x, %data, %x;
        ld.global.u32 %c, [%x];""",
        "race",
    ),
    "many readers and a writer": ("ld.global.u32 %c, [%data]; @%leader st.global.u32 [%data], %c;", "race"),
    "a constant load of what the kernel writes": (
        "st.global.u32 [%at], %t; bar.sync 0; ld.global.nc.u32 %c, [%at];",
        "read of memory that changes",
    ),
    "a barrier without one of the warps": (
        """setp.ge.u32 %p, %t, 64; @%p bra read; st.shared.u32 [%a], %t; bar.sync 1, 64; bra out;
        read: ld.shared.u32 %c, [%b];
        out:""",
        "race",
    ),
}


@pytest.mark.parametrize("name", UNORDERED)
def test_what_nothing_orders_is_found(name: str) -> None:
    body, kind = UNORDERED[name]
    assert kind in kinds(races(body, block=96 if "one of the warps" in name else 64))


def test_a_write_before_the_readers_are_through_is_found_whichever_warp_reads_last() -> None:
    body = """st.shared.u32 [%a], 0; bar.sync 0; ld.shared.u32 %c, [%b+128];
        setp.eq.s32 %p, %t, 32; @%p st.shared.u32 [%b+128], 1;"""
    assert kinds(races(body, block=128)) == {"race"}


# ---- between CTAs

FLAG = """
    setp.ne.s32 %p, %cta, 0; @%p bra take;
    {make}
    bra out;
    take:
    spin: {test}
    setp.eq.s32 %q, %c, 0; @%q bra spin;
    {take}
    out:"""


def flag(make: str, test: str, take: str) -> Report:
    """CTA 0 makes [data], sets the flag at [to]; CTA 1 waits for the flag and takes [data]. One thread each."""
    return races(FLAG.format(make=make, test=test, take=take), grid=2, block=1)


RELEASE = "st.global.u32 [%data], 5; st.release.gpu.global.u32 [%to], 1;"
ACQUIRE = "ld.acquire.gpu.global.u32 %c, [%to];"
TAKE = "ld.global.u32 %c, [%data];"
FENCED = "st.global.u32 [%data], 5; membar.gl; st.volatile.global.u32 [%to], 1;"
VOLATILE = "ld.volatile.global.u32 %c, [%to];"


@pytest.mark.parametrize(
    ("make", "test", "take"),
    [
        (RELEASE, ACQUIRE, TAKE),
        (FENCED, VOLATILE, f"membar.gl; {TAKE}"),
        (RELEASE, "ld.relaxed.gpu.global.u32 %c, [%to];", f"fence.acq_rel.gpu; {TAKE}"),
        ("st.global.u32 [%data], 5; red.release.gpu.global.add.u32 [%to], 1;", ACQUIRE, TAKE),
        (RELEASE, "atom.acquire.gpu.global.or.b32 %c, [%to], 0;", TAKE),
    ],
    ids=["release and acquire", "fences", "release and fence", "an atomic that releases", "an atomic that acquires"],
)
def test_a_flag_orders_two_ctas(make: str, test: str, take: str) -> None:
    report = flag(make, test, take)
    assert report.clean, report.render()


@pytest.mark.parametrize(
    ("make", "test", "take"),
    [
        ("st.global.u32 [%data], 5; st.volatile.global.u32 [%to], 1;", ACQUIRE, TAKE),
        (RELEASE, VOLATILE, TAKE),
        ("st.global.u32 [%data], 5; st.release.cta.global.u32 [%to], 1;", ACQUIRE, TAKE),
        ("st.release.gpu.global.u32 [%to], 1; st.global.u32 [%data], 5;", ACQUIRE, TAKE),
        ("st.global.u32 [%data], 5; membar.gl; st.global.u32 [%to], 1;", VOLATILE, f"membar.gl; {TAKE}"),
    ],
    ids=["no release", "no acquire", "release for the CTA", "data after the flag", "a flag that is plain data"],
)
def test_a_flag_that_orders_nothing_is_found(make: str, test: str, take: str) -> None:
    assert kinds(flag(make, test, take)) == {"race"}


def test_what_was_ordered_passes_on() -> None:
    """CTA 0 tells 1, which tells 2: 2 may take what 0 made."""
    body = """
        setp.eq.s32 %p, %cta, 1; @%p bra one; setp.eq.s32 %p, %cta, 2; @%p bra two;
        st.global.u32 [%data], 5; st.release.gpu.global.u32 [%to], 1; bra out;
        one: ld.acquire.gpu.global.u32 %c, [%to]; setp.eq.s32 %q, %c, 0; @%q bra one;
        st.release.gpu.global.u32 [%to+64], 1; bra out;
        two: ld.acquire.gpu.global.u32 %c, [%to+64]; setp.eq.s32 %q, %c, 0; @%q bra two;
        ld.global.u32 %c, [%data];
        out:"""
    report = races(body, grid=3, block=1)
    assert report.clean, report.render()


ENDS = "setp.eq.s32 %p, %cta, 0; mov.u32 %c, %nctaid.x; sub.s32 %c, %c, 1; setp.eq.s32 %q, %cta, %c;"


@pytest.mark.parametrize(
    "body",
    [
        f"{ENDS} @%p st.global.u32 [%at], %t; @%q st.global.u32 [%at], %t;",
        f"{ENDS} @%p ld.global.u32 %c, [%at]; @%q st.global.u32 [%at], %t;",
        f"{ENDS} @%p st.global.u32 [%at], %t; @%q ld.global.u32 %c, [%at];",
    ],
    ids=["two writers", "a reader, then a writer", "a writer, then a reader"],
)
@pytest.mark.parametrize("grid", [2, 40], ids=["in one batch", "in two batches"])
def test_ctas_that_meet_in_global_memory_race(body: str, grid: int) -> None:
    report = races(body, grid=grid, block=1024)
    assert kinds(report) == {"race"}
    (finding,) = report.findings
    assert finding.thread_count == 1024
    assert {"of CTA 0 " in finding.message, finding.threads[0].cta[0] == 0} == {True, False}
    assert {f"of CTA {grid - 1} " in finding.message, finding.threads[0].cta[0] == grid - 1} == {True, False}


# ---- clusters


CLUSTER = """
    mov.u32 %rank, %cluster_ctarank; xor.b32 %rank, %rank, 1;
    st.shared.u32 [%a], %t;
    {order}
    mapa.shared::cluster.u32 %c, %a, %rank;
    ld.shared::cluster.u32 %v1, [%c];"""


def test_a_cluster_barrier_orders_its_ctas() -> None:
    order = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
    end = "\n    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; st.shared.u32 [%a], %v1;"
    good = races(CLUSTER.format(order=order) + end, grid=2, target="sm_90", cluster=2)
    assert good.clean, good.render()
    assert "race" in kinds(races(CLUSTER.format(order=order) + "st.shared.u32 [%a], %v1;", 2, 64, "sm_90", cluster=2))
    assert "race" in kinds(races(CLUSTER.format(order="bar.sync 0;"), grid=2, target="sm_90", cluster=2))


# ---- cost, and what is counted


def test_looking_for_races_costs_a_bounded_factor() -> None:
    loop = """mov.u32 %b, 0; st.shared.u32 [%a], %t;
        again: bar.sync 0; xor.b32 %c, %a, 128; ld.shared.u32 %v1, [%c]; add.s32 %v1, %v1, %t; bar.sync 0;
        st.shared.u32 [%a], %v1; add.s32 %b, %b, 1; setp.lt.s32 %p, %b, 20; @%p bra again;"""
    text = HEAD.format(target="sm_80") + loop + "ret;\n}\n"
    took = {}
    for mode in ("early", "races"):
        runs = [check(text, 16, 256, [np.zeros(8192, np.uint32)], modes=[mode]).ran[0].seconds for _ in range(3)]
        took[mode] = min(runs)
    assert took["races"] < 20 * took["early"]


def lanes(function: Any) -> Any:
    return np.array([[function(lane) for lane in range(32)]], np.int64)


@pytest.mark.parametrize(
    ("offset", "nbytes", "expected"),
    [
        (lambda lane: 4 * lane, 4, (1, 1, 1)),
        (lambda lane: 128 * lane, 4, (1, 32, 1)),
        (lambda lane: 8 * lane, 4, (1, 2, 1)),
        (lambda lane: 0, 4, (1, 1, 1)),
        (lambda lane: 8 * lane, 8, (2, 2, 2)),
        (lambda lane: 16 * lane, 16, (4, 4, 4)),
        (lambda lane: 128 * lane, 16, (4, 32, 4)),
        (lambda lane: 32 * lane, 16, (4, 8, 4)),
        (lambda lane: lane, 1, (1, 1, 1)),
        (lambda lane: 128 * lane if lane < 4 else -4, 4, (1, 4, 1)),
    ],
)
def test_wavefronts_of_shared_memory(offset: Any, nbytes: int, expected: tuple[int, int, int]) -> None:
    """(requests, wavefronts, least) by the rules of 32 banks of 4 bytes."""
    assert wavefronts(lanes(offset), nbytes) == expected


@pytest.mark.parametrize(
    ("offset", "nbytes", "expected"),
    [
        (lambda lane: 4 * lane, 4, (1, 4, 4)),
        (lambda lane: 4 * lane + 4, 4, (1, 5, 4)),
        (lambda lane: 16 * lane, 16, (1, 16, 16)),
        (lambda lane: 1024 * lane, 4, (1, 32, 4)),
        (lambda lane: 0, 4, (1, 1, 1)),
        (lambda lane: 4 * lane if lane < 8 else -32, 4, (1, 1, 1)),
    ],
)
def test_sectors_of_global_memory(offset: Any, nbytes: int, expected: tuple[int, int, int]) -> None:
    """(requests, sectors, least) with sectors of 32 bytes."""
    assert sectors(lanes(offset), nbytes) == expected


# A lock that all lanes of the block take one after the other, to add one to a word of memory: the words in brackets are
# what takes it, what comes before and after the work, and what gives it back.
LOCK = """
    mov.u32 %rank, 0;
AGAIN:
    {take} %c, [{lock}], 0, 1;
    setp.ne.u32 %p, %c, 0;
    @%p bra NEXT;
    {before}
    ld.{space}.u32 %v0, [{word}];
    add.u32 %v0, %v0, 1;
    st.{space}.u32 [{word}], %v0;
    {after}
    {give}
    mov.u32 %rank, 1;
NEXT:
    setp.eq.u32 %q, %rank, 0;
    @%q bra AGAIN;
"""
TAKE, TAKE_RELAXED = "atom.acquire.gpu.global.cas.b32", "atom.global.cas.b32"
GIVE, GIVE_RELAXED = "st.release.gpu.global.u32 [{lock}], 0;", "atom.global.exch.b32 %c, [{lock}], 0;"


def lock(take: str, give: str, before: str = "", after: str = "", space: str = "global") -> str:
    places = {"global": ("%data", "%data+128"), "shared": ("%b", "%b+128")}[space]
    body = LOCK.format(take=take, give=give, before=before, after=after, space=space, lock="{lock}", word=places[1])
    return body.replace("{lock}", places[0])


@pytest.mark.parametrize(("grid", "block"), [(1, 8), (1, 64), (2, 32)])
@pytest.mark.parametrize(
    "body",
    [
        lock(TAKE, GIVE),
        lock(TAKE_RELAXED, GIVE_RELAXED, "membar.gl;", "membar.gl;"),
        lock(TAKE_RELAXED, GIVE, "fence.acq_rel.gpu;"),
    ],
)
def test_a_lock_orders_the_lanes_of_a_warp_too(body: str, grid: int, block: int) -> None:
    report = races(body, grid, block)
    assert report.clean, report.render()
    assert report.outputs["data"][32] == grid * block


def test_a_lock_in_shared_memory_orders_lanes() -> None:
    take, give = "atom.acquire.cta.shared.cas.b32", "st.release.cta.shared.u32 [{lock}], 0;"
    start = "@%leader st.shared.u32 [%b], 0; @%leader st.shared.u32 [%b+128], 0; bar.sync 0;"
    report = races(start + lock(take, give, space="shared"))
    assert report.clean, report.render()


@pytest.mark.parametrize(
    "body",
    [
        lock(TAKE_RELAXED, GIVE_RELAXED, "membar.gl;", ""),
        lock(TAKE_RELAXED, GIVE_RELAXED, "", "membar.gl;"),
        lock(TAKE, "st.relaxed.gpu.global.u32 [{lock}], 0;"),
        lock(TAKE_RELAXED, GIVE),
    ],
)
def test_a_lock_that_lacks_a_fence_orders_nothing(body: str) -> None:
    assert kinds(races(body, block=8)) == {"missing bar.warp.sync"}
    assert "race" in kinds(races(body, block=64))


def test_a_lane_that_meets_itself_at_a_flag_does_not_order_the_others() -> None:
    body = """
        st.global.u32 [%at], %t;
        @%leader st.release.gpu.global.u32 [%to], 1;
        @%leader ld.acquire.gpu.global.u32 %c, [%to];
        xor.b32 %c, %t, 1; mul.wide.u32 %x, %c, 4; add.s64 %x, %data, %x;
        ld.global.u32 %c, [%x];
    """
    assert kinds(races(body, block=32)) == {"missing bar.warp.sync"}
