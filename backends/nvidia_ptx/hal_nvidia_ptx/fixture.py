"""A pytest plugin: `pytest -p hal_nvidia_ptx.fixture` gives tests the fixture `ptx_check`.

    def test_scale(ptx_check):
        report = ptx_check("scale.ptx", 8, 256, [x, "y:f32[2048]", 2048])
        np.testing.assert_allclose(report.outputs["y"], 2 * x)

It is `hal_nvidia_ptx.check`, and fails the test with the report if there are findings. `findings=True` leaves that to
the test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hal_nvidia_ptx.emulator.report import Report


@pytest.fixture
def ptx_check() -> Callable[..., Report]:
    """`check` that fails the test on findings."""
    from hal_nvidia_ptx.checking import check

    def run(*arguments: Any, findings: bool = False, **options: Any) -> Report:
        report = check(*arguments, **options)
        if not findings and not report.clean:
            pytest.fail(report.render(), pytrace=False)
        return report

    return run
