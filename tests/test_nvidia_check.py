"""`check`, `hal ptx` and the pytest fixture: arguments, what is run and not run, reports, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hal import cli
from hal.errors import ArgumentError, BackendUnavailable, HalError, OptionError
from hal_nvidia_ptx import check
from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.checking import choose
from hal_nvidia_ptx.emulator.report import Finding, Findings, Note, Place, place_of
from hal_nvidia_ptx.emulator.shape import LaunchError
from hal_nvidia_ptx.emulator.syntax import PtxError
from hal_nvidia_ptx.notation import Number, Tensor, Unwritten, parse

FOLDER = Path(__file__).resolve().parent / "faults"
ROWS, HOPPER = FOLDER / "rows.ptx", FOLDER / "hopper.ptx"
GOOD = ["--grid", "5", "--block", "128", "--arg", "x:f32[5x1000]=random", "--arg", "y:f32[5x1000]"]
GOOD += ["--arg", "n:s32=1000"]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The rows kernel without its barrier."""
    path = tmp_path / "broken.ptx"
    path.write_text(ROWS.read_text().replace("bar.sync 0;", ""))
    return path


# ---- the notation of arguments


@pytest.mark.parametrize(
    ("text", "name", "dtype", "expected"),
    [
        ("x:f32[2x3]=zeros", "x", np.float32, np.zeros((2, 3))),
        ("f16[4]=ones", "", np.float16, np.ones(4)),
        ("s32[2x2]=arange", "", np.int32, [[0, 1], [2, 3]]),
        ("float32[2]=2.5", "", np.float32, [2.5, 2.5]),
        ("n:bf16[1]=-1", "n", ml_dtypes.bfloat16, [-1]),
        ("u8[3]=7", "", np.uint8, [7, 7, 7]),
    ],
)
def test_arrays_by_their_notation(text: str, name: str, dtype: Any, expected: Any) -> None:
    argument = parse(text)
    assert argument.name == name and isinstance(argument.value, np.ndarray) and argument.value.dtype == dtype
    np.testing.assert_array_equal(argument.value.astype(np.float64), expected)


def test_random_arrays_are_the_same_each_time_and_differ_between_arguments() -> None:
    first, again, other = (parse("f32[64]=random", seed).value for seed in (0, 0, 1))
    assert isinstance(first, np.ndarray) and np.array_equal(first, again) and not np.array_equal(first, other)
    small = parse("s8[100]=random").value
    assert isinstance(small, np.ndarray) and small.min() < 0 and abs(small).max() <= 8


def test_numbers_unwritten_memory_and_tensor_maps_by_their_notation() -> None:
    assert parse("n:s32=0x10").value == Number(16, "s32")
    assert parse("eps:f32=1e-5").value == Number(1e-5, "f32")
    assert parse("y:f32[64x1024]").value == Unwritten((64, 1024), "f32")
    tensor = parse("a:tma:bf16[128x256]:box=64x64:swizzle=128=ones").value
    assert isinstance(tensor, Tensor) and tensor.values is not None
    assert (tensor.shape, tensor.box, tensor.swizzle, tensor.fill) == ((128, 256), (64, 64), 128, "zero")
    bare = parse("tma:f16[8x64]:fill=nan:box=8x64").value
    assert bare == Tensor((8, 64), "f16", (8, 64), None, 0, "nan")


def test_arrays_from_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.save(path, array)
    found = parse(f"x:bf16[2x3]=@{path}").value
    assert isinstance(found, np.ndarray) and found.dtype == array.dtype and np.array_equal(found, array)
    with pytest.raises(ArgumentError, match=r"has .*2x3"):
        parse(f"x:bf16[3x2]=@{path}")
    with pytest.raises(ArgumentError, match="cannot be read"):
        parse(f"x:f32[3x2]=@{tmp_path}/none.npy")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x:f31[4]", "'f31' is no type"),
        ("x:f32[4y]", "lengths joined by x"),
        ("x:f32[4]=many", "none of random"),
        ("x:f32[4]:zeros", "a value follows ="),
        ("n:s32", "a number needs a value"),
        ("n:s32=1.5", "no s32 number"),
        ("a:tma:bf16[64x64]", "a shape and a box"),
        ("a:tma:bf16[64x64]:box=64x64:swizzle=wide", "swizzle is 0"),
        ("a:tma:bf16[64x64]:box=64x64:colour=red", "'colour=red'"),
        ("", "it is written"),
    ],
)
def test_a_wrong_notation_says_what_is_wrong_and_which_argument(text: str, problem: str) -> None:
    with pytest.raises(ArgumentError, match="argument 3, ") as raised:
        parse(text, 2)
    assert problem in str(raised.value)


# ---- check


