"""Fixtures that several test files use."""

from __future__ import annotations

from typing import Any

import pytest

from hal_cpu_reference.device import Backend, Device


class Distant(Device):
    """The reference with memory of its own: host arrays have to be copied to it and back, as to a GPU."""

    fork_safe = False

    def wrap(self, address: int, nbytes: int) -> Any:
        return None


@pytest.fixture
def distant() -> Distant:
    """A device that does not share the host's memory."""
    device = Distant(Backend().devices()[0])
    device.name = "distant"
    return device
