"""Which OpenCL devices there are: every device of every platform, found without opening one.

A platform on the deny list is passed over by its name, before anything else is asked of it: Clover can end the process
by an assertion. Devices are chosen by name, never by position, which changes from process to process.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hal.cache import Cache
from hal.device import Backend as BackendContract
from hal.device import Device, DeviceInfo
from hal.errors import BackendUnavailable
from hal.kernel import Algorithm
from hal_opencl import loader

DENY = ("Clover",)
CHECKERS = ("Oclgrind",)  # interpret kernels and report their faults: slow, so only used by name
# Among CPU devices: the faster compiler first. Whoever is not named stands between PoCL and rusticl.
PREFERENCE = {"Intel(R) OpenCL": 3, "Portable Computing Language": 2, "rusticl": -1}
KINDS = (("gpu", 20), ("accelerator", 15), ("cpu", 10))  # device type -> priority
# llvmpipe ends a work-item's loops, without a word, once all of them together made 65,535 rounds.
LOOP_LIMIT = {"llvmpipe": 65_535}
# Ends the process over a binary that it does not know, instead of refusing it; building anew takes it milliseconds.
NO_BINARIES = ("rusticl",)
INSTALL = "pip install 'hal-kernels[opencl]'"
INSTALL_CPU = "pip install 'hal-kernels[opencl-cpu]'"
_log = logging.getLogger("hal.opencl")


def disabled() -> frozenset[str]:
    """HAL_OPENCL_DISABLE=fp64,subgroups: abilities not to be used, whatever a device says of itself."""
    return frozenset(word.strip() for word in os.environ.get("HAL_OPENCL_DISABLE", "").split(",") if word.strip())


class Backend(BackendContract):
    """Every OpenCL device of the machine.

    A vendor's package derives from it, and that is public: a `name` of its own, the `platforms` that are meant (parts
    of their names; none: all), `algorithms` for the operators that have kernels of their own, and `refine`.
    """

    name = "opencl"
    platforms: Sequence[str] = ()
    algorithms: Mapping[str, Algorithm] = {}

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Any] = {}  # DeviceInfo.name -> pyopencl.Device
        self._reason = ""

    def refine(self, info: DeviceInfo) -> DeviceInfo:
        """What is to be held of a device: `info` is what it says of itself (hal_opencl.discovery.describe)."""
        return info

    def devices(self) -> Sequence[DeviceInfo]:
        with self._lock:
            self._found = {}
            try:
                pyopencl = loader.load()
            except ImportError as error:
                missing = isinstance(error, ModuleNotFoundError) and error.name == "pyopencl"
                self._reason = (
                    f"pyopencl is not installed: {INSTALL}" if missing else f"pyopencl does not load: {error}"
                )
                return []
            infos = []
            for platform_name, device in _devices(pyopencl, self.platforms):
                try:
                    info = self.refine(describe(pyopencl, platform_name, device, taken=self._found))
                except pyopencl.Error as error:
                    _log.warning("a device of %s does not say what it is: %s", platform_name, error)
                    continue
                self._found[info.name] = device
                infos.append(info)
            infos.sort(key=lambda info: -info.priority)  # so that opencl:0 is the one that most would choose
            self._reason = (
                "the OpenCL loader finds no device; install the vendor's driver, or a runtime for the CPU: "
                f"{INSTALL_CPU} (`hal doctor` says which libraries do not load)"
            )
            return infos

    def open(self, info: DeviceInfo) -> Device:
        if info.name not in self._found:
            self.devices()
        if info.name not in self._found:
            raise BackendUnavailable(f"{self.name}: no device {info.name!r}: {self.why_none()}")
        # Imported only here: they cost what discovery should not.
        from hal_opencl.checker import CheckedDevice
        from hal_opencl.driver import OpenCLDevice

        opened: OpenCLDevice
        if info.props.get("checker"):
            opened = CheckedDevice(info, self._found[info.name])
        else:
            opened = OpenCLDevice(info, self._found[info.name], Cache())
        opened.algorithms = {**opened.algorithms, **self.algorithms}
        return opened

    def why_none(self) -> str:
        return self._reason or "not looked for yet"


def _devices(pyopencl: Any, wanted: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """(platform's name, device) of all that may be used. A platform that fails hurts only itself.

    wanted: parts of platforms' names; none: all platforms.
    """
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.Error as error:  # -1001 PLATFORM_NOT_FOUND_KHR: nothing is installed
        _log.info("no OpenCL platform: %s", error)
        return
    for platform in platforms:
        try:
            name = platform.name.strip()
            if wanted and not any(part in name for part in wanted):
                continue
            if name in DENY:
                _log.info("OpenCL platform %s is on the deny list", name)
                continue
            devices = platform.get_devices()
        except pyopencl.Error as error:
            _log.warning("an OpenCL platform is left out: %s", error)
            continue
        for device in devices:
            yield name, device


def describe(pyopencl: Any, platform_name: str, device: Any, taken: Any = ()) -> DeviceInfo:
    """What a device says of itself. `taken`: names in use, for a twin to get another."""
    base = name = f"{platform_name}: {device.name.strip()}"
    number = 1
    while name in taken:
        number += 1
        name = f"{base} #{number}"
    off = disabled()
    extensions = frozenset(device.extensions.split()) - {f"cl_khr_{word}" for word in off}
    kind, priority = _kind(pyopencl, device)
    checker = platform_name in CHECKERS
    dtypes = {"float32", "float16", "bfloat16", "int8"}
    if "cl_khr_fp64" in extensions:
        dtypes.add("float64")
    return DeviceInfo(
        name=name,
        dtypes=frozenset(dtypes),
        memory=int(device.global_mem_size),
        vendor=device.vendor.strip(),
        priority=-10 if checker else priority + (PREFERENCE.get(platform_name, 0) if kind == "cpu" else 0),
        props={
            "platform": platform_name,
            "platform_version": device.platform.version.strip(),
            "version": device.version.strip(),
            "driver": device.driver_version.strip(),
            "type": kind,
            "compute_units": int(device.max_compute_units),
            "max_work_group": int(device.max_work_group_size),
            "local_memory": int(device.local_mem_size),
            "local_memory_is_global": int(device.local_mem_type) == int(pyopencl.device_local_mem_type.GLOBAL),
            "largest_allocation": int(device.max_mem_alloc_size),
            "vector_width": int(device.native_vector_width_float),
            "extensions": tuple(sorted(extensions)),
            "host_unified": bool(device.host_unified_memory),
            "flushes_subnormals": not int(device.single_fp_config) & int(pyopencl.device_fp_config.DENORM),
            "loop_limit": next((limit for word, limit in LOOP_LIMIT.items() if word in device.name), 0),
            "binaries": not checker and platform_name not in NO_BINARIES,
            "checker": checker,
        },
    )


def _kind(pyopencl: Any, device: Any) -> tuple[str, int]:
    """Type and priority. A device that claims every type (Oclgrind) runs on the CPU."""
    kind = int(device.type)
    types = pyopencl.device_type
    if kind & int(types.CPU):
        return KINDS[2]
    return KINDS[0] if kind & int(types.GPU) else KINDS[1]
