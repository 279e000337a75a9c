"""Every kernel of the PTX backend assembled for every target, and its figures held: no GPU needed.

bench/results/ptx_figures.json has the figures of the kernels that a device takes for usual calls, made by
`hal ptx figures --record bench/results/ptx_figures.json`. A kernel that becomes worse fails here until
its figures are recorded on purpose; one that becomes better passes, and should be recorded too.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hal.cli import main
from hal.errors import BackendUnavailable, CompileError
from hal.kernel import Config
from hal_nvidia_ptx.assembly import assembler
from hal_nvidia_ptx.assembly.assembler import assemble, assemble_all
from hal_nvidia_ptx.figures.cases import cases, device_info
from hal_nvidia_ptx.figures.goals import AT_LEAST, Goal, goal_of, unmet
from hal_nvidia_ptx.figures.measure import Figures, Job, jobs, lowest_versions, measure_all, version_table
from hal_nvidia_ptx.figures.peers import peer_of, peers
from hal_nvidia_ptx.target import CHECKED

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "ptx_figures.json"
# Of sm_86 and sm_89, and of sm_90 and sm_90a, the machine code is nearly the same; the slow test takes all targets.
TARGETS_OF_EVERY_RUN = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100a", "sm_120")
DRIVER = (9, 0)  # newest PTX that the driver of CUDA 13.0 takes

# Figures that may not become worse, and by how much they may move without anybody's notice.
HELD = ("registers", "shared", "code", "loop", "others", "fma", "cover", "port", "util", "slots", "flight", "barriers")
SLACK = 0.03


def missing() -> str:
    """Why there is no assembler here, or nothing."""
    try:
        assembler.tool("ptxas")
        assembler.tool("nvdisasm")
    except BackendUnavailable as error:
        return str(error)
    return ""


assembles = pytest.mark.skipif(bool(missing()), reason=missing() or "the assembler is here")


@pytest.fixture(scope="module")
def measured() -> list[tuple[Job, Figures]]:
    """The kernels of the usual calls."""
    return list(measure_all(jobs(cases(usual_only=True), TARGETS_OF_EVERY_RUN, every_config=False)))


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    """The recorded figures by what a job is called."""
    document = json.loads(RECORD.read_text(encoding="utf-8"))
    assert document["ptxas"] == assembler.VERSION
    return {" | ".join(row[key] for key in ("case", "target", "config", "entry")): row for row in document["rows"]}


# ---------------------------------------------------------------- the kernels


@assembles
def test_no_usual_kernel_spills_or_makes_the_assembler_complain(measured: list[tuple[Job, Figures]]) -> None:
    bad = [f"{job.key}: {f.complaints or f.spills}" for job, f in measured if f.complaints or f.spills]
    assert not bad, "\n".join(bad)


@assembles
def test_every_usual_call_has_a_kernel(measured: list[tuple[Job, Figures]]) -> None:
    have = {(job.case, job.target) for job, _ in measured}
    # Equal kernels are measured once, so a case may be represented by another's.
    texts = {(case.name, target) for case in cases(usual_only=True) for target in TARGETS_OF_EVERY_RUN}
    for name, target in sorted(texts - have):
        case = next(case for case in cases() if case.name == name)
        job = next(iter(jobs([case], [target], every_config=False)))
        assert any(other.kernel == job.kernel and other.target == target for other, _ in measured), (name, target)


@assembles
def test_no_kernel_has_become_worse(measured: list[tuple[Job, Figures]], recorded: dict[str, dict[str, Any]]) -> None:
    worse = [text for job, f in measured for text in losses(job, asdict(f), recorded)]
    assert not worse, "\n".join([*worse, f"if that is meant: hal ptx figures --record {RECORD.name}"])


def losses(job: Job, now: dict[str, Any], recorded: dict[str, dict[str, Any]]) -> list[str]:
    """What is worse than recorded, as text."""
    before = recorded.get(job.key)
    if before is None:
        return [f"{job.key}: not recorded"]
    found = []
    for name in HELD:
        old, new = before.get(name), now[name]
        if old is None or new is None:
            continue
        limit = old * (1 - SLACK) - 0.001 if name in AT_LEAST else old * (1 + SLACK) + 0.001
        if new < limit if name in AT_LEAST else new > limit:
            found.append(f"{job.key}: {name} was {old}, is {new:.4g}")
    newly = set(names_of(unmet(goal_of(job.case, job.target, job.config), now))) - set(
        names_of(before.get("unmet", ()))
    )
    return found + [f"{job.key}: misses its goal for {name}" for name in sorted(newly)]


def names_of(texts: Any) -> list[str]:
    """The figures that `unmet` texts are about."""
    return [text.split()[0] for text in texts]


@assembles
def test_usual_kernels_are_written_and_assembled_in_a_tenth_of_a_second() -> None:
    case = next(case for case in cases() if case.name == "softmax bfloat16 4096")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        (job, *_) = jobs([case], ["sm_80"], every_config=False)
        assemble(job.kernel.source, "sm_80")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


@assembles
@pytest.mark.slow
@pytest.mark.parametrize("operator", ["matmul", "softmax", "log_softmax", "layernorm", "rmsnorm"])
def test_every_kernel_and_config_assembles_cleanly_for_every_target(operator: str) -> None:
    """Each text has the lowest `.version` that has its instructions, so this tries that version too."""
    which = [case for case in cases() if case.op.name == operator]
    work = list(jobs(which, CHECKED, every_config=True))
    assert len(work) > 100
    bad = []
    for job, done in zip(work, assemble_all((job.kernel.source, job.target) for job in work), strict=True):
        if isinstance(done, CompileError):
            bad.append(f"{job.key}: {done}")
        elif done.complaints:
            bad.append(f"{job.key}: {'; '.join(done.complaints)}")
    assert not bad, "\n".join(bad)


def test_no_text_needs_a_newer_ptx_than_drivers_take() -> None:
    rows = lowest_versions(cases(usual_only=True))
    assert {target for _, target, _ in rows} == set(CHECKED)
    for name, target, version in rows:
        major, minor = map(int, version.split("."))
        assert (major, minor) <= DRIVER, (name, target)
    table = version_table(rows)
    assert len(table) == 2 + len({name for name, _, _ in rows})
    assert {line.count("|") for line in table} == {len(CHECKED) + 2}


def test_kernels_that_are_the_same_are_measured_once() -> None:
    case = next(case for case in cases() if case.name == "softmax bfloat16 4096")
    assert len(list(jobs([case, case], ["sm_80"], every_config=False))) == 1


# ---------------------------------------------------------------- goals, peers, the table


def test_goals_depend_on_case_target_and_tile() -> None:
    big = Config("mma", (("bm", 128), ("bn", 256), ("bk", 64), ("stages", 3)))
    small = Config("mma", (("bm", 32), ("bn", 64), ("bk", 64), ("stages", 3)))
    row = Config("warp", (("lanes", 32),))
    name = "matmul bfloat16 4096x4096x4096"
    assert goal_of(name, "sm_80", big).bounds["others"] == 0.75
    assert "others" not in goal_of(name, "sm_80", small).bounds
    assert goal_of(name, "sm_80", small).bounds["spills"] == 0
    assert goal_of("softmax bfloat16 1024", "sm_90", row).text("slots") == "<=9"
    assert goal_of("softmax bfloat16 1024", "sm_90", row).text("flight") == ">=48"
    assert "slots" not in goal_of("softmax bfloat16 1024", "sm_75", row).bounds


def test_what_misses_a_goal_is_said() -> None:
    goal = Goal({"util": 0.9, "registers": 100, "slots": 9})
    assert unmet(goal, {"util": 0.8, "registers": 101, "slots": None}) == ["util 0.8 >=0.9", "registers 101 <=100"]
    assert unmet(goal, {"util": 0.9, "registers": 100, "slots": 9.0}) == []


def test_the_peers_were_measured_with_the_same_assembler() -> None:
    document = peers()
    assert document["ptxas"] == assembler.VERSION and document["triton"]
    assert len(document["rows"]) > 80
    names = {case.name for case in cases()}
    assert {row["case"] for row in document["rows"]} <= names
    tile = Config("mma", (("bm", 128), ("bn", 128), ("bk", 32)))
    same = peer_of("matmul bfloat16 4096x4096x4096", "sm_80", tile)
    assert same is not None and "128x128x32" in same["name"]
    assert peer_of("matmul int8 4096x4096x4096", "sm_80", tile) is None


def test_cases_have_names_of_their_own_and_no_device() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names) > 150
    assert {case.op.name for case in cases(usual_only=True)} == {"matmul", "softmax", "layernorm", "rmsnorm"}
    assert device_info("sm_80").props == {"target": "sm_80", "sms": 108}


def run_figures(arguments: list[str]) -> int:
    """The exit code of `hal ptx figures` with these arguments."""
    return main(["ptx", "figures", *arguments])


@assembles
def test_the_table_shows_goal_and_peer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    code = run_figures(["softmax bfloat16 1024", "--target", "sm_80", "--record", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["kernel", "target", "registers", "spills"]
    assert lines[1].startswith("softmax bfloat16 1024") and "sm_80" in lines[1]
    assert lines[2].startswith("  goal") and "<=9" in lines[2]
    assert lines[3].startswith("  Triton, 32 threads")
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["target"] == "sm_80" and 6 < row["slots"] < 20
    assert code == int("unmet" in row)


def test_a_wrong_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_figures(["sofmax*"]) == 2
    assert "the nearest are: softmax " in capsys.readouterr().err


def test_without_the_assembler_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAL_PTXAS", raising=False)
    monkeypatch.setattr(assembler, "_from_wheel", lambda name: None)
    assert run_figures(["softmax bfloat16 1024", "--target", "sm_80"]) == 2
    assert "pip install --no-deps nvidia-cuda-nvcc==" in capsys.readouterr().err
