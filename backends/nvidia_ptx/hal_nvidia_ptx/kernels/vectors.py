"""A few neighbours of one row of the result, from finished sums: bias, activation, rounding, 16-byte stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hal_nvidia_ptx.kernels.epilogue import activate, finish
from hal_nvidia_ptx.kernels.results import Results
from hal_nvidia_ptx.kernels.values import itemsize, load, load_vector, pair, store, zero
from hal_nvidia_ptx.ptx import Entry, Register, at

VECTOR_BYTES = 16
FEW = 4  # values that are stored by a text of their own each; more are stored in a loop


def elements(dtype: str) -> int:
    """Of the result in a vector."""
    return VECTOR_BYTES // itemsize(dtype)


class Vectors:
    """The vectors that begin in one column, row after row. m and n are parameters of the kernel.

    base: the address of an operand's matrix; column: the first of the vector's, s32, less than n.
    """

    def __init__(self, k: Entry, results: Results, base: Callable[[str], Register], column: Register) -> None:
        self.k, self.results, self.column = k, results, column
        self.dtype = results.out.dtype
        self.size, self.count = itemsize(self.dtype), elements(self.dtype)
        # In how many bytes a vector can be stored.
        self.width = min(VECTOR_BYTES, results.out.align) if results.out.layout == "row" else self.size
        self.left = k.let("s32", "columns_left", "sub.s32", k.param("n"), column)
        self.whole = k.let("pred", "whole", "setp.ge.s32", self.left, self.count, note="no end of a row in it")
        self.alpha = k.param("alpha") if results.number_parameters else None
        self.row_bytes = k.let("s64", "out_row_bytes", "mul.lo.s64", k.param("out_row"), self.size)
        self.out = k.let("s64", "out_column_at", "mad.wide.s32", column, self.size, base("out"))
        self._prepare_bias(base)

    def _prepare_bias(self, base: Callable[[str], Register]) -> None:
        """What of the bias is the same in all rows."""
        k, bias = self.k, self.results.bias
        self.fixed: list[Register] = []
        if bias is None:
            return
        size = itemsize(bias.dtype)
        self.bias = base("bias")
        self.bias_row = k.let("s64", "bias_row_bytes", "mul.lo.s64", k.param("bias_row"), size)
        self.bias_column = k.let("s64", "bias_column_bytes", "mul.lo.s64", k.param("bias_column"), size)
        if bias.layout == "constant":
            self.fixed = [load(k, bias.dtype, self.bias, name="bias_value")] * self.count
            return
        if bias.layout != "per_row":
            first = k.let("s64", "bias_first", "cvt.s64.s32", self.column)
            k("mad.lo.s64", self.bias, first, self.bias_column, self.bias)
        if bias.layout == "per_column":
            self.fixed = self._bias_elements(self.bias)

    def _bias_elements(self, first: Register) -> list[Register]:
        """The bias of each element that there is, one by one."""
        k, bias = self.k, self.results.bias
        assert bias is not None
        values = [
            k.let(self.results.type, "bias_value", f"mov.{self.results.type}", zero(self.results.type))
            for _ in range(self.count)
        ]
        address = k.let("s64", "bias_at", "mov.s64", first)
        with self._one_by_one(values, "bias") as index:
            there = k.let("pred", "there", "setp.lt.s32", index, self.left)
            value = load(k, bias.dtype, address, name="bias_element", when=there)
            k("add.s64", address, address, self.bias_column)
            self._pass_on(values, value)
        return values

    @contextmanager
    def _one_by_one(self, values: list[Register], name: str) -> Iterator[Register]:
        """A loop over what values there are; its text is there once. The index counts from 0."""
        k = self.k
        index = k.let("s32", f"{name}_index", "mov.s32", 0)
        with k.loop(name) as loop:
            k('.pragma "nounroll"')
            yield index
            k("add.s32", index, index, 1)
            loop.repeat(when=k.let("pred", "more_values", "setp.lt.s32", index, len(values)))

    def _pass_on(self, values: list[Register], last: Register) -> None:
        """Each register gets the next one's value: a loop can only ever name the first."""
        for value, following in zip(values, [*values[1:], last], strict=True):
            self.k(f"mov.{value.type}", value, following)

    def store(self, row: Register, sums: list[Register]) -> None:
        """One row's vector. Only for rows that there are."""
        k = self.k
        row64 = k.let("s64", "row_wide", "cvt.s64.s32", row)
        bias = self._bias_of(row64)
        values = [finish(k, total, self.alpha, bias[j] if bias else None, None) for j, total in enumerate(sums)]
        self._activate(values)
        out = k.let("s64", "out_at", "mad.lo.s64", row64, self.row_bytes, self.out)
        if self.width <= self.size:
            self._store_elements(out, values)
            return
        with k.when(self.whole, "vector"):
            self._store_vector(out, values)
        with k.unless(self.whole, "elements"):
            self._store_elements(out, values)

    def _activate(self, values: list[Register]) -> None:
        """relu of all; the long ones in a loop over the first of them, through which the others pass."""
        k, activation = self.k, self.results.activation
        if activation is None:
            return
        if activation == "relu":
            for value in values:
                k(f"mov.{value.type}", value, activate(k, value, activation))
            return
        with self._one_by_one(values, "activation"):
            self._pass_on(values, activate(k, values[0], activation))

    def _bias_of(self, row: Register) -> list[Register]:
        """The bias of a row's vector; empty without bias."""
        k, bias = self.k, self.results.bias
        if bias is None or self.fixed:
            return self.fixed
        first = k.let("s64", "bias_from", "mad.lo.s64", row, self.bias_row, self.bias)
        if bias.layout == "per_row":
            return [load(k, bias.dtype, first, name="bias_value")] * self.count
        nbytes = self.count * itemsize(bias.dtype)
        if bias.layout != "row" or bias.align < min(VECTOR_BYTES, nbytes):
            return self._bias_elements(first)
        found = [k.reg(self.results.type, "bias_value") for _ in range(self.count)]
        with k.when(self.whole, "bias_vector"):
            self._bias_vector(first, found, nbytes)
        with k.unless(self.whole, "bias_elements"):
            for register, value in zip(found, self._bias_elements(first), strict=True):
                k(f"mov.{register.type}", register, value)
        return found

    def _bias_vector(self, first: Register, found: list[Register], nbytes: int) -> None:
        k, bias = self.k, self.results.bias
        assert bias is not None
        each = min(VECTOR_BYTES, nbytes) // itemsize(bias.dtype)
        for j in range(0, self.count, each):
            values = load_vector(k, bias.dtype, first, j * itemsize(bias.dtype), each, name="bias_words")
            for register, value in zip(found[j : j + each], values, strict=True):
                k(f"mov.{register.type}", register, value)

    def _store_elements(self, out: Register, values: list[Register]) -> None:
        """Those that there are."""
        k = self.k
        if self.count <= FEW:
            for j, value in enumerate(values):
                there = k.let("pred", "there", "setp.gt.s32", self.left, j)
                store(k, self.dtype, self.results.sm, out, j * self.size, value, when=there)
            return
        with self._one_by_one(values, "element") as index:
            there = k.let("pred", "there", "setp.lt.s32", index, self.left)
            store(k, self.dtype, self.results.sm, out, 0, values[0], when=there)
            k("add.s64", out, out, self.size)
            self._pass_on(values, values[0])

    def _store_vector(self, out: Register, values: list[Register]) -> None:
        """In as few stores as the alignment allows."""
        k = self.k
        words = values
        if self.size == 2:
            words = [pair(k, self.dtype, self.results.sm, *values[j : j + 2]) for j in range(0, self.count, 2)]
        type = "b32" if self.size == 2 else self.results.type
        each = self.width * len(words) // VECTOR_BYTES
        for j in range(0, len(words), each):
            vector = f".v{each}" if each > 1 else ""
            target = at(out, j * VECTOR_BYTES // len(words))
            k(f"st.global{vector}.{type}", target, words[j : j + each] if each > 1 else words[0 + j])
