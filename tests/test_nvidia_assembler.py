"""ptxas found and read; machine code parsed; loops, paths, occupancy and the simulation of the tensor pipe."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from hal.errors import BackendUnavailable, CompileError
from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.assembly.assembler import Assembled, assemble, assemble_all
from hal_nvidia_ptx.assembly.occupancy import occupancy
from hal_nvidia_ptx.assembly.paths import Loop, main_loop, main_path
from hal_nvidia_ptx.assembly.pipeline import cover, mma_clocks, tensor_clocks, utilization
from hal_nvidia_ptx.assembly.sass import NO_SCOREBOARD, Instruction, disassemble, parse
from hal_nvidia_ptx.target import CHECKED, TARGETS

ROOT = Path(__file__).resolve().parent.parent


def missing() -> str:
    """Why there is no assembler here, or nothing."""
    try:
        assembler.tool("ptxas")
        assembler.tool("nvdisasm")
    except BackendUnavailable as error:
        return str(error)
    return ""


assembles = pytest.mark.skipif(bool(missing()), reason=missing() or "the assembler is here")

SCALE = """.version 6.3
.target sm_75
.address_size 64
.visible .entry scale(.param .u64 x, .param .u32 n)
.maxntid 128, 1, 1
{
  .reg .b64 %x, %o; .reg .u32 %t, %n; .reg .f32 %v<5>; .reg .pred %p;
  ld.param.u64 %x, [x];
  ld.param.u32 %n, [n];
  mov.u32 %t, %tid.x;
  setp.ge.u32 %p, %t, %n;
  @%p bra END;
  mul.wide.u32 %o, %t, 16;
  add.s64 %x, %x, %o;
  ld.global.v4.f32 {%v1, %v2, %v3, %v4}, [%x];
  add.f32 %v1, %v1, %v1;
  st.global.v4.f32 [%x], {%v1, %v2, %v3, %v4};
END:
  ret;
}
"""


def multiply(mmas: int, version: str = "7.0", target: str = "sm_80") -> str:
    """A loop of two ldmatrix and `mmas` independent mma of bf16."""
    lines = [f".version {version}\n.target {target}\n.address_size 64"]
    lines.append(".visible .entry multiply(.param .u64 out, .param .u32 n)\n.maxntid 128, 1, 1\n{")
    lines.append(".reg .b64 %out; .reg .u32 %n, %s, %t; .reg .pred %p; .reg .b32 %a<4>, %b<4>;")
    lines.append(f".reg .f32 %c<{4 * mmas}>; .shared .align 16 .b8 tile[8192];")
    lines.append("ld.param.u64 %out, [out]; ld.param.u32 %n, [n]; mov.u32 %s, tile; mov.u32 %t, %tid.x;")
    lines.append("mad.lo.u32 %s, %t, 16, %s;")
    lines += [f"mov.f32 %c{i}, 0f00000000;" for i in range(4 * mmas)]
    lines.append('L:\n.pragma "nounroll";')
    lines.append("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0,%a1,%a2,%a3}, [%s];")
    lines.append("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%b0,%b1,%b2,%b3}, [%s+2048];")
    for i in range(0, 4 * mmas, 4):
        c = f"{{%c{i},%c{i + 1},%c{i + 2},%c{i + 3}}}"
        b = "{%b0,%b1}" if i % 8 else "{%b2,%b3}"
        lines.append(f"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {c}, {{%a0,%a1,%a2,%a3}}, {b}, {c};")
    lines.append("bar.sync 0;\nsub.u32 %n, %n, 1; setp.ne.u32 %p, %n, 0; @%p bra L;")
    lines += [f"st.global.f32 [%out+{4 * i}], %c{i};" for i in range(4 * mmas)]
    return "\n".join([*lines, "ret;\n}\n"])


# ---------------------------------------------------------------- the assembler


@assembles
@pytest.mark.parametrize("target", CHECKED)
def test_a_kernel_for_the_oldest_target_assembles_for_all(target: str) -> None:
    done = assemble(SCALE, target)
    usage = done.entry("scale")
    assert done.target == target and done.cubin[:4] == b"\x7fELF" and not done.complaints
    assert 4 < usage.registers < 32 and done.registers == usage.registers
    assert (usage.stack, usage.spill_stores, usage.spill_loads, usage.shared, usage.barriers) == (0, 0, 0, 0, 0)
    with pytest.raises(KeyError, match="scale"):
        done.entry("skale")


@assembles
def test_shared_memory_and_barriers_are_counted() -> None:
    usage = assemble(multiply(8), "sm_80").entry("multiply")
    assert usage.shared == 8192 and usage.barriers == 1 and usage.registers > 32


@assembles
def test_errors_stand_beside_the_lines_that_they_mean() -> None:
    wrong = SCALE.replace("add.f32 %v1, %v1, %v1", "add.f32 %v1, %v1, %w9").replace("mov.u32 %t", "mvo.u32 %t")
    with pytest.raises(CompileError) as caught:
        assemble(wrong, "sm_80")
    text = str(caught.value)
    assert "line 16: Unknown symbol '%w9'\n    | add.f32 %v1, %v1, %w9;" in text
    assert "line 10: Not a name of any known instruction: 'mvo'" in text
    assert "aborted" in caught.value.log and caught.value.source == wrong


@assembles
@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        (SCALE.replace("sm_75", "sm_90").replace("6.3", "7.8"), "sm_80", "SM version specified by .target"),
        (SCALE, "sm_61", "sm_61"),
        (SCALE.replace("6.3", "9.9"), "sm_80", "line 1: Unsupported .version 9.9"),
        ("", "sm_80", "version"),
        ("Ω", "sm_80", "line 1"),
    ],
)
def test_what_does_not_fit_the_target_is_named(text: str, target: str, words: str) -> None:
    with pytest.raises(CompileError) as caught:
        assemble(text, target)
    assert words in str(caught.value).split("---")[0]


SPILLS = multiply(24).replace(".maxntid 128, 1, 1", ".maxntid 128, 1, 1\n.maxnreg 40")
STACK = SCALE.replace("%p;\n", "%p; .local .align 4 .b8 array[512];\n").replace(
    "  add.f32 %v1", "  { .reg .b64 %l; mov.b64 %l, array; cvta.local.u64 %l, %l; st.b64 [%x], %l; }\n  add.f32 %v1"
)
IGNORED = SCALE.replace(".maxntid 128, 1, 1", ".minnctapersm 2")


@assembles
@pytest.mark.parametrize(
    ("text", "words"), [(SPILLS, "bytes spill stores"), (STACK, "bytes stack frame"), (IGNORED, "is ignored when")]
)
def test_what_ruins_a_kernel_is_a_complaint(text: str, words: str) -> None:
    assert any(words in complaint for complaint in assemble(text, "sm_80").complaints)


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine ...", True),
        ("ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized ...", True),
        ("ptxas info    : (C7602) insufficient registers", True),
        ("ptxas warning : something new", True),
        ("ptxas info    : Used 24 registers, used 0 barriers, 372 bytes cmem[0]", False),
        ("ptxas info    : Compiling entry function 'ignored_rows' for 'sm_80'", False),
        ("ptxas info    : Function properties for ignored_rows", False),
    ],
)
def test_lines_of_the_log_that_are_complaints(line: str, bad: bool) -> None:
    assert bool(assembler._complaints(line, ())) is bad


@assembles
def test_many_are_assembled_in_order_and_failures_are_returned() -> None:
    jobs = [(SCALE, "sm_80"), ("nonsense", "sm_80"), (SCALE, "sm_90")]
    first, second, third = assemble_all(jobs)
    assert isinstance(first, Assembled) and first.target == "sm_80"
    assert isinstance(second, CompileError)
    assert isinstance(third, Assembled) and third.target == "sm_90"


def test_without_the_wheel_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAL_PTXAS", raising=False)
    monkeypatch.setattr(assembler, "_from_wheel", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install --no-deps nvidia-cuda-nvcc=="):
        assemble(SCALE, "sm_80")


def test_a_wrong_override_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAL_PTXAS", str(tmp_path / "ptxas"))
    with pytest.raises(BackendUnavailable, match=r"HAL_PTXAS=.*no such file"):
        assembler.tool("ptxas")
    (tmp_path / "ptxas").write_text("no program")
    with pytest.raises(BackendUnavailable, match="cannot be started"):
        assemble(SCALE, "sm_80")


@assembles
def test_an_override_is_used_with_its_neighbours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = assembler.tool("ptxas")
    (tmp_path / real.name).symlink_to(real)
    monkeypatch.setenv("HAL_PTXAS", str(tmp_path / real.name))
    assert assembler.tool("ptxas").parent == tmp_path
    assert assembler.tool("nvdisasm").parent != tmp_path  # not there, so the wheel's
    assert not assemble(SCALE, "sm_80").complaints


@assembles
def test_it_is_the_version_that_figures_are_measured_with() -> None:
    assert assembler.version() == assembler.VERSION


def test_the_setup_installs_that_version() -> None:
    spec = importlib.util.spec_from_file_location("setup_program", ROOT / "tools" / "setup.py")
    assert spec and spec.loader
    setup = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = setup  # dataclasses look their module up
    spec.loader.exec_module(setup)
    wanted = {f"{wheel}=={assembler.VERSION}" for wheel in assembler.WHEELS.values()}
    assert set(setup.ASSEMBLER) == wanted | {f"nvidia-cuda-nvrtc=={assembler.VERSION}"}  # a compiler for the tests


def test_importing_it_imports_no_driver() -> None:
    program = (
        "import sys, hal_nvidia_ptx.assembly.assembler, hal_nvidia_ptx.assembly.paths; sys.exit('cuda' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ---------------------------------------------------------------- machine code

TEXT = """
//--------------------- .text.k                   --------------------------
k:
.text.k:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;           /* 0x00000a00ff017624 */
                                                                                     /* 0x000fe400078e00ff */
