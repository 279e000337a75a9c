"""The one path from checked operands to the device.

A call is remembered under all that it depends on: types, dtypes, shapes, strides, alignment, options, settings. The
first time, the operator's rules check it, its device prepares a plan, and a Call is made; from then on a hit is a few
attribute reads and one dictionary lookup, and the rules are not run again.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal import interop
from hal.array import DEVICE_ALIGNMENT, Array, check_usable, from_host
from hal.calls import Call, DeviceCall, ForeignCall, HostCall, ObservedCall, UploadCall
from hal.device import Device
from hal.dtypes import name_of
from hal.errors import ArgumentError, DeviceError, DTypeError, HalError, ShapeError, UnsupportedError, WrongResult
from hal.interop import Kind, kind_of
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS, judge
from hal.ops.operator import Operator, Result
from hal.registry import REFERENCE, default_device, open_device
from hal.settings import Settings, current

_MOST_CALLS = 4096  # remembered at once; then the older half is forgotten
_calls: dict[Any, Callable[[tuple[Any, ...], Any], Any]] = {}
_fallbacks: Counter[str] = Counter()  # calls per operator that ran on the reference instead of their device


def call(name: str, arrays: tuple[Any, ...], options: tuple[Any, ...], out: Any, device: Any) -> Any:
    """Run an operator.

    Args:
        name: the operator. arrays: its operands in order, None for those left out. options: its options in order.
        out: None, an array, or a tuple of them for several results. device: where to run, or None.
    """
    settings = current()
    try:
        # An option's class is part of the key: 1 and True are equal, but not equally right. The NumPy branch is written
        # out: a function call for each operand would cost a third of the whole lookup.
        key = (
            name,
            options,
            device,
            settings,
            None if out is None else _signature(out),
            *[
                (x.dtype, x.shape, x.strides, x.flags.aligned)
                if type(x) is np.ndarray
                else None
                if x is None
                else _signature(x)
                for x in arrays
            ],
            *map(type, options),
        )
        prepared = _calls.get(key)
    except (TypeError, RuntimeError):  # nothing that hal takes; the rules will say what it is
        key, prepared = None, None
    if prepared is None:
        prepared = _prepare(OPERATORS[name], arrays, options, out, device, settings)
        if key is not None and settings.observer is None:
            _remember(key, prepared)
    return prepared(arrays, out)


def _signature(x: Any) -> Any:
    """Hashable; equal only for operands of which the same call can be made."""
    kind = type(x)
    if kind is Array:
        return id(x.spec), x.device  # what the key leads to keeps the spec, so its id is not given to another
    if kind is np.ndarray:
        return x.dtype, x.shape, x.strides, x.flags.aligned
    if x is None:
        return None
    if kind is tuple:
        return tuple([_signature(y) for y in x])
    return kind, kind_of(x).signature(x)


def _remember(key: Any, prepared: Callable[[tuple[Any, ...], Any], Any]) -> None:
    if len(_calls) >= _MOST_CALLS:
        for old in list(_calls)[: _MOST_CALLS // 2]:
            _calls.pop(old, None)
    _calls[key] = prepared


def forget_all() -> None:
    """Each call is prepared anew when it next comes: for who changes what devices compute with."""
    _calls.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_all)  # the rules run again, and find the devices lost


# ---- a call for the first time


def named_options(name: str, options: Sequence[Any], settings: Settings) -> dict[str, Any]:
    """Options by name, with what the settings add to them."""
    named = dict(zip(OPERATORS[name].options, options, strict=True))
    named["deterministic"] = settings.deterministic
    if name == "matmul" and named["precision"] is None:
        named["precision"] = settings.precision
    return named


def _prepare(
    operator: Operator, arrays: tuple[Any, ...], options: tuple[Any, ...], out: Any, device: Any, settings: Settings
) -> Callable[[tuple[Any, ...], Any], Any]:
    """Everything that a hit leaves out: kinds, rules, device, plan."""
    required = operator.roles[: operator.required]
    operands = zip(operator.roles, arrays, strict=True)
    present = {role: x for role, x in operands if x is not None or role in required}
    kinds = {role: _in_words(f"{operator.name}: {role}", kind_of, x) for role, x in present.items()}
    kind = kinds[operator.roles[0]]
    _check_one_kind(operator, present, kinds)
    specs = {role: _in_words(f"{operator.name}: {role}", kinds[role].spec, x) for role, x in present.items()}
    named = named_options(operator.name, options, settings)
    results = operator.infer(specs, named)
    targets = _targets(operator, out, results, kind)
    chosen = _choose_device(operator, present, kinds, device, settings)
    out_specs = [
        kind.spec(t) if t is not None else TensorSpec.contiguous(r.dtype, r.shape)
        for t, r in zip(targets, results, strict=True)
    ]
    home = kind.device(present[operator.roles[0]])
    _check_homes(operator, targets, kind, home)
    try:
        made: Call
        if home is not None:
            op = operator.build(specs, _fresh_aligned(out_specs, targets), named)
            way = DeviceCall if isinstance(present[operator.roles[0]], Array) else ForeignCall
            made = way(operator, op, chosen.prepare(op), chosen, results, kind)
        elif chosen.wrap(0, 0) is not None:
            op = operator.build(specs, out_specs, named)
            made = HostCall(operator, op, chosen.prepare(op), chosen, results, kind)
        else:
            moved = {role: uploaded(spec) for role, spec in specs.items()}
            op = operator.build(moved, [uploaded_contiguous(s) for s in out_specs], named)
            made = UploadCall(operator, op, chosen.prepare(op), chosen, results, kind)
            made.moved = list(zip(specs.values(), moved.values(), strict=True))
        # A key names hal.Arrays' layouts by id: the Call keeps them, so that no other layout can get that id.
        made.specs = [*specs.values(), *out_specs]
    except UnsupportedError as error:
        foreign = home is not None and not isinstance(present[operator.roles[0]], Array)
        if settings.fallback != "warn" or chosen.name == REFERENCE or foreign:
            raise
        return _fallback(operator, options, out, chosen, error, home, (specs, out_specs))
    observers = [settings.observer] if settings.observer else []
    if settings.check:
        observers.append(_check_result)
    if observers:
        contiguous = {role: uploaded_contiguous(s) for role, s in specs.items()}
        seen = operator.build(contiguous, [uploaded_contiguous(s) for s in out_specs], named)
        return ObservedCall(made, seen, kind, observers)
    return made


def _in_words(where: str, function: Callable[[Any], Any], x: Any) -> Any:
    """function(x); its errors say which operand they are about."""
    try:
        return function(x)
    except HalError as error:
        raise type(error)(f"{where}: {error}") from error.__cause__


def _check_one_kind(operator: Operator, present: dict[str, Any], kinds: dict[str, Kind]) -> None:
    names = {role: kind.name for role, kind in kinds.items()}
    if len(set(names.values())) > 1:
        given = ", ".join(f"{role} is a {name}" for role, name in names.items())
        raise ArgumentError(f"{operator.name}: all operands have to be of one kind; given: {given}; convert some first")


def _targets(operator: Operator, out: Any, results: tuple[Result, ...], kind: Kind) -> list[Any]:
    """`out=` as one entry a result, checked: nothing has been written yet."""
    if out is None:
        return [None] * len(results)
    given = list(out) if isinstance(out, tuple) else [out]
    if len(given) != len(results) or isinstance(out, tuple) != (len(results) > 1):
        wanted = f"a tuple of {len(results)}" if len(results) > 1 else "one array"
        raise ArgumentError(f"{operator.name}: out has to be {wanted} for the results {[r.role for r in results]}")
    for result, target in zip(results, given, strict=True):
        where = f"{operator.name}: out" + (f" ({result.role})" if len(results) > 1 else "")
        if _in_words(where, kind_of, target).name != kind.name:
            raise ArgumentError(f"{where} has to be a {kind.name} as the operands are, not a {type(target).__name__}")
        spec: TensorSpec = _in_words(where, kind.spec, target)
        if spec.dtype != result.dtype:
            raise DTypeError(f"{where} has to be {result.dtype}; given: {spec}")
        if spec.shape != result.shape:
            raise ShapeError(f"{where} has to have shape {result.shape}; given: {spec}")
        if overlaps_itself(spec):
            raise ShapeError(f"{where} may have elements that share memory (strides have to nest): {spec}")
    return given


def overlaps_itself(spec: TensorSpec) -> bool:
    """True unless every element surely has memory of its own (axes nested by their strides)."""
    reach = 0
    for n, step in sorted(
        ((n, abs(s)) for n, s in zip(spec.shape, spec.strides, strict=True) if n > 1), key=lambda axis: axis[1]
    ):
        if step <= reach:
            return spec.size > 0
        reach += (n - 1) * step
    return False


def _choose_device(
    operator: Operator, present: dict[str, Any], kinds: dict[str, Kind], device: Any, settings: Settings
) -> Device:
    homes = {role: kinds[role].device(x) for role, x in present.items()}
    where = {home for home in homes.values() if home is not None}
    if not where:
        asked = device if device is not None else settings.device
        return default_device() if asked is None else open_device(asked)
    if len(where) > 1 or None in homes.values():
        given = ", ".join(f"{role} on {home.name if home else 'the host'}" for role, home in homes.items())
        raise DeviceError(f"{operator.name}: all operands have to be on one device; given: {given}; use hal.asarray")
    (home,) = where
    check_usable(home)
    if device is not None and open_device(device) is not home:
        raise DeviceError(
            f"{operator.name}: the operands are on {home.name}, not on device={device!r}; "
            f"move them first: hal.asarray(x, device={device!r})"
        )
    return home


def _check_homes(operator: Operator, targets: list[Any], kind: Kind, home: Device | None) -> None:
    """Raises DeviceError where `out` lives elsewhere than the operands."""
    for target in targets:
        there = None if target is None else kind.device(target)
        if target is not None and there is not home:
            names = [each.name if each else "the host" for each in (there, home)]
            raise DeviceError("{}: out is on {}, operands on {}".format(operator.name, *names))


def uploaded(spec: TensorSpec) -> TensorSpec:
    """The layout of a host operand once it is on a device: its own where its memory is copied as it is."""
    if not interop.worth_copying_whole(spec):
        return uploaded_contiguous(spec)
    low = spec.extent()[0] * spec.itemsize
    return TensorSpec(spec.dtype, spec.shape, spec.strides, min(DEVICE_ALIGNMENT, -low & low or DEVICE_ALIGNMENT))


def uploaded_contiguous(spec: TensorSpec) -> TensorSpec:
    """Row-major, at the start of an allocation."""
    return interop.contiguous_like(spec, DEVICE_ALIGNMENT)


def _fresh_aligned(specs: list[TensorSpec], targets: list[Any]) -> list[TensorSpec]:
    return [uploaded_contiguous(s) if t is None else s for s, t in zip(specs, targets, strict=True)]


def _check_result(op: Op, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
    verdict = judge(op, inputs, outputs)
    if not verdict.ok:
        raise WrongResult(f"HAL_CHECK: {op} left its bound: {verdict.message}")


def _fallback(
    operator: Operator,
    options: tuple[Any, ...],
    out: Any,
    device: Device,
    error: UnsupportedError,
    home: Device | None,
    kept: Any,
) -> Callable[[tuple[Any, ...], Any], Any]:
    """The call on the reference, because the user allowed it, with one warning. `kept`: layouts that the key names."""
    if home is not None and out is not None:
        raise error  # results are copied to the device: they cannot be written into an array of the caller's
    warnings.warn(f"hal: {error}; computed on the reference instead", RuntimeWarning, stacklevel=5)
    name = operator.name

    def run(arrays: tuple[Any, ...], out: Any) -> Any:
        _fallbacks[name] += 1
        if home is None:
            return call(name, arrays, options, out, REFERENCE)
        results = call(name, tuple(x if x is None else x.numpy() for x in arrays), options, None, REFERENCE)
        several = isinstance(results, tuple)
        moved = [from_host(device, x, name_of(x.dtype)) for x in (results if several else (results,))]
        return tuple(moved) if several else moved[0]

    run.kept = kept  # type: ignore[attr-defined]
    return run


@atexit.register
def _report_fallbacks() -> None:
    if _fallbacks:
        counts = ", ".join(f"{name} {count}" for name, count in _fallbacks.items())
        print(f"hal: calls that ran on the reference instead of their device: {counts}", file=sys.stderr)
