"""From sums in registers to the result in memory: alpha, bias, activation, one rounding, bounds.

A thread holds a few rows by a few columns, in groups of four neighbours. Where its whole tile lies inside the result
and the result's rows are aligned, a group is one store; else each element is stored by itself, if it is inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hal.dtypes import accumulator
from hal.kernel import F32, F64, I64, Argument, In
from hal.op import Op, OpClass
from hal.ops.problem import Problem
from hal_nvidia_ptx.kernels.epilogue import finish
from hal_nvidia_ptx.kernels.values import ARITHMETIC, itemsize, load, pair, store
from hal_nvidia_ptx.ptx import Entry, Register, at

GROUP = 4
Index = tuple[Register, int]  # first of a group of four neighbours, number in the group
Place = tuple[Register, int]  # a register and a constant, in bytes


@dataclass(frozen=True)
class Arguments:
    """The part of a launch's arguments that has to do with results."""

    roles: tuple[str, ...]
    bias: tuple[Argument, ...]
    numbers: tuple[Argument, ...]


def arguments(op: Op, p: Problem) -> Arguments:
    """Values of `Results`' parameters."""
    index = op.input_index("bias")
    bias: tuple[Argument, ...] = () if index is None else (In(index), *map(I64, p.strides["bias"]))
    alpha = float(op.param("alpha"))
    number = F64(alpha) if accumulator(op.dtype) == "float64" else F32(alpha)
    return Arguments(_roles(index is not None), bias, () if op.dtype == "int8" else (number,))


def _roles(biased: bool) -> tuple[str, ...]:
    return ("a", "b", "out", *(("bias",) if biased else ()))


