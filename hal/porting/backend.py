"""A backend over a driver's find, properties and open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from hal.device import Backend, Device, DeviceInfo
from hal.errors import BackendUnavailable
from hal.porting.simulator import Simulator

SIMULATED_PRIORITY = -1  # nobody's default device


class DeviceType(Protocol):
    """A child of DriverDevice: how it is made, and what of it is not written yet."""

    def __call__(self, info: DeviceInfo, driver: Simulator) -> Device: ...

    def unwritten(self, driver: type[Simulator]) -> tuple[tuple[str, ...], int]:
        """Names of what is simulated, and of how many functions."""


class DriverBackend(Backend):
    """Children say `name`, `driver` and `device`; `what_to_do` completes the sentence for who has no device."""

    driver: type[Simulator]
    device: DeviceType
    what_to_do = "install the vendor's driver"

    def __init__(self) -> None:
        self._reason = "not looked for yet"

    def devices(self) -> Sequence[DeviceInfo]:
        """What the driver finds; none, and the reason kept, where it raises."""
        self._reason = f"the driver finds no device; {self.what_to_do}"
        try:
            driver = self.driver()
            infos = [self._describe(driver, ordinal) for ordinal in range(driver.find())]
        except Exception as error:  # by contract discovery never raises; a library that does not load is a reason
            self._reason = f"{type(error).__name__}: {error}; {self.what_to_do}"
            return []
        names = [info.name for info in infos]
        return [
            replace(info, name=f"{info.name} #{info.number}") if names.count(info.name) > 1 else info for info in infos
        ]

    def _describe(self, driver: Simulator, ordinal: int) -> DeviceInfo:
        """The driver's properties, and what of the driver is simulated."""
        names, count = self.device.unwritten(self.driver)
        info = driver.properties(ordinal)
        facts: Mapping[str, Any] = {"functions": count, "simulated": names}
        priority = SIMULATED_PRIORITY if names else info.priority
        return replace(info, number=ordinal, priority=priority, props={**info.props, **facts})

    def open(self, info: DeviceInfo) -> Device:
        """A device with a driver object of its own."""
        if info.name not in {known.name for known in self.devices()}:
            raise BackendUnavailable(f"{self.name}: no device {info.name!r}: {self.why_none()}")
        return self.device(info, self.driver())

    def why_none(self) -> str:
        return self._reason
