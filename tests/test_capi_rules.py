"""The rules of the C interface: versions, sizes, what is missing, what fails, what lies.

Each library here is examples/vendor_c/minimal.c with one thing changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal.capi import Backend, header
from hal.conformance.cases import select
from hal.conformance.runner import run_case
from hal.errors import AbiMismatch, BackendUnavailable, DeviceError, DeviceMemoryError, HalError, UnsupportedError

STUCK = """
static hal_status stuck(hal_device *device) { return (void)device, 507; }
static void words(hal_status status, char *text, size_t size) {
    if (status == 507) strncpy(text, "ERR 507: the stream is stuck \\xe2\\x9c\\x97", size);
    else memset(text, 'x', size); /* no zero byte */
}
"""


def device_of(path: Path) -> Any:
    """The library's first device, opened in this process."""
    backend = Backend(path)
    return backend.open(backend.devices()[0])


def works(path: Path) -> bool:
    """Whether the library computes a matmul rightly."""
    (case,) = select("smoke", ["matmul"], "float32/shape/15x17x16")
    result = run_case(device_of(path), case)
    assert result.status == "passed", result.message
    return True


def some_plan(device: Any) -> Any:
    (case,) = select("smoke", ["matmul"], "float32/shape/15x17x16")
    return device.prepare(case.op)


# ---- versions and sizes


@pytest.mark.parametrize(
    "edit",
    [
        "t->abi_minor = 7; t->struct_size = sizeof room; room.later[0] = room.later[3] = (void *)1;",
        "t->struct_size = offsetof(hal_backend, op_release);",
        "t->struct_size = offsetof(hal_backend, op_release) + 4;",
        "",
    ],
    ids=["newer", "shorter", "half a pointer", "as it is"],
)
def test_another_minor_version_works(c_plugins: Any, edit: str) -> None:
    """Fields beyond what hal knows are not looked at, fields beyond struct_size neither."""
    path = c_plugins.variant("minor", edit)
    assert works(path)
    assert Backend(path).library.has("op_release") == ("offsetof" not in edit)


def test_a_host_of_a_newer_minor_version_takes_an_older_library(
    c_plugins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "version", lambda: (1, 9))
    assert works(c_plugins.minimal())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("t->abi_major = 2; t->abi_minor = 3;", ["built for version 2.3", "speaks 1.0", "hal_backend.h"]),
        ("t->abi_major = 0;", ["built for version 0.0"]),
        ("return (void)t, NULL;", ["does not serve version 1.0"]),
        ("t->struct_size = 0;", ["struct_size is 0"]),
        ("t->struct_size = 8;", ["struct_size is 8"]),
        ("t->struct_size = (size_t)1 << 40;", ["struct_size is 1099511627776"]),
    ],
)
def test_another_interface_is_a_mismatch_that_says_so(c_plugins: Any, edit: str, words: list[str]) -> None:
    with pytest.raises(AbiMismatch) as caught:
        Backend(c_plugins.variant("other", edit)).devices()
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_library_that_is_no_plugin_is_a_mismatch(c_plugins: Any) -> None:
    path = c_plugins.build("stranger", "int answer(void);\nint answer(void) { return 42; }\n")
    with pytest.raises(AbiMismatch, match="no backend for hal: it has no symbol hal_get_backend"):
        Backend(path).devices()


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    pytest.importorskip("cffi")
    path = tmp_path / "libtext.so"
    path.write_text("not a library")
    with pytest.raises(BackendUnavailable, match="does not load"):
        Backend(path).devices()
    with pytest.raises(BackendUnavailable, match="there is no library"):
        Backend(tmp_path / "gone.so").devices()


# ---- what is not provided


def test_the_header_says_what_is_required() -> None:
    assert header.required() == (
        *("device_count", "device_info", "device_open", "memory_alloc", "memory_free", "copy_in", "copy_out"),
        *("synchronize", "op_prepare", "op_launch"),
    )


@pytest.mark.parametrize("function", header.required())
def test_a_required_function_that_is_missing_is_named(c_plugins: Any, function: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"does not provide {function}, which"):
        Backend(c_plugins.variant("holes", f"t->{function} = NULL;")).devices()


def test_without_anything_optional_it_works(c_plugins: Any) -> None:
    path = c_plugins.variant("least", "t->op_release = NULL;")
    functions = Backend(path).library.functions()
    assert {name for name, there in functions.items() if there} == set(header.required())
    assert works(path)
    device = device_of(path)
    first, second = device.alloc(8), device.alloc(8)
    device.copy_in(first, 0, np.arange(8, dtype=np.uint8))
    device.copy(second, 2, first, 4, 3)  # through the host
    got = np.empty(3, np.uint8)
    device.copy_out(got, second, 2)
    assert got.tolist() == [4, 5, 6]
    assert device.elapsed(device.mark(), device.mark()) >= 0
    device.before(None)
    with pytest.raises(DeviceError, match="has no streams"), device.stream():
        pass
    with pytest.raises(UnsupportedError, match="does not say why"):
        device.prepare(next(case.op for case in select("smoke", ["softmax"])))


# ---- what fails


def test_a_vendors_error_comes_with_call_number_and_text(c_plugins: Any) -> None:
    device = device_of(c_plugins.variant("stuck", "t->synchronize = stuck; t->error_text = words;", STUCK))
    with pytest.raises(DeviceError) as caught:
        device.synchronize()
    assert str(caught.value) == "stuck: synchronize: ERR 507: the stream is stuck ✗ (status 507)"
    with pytest.raises(UnsupportedError) as refused:  # its text has no end
        device.prepare(next(case.op for case in select("smoke", ["softmax"])))
    assert str(refused.value).endswith("xxx (status HAL_UNSUPPORTED)") and len(str(refused.value)) < 1300


