"""`hal abi`: what a library provides, and how one ends that crashes, hangs or leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest


def asked(c_plugins: Any, path: Any, *options: str) -> Any:
    done = c_plugins.hal("abi", str(path), "--json", *options)
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    assert document["usable"] == (done.returncode == 0)
    return document


def test_the_table(c_plugins: Any) -> None:
    done = c_plugins.hal("abi", str(c_plugins.minimal()))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["minimal: interface 1.0, version 1", "functions: 11 of 22"]
    assert lines[2].startswith("not provided: error_text, device_close, copy, stream_create")
    assert lines[4:7] == ["device minimal", "  operator     float32", "  matmul       yes"]
    assert lines[7] == "  softmax      no"


def test_the_document(c_plugins: Any) -> None:
    found = asked(c_plugins, c_plugins.arena())
    assert (found["name"], found["abi"], found["version"], found["problem"]) == ("arena", "1.0", "1.0", None)
    assert all(found["functions"].values()) and len(found["functions"]) == 22
    (device,) = found["devices"]
    assert device["dtypes"] == ["float64", "float32", "float16", "bfloat16", "int8"]
    assert device["operators"]["matmul"] == dict.fromkeys(device["dtypes"], "")
    assert device["operators"]["rmsnorm"] == dict.fromkeys(device["dtypes"][:-1], "")


@pytest.mark.parametrize(
    ("edit", "functions", "words"),
    [
        ("t->abi_major = 3;", "", ["built for version 3.0"]),
        ("t->op_launch = NULL;", "", ["does not provide op_launch"]),
        ("return (void)t, (hal_backend *)16;", "", ["reading the table", "SIGSEGV"]),
        ("(void)t, abort();", "", ["hal_get_backend", "SIGABRT"]),
        ("", "__attribute__((constructor)) static void start(void) { abort(); }", ["loading the library", "SIGABRT"]),
        ("t->device_count = (hal_status (*)(int32_t *))(uintptr_t)64;", "", ["device_count", "SIGSEGV"]),
        ("t->device_count = leave;", "static hal_status leave(int32_t *n) { exit(*n + 5); }", ["exit code 5"]),
        (
            "t->device_open = hang;",
            "static hal_status hang(int32_t i, hal_device **d) { for (;;) {} return (void)i, (void)d, 0; }",
            ["device_open", "did not return within 3 seconds"],
        ),
    ],
    ids=["major", "missing", "garbage table", "aborts", "aborts at load", "garbage function", "exits", "hangs"],
)
def test_what_is_wrong_is_said_and_nobody_else_is_hurt(
    c_plugins: Any, edit: str, functions: str, words: list[str]
) -> None:
    problem = asked(c_plugins, c_plugins.variant("bad", edit, functions), "--timeout", "3")["problem"]
    assert [word for word in words if word not in problem] == []


def test_what_was_found_before_the_fault_is_kept(c_plugins: Any) -> None:
    crash = """
static hal_status crash(hal_device *a, const hal_op *b, hal_plan **c, hal_plan_info *d) {
    abort();
    return (void)a, (void)b, (void)c, (void)d, HAL_OK;
}
"""
    path = c_plugins.variant("late", "t->op_prepare = crash;", crash)
    found = asked(c_plugins, path)
    assert found["problem"].startswith("op_prepare: ended by signal SIGABRT")
    assert found["devices"][0]["name"] == "minimal" and found["functions"]["op_prepare"]


def test_a_library_that_prints_is_understood(c_plugins: Any) -> None:
    edit = 'puts("{\\"done\\": \\"ha\\"}"); fflush(stdout);'
    assert asked(c_plugins, c_plugins.variant("chatty", edit, "#include <stdio.h>"))["problem"] is None


def test_what_cannot_be_asked(c_plugins: Any, tmp_path: Any) -> None:
    done = c_plugins.hal("abi", str(tmp_path / "gone.so"))
    assert done.returncode == 2 and "there is no library" in done.stderr
    assert c_plugins.hal("abi").returncode == 2


def test_the_folder_of_the_header(c_plugins: Any) -> None:
    done = c_plugins.hal("abi", "--include")
    assert done.returncode == 0
    with open(f"{done.stdout.strip()}/hal_backend.h", encoding="utf-8") as header:
        assert "HAL_ABI_MAJOR 1" in header.read()
