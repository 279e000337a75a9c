"""Which NVIDIA GPUs there are and what each is, found without making a context on one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from hal.device import Backend as BackendContract
from hal.device import Device, DeviceInfo
from hal.errors import BackendUnavailable
from hal_nvidia_ptx.target import of_capability

DTYPES = frozenset(("float32", "float16", "bfloat16", "float64", "int8"))
PRIORITY = 30  # above the same GPU by its OpenCL driver
DLPACK_CUDA = 2  # kDLCUDA of dlpack.h
# The newest PTX that the compiler inside a driver takes, where it is not simply (CUDA's major - 4, its minor):
# PTX ISA, "Release Notes". CUDA 13 and PTX 9 number alike.
_PTX_OF_CUDA = {(12, 5): (8, 5), (12, 6): (8, 5), (12, 7): (8, 6), (12, 8): (8, 7), (12, 9): (8, 8)}
_log = logging.getLogger("hal.cuda")


class Backend(BackendContract):
    """Every NVIDIA GPU of the machine, in the driver's order."""

    name = "cuda"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason = ""

    def devices(self) -> Sequence[DeviceInfo]:
        from hal_nvidia_ptx import loader

        with self._lock:
            try:
                cuda = loader.load()
                infos, refused = _describe_all(cuda, loader.driver_version(cuda))
            except BackendUnavailable as error:
                self._reason = str(error)
                return []
            self._reason = "; ".join(refused) or "NVIDIA's driver lists no GPU: nvidia-smi should list one"
            return infos

    def open(self, info: DeviceInfo) -> Device:
        # Imported only here: they cost what discovery should not.
        from hal.cache import Cache
        from hal_nvidia_ptx import loader
        from hal_nvidia_ptx.driver import CudaDevice

        return CudaDevice(info, loader.load(), Cache())

    def why_none(self) -> str:
        return self._reason or "not looked for yet"


def newest_ptx(driver: tuple[int, int]) -> tuple[int, int]:
    """The newest `.version` that the compiler of a driver made for this CUDA version takes."""
    major, minor = driver
    return _PTX_OF_CUDA.get(driver) or ((major - 4, minor) if major >= 11 else (6, 5))


def _describe_all(cuda: Any, driver: tuple[int, int]) -> tuple[list[DeviceInfo], list[str]]:
    """The devices that can be used, and for each other a sentence."""
    infos: list[DeviceInfo] = []
    refused: list[str] = []
    code, count = cuda.cuDeviceGetCount()
    for ordinal in range(0 if code else count):
        try:
            infos.append(describe(cuda, ordinal, driver, {info.name for info in infos}))
        except (ValueError, BackendUnavailable) as error:
            _log.warning("%s", error)
            refused.append(str(error))
    return infos, refused


def describe(cuda: Any, ordinal: int, driver: tuple[int, int], taken: set[str]) -> DeviceInfo:
    """What the driver says of one GPU. `taken`: names in use, for a twin to get another.

    Raises ValueError where the GPU is too old, BackendUnavailable where the driver does not say what it is.
    """

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        code, value = call(*arguments)
        if code:
            raise BackendUnavailable(f"GPU {ordinal} does not say what it is: {call.__name__}: {code}")
        return value

    device = ask(cuda.cuDeviceGet, ordinal)
    attributes = cuda.CUdevice_attribute

    def attribute(name: str) -> int:
        return int(ask(cuda.cuDeviceGetAttribute, getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), device))

    base = name = ask(cuda.cuDeviceGetName, 256, device).split(b"\0")[0].decode("utf-8", "replace")
    number = 1
    while name in taken:
        number += 1
        name = f"{base} #{number}"
    capability = attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")
    try:
        target = of_capability(*capability)
    except ValueError as error:
        raise ValueError(f"{base}: {error}") from None
    return DeviceInfo(
        name=name,
        dtypes=DTYPES,
        memory=int(ask(cuda.cuDeviceTotalMem, device)),
        vendor="NVIDIA",
        priority=PRIORITY,
        dlpack_type=DLPACK_CUDA,
        torch_type="cuda",
        number=ordinal,
        props={
            "target": target.name,
            "capability": f"{capability[0]}.{capability[1]}",
            "sms": attribute("MULTIPROCESSOR_COUNT"),
            "driver": f"{driver[0]}.{driver[1]}",
            "ptx": "{}.{}".format(*newest_ptx(driver)),
            "uuid": uuid_text(bytes(ask(cuda.cuDeviceGetUuid, device).bytes)),
            "l2": attribute("L2_CACHE_SIZE"),
            "shared_block": attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            "pools": bool(attribute("MEMORY_POOLS_SUPPORTED")),
        },
    )


def uuid_text(raw: bytes) -> str:
    """As nvidia-smi -L writes it."""
    digits = raw[:16].hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
