"""Which backends and devices there are, and the one open Device of each.

Backends come in by entry points of group "hal.backends", those of this tree like a stranger's. One written in C is the
path of its library: what an entry point gives, HAL_PLUGIN_PATH lists, or `load_plugin` is called with. All are loaded
by name on first need, so a broken one hurts only those who ask for it, and keeps its cause.

A device string is `backend:selector`; the selector is an index or any unique part of the device's name. The backend's
name alone means its first device.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hal import interop
from hal.array import check_usable
from hal.device import Backend, Device, DeviceInfo
from hal.errors import ArgumentError, BackendUnavailable, DeviceError, HalError

REFERENCE = "cpu"  # the one backend that the core knows by name
GROUP = "hal.backends"
_AFTER_FORK = "use it in the child only, or let multiprocessing use its 'spawn' start method"
_WORD = re.compile(r"[a-z]\w*_\w+")  # an identifier of several parts, such as an architecture's: "sm_80"
_log = logging.getLogger("hal.registry")


@dataclass(frozen=True)
class DeviceEntry:
    """A device that could be opened. `name` is its device string."""

    name: str
    backend: str
    info: DeviceInfo

    @property
    def description(self) -> str:
        """The name its vendor gives it."""
        return self.info.name

    @property
    def priority(self) -> int:
        """The default device is the one of highest priority; negative (emulators, checkers) is never the default."""
        return self.info.priority

    @property
    def dtypes(self) -> frozenset[str]:
        """Those that operators compute in."""
        return self.info.dtypes

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.info.memory

    @property
    def vendor(self) -> str:
        return self.info.vendor

    @property
    def props(self) -> Mapping[str, Any]:
        """The backend's own facts."""
        return self.info.props


@dataclass(frozen=True)
class _Claim:
    """Who says that a backend's name is his: an entry point, or a library in C."""

    point: importlib.metadata.EntryPoint | None = None
    library: str = ""

    def __str__(self) -> str:
        if self.point is None:
            return f"the library {self.library}"
        owner = self.point.dist.name if self.point.dist else "?"
        return f"{owner} ({self.point.value})"

    def made(self, name: str) -> object:
        """What the claimant gives: a Backend if it keeps the contract. Raises whatever it raises."""
        found: object = self.library
        if self.point is not None:
            found = self.point.load()
            if callable(found):
                found = found()
        if isinstance(found, (str, os.PathLike)):
            from hal import capi  # for those only who have such a backend

            return capi.Backend(found, name)
        return found


