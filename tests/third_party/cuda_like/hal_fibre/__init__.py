"""A chip whose driver and language are like CUDA's: a stranger's package, for hal's tests."""

from __future__ import annotations

from hal.porting import DriverBackend
from hal_fibre.device import Device
from hal_fibre.driver import Driver


class Backend(DriverBackend):
    """What the entry point names."""

    name = "fibre"
    driver = Driver
    device = Device
    what_to_do = "install g++"


__all__ = ["Backend"]
