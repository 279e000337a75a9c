"""NVIDIA by hand-written PTX. Today this backend only says honestly that it has no kernels yet."""

from __future__ import annotations

from collections.abc import Sequence

from hal.device import Backend as BackendContract
from hal.device import Device, DeviceInfo
from hal.errors import BackendUnavailable

__all__ = ["Backend"]


class Backend(BackendContract):
    """Finds no device: there are no kernels to run on one."""

    name = "cuda"

    def devices(self) -> Sequence[DeviceInfo]:
        return []

    def open(self, info: DeviceInfo) -> Device:
        raise BackendUnavailable(f"cuda: {self.why_none()}")

    def why_none(self) -> str:
        return "hal's PTX kernels are not written yet; NVIDIA GPUs can be used through their OpenCL driver (opencl:…)"