def test_arrays_are_copied_and_results_are_in_the_report() -> None:
    x = np.ones((5, 1000), np.float32)
    y = np.full_like(x, 7)
    report = check(ROWS, 5, (128,), [x, y, np.int32(1000)])
    assert report.clean and report.exit_code == 0 and report.file == str(ROWS) and report.target == "sm_80"
    assert (y == 7).all() and (report.outputs["y"] == -999).all() and (report.outputs["x"] == 1).all()


def test_only_some_ctas_run_if_that_is_asked_for() -> None:
    report = check(ROWS, 5, 128, ["x:f32[5x1000]=ones", "y:f32[5x1000]=0", 1000], ctas="first,last")
    assert [np.unique(row).tolist() for row in report.outputs["y"]] == [[-999], [0], [0], [0], [-999]]
    assert "ran late: 2 of 5 CTAs" in report.render()
    assert check(ROWS, 5, 128, ["f32[5x1000]=1", "y:f32[5x1000]=0", 1000], ctas=[3]).outputs["y"].any(1).sum() == 1


def test_ctas_by_words() -> None:
    assert choose("first,last", 100) == [0, 99]
    assert choose("5", 101) == [0, 25, 50, 75, 100]
    assert choose("last,16", 4) == [0, 1, 2, 3]
    with pytest.raises(OptionError, match="'middle'"):
        choose("first,middle", 4)


def test_loops_end_early_if_that_is_asked_for_and_the_report_says_where() -> None:
    report = check(ROWS, 5, 128, ["f32[5x1000]=1", "y:f32[5x1000]=0", 1000], trips=1, modes=["late"])
    assert "loops ended early at line" in report.render() and report.ran[0].cut


def test_modes_are_chosen_and_named() -> None:
    assert [ran.mode for ran in check(ROWS, 1, 128, ["f32[1x4]=1", "f32[1x4]", 4], modes=["races"]).ran] == ["races"]
    with pytest.raises(OptionError, match="late, early, races"):
        check(ROWS, 1, 128, ["f32[1x4]=1", "f32[1x4]", 4], modes=["soon"])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"args": ["f32[5x1000]", "f32[5x1000]"]}, LaunchError, r"3 arguments \(x, y, n\), 2 given"),
        ({"args": ["f32[5x1000]=1", "f32[5x1000]", "f32[4]"]}, ArgumentError, "parameter n is .s32, an array is given"),
        ({"args": ["f32[5x1000]=1", "f32[5x1000]", "s64=1000"]}, ArgumentError, "is .s32, not s64"),
        ({"args": ["f32[5x1000]=1", "f32[5x1000]", object()]}, ArgumentError, "argument 3: .* not object"),
        ({"block": 2048}, LaunchError, "block .2048"),
        ({"block": None}, ArgumentError, "the size of a block is needed"),
        ({"grid": (1, 2, 3, 4)}, ArgumentError, "grid: "),
        ({"target": "sm_12"}, OptionError, "sm_75"),
        ({"entry": "columns"}, PtxError, "no entry columns; it has rows"),
        ({"cluster": 2}, LaunchError, "clusters of 2"),
    ],
)
def test_wrong_launches_are_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    launch: dict[str, Any] = {"grid": 5, "block": 128, "args": ["f32[5x1000]=1", "f32[5x1000]", 1000], **change}
    with pytest.raises(error, match=match):
        check(ROWS, **launch)


def test_results_that_depend_on_timing_are_found() -> None:
    text = (FOLDER / "ring.ptx").read_text().replace("wait_group 1;", "wait_group 2;")
    arguments = ["a:bf16[32x96]=random", "b:bf16[8x96]=random", "c:f32[32x8]", 96]
    report = check(text, 1, 64, arguments)
    finding = next(finding for finding in report.findings if finding.kind == "depends on timing")
    assert "c[" in finding.message and finding.mode == "late, early" and ".entry ring" in finding.place.text


def test_counters() -> None:
    report = check(ROWS, 5, 128, ["f32[5x1000]=1", "f32[5x1000]", 1000], counters=True)
    counters = report.counters
    assert counters["global memory"]["sectors"] == counters["global memory"]["least"] == 3 * 5 * 125
    assert counters["bytes read"]["global"] == 2 * 5 * 4000 and counters["bytes written"]["global"] == 5 * 4000
    assert counters["barriers"] == 5 * 4
    assert counters["lane slots"] == 32 * counters["warp instructions"]["all"]
    assert "barriers: 20" in report.render()


def test_bank_conflicts_are_counted_by_line() -> None:
    text = (FOLDER / "ring.ptx").read_text().replace("%swap, 1; // where", "%swap, 0; // where")
    arguments = ["a:bf16[32x96]=random", "b:bf16[8x96]=random", "c:f32[32x8]", 96]
    swizzled = check(FOLDER / "ring.ptx", 1, 64, arguments, counters=True).counters["shared memory"]
    plain = check(text, 1, 64, arguments, counters=True).counters["shared memory"]
    assert swizzled["wavefronts"] == swizzled["least"] < plain["wavefronts"]
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "fragment of a" in each)
    assert plain[f"line {line}: times the least"] == 2


