"""An OpenCL implementation under another name, with facts and a kernel of its own: a stranger's package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import hal_opencl
from hal.device import DeviceInfo
from hal.kernel import Algorithm
from hal_pocket import rmsnorm


class Backend(hal_opencl.Backend):
    """The CPU runtimes that pip and Debian bring, as if they were a vendor's."""

    name = "pocket"
    platforms = ("Intel(R) OpenCL", "Portable Computing Language")
    algorithms: Mapping[str, Algorithm] = {"rmsnorm": rmsnorm}

    def refine(self, info: DeviceInfo) -> DeviceInfo:
        """No float64, as on a phone, and narrower vectors than it says."""
        return replace(info, dtypes=info.dtypes - {"float64"}, priority=-5, props={**info.props, "vector_width": 8})


__all__ = ["Backend"]