class _State:
    """What this process has found and opened. One object, so that a forked child can start anew."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.claims: dict[str, list[_Claim]] | None = None
        self.backends: dict[str, Backend] = {}
        self.failures: dict[str, BackendUnavailable] = {}
        self.infos: dict[str, list[DeviceInfo]] = {}
        self.opened: dict[str, Device] = {}
        self.split: set[str] = set()  # backends whose drivers were loaded before a fork: dead in the child
        self.names: dict[str, str] = {}  # device string as written -> canonical
        self.default: Device | None = None


_state = _State()


def backends() -> list[str]:
    """The names of all installed backends, loaded or not."""
    return sorted(_claims())


def backend(name: str) -> Backend:
    """The backend of that name, loaded on first need. Raises BackendUnavailable with the cause."""
    with _state.lock:
        if name not in _state.backends:
            _raise_again(name)
            try:
                _state.backends[name] = _load(name)
            except BackendUnavailable as error:
                _state.failures[name] = error
                raise
        return _state.backends[name]


def infos(name: str) -> list[DeviceInfo]:
    """The devices of a backend, discovered once a process. Raises BackendUnavailable if it does not load."""
    with _state.lock:
        if name not in _state.infos:
            found = backend(name)
            _raise_again(name)
            try:
                _state.infos[name] = list(found.devices())
            except Exception as error:  # it never raises, by contract; a stranger's may, and hurts only who asks for it
                failure = BackendUnavailable(f"backend {name!r} failed to list its devices: {_words(error)}")
                _state.failures[name] = failure
                raise failure from error
        return _state.infos[name]


def _raise_again(name: str) -> None:
    """A new error with the old cause: an exception that is raised twice grows a traceback each time."""
    if name in _state.failures:
        failure = _state.failures[name]
        raise BackendUnavailable(str(failure)) from failure.__cause__


def devices() -> list[DeviceEntry]:
    """Every device of every backend that loads, in order of priority; those that do not load are logged."""
    entries = []
    for name in backends():
        try:
            entries += [DeviceEntry(_string(name, i), name, info) for i, info in enumerate(infos(name))]
        except BackendUnavailable as error:
            _log.info("backend %s is left out: %s", name, error)
    return sorted(entries, key=lambda entry: -entry.priority)


def find(device: str) -> DeviceEntry:
    """The device that a device string names. Raises BackendUnavailable that lists the known ones."""
    if not isinstance(device, str):
        raise ArgumentError(f"a device is named by a string such as 'cpu' or 'opencl:0', not {device!r}")
    prefix, _, selector = device.partition(":")
    if prefix not in _claims():
        raise BackendUnavailable(f"no backend {prefix!r} for device {device!r}; installed: {', '.join(backends())}")
    found = infos(prefix)
    if not found:
        raise BackendUnavailable(f"{device}: backend {prefix} has no device here: {backend(prefix).why_none()}")
    if not selector or (
        selector.isdecimal() and len(selector) < 10
    ):  # a number is an index, even where some name has it in it
        matches = [int(selector or 0)] if int(selector or 0) < len(found) else []
    else:
        exact = [i for i, info in enumerate(found) if info.name.lower() == selector.lower()]
        matches = exact or [i for i, info in enumerate(found) if selector.lower() in info.name.lower()]
    if len(matches) != 1:
        known = ", ".join(f"{_string(prefix, i)} ({info.name})" for i, info in enumerate(found))
        problem = "names several devices" if matches else "is not there"
        raise BackendUnavailable(f"device {device!r} {problem}; known: {known}")
    return DeviceEntry(_string(prefix, matches[0]), prefix, found[matches[0]])


def open_device(device: str | Device) -> Device:
    """The open Device, opened on first need and once a process. An open Device is returned as it is.

    Raises:
        BackendUnavailable: no such device. ArgumentError: not a name at all. DeviceError: lost by fork or at exit.
    """
    if isinstance(device, Device):
        check_usable(device)
        return device
    with _state.lock:
        canonical = _state.names.get(device) if type(device) is str else None
        if canonical is None:
            canonical = _state.names[device] = find(device).name
        opened = _state.opened.get(canonical)
        if opened is None:
            entry = find(canonical)
            _refuse_split(entry)
            opened = backend(entry.backend).open(entry.info)
            opened.name = entry.name
            _state.opened[canonical] = opened
    check_usable(opened)
    return opened


def home_of(kind: str | int, number: int) -> Device | None:
    """The device on which tensors of a torch or DLPack device type and number live, opened; None if there is none."""
    for entry in devices():
        if number == entry.info.number and kind in (entry.info.torch_type, entry.info.dlpack_type):
            return open_device(entry.name)
    return None


interop.home_of = home_of


def default_device() -> Device:
    """HAL_DEVICE, else the device of highest priority that opens. Decided once a process."""
    with _state.lock:
        if _state.default is None:
            named = os.environ.get("HAL_DEVICE")
            _state.default = open_device(named) if named else _open_best()
    check_usable(_state.default)
    return _state.default


def _open_best() -> Device:
    for entry in devices():
        if entry.priority < 0:
            break
        _refuse_split(entry)  # not passed over: a child that computes elsewhere than its parent should be told
        try:
            return open_device(entry.name)
        except Exception as error:  # any failure of a stranger's driver: the next device is tried
            _log.warning("device %s is passed over: %s", entry.name, error)
    return open_device(REFERENCE)


def opened() -> list[Device]:
    """The devices this process has opened."""
    with _state.lock:
        return list(_state.opened.values())


def load_plugin(path: str | os.PathLike[str]) -> list[str]:
    """Load a backend in C; the device strings that it adds. Its name is its file's: libacme.so is "acme".

    Child processes find it too: the path is added to HAL_PLUGIN_PATH of this process. A library that has been loaded
    stays so, as every library of a process does.

    Raises:
        ArgumentError: the path is not absolute. AbiMismatch: no plug-in, or one for another version of the interface.
        BackendUnavailable: it does not load, or another backend has its name.
    """
    from hal import capi

    with _state.lock:
        made = capi.Backend(path)
        mine, others = _Claim(library=str(made.path)), _claims().get(made.name, [])
        if all(other.library != mine.library for other in others):
            if others:
                raise BackendUnavailable(_rivals(made.name, [*others, mine]))
            _state.infos[made.name] = list(made.devices())
            _state.backends[made.name], _claims()[made.name] = made, [mine]
            known = os.environ.get("HAL_PLUGIN_PATH")
            os.environ["HAL_PLUGIN_PATH"] = os.pathsep.join(filter(None, (known, str(made.path))))
        return [_string(made.name, i) for i in range(len(infos(made.name)))]


def _claims() -> dict[str, list[_Claim]]:
    if _state.claims is None:
        claims: dict[str, list[_Claim]] = {}
        for point in importlib.metadata.entry_points(group=GROUP):
            same = claims.setdefault(point.name, [])
            if all(claim.point is None or point.value != claim.point.value for claim in same):
                same.append(_Claim(point))
        for path in dict.fromkeys(filter(None, os.environ.get("HAL_PLUGIN_PATH", "").split(os.pathsep))):
            from hal import capi

            claims.setdefault(capi.plugin_name(Path(path)), []).append(_Claim(library=path))
        _state.claims = claims
    return _state.claims


def _load(name: str) -> Backend:
    claims = _claims().get(name)
    if not claims:
        raise BackendUnavailable(f"no backend {name!r}; installed: {', '.join(backends())}")
    if len(claims) > 1:
        raise BackendUnavailable(_rivals(name, claims))
    try:
        made = claims[0].made(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's package raises on import, SystemExit too, is the cause kept
        raise BackendUnavailable(f"backend {name!r} ({claims[0]}) failed to load: {_words(error)}") from error
    if not isinstance(made, Backend):
        raise BackendUnavailable(
            f"backend {name!r}: {claims[0]} gives {made!r}, neither a hal.device.Backend nor the path of a library"
        )
    return made


def _words(error: BaseException) -> str:
    """hal's own errors say what is wrong by themselves; a stranger's may need its class to be understood."""
    return str(error) if isinstance(error, HalError) else repr(error)


def _rivals(name: str, claims: list[_Claim]) -> str:
    return (
        f"several packages or libraries call their backend {name!r}: {', '.join(map(str, claims))}; "
        f"uninstall all but one, or take it out of HAL_PLUGIN_PATH"
    )


def _string(name: str, index: int) -> str:
    """The canonical device string: by the device's own name where that is one word that no other has, else by index."""
    found = _state.infos[name]
    own = found[index].name
    if len(found) == 1 and own == name:
        return name
    alone = sum(own.lower() == info.name.lower() for info in found) == 1
    return f"{name}:{own if alone and _WORD.fullmatch(own) else index}"


def _refuse_split(entry: DeviceEntry) -> None:
    if entry.backend in _state.split:
        raise DeviceError(
            f"{entry.name}: this process was forked after its parent had loaded the driver of backend "
            f"{entry.backend!r}, which does not survive that; {_AFTER_FORK}"
        )


def _before_fork() -> None:
    _state.lock.acquire()  # so that no other thread is within a driver that is being loaded


def _after_fork_in_parent() -> None:
    _state.lock.release()


def _after_fork_in_child() -> None:
    """Drivers have threads and locks of their own, which the child has not: its first call to one may never return."""
    _state.lock = threading.RLock()
    safe = {_backend_of(name) for name, device in _state.opened.items() if device.fork_safe} | {REFERENCE}
    _state.split |= {name for name, found in _state.infos.items() if found} - safe
    for device in _state.opened.values():
        if not device.fork_safe:
            device.lost = f"was opened before os.fork() and cannot be used in the child; {_AFTER_FORK}"


def _backend_of(name: str) -> str:
    return name.partition(":")[0]


def _at_exit() -> None:
    for device in list(_state.opened.values()):
        if not device.lost:
            device.lost = "was closed at exit"
            device.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