ARGUMENTS = {
    "device_count": "int32_t *a",
    "device_open": "int32_t a, hal_device **b",
    "memory_alloc": "hal_device *a, uint64_t b, uint64_t *c",
    "memory_free": "hal_device *a, uint64_t b",
    "copy_in": "hal_device *a, uint64_t b, uint64_t c, const void *d, uint64_t e",
    "copy_out": "hal_device *a, void *b, uint64_t c, uint64_t d, uint64_t e",
    "op_prepare": "hal_device *a, const hal_op *b, hal_plan **c, hal_plan_info *d",
    "op_launch": "hal_plan *a, const hal_buffer *b, const hal_buffer *c, hal_stream *d",
}


def use_all(path: Path) -> None:
    """Each required function once."""
    device = device_of(path)
    handle = device.alloc(64)
    device.copy_in(handle, 0, np.zeros(64, np.uint8))
    device.copy_out(np.empty(64, np.uint8), handle, 0)
    device.free(handle)
    some_plan(device)([(0, 0)], [(0, 0), (0, 0)])


@pytest.mark.parametrize("function", ARGUMENTS)
@pytest.mark.parametrize(("status", "kind"), [(507, DeviceError), (-2, DeviceMemoryError), (-3, DeviceError)])
def test_a_function_that_fails_half_way_is_an_error_that_names_it(
    c_plugins: Any, function: str, status: int, kind: type[HalError]
) -> None:
    """What it wrote into its results before it failed is not looked at."""
    names = [part.split()[-1].lstrip("*") for part in ARGUMENTS[function].split(",")]
    used = " ".join(f"(void){name};" for name in names)
    wrote = {"memory_alloc": "*c = 1;", "op_prepare": "*c = (hal_plan *)1;", "device_open": "*b = (hal_device *)1;"}
    body = f"static hal_status broken({ARGUMENTS[function]}) {{ {used} {wrote.get(function, '')} return {status}; }}"
    path = c_plugins.variant("halfway", f"t->{function} = broken;", body)
    with pytest.raises(kind, match=rf"halfway: {function}"):
        use_all(path)


def test_a_device_that_cannot_be_asked_is_left_out(c_plugins: Any) -> None:
    functions = """
static hal_status two(int32_t *count) { return *count = 2, HAL_OK; }
static hal_status tell(int32_t index, hal_device_info *info) {
    strcpy(info->name, "half");
    return index ? tell_device(index, info) : 77;
}
"""
    backend = Backend(c_plugins.variant("pair", "t->device_count = two; t->device_info = tell;", functions))
    (info,) = backend.devices()
    assert info.name == "minimal" and info.props["index"] == 1
    assert "device_info(0)" in backend.why_none() and "77" in backend.why_none()


# ---- what lies


@pytest.mark.parametrize("count", [-1, 1_000_000_000])
def test_a_count_that_is_none(c_plugins: Any, count: int) -> None:
    function = f"static hal_status lie(int32_t *count) {{ return *count = {count}, HAL_OK; }}"
    with pytest.raises(DeviceError, match=f"device_count gives {count}"):
        Backend(c_plugins.variant("count", "t->device_count = lie;", function)).devices()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('strcpy(info->dtypes, "float32 float31");', "gives float31 as dtypes"),
        ("(void)info;", "gives nothing as dtypes"),
        ("memset(info, 'x', sizeof *info + 8);", "wrote past the end of hal_device_info"),
        ("memset(info->dtypes, 'x', sizeof info->dtypes);", "gives xxx"),
    ],
)
def test_a_device_that_describes_itself_wrongly(c_plugins: Any, line: str, words: str) -> None:
    function = f"static hal_status lie(int32_t index, hal_device_info *info) {{ (void)index; {line} return HAL_OK; }}"
    backend = Backend(c_plugins.variant("lies", "t->device_info = lie;", function))
    assert backend.devices() == []
    assert words in backend.why_none()


def test_a_name_without_an_end_is_cut(c_plugins: Any) -> None:
    function = """
static hal_status lie(int32_t index, hal_device_info *info) {
    tell_device(index, info);
    memset(info->name, 'n', sizeof info->name);
    return HAL_OK;
}
"""
    (info,) = Backend(c_plugins.variant("endless", "t->device_info = lie;", function)).devices()
    assert info.name == "n" * 128


def test_memory_without_a_handle(c_plugins: Any) -> None:
    function = f"static hal_status lie({ARGUMENTS['memory_alloc']}) {{ return (void)a, (void)b, *c = 0, HAL_OK; }}"
    with pytest.raises(DeviceError, match="gives no handle"):
        device_of(c_plugins.variant("handles", "t->memory_alloc = lie;", function)).alloc(64)


@pytest.mark.parametrize(
    ("line", "words", "kind"),
    [
        ("*c = NULL;", "gives no plan", DeviceError),
        ("prepare(a, b, c, d); memset(d, 0, sizeof *d + 8);", "wrote past the end of hal_plan_info", DeviceError),
        ("prepare(a, b, c, d); d->workspace_bytes = UINT64_MAX;", "workspace of 18446744073709551615", HalError),
    ],
)
def test_a_plan_that_is_none(c_plugins: Any, line: str, words: str, kind: type[HalError]) -> None:
    functions = f"""
static hal_status lie({ARGUMENTS["op_prepare"]}) {{ (void)a, (void)b, (void)d; {line} return HAL_OK; }}
static hal_status tell(int32_t index, hal_device_info *info) {{
    info->memory_bytes = 1 << 30;
    return tell_device(index, info);
}}
"""
    with pytest.raises(kind, match=words):
        some_plan(device_of(c_plugins.variant("plans", "t->op_prepare = lie; t->device_info = tell;", functions)))
