"""Faults planted in working kernels: each is found, at the line where it shows, and the working kernels are clean.

The kernels are in tests/faults. A fault is one replacement in the text of one of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from hal_nvidia_ptx import check
from hal_nvidia_ptx.emulator import machine, memory, program, scheduler
from hal_nvidia_ptx.emulator.report import Report
from hal_nvidia_ptx.emulator.shape import LaunchError, Shape
from hal_nvidia_ptx.notation import Tensor

Array = NDArray[Any]
FOLDER = Path(__file__).resolve().parent / "faults"
BF16 = np.dtype(ml_dtypes.bfloat16)


def whole(*shape: int, dtype: Any = np.float32) -> Array:
    """Small whole numbers: sums of them are exact in any order."""
    return np.random.default_rng(len(shape)).integers(-4, 5, shape).astype(dtype)


X = whole(5, 1000)
FEW = whole(64)
A, B = whole(32, 96, dtype=BF16), whole(8, 96, dtype=BF16)
PARTS = whole(6, 64)
WIDE_A, WIDE_B = whole(64, 256, dtype=BF16), whole(16, 256, dtype=BF16)
LANES = np.arange(64)
HOPPER = (
    Tensor(WIDE_A.shape, "bf16", (64, 64), WIDE_A, swizzle=128),
    Tensor(WIDE_B.shape, "bf16", (16, 64), WIDE_B, swizzle=128),
    "c:tma:f32[64x16]:box=64x16",
    256,
)


def product(a: Array, b: Array) -> Array:
    return a.astype(np.float32) @ b.astype(np.float32).T


# Of each kernel: grid, block, arguments, the name of the result and what it should be.
KERNELS: dict[str, tuple[int, int, tuple[Any, ...], str, Array]] = {
    "rows": (5, 128, (X, "y:f32[5x1000]", 1000), "y", X - X.sum(1, keepdims=True)),
    "exchange": (1, 64, (FEW, "y:f32[64]"), "y", FEW[LANES ^ 1] + FEW[LANES ^ 3]),
    "ring": (1, 64, (A, B, "c:f32[32x8]", 96), "c", product(A, B)),
    "split": (6, 64, (PARTS, "parts:f32[6x64]", "ticket:u32[1]=zeros", "y:f32[64]"), "y", 2 * PARTS.sum(0)),
    "named": (1, 64, (whole(96), "y:f32[96]"), "y", whole(96) + np.arange(96, dtype=np.float32)),
    "pool": (1, 384, ("y:s32[384]",), "y", np.arange(384, dtype=np.int32)),
    "hopper": (1, 160, HOPPER, "c", product(WIDE_A, WIDE_B)),
}


class Fault:
    """Replacements in the text of a kernel, and what has to be found: a kind, and a part of the line it points at."""

    def __init__(self, name: str, kernel: str, kind: str, at: str, *replacements: tuple[str, str]) -> None:
        self.name, self.kernel, self.kind, self.at = name, kernel, kind, at
        self.replacements = replacements

    def text(self) -> str:
        text = text_of(self.kernel)
        for old, new in self.replacements:
            assert old in text, old
            text = text.replace(old, new)
        return text


@cache
def text_of(kernel: str) -> str:
    return (FOLDER / f"{kernel}.ptx").read_text(encoding="utf-8")


def run(kernel: str, text: str, **options: Any) -> Report:
    grid, block, arguments, *_ = KERNELS[kernel]
    return check(text, grid, block, arguments, **options)


BAR = "bar.sync 0; // for everybody, and the stage before was read by everybody"
DELAY = "mov.u32 %t0, 0;\nspin: add.s32 %t0, %t0, 1; setp.lt.s32 %any, %t0, 20;\n@%any bra spin;"
LESS = "setp.lt.s32 %inside, %c, %n;"
WAIT = "cp.async.wait_group 1; // this stage has landed"
FULL = "mbarrier.try_wait.parity.shared.b64 %done, [%where], %parity;"
OTHER = "xor.b32 %t, %parity, 1; mbarrier.try_wait.parity.shared.b64 %done, [%where], %t;"
PLAIN = "ld.global.u32 %got, [%ticket]; add.s32 %i, %got, 1; st.global.u32 [%ticket], %i;"
HALF = "setp.ge.u32 %zero, %warp, 2;\n@%zero bra arrived;\nwgmma.fence.sync.aligned;"

# name: kernel, what is found and part of its line, and replacements: pairs of what is there and what stands there then.
FAULTS = {
    fault.name: fault
    for fault in (
        # ordinary kernels
        Fault("missing barrier", "rows", "race", "all four parts", ("bar.sync 0;", "")),
        Fault("divergent barrier", "rows", "divergent warp", "bar.sync", ("bar.sync 0;", "@%first bar.sync 0;")),
        Fault("barrier for too many threads", "rows", "deadlock", "bar.sync", ("bar.sync 0;", "bar.sync 0, 160;")),
        Fault("off-by-one tail", "rows", "out of bounds", "[%to]", (LESS, LESS.replace(".lt", ".le"))),
        Fault("missing mask", "rows", "out of bounds", "[%to]", (LESS, LESS.replace("%n", "1024"))),
        Fault("misaligned vector", "rows", "misaligned", "[%from+4]", ("[%from];\n    add", "[%from+4];\n    add")),
        Fault("race between CTAs", "rows", "race", "the result", ("%ctaid.x;", "%ctaid.x; shr.u32 %row, %row, 1;")),
        Fault("wrong shfl mask", "rows", "wrong member mask", "16, 31", ("16, 31, 0xffffffff", "16, 31, 0x0000ffff")),
        Fault("lanes that disagree", "rows", "conflicting lanes", "warp's part", ("@%first st.shared", "st.shared")),
        Fault("unwritten shared memory", "rows", "uninitialised read", "all", ("[%parts];", "[%parts+16];")),
        Fault("beyond shared memory", "rows", "out of bounds", "all", ("[%parts];", "[%parts+32];")),
        Fault("unwritten register", "rows", "uninitialised register", "%sum, %a0", ("mov.f32 %sum, 0f00000000;", "")),
        Fault("unwritten global memory", "rows", "uninitialised read", "ld.global", ("%x, [x];", "%x, [y];")),
        Fault("wild pointer", "rows", "wild address", "[%to]", ("ld.param.u64 %y, [y];", "mov.b64 %y, 0x123450;")),
        Fault("no bar.warp.sync before a read", "exchange", "missing bar.warp.sync", "from the neighbour",
              ("bar.warp.sync 0xffffffff; // written\n", "")),
        Fault("no bar.warp.sync before a write", "exchange", "missing bar.warp.sync", "what it got",
              ("bar.warp.sync 0xffffffff; // read", "")),
        Fault("missing fence before the ticket", "split", "race", "a part of another CTA",
              ("membar.gl; // before the ticket, for all CTAs", "")),
        Fault("missing barrier before the ticket", "split", "race", "a part of another CTA",
              ("bar.sync 0; // all threads have stored", "")),
        Fault("ticket without an atomic", "split", "race", "the ticket",
              ("atom.global.add.u32 %got, [%ticket], 1;", PLAIN)),
        Fault("barrier that nobody arrives at", "named", "deadlock", "bar.sync", ("bar.arrive 2, 64; // full", "")),
        Fault("two counts for one barrier", "named", "barrier count", "bar", ("arrive 1, 64;", "arrive 1, 32;")),
        Fault("value taken too early", "named", "race", "taken", ("bar.sync 2, 64;", "bar.arrive 2, 64;")),
        # cp.async, ldmatrix, mma
        Fault("missing cp.async wait", "ring", "missing wait", "fragment of a", (WAIT, "")),
        Fault("lax cp.async wait", "ring", "read in flight", "fragment of a", ("wait_group 1;", "wait_group 2;")),
        Fault("wait after the use", "ring", "read in flight", "fragment of a",
              (WAIT, ""), ("mov.u32 %t0, %stage;", "cp.async.wait_group 1; mov.u32 %t0, %stage;")),
        Fault("delay loop for a wait", "ring", "read in flight", "fragment of a", ("cp.async.wait_group 1;", DELAY)),
        Fault("missing commit", "ring", "missing wait", "fragment of a",
              ("cp.async.commit_group; // one group a trip", "")),
        Fault("missing barrier in the ring", "ring", "race", "ahead, b", (BAR, "")),
        Fault("barrier behind the copy", "ring", "race", "ahead, b", (BAR, ""), ("one group a trip", "\n" + BAR)),
        Fault("copy into a stage in use", "ring", "write in flight", "ahead, a", ("%fetch, 2560;", "%fetch, 0;")),
        Fault("swizzle beyond the row", "ring", "uninitialised read", "fragment of a",
              ("%swap, %swap, 1; // where the writer", "%swap, %swap, 3; // where the writer")),
        Fault("misaligned row of ldmatrix", "ring", "misaligned", "of b", ("%rb1}, [%at];", "%rb1}, [%at+8];")),
        Fault("mma in divergent code", "ring", "divergent warp", "mma.sync",
              ("mma.sync", "setp.lt.u32 %any, %lane, 16; @%any mma.sync")),
        # mbarrier, TMA, wgmma
        Fault("parameter's address not generic", "hopper", "wild address", "// a", ("cvta.param.u64 %a, %a;", "")),
        Fault("wrong parity", "hopper", "read in flight", "k 0", (FULL, OTHER)),
        Fault("ignored wait for a copy", "hopper", "read in flight", "k 0", ("@!%done bra wait_full;", "")),
        Fault("ignored wait for a free stage", "hopper", "write in flight", "// a", ("@!%done bra wait_empty;", "")),
        Fault("expect_tx of too few bytes", "hopper", "read in flight", "k 0", ("[%where], 10240;", "[%where], 8192;")),
        Fault("expect_tx of too many bytes", "hopper", "deadlock", "wait", ("[%where], 10240;", "[%where], 10256;")),
        Fault("missing mbarrier_init fence", "hopper", "missing mbarrier_init fence", "// a",
              ("fence.mbarrier_init.release.cluster; // for the copies", "")),
        Fault("no barrier after mbarrier.init", "hopper", "race", "mbarrier",
              ("bar.sync 0; // the mbarriers are there", "")),
        Fault("missing proxy fence", "hopper", "missing proxy fence", "[%c,",
              ("fence.proxy.async.shared::cta; // before the copy reads it", "")),
        Fault("no barrier before the copy", "hopper", "race", "[%c,", ("bar.sync 1, 128; // by everybody", "")),
        Fault("missing wgmma fence", "hopper", "missing wgmma.fence", "k 0",
              ("wgmma.fence.sync.aligned; // the accumulators are written", "")),
        Fault("missing wgmma wait", "hopper", "register in flight", "the result",
              ("wgmma.wait_group.sync.aligned 0; // the stage is read, the sums are there", "")),
        Fault("wait after the wgmma's results are used", "hopper", "register in flight", "the result",
              ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;")),
        Fault("half a warpgroup", "hopper", "partial warpgroup", "wgmma.fence",
              ("wgmma.fence.sync.aligned;", HALF)),
        Fault("more registers than there are", "pool", "registers", "setmaxnreg", ("u32 24;", "u32 40;")),
    )
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_working_kernel_is_clean_in_every_mode(kernel: str) -> None:
    report = run(kernel, text_of(kernel))
    assert report.clean, report.render()
    assert [ran.mode for ran in report.ran] == ["late", "early", "races"]
    _, _, _, name, expected = KERNELS[kernel]
    np.testing.assert_array_equal(report.outputs[name], expected)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_line(name: str) -> None:
    fault = FAULTS[name]
    report = run(fault.kernel, fault.text())
    found = [(finding.kind, finding.place.text) for finding in report.findings]
    assert any(kind == fault.kind and fault.at in line for kind, line in found), report.render()
    assert report.exit_code == 1


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 25


def test_a_wrong_swizzle_gives_a_wrong_result() -> None:
    """Every byte is written and read, only not where it should: no rule is broken, and the result tells."""
    text = text_of("ring").replace(
        "1; // where the reader looks for chunk 0", "0; // where the reader looks for chunk 0"
    )
    report = run("ring", text)
    assert report.clean
    assert not np.array_equal(report.outputs["c"], KERNELS["ring"][4])


def test_an_endless_loop_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "TRIPS", 1000)
    text = text_of("rows").replace("add.s32 %c, %c, 512;\n    bra add_more;", "bra add_more;")
    report = run("rows", text)
    (finding,) = report.findings
    assert finding.kind == "endless loop" and "bra add_more" in finding.place.text
    assert all(ran.stopped for ran in report.ran)


def test_a_wrong_argument_count_is_an_error() -> None:
    with pytest.raises(LaunchError, match=r"3 arguments \(x, y, n\), 2 given"):
        check(text_of("rows"), 5, 128, [X, "f32[5x1000]"])


def test_memory_is_not_used_after_it_was_freed() -> None:
    arena = memory.Arena(1 << 24)
    x, y = arena.alloc(256, "x"), arena.alloc(256, "y")
    arena.write(x.start, FEW.view(np.uint8))
    arena.free(x.start)
    compiled = program.load(text_of("exchange"), None, "sm_80")
    outcome = machine.launch(compiled, arena, Shape((1, 1, 1), (64, 1, 1)), [x.start, y.start])
    finding = next(iter(outcome.findings))
    assert finding.kind == "use after free" and "x of 256 bytes" in finding.message
    assert "ld.global.f32 %value, [%x];" in finding.place.text


def test_a_report_names_kernel_line_comment_threads_and_what_was_expected() -> None:
    report = run("rows", FAULTS["missing barrier"].text())
    (finding,) = report.findings
    text = finding.render("rows.ptx")
    line = next(i for i, line in enumerate(report_lines(), 1) if "all four parts" in line)
    assert text.startswith(f"rows.ptx:{line}: error: race: ") and "// all four parts" in text
    assert "kernel rows, CTA 0 thread 0" in text and "address 0x400" in text and "expected: a barrier" in text
    assert "note: the other access" in text and "// the warp's part" in text
    assert finding.to_json()["comment"] == "all four parts"


def report_lines() -> list[str]:
    return FAULTS["missing barrier"].text().splitlines()
