"""Packages in C as strangers write them: what they include, and a library that is called as CANN's aclnn is.

That their wheels work in an environment of their own is in tests/test_third_party.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal.capi import Backend
from hal.conformance.cases import select
from hal.errors import DeviceError, DeviceMemoryError, UnsupportedError

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "tests" / "third_party"


def test_the_backends_in_c_include_one_header_of_hal() -> None:
    files = [*HOME.rglob("*.[ch]"), *(ROOT / "examples" / "vendor_c").rglob("*.[ch]")]
    assert len(files) > 10
    own = {path.name for path in files}
    system = re.compile(r"<\w+(?:/\w+)?\.h>")
    for path in files:
        for header in re.findall(r"^#include\s+(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert system.fullmatch(header) or header.strip('"') in own | {"hal_backend.h"}, f"{path.name}: {header}"


# ---- aclnn: executors, workspaces, numbers


@pytest.fixture
def aclnn(c_plugins: Any) -> Any:
    backend = Backend(c_plugins.build("aclnn", *sorted((HOME / "aclnn" / "csrc").glob("*.c"))))
    return backend.open(backend.devices()[0])


def test_the_library_of_executors_passes(c_plugins: Any, aclnn: Any) -> None:
    profile = str(HOME / "aclnn" / "hal_aclnn" / "profile.toml")
    done = c_plugins.hal("conformance", "aclnn:0", "--profile", profile, plugins=(aclnn.library.path,))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_call_has_an_executor_and_a_workspace(aclnn: Any) -> None:
    case = select("smoke", ["softmax"], "softmax/float32")[0]
    plan = aclnn.prepare(case.op)
    described = plan.describe()
    assert described["single_use"] and described["workspace_bytes"] >= 3 * 512
    executor = plan._fresh[0]
    x = (aclnn.alloc(case.op.inputs[0][1].size * 4), 0)
    plan([x], [x])
    assert executor.pointer is None  # given back at once
    plan([x], [x])


def test_errors_are_numbers(aclnn: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        aclnn.copy_in(12345, 0, np.zeros(4, np.uint8))
    assert str(caught.value) == "aclnn: copy_in of 4 bytes: the library does not say why (status 507015)"
    with pytest.raises(DeviceMemoryError, match="HAL_OUT_OF_MEMORY"):
        aclnn.alloc(1 << 40)
    with pytest.raises(UnsupportedError, match=r"matmul.*float64.*HAL_UNSUPPORTED"):
        aclnn.prepare(select("smoke", ["matmul"], "matmul/float64/shape")[0].op)