class Results:
    """What a class of calls does with its sums. `roles` are the operands that have batch strides, in order."""

    def __init__(self, op_class: OpClass, sm: int) -> None:
        self.out, self.bias, self.sm = op_class.outputs[0], op_class.input("bias"), sm
        self.type = ARITHMETIC[op_class.inputs[0].dtype]
        activation = dict(op_class.epilogue)["activation"]
        self.activation = activation if isinstance(activation, str) else None
        self.roles = _roles(self.bias is not None)
        strides = [("bias", "u64"), ("bias_row", "s64"), ("bias_column", "s64")]
        self.bias_parameters = strides if self.bias is not None else []
        self.number_parameters = [("alpha", self.type)] if self.type != "s32" else []

    def store(
        self,
        k: Entry,
        base: Callable[[str], Register],
        rows: Sequence[Index],
        columns: Sequence[Index],
        sums: Sequence[Register],
    ) -> None:
        """sums: row by row. base: the address of an operand's matrix. m and n are parameters of the kernel."""
        m, n = k.param("m"), k.param("n")
        size = itemsize(self.out.dtype)
        out = base("out")
        row_bytes = k.let("s64", "out_row_bytes", "mul.lo.s64", k.param("out_row"), size)
        column_bytes = k.let("s64", "out_column_bytes", "mul.lo.s64", k.param("out_column"), size)
        row_in = [self._inside(k, "row", index, m) for index in rows]
        column_in = [self._inside(k, "column", index, n) for index in columns]
        alpha = k.param("alpha") if self.number_parameters else None
        bias = self._bias(k, base, rows, columns, row_in, column_in)
        values = [
            finish(k, total, alpha, bias(*divmod(i, len(columns))), self.activation) for i, total in enumerate(sums)
        ]
        pointers = self._row_pointers(k, out, row_bytes, rows)
        offsets = self._column_offsets(k, column_bytes, columns)
        if len(columns) % GROUP or not self._vector():
            self._store_single(k, pointers, offsets, row_in, column_in, values)
            return
        whole = k.let("pred", "whole", "and.pred", row_in[-1], column_in[-1], note="the last is inside, so all are")
        with k.when(whole, "vectors"):
            self._store_vectors(k, pointers, offsets, values)
        with k.unless(whole, "elements"):
            self._store_single(k, pointers, offsets, row_in, column_in, values)

    def _vector(self) -> bool:
        """Whether four neighbours of a row of the result are aligned to their size, or to 16 bytes."""
        return self.out.layout == "row" and self.out.align >= min(16, GROUP * itemsize(self.out.dtype))

    @staticmethod
    def _inside(k: Entry, word: str, index: Index, limit: Register) -> Register:
        first, number = index
        i = k.let("s32", f"{word}_i", "add.s32", first, number)
        return k.let("pred", f"{word}_inside", "setp.lt.s32", i, limit)

    @staticmethod
    def _row_pointers(k: Entry, out: Register, row_bytes: Register, rows: Sequence[Index]) -> list[Register]:
        """Where each row starts: of a group's first by a multiplication, of its neighbours by an addition."""
        pointers: list[Register] = []
        for i, (first, number) in enumerate(rows):
            if i and rows[i - 1] == (first, number - 1):
                pointers.append(k.let("s64", "out_at", "add.s64", pointers[-1], row_bytes))
            else:
                offset = _offset(k, "row", row_bytes, (first, number))
                pointers.append(k.let("s64", "out_at", "add.s64", offset, out))
        return pointers

    def _column_offsets(self, k: Entry, column_bytes: Register, columns: Sequence[Index]) -> list[Place]:
        """Where each column is in a row: a register, and bytes that are known now."""
        if self.out.layout != "row":
            return [(_offset(k, "column", column_bytes, index), 0) for index in columns]
        firsts = {first: _offset(k, "column", column_bytes, (first, 0)) for first, _ in columns}
        return [(firsts[first], number * itemsize(self.out.dtype)) for first, number in columns]

    def _bias(
        self,
        k: Entry,
        base: Callable[[str], Register],
        rows: Sequence[Index],
        columns: Sequence[Index],
        row_in: Sequence[Register],
        column_in: Sequence[Register],
    ) -> Callable[[int, int], Register | None]:
        """The bias of (row, column): loaded once where it does not vary, and only where it is inside."""
        if self.bias is None:
            return lambda i, j: None
        dtype, layout, size = self.bias.dtype, self.bias.layout, itemsize(self.bias.dtype)
        k.section(f"Bias ({layout}).")
        memory = base("bias")
        by_row = k.let("s64", "bias_row_bytes", "mul.lo.s64", k.param("bias_row"), size)
        by_column = k.let("s64", "bias_column_bytes", "mul.lo.s64", k.param("bias_column"), size)
        if layout == "constant":
            value = load(k, dtype, memory, name="bias_value")
            return lambda i, j: value
        if layout in ("per_row", "per_column"):
            step, indices, inside = (by_row, rows, row_in) if layout == "per_row" else (by_column, columns, column_in)
            values = []
            for index, valid in zip(indices, inside, strict=True):
                address = k.let("s64", "bias_at", "add.s64", _offset(k, "bias", step, index), memory)
                values.append(load(k, dtype, address, name="bias_value", when=valid))
            return (lambda i, j: values[i]) if layout == "per_row" else (lambda i, j: values[j])

        def element(i: int, j: int) -> Register:
            valid = k.let("pred", "bias_inside", "and.pred", row_in[i], column_in[j])
            address = k.let("s64", "bias_at", "add.s64", _offset(k, "bias", by_row, rows[i]), memory)
            k("add.s64", address, address, _offset(k, "bias", by_column, columns[j]))
            return load(k, dtype, address, name="bias_value", when=valid)

        return element

    def _store_single(
        self,
        k: Entry,
        pointers: Sequence[Register],
        offsets: Sequence[Place],
        row_in: Sequence[Register],
        column_in: Sequence[Register],
        values: Sequence[Register],
    ) -> None:
        for i, pointer in enumerate(pointers):
            with k.when(row_in[i], "row"):
                starts: dict[Register, Register] = {}
                for j, (offset, more) in enumerate(offsets):
                    if offset not in starts:
                        starts[offset] = k.let("s64", "element_at", "add.s64", pointer, offset)
                    value = values[i * len(offsets) + j]
                    store(k, self.out.dtype, self.sm, starts[offset], more, value, when=column_in[j])

    def _store_vectors(
        self, k: Entry, pointers: Sequence[Register], offsets: Sequence[Place], values: Sequence[Register]
    ) -> None:
        """Groups of four: one store of 8 or 16 bytes, or two of 16 for float64."""
        dtype, columns = self.out.dtype, len(offsets)
        for i, pointer in enumerate(pointers):
            for j in range(0, columns, GROUP):
                address = k.let("s64", "group_at", "add.s64", pointer, offsets[j][0])
                four = values[i * columns + j : i * columns + j + GROUP]
                if itemsize(dtype) == 2:
                    pairs = [pair(k, dtype, self.sm, four[0], four[1]), pair(k, dtype, self.sm, four[2], four[3])]
                    k("st.global.v2.b32", at(address), pairs)
                elif itemsize(dtype) == 4:
                    k(f"st.global.v4.{self.type}", at(address), four)
                else:
                    k("st.global.v2.f64", at(address), four[:2])
                    k("st.global.v2.f64", at(address, 16), four[2:])


def _offset(k: Entry, word: str, step: Register, index: Index) -> Register:
    """index * step, in 64 bits."""
    first, number = index
    i = k.let("s32", f"{word}_i", "add.s32", first, number)
    i64 = k.let("s64", f"{word}_wide", "cvt.s64.s32", i)
    return k.let("s64", f"{word}_bytes", "mul.lo.s64", i64, step)
