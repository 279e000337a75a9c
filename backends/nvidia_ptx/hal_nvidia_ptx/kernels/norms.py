"""layernorm and rmsnorm over rows; with a residual of s = x + residual, rounded to x's dtype and stored as `sum`.

The variance is never E[x^2] - E[x]^2: first the mean, then the sum of the squares of d = x - mean, from the registers
that hold the row, or in a second sweep over a row in chunks.

The mean is corrected once where its sum may have been rounded in a row whose elements are all the same, so that such a
row has d = 0 in any case: t = (sum of d) / n is added to the mean, t^2 taken off the mean square. A sum of m elements v
is exact while m v has no more digits than the accumulator, and so is its quotient by m: rows of bfloat16 up to 65,536
and of float16 up to 8,192 elements need no correction.

n's reciprocal is an argument. A mean is (sum / n) to the last bit: a product with 1/n, then one step with the
remainder. Variances and mean squares take the product alone, as exact as their bound wants.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal.ops.rows import row_length
from hal_nvidia_ptx.kernels import rows
from hal_nvidia_ptx.kernels.row_arguments import parameters as parameters_of
from hal_nvidia_ptx.kernels.row_arguments import schedule as schedule_of
from hal_nvidia_ptx.kernels.row_lanes import Compensated, Row
from hal_nvidia_ptx.kernels.row_memory import Chunk
from hal_nvidia_ptx.kernels.row_vectors import pack, unpack
from hal_nvidia_ptx.kernels.rows import Way
from hal_nvidia_ptx.kernels.values import ARITHMETIC, literal
from hal_nvidia_ptx.ptx import Entry, Register, module

DIGITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}  # binary, of a number's significand
RING = 8  # words of a parameter under way
NUMBERS = ("eps", "one_nth")

configs = rows.configs


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel with the operands that the call has."""
    way = Way.of(config)
    parameters = parameters_of(op_class, way, NUMBERS)
    k = Entry(
        f"{op_class.name}_{way.name}",
        parameters,
        threads=way.threads,
        min_blocks=way.min_blocks(op_class),
        doc=_doc(op_class, way),
    )
    _Norm(k, way, op_class).write()
    return (Kernel(k.name, module(k), tuple(name for name, _ in parameters)),)


def schedule(op: Op, config: Config) -> Schedule:
    """One launch."""
    n = row_length(op)
    return schedule_of(op, config, [op.param("eps"), 1 / n if n else float("inf")])


def _doc(op_class: OpClass, way: Way) -> str:
    v = "sum" if op_class.input("residual") else "x"
    d = f"({v} - mean)" if op_class.name == "layernorm" else v
    square = "variance" if op_class.name == "layernorm" else f"mean of {v}^2"
    y = f"{d} / sqrt({square} + eps)"
    y += " * weight" if op_class.input("weight") else ""
    y += " + bias" if op_class.input("bias") else ""
    first = "sum = x + residual; " if op_class.input("residual") else ""
    how = "held in registers between its one reading and its writing" if way.held else "read anew for each sweep"
    return f"{first}out = {y} over rows of n elements; a row is {how}."


