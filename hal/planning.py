"""Plans that a caller holds, and explanations of what a call would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hal.array import Array, check_usable
from hal.calls import check_apart
from hal.device import Device, Plan
from hal.dispatch import named_options, overlaps_itself, uploaded, uploaded_contiguous
from hal.errors import ArgumentError, DeviceError, DTypeError, OptionError, ShapeError
from hal.interop import kind_of
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.ops.operator import Result
from hal.registry import default_device, open_device
from hal.settings import current


class HeldPlan:
    """An operator decided once. Call it with hal.Arrays: the inputs in order, then the outputs."""

    __slots__ = ("op", "device", "_in_place", "_plan", "_specs", "_split")

    def __init__(self, op: Op, device: Device, plan: Plan, specs: tuple[TensorSpec, ...], inputs: int) -> None:
        self.op, self.device, self._plan, self._specs, self._split = op, device, plan, specs, inputs
        role = OPERATORS[op.name].in_place
        self._in_place = op.input_index(role) if role else None

    def __call__(self, *arrays: Array) -> None:
        """Enqueue. Raises ShapeError, DeviceError where an array is not what was planned for."""
        if len(arrays) != len(self._specs):
            raise ArgumentError(f"plan of {self.op}: {len(self._specs)} arrays wanted, {len(arrays)} given")
        device, operands = self.device, []
        for x, want in zip(arrays, self._specs):  # noqa: B905 - the lengths were compared, and strict= costs
            try:
                spec = x.spec
            except AttributeError:
                raise ArgumentError(f"plan of {self.op}: hal.Arrays wanted, {type(x).__name__} given") from None
            if spec is not want and not _fits(spec, want):
                raise ShapeError(f"plan of {self.op}: planned for {want}, given {spec}")
            if x.device is not device or device.lost:
                raise DeviceError(f"plan of {self.op}: planned for {device.name} {device.lost}, given {x!r}")
            operands.append((x.memory.handle, x.offset))
        split = self._split
        check_apart(self.op.name, self._in_place, arrays[:split], arrays[split:])
        self._plan(operands[split:], operands[:split])

    def describe(self) -> dict[str, Any]:
        """What was decided, as plain values."""
        return {"op": str(self.op), "device": self.device.name, **self._plan.describe()}


@dataclass(frozen=True)
class Explanation:
    """What a call would do. `plan` has the kernels and launches of a device that compiles source."""

    op: Op
    device: Device
    plan: Plan

    def describe(self) -> dict[str, Any]:
        """Plain values: operator, device, config, launches, and what was passed over and why."""
        return {"op": str(self.op), "device": self.device.name, "name": self.device.info.name, **self.plan.describe()}

    def __str__(self) -> str:
        lines = []
        for key, value in self.describe().items():
            if isinstance(value, list):
                lines += [f"{key}:", *(f"  {item}" for item in value)] if value else []
            else:
                lines.append(f"{key}: {value}")
        return "\n".join(lines)


def plan(name: str, /, *operands: Any, out: Any = None, device: str | Device | None = None, **options: Any) -> HeldPlan:
    """Decide an operator once, to run it many times on hal.Arrays of the same layouts.

        step = hal.plan("matmul", a, b, activation="gelu")
        step(a, b, out)

    Args:
        name: the operator. operands: hal.Arrays (or hal.op.TensorSpecs) in the operator's order; the optional ones may
            also be given by name. out: layout of the result, or a tuple of them; contiguous by default.
        device: where; needed only if every operand is a TensorSpec. options: the operator's.
    """
    explained, specs = _decide(name, operands, out, device, options)
    inputs = len(explained.op.inputs)
    return HeldPlan(explained.op, explained.device, explained.plan, specs, inputs)


def explain(name: str, /, *operands: Any, device: str | Device | None = None, **options: Any) -> Explanation:
    """What `hal.<name>(*operands, **options)` would do and why; runs nothing. Operands as for `plan`, or any arrays."""
    return _decide(name, operands, options.pop("out", None), device, options)[0]


def _decide(
    name: str, operands: tuple[Any, ...], out: Any, device: str | Device | None, options: dict[str, Any]
) -> tuple[Explanation, tuple[TensorSpec, ...]]:
    operator = OPERATORS.get(name)
    if operator is None:
        raise OptionError(f"no operator {name!r}; there are: {', '.join(OPERATORS)}")
    options = dict(options)
    if len(operands) > len(operator.roles):
        wanted = f"{len(operator.roles)} operands at most ({', '.join(operator.roles)})"
        raise ArgumentError(f"{name}: {wanted}; given: {len(operands)}")
    given = dict(zip(operator.roles, operands))  # noqa: B905 - optional operands may be left out
    named_operands = {role: options.pop(role) for role in operator.roles if role in options}
    twice = [role for role in named_operands if given.get(role) is not None]
    if twice:
        raise ArgumentError(f"{name}: operand {twice[0]} is given twice")
    given.update(named_operands)
    unknown = [key for key in options if key not in operator.options]
    if unknown:
        raise OptionError(f"{name}: no option {unknown[0]!r}; there are: {', '.join(operator.options)}")
    missing = [role for role in operator.roles[: operator.required] if given.get(role) is None]
    if missing:
        raise ArgumentError(f"{name}: operand {missing[0]} is missing")
    specs = {role: _spec(x) for role, x in given.items() if x is not None}
    chosen = _device_of([*given.values(), *(out if isinstance(out, tuple) else (out,))], device)
    values = {**operator.options, **options}
    named = named_options(name, list(values.values()), current())
    results = operator.infer(specs, named)
    if out is None:
        out_specs = [uploaded_contiguous(TensorSpec.contiguous(r.dtype, r.shape)) for r in results]
    else:
        out_specs = [_spec(target) for target in (out if isinstance(out, tuple) else (out,))]
        _check_targets(name, results, out_specs)
    op = operator.build(specs, out_specs, named)
    return Explanation(op, chosen, chosen.prepare(op)), (*specs.values(), *out_specs)


def _check_targets(name: str, results: Sequence[Result], targets: Sequence[TensorSpec]) -> None:
    """The plan will write to memory of these layouts with no check but for their being the same."""
    given = ", ".join(map(str, targets))
    if len(targets) != len(results):
        raise ArgumentError(f"{name}: out has to be for the results {[r.role for r in results]}; given: {given}")
    for result, target in zip(results, targets, strict=True):
        if target.dtype != result.dtype:
            raise DTypeError(f"{name}: out ({result.role}) has to be {result.dtype}; given: {given}")
        if target.shape != result.shape:
            raise ShapeError(f"{name}: out ({result.role}) has to have shape {result.shape}; given: {given}")
        if overlaps_itself(target):
            raise ShapeError(f"{name}: out ({result.role}) may have elements that share memory; given: {given}")


def _spec(x: Any) -> TensorSpec:
    if isinstance(x, TensorSpec):
        return x
    kind = kind_of(x)
    spec = kind.spec(x)
    return spec if kind.device(x) is not None else uploaded(spec)


def _device_of(operands: list[Any], device: str | Device | None) -> Device:
    arrays = [x for x in operands if x is not None and not isinstance(x, TensorSpec)]
    homes = {home for x in arrays if (home := kind_of(x).device(x)) is not None}
    if len(homes) > 1:
        raise DeviceError(f"operands are on several devices: {', '.join(sorted(d.name for d in homes))}")
    if homes:
        home = homes.pop()
        check_usable(home)
        if device is not None and open_device(device) is not home:
            raise DeviceError(f"the operands are on {home.name}, not on device={device!r}; use hal.asarray first")
        return home
    asked = device if device is not None else current().device
    return default_device() if asked is None else open_device(asked)


def _fits(spec: TensorSpec, want: TensorSpec) -> bool:
    """Equal but for an alignment that is at least what was planned for."""
    same = (spec.dtype, spec.shape, spec.strides) == (want.dtype, want.shape, want.strides)
    return same and spec.align % want.align == 0