# ---- reports


def test_findings_of_one_kind_and_line_are_one_with_a_count() -> None:
    findings = Findings()
    for address in (0x400, 0x404):
        findings.add(Finding("race", "text", "k", Place(7), address=address))
    findings.add(Finding("race", "text", "k", Place(7), notes=(Note("other", Place(3)),)))
    first, second = findings
    assert (first.count, first.address, second.count) == (2, 0x400, 1)


def test_a_run_has_a_bounded_number_of_findings() -> None:
    findings = Findings(limit=3)
    for line in range(10):
        findings.add(Finding("race", "text", "k", Place(line)))
    assert len(findings) == 3


def test_the_comment_of_a_line_stands_behind_it_or_above_it() -> None:
    lines = ["// the first", "// and the second", "add; // here", "mul;", "// of the next", "sub;"]
    assert [place_of(lines, n).comment for n in (3, 4, 6)] == ["here", "", "of the next"]
    assert place_of(lines, 99) == Place(99)


# ---- the command


def test_a_clean_kernel_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ptx", "check", str(ROWS), *GOOD]) == 0
    printed = capsys.readouterr().out
    assert f"{ROWS}: kernel rows for sm_80: no findings" in printed
    assert "ran races: 5 CTAs" in printed and "exact: add.f32" in printed and "unmodelled: none" in printed