.L_x_1:
        /*0010*/                   LDG.E.128 R4, [R2.64] ;                           /* 0x0000000402047981 */
                                                                                     /* 0x000ea2000c1e1d00 */
        /*0020*/              @!PT LDS RZ, [RZ] ;                                    /* 0x0000000402047981 */
                                                                                     /* 0x000fe2000c1e1d00 */
        /*0030*/                   FFMA R5, R4, R4, R5 ;                             /* 0x0000000404057221 */
                                                                                     /* 0x004fca0000000000 */
        /*0040*/              @!P1 BRA `(.L_x_1) ;                                   /* 0x0000014000009947 */
                                                                                     /* 0x000fea0003800000 */
        /*0050*/                   STG.E.64 [R2.64], R4 ;                            /* 0x0000000702007986 */
                                                                                     /* 0x0003e8000c101904 */
        /*0060*/                   EXIT ;                                            /* 0x000000000000794d */
                                                                                     /* 0x000fea0003800000 */
.L_x_0:
        /*0070*/                   BRA `(.L_x_0);                                    /* 0xfffffff000007947 */
                                                                                     /* 0x000fc0000383ffff */
        /*0080*/                   NOP;                                              /* 0x0000000000007918 */
                                                                                     /* 0x000fc00000000000 */
.L_x_2:
"""


def test_text_of_the_disassembler_is_parsed() -> None:
    function = parse(TEXT)["k"]
    move, load, dummy, fma, branch = function.instructions[:5]
    assert (move.opcode, move.name, move.operands, move.stall) == (
        "IMAD.MOV.U32",
        "IMAD",
        "R1, RZ, RZ, c[0x0][0x28]",
        2,
    )
    assert (load.write, load.read, load.width, load.stall) == (2, NO_SCOREBOARD, 16, 1)
    assert dummy.idle and dummy.predicate == "@!PT"
    assert fma.wait == 0b100 and fma.stall == 5
    assert (branch.predicate, branch.target) == ("@!P1", 0x10)
    assert function.count("LDG", "STG") == 2 and len(function.instructions) == 9
    assert function.code_bytes == 16 * 7


def test_loop_and_path_of_that_text() -> None:
    function = parse(TEXT)["k"]
    loop = main_loop(function)
    assert loop is not None
    assert [i.name for i in loop.instructions] == ["LDG", "FFMA", "BRA"] and loop.fma_share == 1 / 3
    assert loop.mix == {"BRA": 1, "FFMA": 1, "LDG": 1}
    path = main_path(function)
    assert [i.name for i in path.instructions] == ["IMAD", "LDG", "FFMA", "BRA", "STG", "EXIT"]
    assert path.stored_bytes == 8 and path.bytes_in_flight == 16


@assembles
@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90", "sm_100a", "sm_120"])
def test_the_path_of_a_kernel_leads_past_its_early_exit(target: str) -> None:
    done = assemble(SCALE, target)
    function = disassemble(done.cubin)["scale"]
    path = main_path(function)
    assert path.stored_bytes == 16 and path.bytes_in_flight == 16 and path.count("FADD") == 1
    assert 8 <= len(path.instructions) <= 20
    assert main_loop(function) is None


def test_the_path_is_that_of_a_full_row_by_the_widest_stores() -> None:
    """A remainder by narrow stores behind a conditional exit is not on it, nor what a branch jumps over."""
    shown = {
        0x00: "@P3 EXIT",
        0x10: "LDG.E.64 R4, [R2]",
        0x20: "@P0 BRA `(.L_x_1)",
        0x30: "LDG.E.U16 R6, [R2]",
        0x40: "NOP",
        0x50: "STG.E.64 [R2], R4",
        0x60: "@P1 EXIT",
        0x70: "STG.E.U16 [R2], R6",
        0x80: "EXIT",
    }
    line = "        /*{:04x}*/    {} ;    /* 0x0000000402047981 */\n    /* 0x000ea2000c1e1d00 */\n"
    parts = [(".L_x_1:\n" if address == 0x40 else "") + line.format(address, text) for address, text in shown.items()]
    path = main_path(parse("\n.text.k:\n" + "".join(parts))["k"])
    assert [i.address for i in path.instructions] == [0x00, 0x10, 0x20, 0x50, 0x60] and path.stored_bytes == 8


@assembles
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
def test_the_main_loop_of_a_matmul(target: str) -> None:
    loop = main_loop(disassemble(assemble(multiply(16), target).cubin)["multiply"])
    assert loop is not None
    assert loop.mmas == 16 and loop.count("LDSM") == 2 and loop.count("BAR") == 1 and loop.count("STG") == 0
    assert 4 / 16 <= loop.others_per_mma <= 12 / 16
    one = tensor_clocks(loop, TARGETS[target]) / 16
    assert one == pytest.approx({"sm_80": 8, "sm_90": 20 / 3, "sm_120": 32}[target])
    # Loads and arithmetic alternate, so one warp leaves the pipe idle while it loads, and several fill it.
    alone, many = (utilization(loop, TARGETS[target], 4, blocks) for blocks in (1, 4))
    assert 0.2 < alone < 0.95 and many > alone + 0.04
    assert cover(loop, TARGETS[target]) > 0


def instruction(opcode: str, stall: int = 1, write: int = 7, wait: int = 0) -> Instruction:
    return Instruction(0, "", opcode, "", stall, write, NO_SCOREBOARD, wait)


@pytest.mark.parametrize(
    ("opcode", "target", "clocks"),
    [
        ("HMMA.16816.F32.BF16", "sm_80", 8),
        ("HMMA.16816.F32", "sm_86", 32),
        ("HMMA.1688.F32", "sm_75", 8),
        ("HMMA.1688.F32.TF32", "sm_80", 8),
        ("IMMA.16832.S8.S8", "sm_80", 8),
        ("DMMA.884", "sm_80", 16),
        ("HGMMA.64x256x16.F32.BF16", "sm_90a", 128),
        ("FFMA", "sm_80", 2),
        ("FFMA", "sm_90", 1),
        ("DFMA", "sm_86", 64),
    ],
)
def test_clocks_of_the_arithmetic(opcode: str, target: str, clocks: float) -> None:
    assert mma_clocks(instruction(opcode), TARGETS[target]) == pytest.approx(clocks)


def test_a_loop_that_issues_in_time_keeps_the_pipe_full() -> None:
    target = TARGETS["sm_80"]
    full = Loop((instruction("HMMA.16816.F32", 8),) * 8)
    assert utilization(full, target, 4, 1) == pytest.approx(1.0, abs=0.01) and cover(full, target) == 1.0
    slow = Loop((instruction("HMMA.16816.F32", 12), instruction("IADD3", 4)) * 8)
    assert utilization(slow, target, 4, 1) == pytest.approx(0.5, abs=0.02)
    assert utilization(slow, target, 4, 2) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_warps_that_wait_for_the_same_pipe_take_turns(blocks: int) -> None:
    loop = Loop((*(instruction("HMMA.16816.F32", 8),) * 8, instruction("BAR.SYNC", 5)))
    assert utilization(loop, TARGETS["sm_80"], 8, blocks) > 0.6
    assert utilization(loop, TARGETS["sm_80"], 4, 1 + blocks) > 0.95


def test_a_wait_for_shared_memory_idles_the_pipe_of_a_lone_warp() -> None:
    target = TARGETS["sm_80"]
    mma = instruction("HMMA.16816.F32", 8)
    waits = Loop((instruction("LDSM.16.M88.4", 1, write=0), instruction("HMMA.16816.F32", 8, wait=1), mma, mma))
    alone = utilization(waits, target, 4, 1)
    assert alone == pytest.approx(24 / (1 + 33 + 24 - 1), abs=0.05)
    # Two warps of a quarter hide part of each other's wait, three all of it.
    assert utilization(waits, target, 8, 1) == pytest.approx(2 * alone, abs=0.05)
    assert utilization(waits, target, 12, 1) > 0.95


# ---------------------------------------------------------------- occupancy


@pytest.mark.parametrize(
    ("target", "registers", "shared", "threads", "blocks", "limit"),
    [
        ("sm_80", 32, 0, 256, 8, "threads"),
        ("sm_80", 255, 0, 256, 1, "registers"),
        ("sm_80", 128, 0, 256, 2, "registers"),
        ("sm_80", 168, 0, 128, 3, "registers"),
        ("sm_80", 32, 64 * 1024, 256, 2, "shared memory"),
        ("sm_80", 16, 0, 32, 32, "blocks"),
        ("sm_75", 64, 32 * 1024, 256, 2, "shared memory"),
        ("sm_75", 16, 0, 1024, 1, "threads"),
        ("sm_86", 40, 0, 512, 3, "threads"),
        ("sm_90", 64, 227 * 1024, 384, 1, "shared memory"),
        ("sm_86", 64, 120 * 1024, 128, 0, "shared memory"),
    ],
)
def test_occupancy(target: str, registers: int, shared: int, threads: int, blocks: int, limit: str) -> None:
    found = occupancy(TARGETS[target], registers, shared, threads)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.warps == blocks * threads // 32 and found.threads == blocks * threads
    assert found.share == found.threads / TARGETS[target].threads_sm
