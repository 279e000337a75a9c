"""An Op as the header's `hal_op`."""

from __future__ import annotations

from typing import Any

from hal.capi.header import codes
from hal.dtypes import DTYPES
from hal.op import Op, Scalar, TensorSpec


class Described:
    """`pointer` is the `const hal_op *`; all that it leads to lives as long as this object."""

    def __init__(self, ffi: Any, op: Op, device_type: int = 0, device_id: int = 0) -> None:
        self._ffi, self._device = ffi, (device_type, device_id)
        self._kept: list[Any] = []
        self.pointer = self._new("hal_op")
        self.pointer.name = self._text(op.name)
        self.pointer.text = self._text(str(op))
        self.pointer.outputs = self._list("hal_operand", [self._operand(*pair) for pair in op.outputs])
        self.pointer.inputs = self._list("hal_operand", [self._operand(*pair) for pair in op.inputs])
        self.pointer.params = self._list("hal_param", [self._param(*pair) for pair in op.params])
        self.pointer.output_count = len(op.outputs)
        self.pointer.input_count = len(op.inputs)
        self.pointer.param_count = len(op.params)

    def _operand(self, role: str, spec: TensorSpec) -> Any:
        made = self._new("hal_operand")
        made.role, made.align = self._text(role), spec.align
        tensor, (code, bits) = made.tensor, DTYPES[spec.dtype].dlpack
        tensor.device_type, tensor.device_id = self._device
        tensor.ndim = spec.ndim
        tensor.dtype = {"code": code, "bits": bits, "lanes": 1}
        # At least one element: an address is expected of a scalar too.
        tensor.shape = self._keep(self._ffi.new("int64_t[]", spec.shape or (0,)))
        tensor.strides = self._keep(self._ffi.new("int64_t[]", spec.strides or (0,)))
        return made

    def _param(self, name: str, value: Scalar) -> Any:
        made, kinds = self._new("hal_param"), codes("hal_param_kind")
        made.name = self._text(name)
        if isinstance(value, bool):
            made.kind, made.integer = kinds["HAL_TRUTH"], value
        elif isinstance(value, int):
            made.kind, made.integer = kinds["HAL_INTEGER"], value
        elif isinstance(value, float):
            made.kind, made.real = kinds["HAL_REAL"], value
        elif isinstance(value, str):
            made.kind, made.text = kinds["HAL_TEXT"], self._text(value)
        return made

    def _new(self, kind: str) -> Any:
        made = self._keep(self._ffi.new(f"{kind} *"))
        made.struct_size = self._ffi.sizeof(kind)
        return made

    def _list(self, kind: str, items: list[Any]) -> Any:
        return self._keep(self._ffi.new(f"{kind} *[]", [*items, self._ffi.NULL]))

    def _text(self, text: str) -> Any:
        return self._keep(self._ffi.new("char[]", text.encode()))

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made