class _Norm:
    """The kernel under construction."""

    def __init__(self, k: Entry, way: Way, op_class: OpClass) -> None:
        self.k, self.way = k, way
        self.centred = op_class.name == "layernorm"
        self.x = op_class.inputs[0].dtype
        self.kind = ARITHMETIC[self.x]
        self.parameters = [role for role in rows.SHARED if op_class.input(role)]
        self.residual = op_class.input("residual") is not None
        self.statistics = [role for role in ("mean", "rstd") if op_class.output(role)]
        digits = DIGITS[self.x] + op_class.bucket.bit_length() - 1
        self.corrected = self.centred and digits > DIGITS["float64" if self.kind == "f64" else "float32"]
        short = self.x in ("float16", "bfloat16") and way.vector > 1
        self.by_matrix = short and way.held and way.lanes >= rows.WARP and way.sm >= 80  # sums the row's elements
        self.eps, self.one_nth = k.param("eps"), k.param("one_nth")
        self.row = Row(k, way, op_class)
        self.count = k.let(self.kind, "count", f"cvt.rn.{self.kind}.s32", self.row.n) if self.centred else None

    def write(self) -> None:
        """The whole body."""
        if self.way.held:
            self._held()
        else:
            self._streamed()

    # ---- what is normalised

    def _values(self, chunk: Chunk, *, store_sum: bool) -> tuple[list[list[Register]], list[list[Register]]]:
        """x, or x + residual as rounded (and stored, if asked for), of all slots, and words; 0 behind its end."""
        k = self.k
        k.section("The row's elements of this lane: all loads before the first use; 0 behind its end.")
        words = self.row.load("x", chunk, 0.0)
        if not self.residual:
            return [self._unpacked("v", of_slot, self.x) for of_slot in words], words
        added = self.row.load("residual", chunk, 0.0)
        k.section("The sum with the residual, as rounded.")
        values = []
        for slot in range(self.way.slots):
            values.append(self._unpacked("v", words[slot], self.x))
            for value, term in zip(values[slot], self._unpacked("r", added[slot], self.x), strict=True):
                k(f"add.rn.{self.kind}", value, value, term)
            if self.x in ("float16", "bfloat16"):
                words[slot] = self._rounded(values[slot])
            if store_sum:
                self.row.tensors["sum"].store(chunk, slot, values[slot], words[slot])
        if store_sum:
            self.row.store_ragged("sum", chunk, values)
        return values, words

    def _unpacked(self, name: str, words: list[Register], dtype: str) -> list[Register]:
        """The elements of one vector."""
        if dtype in ("float32", "float64"):
            return words
        values = self.k.regs(self.kind, name, self.way.vector)
        unpack(self.k, dtype, words, values)
        return values

    def _rounded(self, values: list[Register]) -> list[Register]:
        """Round to x's dtype in place; the words of it."""
        words = pack(self.k, self.x, self.way.sm, values if len(values) > 1 else values * 2)
        unpack(self.k, self.x, words, values)
        return words

    # ---- rows in registers

    def _held(self) -> None:
        k, kind = self.k, self.kind
        chunk = self.row.chunk()
        values, words = self._values(chunk, store_sum=True)
        if not self.centred:
            k.section("1 / the root of the mean square.")
            (square,) = self.row.total([self.row.fold("square", values, "square")], "squares")
            rstd = self._root(square, None)
        else:
            k.section("The mean.")
            if self.by_matrix:
                (total,) = self.row.total_of_warps([self.row.sum_of_words(self.x, words, "sum")], "sums")
            else:
                (total,) = self.row.total([self.row.fold("add", values, "sum")], "sums")
            mean = self._mean(total, "mean")
            self._subtract(chunk, values, mean)
            k.section("1 / the root of the variance.")
            sums = [self.row.fold("add", values, "rest")] if self.corrected else []
            found = self.row.total([self.row.fold("square", values, "square"), *sums], "squares")
            correction = self._mean(found[1], "correction") if self.corrected else None
            rstd = self._root(found[0], correction)
            if correction is not None:
                for value in (value for slot in values for value in slot):
                    k(f"sub.rn.{kind}", value, value, correction)
            self._store_mean(mean, correction)
        self._store_rstd(rstd)
        self._results(chunk, values, rstd)

    def _subtract(self, chunk: Chunk, values: list[list[Register]], mean: Register) -> None:
        """d in place; still 0 behind the row's end."""
        k = self.k
        k.section("What is left of each element without the mean.")
        for slot, of_slot in enumerate(values):
            present = self.row.present(chunk, slot)
            for value in of_slot:
                k(f"sub.rn.{self.kind}", value, value, mean, when=present)
        self.row.blank_ragged(chunk, values, literal(self.kind, 0.0))

    def _mean(self, total: Register, name: str) -> Register:
        """total / n, to the last bit."""
        k, kind = self.k, self.kind
        assert self.count is not None
        mean = k.let(kind, name, f"mul.rn.{kind}", total, self.one_nth)
        minus = k.let(kind, "minus", f"neg.{kind}", mean)
        remainder = k.let(kind, "remainder", f"fma.rn.{kind}", minus, self.count, total)
        k(f"fma.rn.{kind}", mean, remainder, self.one_nth, mean, note="to the last bit")
        return mean

    def _root(self, squares: Register, correction: Register | None) -> Register:
        """1 / sqrt(squares / n - correction^2 + eps). float32: within 2^-22.9 by the machine's approximation."""
        k, kind = self.k, self.kind
        if correction is None:
            variance = k.let(kind, "variance", f"mul.rn.{kind}", squares, self.one_nth)
        else:
            variance = self._mean(squares, "variance")
            minus = k.let(kind, "minus", f"neg.{kind}", correction)
            k(f"fma.rn.{kind}", variance, minus, correction, variance)
            negative = k.let("pred", "negative", f"setp.lt.{kind}", variance, 0.0, note="by rounding; NaN is not")
            k(f"selp.{kind}", variance, literal(kind, 0.0), variance, negative)
        k(f"add.rn.{kind}", variance, variance, self.eps)
        if kind == "f32":
            return k.let("f32", "rstd", "rsqrt.approx.f32", variance)
        root = k.let("f64", "root", "sqrt.rn.f64", variance)
        return k.let("f64", "rstd", "rcp.rn.f64", root)

    def _store_mean(self, mean: Register, correction: Register | None) -> None:
        if "mean" not in self.statistics:
            return
        k, kind = self.k, self.kind
        if correction is not None:
            finite = k.let("pred", "finite", f"testp.finite.{kind}", mean)
            k(f"add.rn.{kind}", mean, mean, correction, when=finite)
        self.row.store_once("mean", mean)

    def _store_rstd(self, rstd: Register) -> None:
        if "rstd" in self.statistics:
            self.row.store_once("rstd", rstd)

    # ---- results

    def _results(self, chunk: Chunk, values: list[list[Register]], rstd: Register) -> None:
        """y = d rstd weight + bias, slot by slot."""
        k, way = self.k, self.way
        k.section("The results.")
        certain = way.slots - len(chunk.unsure)
        # Weights of a slot that may lie behind the row's end go where those of an earlier one were: they need no zeros.
        words = {role: self._ring(role, certain) for role in self.parameters}
        for slot, of_slot in enumerate(values):
            loaded = []
            for role in self.parameters:
                tensor, target = self.row.tensors[role], words[role][slot % len(words[role])]
                tensor.load(chunk, slot, target, None if certain else 0.0)
                loaded.append(self._unpacked(role[0], target, tensor.dtype))
            results = self._affine(of_slot, rstd, loaded)
            self.row.tensors["out"].store(chunk, slot, results)
        if chunk.ragged is not None:
            with k.when(chunk.ragged, "out_ragged", note="what is left behind the last whole vector"):
                self._ragged_results(chunk, values, rstd)

    def _ring(self, role: str, certain: int) -> list[list[Register]]:
        """Registers for a parameter's vectors under way: few, since where a block has all the lanes it can have, or a
        parameter is wider than x, more would not fit."""
        tensor = self.row.tensors[role]
        most = 1 if self.way.lanes == rows.MOST_LANES else max(RING // tensor.words, 1)
        return tensor.registers(min(certain, most) or self.way.slots)

    def _ragged_results(self, chunk: Chunk, values: list[list[Register]], rstd: Register) -> None:
        ends, inside = self.row.pick_ragged(chunk, values), self.row.inside(chunk)
        loaded = []
        for role in self.parameters:
            tensor = self.row.tensors[role]
            loaded.append(self._unpacked(role[0], tensor.load_ragged(chunk, 0.0, inside), tensor.dtype))
        self.row.tensors["out"].store_ragged(chunk, self._affine(ends, rstd, loaded), inside)

    def _affine(
        self, values: Sequence[Register], rstd: Register, loaded: Sequence[Sequence[Register]]
    ) -> list[Register]:
        """d rstd [weight] [+ bias] of one vector. loaded: those of self.parameters."""
        k, kind = self.k, self.kind
        operands = dict(zip(self.parameters, loaded, strict=True))
        weight, bias = operands.get("weight"), operands.get("bias")
        results = k.regs(kind, "y", len(values))
        for i, (y, value) in enumerate(zip(results, values, strict=True)):
            if weight is None and bias is not None:
                k(f"fma.rn.{kind}", y, value, rstd, bias[i])
                continue
            k(f"mul.rn.{kind}", y, value, rstd)
            if weight is not None and bias is not None:
                k(f"fma.rn.{kind}", y, y, weight[i], bias[i])
            elif weight is not None:
                k(f"mul.rn.{kind}", y, y, weight[i])
        return results

    # ---- rows in chunks

    def _streamed(self) -> None:
        k, kind = self.k, self.kind
        first = Compensated(k, kind, "sum")
        with self.row.sweep("first") as chunk:
            values, _ = self._values(chunk, store_sum=self.residual)
            first.add(self.row.fold("add" if self.centred else "square", values, "of_chunk"))
        (total,) = self.row.total([first.result("total")], "sums")
        mean = correction = None
        if not self.centred:
            rstd = self._root(total, None)
        else:
            mean = self._mean(total, "mean")
            rstd, correction = self._second_sweep(mean)
            self._store_mean_of(mean, correction)
        self._store_rstd(rstd)
        with self.row.sweep("last") as chunk:
            values, _ = self._values(chunk, store_sum=False)
            for amount in (amount for amount in (mean, correction) if amount is not None):
                for value in (value for slot in values for value in slot):
                    k(f"sub.rn.{kind}", value, value, amount)
            self._results(chunk, values, rstd)

    def _second_sweep(self, mean: Register) -> tuple[Register, Register | None]:
        """1 / the root of the variance, and the mean's correction."""
        k, kind = self.k, self.kind
        squares = Compensated(k, kind, "square")
        rest = Compensated(k, kind, "rest") if self.corrected else None
        with self.row.sweep("second") as chunk:
            values, _ = self._values(chunk, store_sum=False)
            self._subtract(chunk, values, mean)
            squares.add(self.row.fold("square", values, "square_of_chunk"))
            if rest is not None:
                rest.add(self.row.fold("add", values, "rest_of_chunk"))
        sums = [rest.result("rest_total")] if rest is not None else []
        found = self.row.total([squares.result("square_total"), *sums], "squares")
        correction = self._mean(found[1], "correction") if rest is not None else None
        return self._root(found[0], correction), correction

    def _store_mean_of(self, mean: Register, correction: Register | None) -> None:
        """The statistic in a register of its own: the last sweep needs both."""
        if "mean" in self.statistics:
            self._store_mean(self.k.let(self.kind, "whole_mean", f"mov.{self.kind}", mean), correction)