def test_findings_are_exit_code_1_and_point_at_lines(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ptx", "check", str(broken), *GOOD]) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    line = next(i for i, each in enumerate(broken.read_text().splitlines(), 1) if "all four parts" in each)
    assert first.startswith(f"{broken}:{line}: error: race: reads shared memory")
    assert second == f"{line:>6} | ld.shared.v4.f32 {{%p0, %p1, %p2, %p3}}, [%parts]; // all four parts"


def test_findings_as_json(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ptx", "check", str(broken), *GOOD, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    (finding,) = document["findings"]
    assert finding["kind"] == "race" and finding["comment"] == "all four parts" and finding["notes"][0]["line"]
    assert document["ran"][2] == {"mode": "races", "ctas": 5, "grid": 5, "stopped": "", "loops_cut": []}
    assert "ld.param.u64" in document["exact"]


def test_tensor_maps_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--arg", "a:tma:bf16[64x256]:box=64x64:swizzle=128=random"]
    words += ["--arg", "b:tma:bf16[16x256]:box=16x64:swizzle=128=random", "--arg", "c:tma:f32[64x16]:box=64x16"]
    words += ["--arg", "k:s32=256"]
    assert cli.main(["ptx", "check", str(HOPPER), "--grid", "1", "--block", "160", *words]) == 0
    assert "approximate: wgmma" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--grid", "0"], "not X, X,Y or X,Y,Z"),
        ([], "--grid"),
        (["--grid", "1", "--block", "128", "--arg", "x:f31[4]"], "no type"),
        (["--grid", "1", "--block", "128", "--ctas", "some"], "'some'"),
        (["--grid", "1", "--block", "128"], "3 arguments"),
        (["--grid", "1", "--block", "128", "--entry", "columns"], "columns"),
    ],
)
def test_what_cannot_run_is_exit_code_2(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(["ptx", "check", str(ROWS), *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and text in capsys.readouterr().err


def test_text_that_is_no_ptx_is_pointed_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.ptx"
    path.write_text(ROWS.read_text().replace("mul.lo.s32 %start", "mull.lo.s32 %start"))
    line = next(i for i, each in enumerate(path.read_text().splitlines(), 1) if "mull.lo" in each)
    assert cli.main(["ptx", "check", str(path), *GOOD, "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{path}:{line}: error: ") and f"{line:>6} | mull.lo.s32" in printed.err
    assert json.loads(printed.out)["line"] == line


def test_a_kernel_runs_on_a_device_and_its_arrays_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "y.npy"
    words = [*GOOD[:4], "--arg", "x:f32[5x1000]=ones", *GOOD[6:], "--device", "ptx:sm_80", "--save", f"y={saved}"]
    assert cli.main(["ptx", "run", str(ROWS), *words]) == 0
    assert "y: float32[5x1000] -999, -999, -999, -999, …" in capsys.readouterr().out
    assert (np.load(saved) == -999).all()


def test_a_kernel_with_tensor_maps_runs_on_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--arg", "a:tma:bf16[64x256]:box=64x64:swizzle=128=ones", "--arg", "c:tma:f32[64x16]:box=64x16"]
    words.insert(2, "--arg")
    words.insert(3, "b:tma:bf16[16x256]:box=16x64:swizzle=128=2")
    words += ["--arg", "k:s32=256", "--device", "ptx:sm_90a"]
    assert cli.main(["ptx", "run", str(HOPPER), "--grid", "1", "--block", "160", *words]) == 0
    assert "c: float32[64x16] 512, 512, 512, 512, …" in capsys.readouterr().out


def test_a_text_is_assembled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assembler.tool("nvdisasm")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    cubin = tmp_path / "ring.cubin"
    assert cli.main(["ptx", "assemble", str(FOLDER / "ring.ptx"), "--target", "sm_90a", "--cubin", str(cubin)]) == 0
    printed = capsys.readouterr().out
    assert "kernel  registers  spills" in printed and "main loop of ring" in printed and "HMMA" in printed
    assert cubin.read_bytes()[1:4] == b"ELF"


@pytest.mark.parametrize("name", ["check", "run", "assemble", "figures"])
def test_every_ptx_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ptx", name, "--help"])
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out


# ---- the fixture

TESTS = """
import numpy as np

def test_good(ptx_check):
    report = ptx_check({rows!r}, 5, 128, ["f32[5x1000]=1", "y:f32[5x1000]", 1000])
    assert (report.outputs["y"] == -999).all()

def test_bad(ptx_check):
    ptx_check({broken!r}, 5, 128, ["f32[5x1000]=1", "y:f32[5x1000]", 1000])

def test_bad_on_purpose(ptx_check):
    assert not ptx_check({broken!r}, 5, 128, ["f32[5x1000]=1", "y:f32[5x1000]", 1000], findings=True).clean
"""


def test_the_fixture_fails_a_test_with_the_report(strangers: Any, broken: Path, tmp_path: Path) -> None:
    path = tmp_path / "test_kernels.py"
    path.write_text(TESTS.format(rows=str(ROWS), broken=str(broken)))
    done = strangers.run("-m", "pytest", "-q", "-p", "hal_nvidia_ptx.fixture", "-p", "no:cacheprovider", str(path))
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout
    assert "error: race: reads shared memory" in done.stdout and "all four parts" in done.stdout


# ---- arguments that cannot be meant

STORES = """.version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 x, .param .s32 n)
{
  .reg .b64 %a; .reg .b32 %r;
  ld.param.u64 %a, [x];
  ld.param.s32 %r, [n];
  st.global.u32 [%a], %r;
  ret;
}
"""


@pytest.mark.parametrize("n", ["n:s32=99999999999", 2**40, -(2**31) - 1, 1.5])
def test_a_number_that_does_not_fit_is_refused(n: object) -> None:
    with pytest.raises(HalError, match="does not fit"):
        check(STORES, 1, 1, ["x:s32[1]", n])


@pytest.mark.parametrize("spec", ["x:u8[4]=300", "x:u8[4]=1.5", "x:s8[4]=-129"])
def test_an_array_of_numbers_that_do_not_fit_is_refused(spec: str) -> None:
    with pytest.raises(ArgumentError, match="does not fit"):
        check(STORES, 1, 1, [spec, 1])


def test_a_text_is_no_path_and_a_path_that_is_not_there_is_said() -> None:
    with pytest.raises(HalError, match="version"):
        check(STORES.partition("\n")[2], 1, 1, ["x:s32[1]", 1])
    with pytest.raises(ArgumentError, match="no file"):
        check("nothing.ptx", 1, 1)


def test_one_mode_may_be_a_word_and_a_size_may_not() -> None:
    assert len(check(STORES, 1, 1, ["x:s32[1]", 1], modes="late").ran) == 1
    with pytest.raises(ArgumentError, match="grid"):
        check(STORES, "3", 1, ["x:s32[1]", 1])  # type: ignore[arg-type]


def test_a_text_without_a_kernel_is_not_assembled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, bad = tmp_path / "none.ptx", tmp_path / "bad.ptx"
    file.write_text(".version 7.0\n.target sm_80\n.address_size 64\n")
    bad.write_text(STORES.replace("st.global", "st.globl"))
    try:
        assembler.version()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert cli.main(["ptx", "assemble", str(file)]) == 2
    assert cli.main(["ptx", "assemble", str(bad)]) == 2
    said = capsys.readouterr().err
    assert "no kernel" in said and str(bad) in said and said.count("globl") == 2


def test_a_device_of_no_target_takes_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "k.ptx"
    file.write_text(STORES)
    launch = ["--grid", "1", "--block", "1", "--arg", "x:s32[1]", "--arg", "n:s32=5"]
    assert cli.main(["ptx", "run", str(file), "--device", "ptx", *launch]) == 0
    with pytest.raises(SystemExit):
        cli.main(["ptx", "check", str(file), *launch, "--shared", "-4"])
