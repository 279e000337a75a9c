"""softmax and log_softmax of z = scale * x + mask over rows.

Held rows: one reading, the largest z of a warp, the exponentials, their sum, and, where several warps share a row, one
exchange of (largest, sum); then the results from the registers. Rows that are not held: a sweep in which each lane
keeps the sum of its exponentials about a reference that grows in whole numbers, and a second one for the results.

Exponentials in float32, for softmax: 2^(z log2 e - shift) is one fma and one ex2, with one `shift` for all z of a warp.
The fma rounds only its result, so the constant's error counts as |z - top| times 2^-26, and what `shift` is cancels in
the quotient; top log2 e - shift is about 1/2, so the sum is above 1 and no result is flushed that is not below 2^-126.
From |top| = 2^20 on `top` is taken off first. log_softmax needs z - top itself, float64 too.

-inf: `top` is at least the lowest finite number, so that -inf - top is -inf. A row of -inf has the sum 0: 0 * 1/0 = NaN
without a mask; with one, 1/0 and ln 0 are replaced by 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal.kernel import Config, Kernel, Schedule
from hal.op import Op, OpClass
from hal_nvidia_ptx.kernels import rows
from hal_nvidia_ptx.kernels.exponential import LOG2E, exponential, logarithm, reciprocal
from hal_nvidia_ptx.kernels.row_arguments import parameters as parameters_of
from hal_nvidia_ptx.kernels.row_arguments import schedule as schedule_of
from hal_nvidia_ptx.kernels.row_lanes import Compensated, Row
from hal_nvidia_ptx.kernels.row_memory import Chunk
from hal_nvidia_ptx.kernels.row_vectors import MINUS_INFINITY, kept, unpack
from hal_nvidia_ptx.kernels.rows import Way
from hal_nvidia_ptx.kernels.values import ARITHMETIC, literal
from hal_nvidia_ptx.ptx import Entry, Register, module

LOWEST = {"f32": -3.4028234663852886e38, "f64": -1.7976931348623157e308}
FAR = 2.0**20  # |top| from which a float32 product with log2 e is too coarse for one `shift`

configs = rows.configs


def kernels(op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
    """One kernel. It has a scale only where that is not 1."""
    way, numbers = Way.of(config), _numbers(op_class)
    parameters = parameters_of(op_class, way, numbers)
    k = Entry(
        f"{op_class.name}_{way.name}",
        parameters,
        threads=way.threads,
        min_blocks=way.min_blocks(op_class),
        doc=_doc(op_class, way),
    )
    _Softmax(k, way, op_class).write()
    return (Kernel(k.name, module(k), tuple(name for name, _ in parameters)),)


def schedule(op: Op, config: Config) -> Schedule:
    """One launch."""
    return schedule_of(op, config, [op.param("scale")] if op.param("scale") != 1.0 else [])


def _numbers(op_class: OpClass) -> list[str]:
    return ["scale"] if dict(op_class.epilogue)["scaled"] else []


def _doc(op_class: OpClass, way: Way) -> str:
    mask = op_class.input("mask")
    z = "scale * x" if _numbers(op_class) else "x"
    if mask is not None:
        z = f"(mask ? {z} : -inf)" if mask.dtype == "bool" else f"{z} + mask"
    result = "z - max z - ln(sum of e^(z - max z))" if op_class.name == "log_softmax" else "e^z / (sum of e^z)"
    how = "held in registers between its one reading and its writing" if way.held else "read in chunks, twice"
    return f"out = {result} over rows of n elements, z = {z}; a row is {how}."


class _Softmax:
    """The kernel under construction."""

    def __init__(self, k: Entry, way: Way, op_class: OpClass) -> None:
        self.k, self.way = k, way
        self.log = op_class.name == "log_softmax"
        self.x, self.mask = op_class.inputs[0].dtype, op_class.input("mask")
        self.kind = ARITHMETIC[self.x]
        self.scale = k.param("scale") if _numbers(op_class) else None
        self.row = Row(k, way, op_class)
        # e^z by one fma: not where z - top is needed, nor in a row of one element, which has to give exactly 1.
        self.direct = self.log or self.kind == "f64" or op_class.bucket == 1

    def write(self) -> None:
        """The whole body."""
        if self.way.held:
            self._held()
        else:
            self._streamed()

    # ---- z

    def _z(self, chunk: Chunk, words: Sequence[Sequence[Register]]) -> list[list[Register]]:
        """z of all slots, -inf behind the row's end. words: of x."""
        k, way, vector = self.k, self.way, self.way.vector
        if self.x == "float32" or self.x == "float64":
            z = [list(slot) for slot in words]
        else:
            flat = k.regs(self.kind, "z", vector * way.slots)
            z = [flat[slot * vector : (slot + 1) * vector] for slot in range(way.slots)]
            for slot, values in enumerate(z):
                unpack(k, self.x, words[slot], values)
        if self.scale is not None:
            for slot, values in enumerate(z):
                present = self.row.present(chunk, slot)
                for value in values:
                    k(f"mul.rn.{self.kind}", value, value, self.scale, when=present)
            self.row.blank_ragged(chunk, z, literal(self.kind, MINUS_INFINITY))
        if self.mask is not None:
            self._apply_mask(self.mask.dtype, z, self.row.load("mask", chunk, 0.0))
        return z

    def _apply_mask(self, dtype: str, z: list[list[Register]], words: list[list[Register]]) -> None:
        k = self.k
        for slot, values in enumerate(z):
            if dtype == "bool":
                for i, value in enumerate(values):
                    keep = kept(k, words[slot], i)
                    k(f"selp.{self.kind}", value, value, literal(self.kind, MINUS_INFINITY), keep)
                continue
            if ARITHMETIC[dtype] == self.kind and dtype not in ("float16", "bfloat16"):
                added = list(words[slot])
            else:
                added = k.regs(self.kind, "added", len(values))
                unpack(k, dtype, words[slot], added)
            for value, term in zip(values, added, strict=True):
                k(f"add.rn.{self.kind}", value, value, term)

    def _read(self, chunk: Chunk, *, largest: bool) -> tuple[list[list[Register]], Register | None]:
        """z, and the lane's largest if asked for: of pairs where they lie packed and are z already."""
        k = self.k
        k.section("x of this lane: all loads before the first use; -inf behind the row's end.")
        words = self.row.load("x", chunk, MINUS_INFINITY)
        packed = self.x in ("float16", "bfloat16") and self.way.sm >= 80 and self.way.vector > 1
        if not largest:
            return self._z(chunk, words), None
        if not packed or self.scale is not None or self.mask is not None:
            z = self._z(chunk, words)
            return z, self.row.fold("max", z, "top")
        pairs = k.let("b32", "tops", "mov.b32", words[0][0], note="the largest of the lane, two elements at a time")
        for word in [word for slot in words for word in slot][1:]:
            k(f"max.{'f16x2' if self.x == 'float16' else 'bf16x2'}", pairs, pairs, word)
        both = k.regs("f32", "top_of_pair", 2)
        unpack(k, self.x, [pairs], both)
        top = k.let("f32", "top", "max.f32", *both)
        return self._z(chunk, words), top

    # ---- rows in registers

    def _held(self) -> None:
        k, kind = self.k, self.kind
        chunk = self.row.chunk()
        z, top = self._read(chunk, largest=True)
        assert top is not None
        k.section(
            f"The largest of the {'warp' if self.row.warps > 1 else 'row'}. max drops NaN; the sum brings it back."
        )
        self.row.across_warp("max", [top])
        k(f"max.{kind}", top, top, LOWEST[kind], note="so that -inf minus it is -inf, not NaN")
        kept_z = self._exponentials(z, top)
        powers = kept_z if not self.log else self._powers_of(kept_z)
        total = self.row.fold("add", powers, "sum")
        self.row.across_warp("add", [total])
        if self.row.warps > 1:
            base, total = self._exchange(top, total)
        else:
            base = None
        last = self._last(total, base)
        k.section("The results.")
        for slot, values in enumerate(kept_z):
            self._finish(values, last)
            self.row.tensors["out"].store(chunk, slot, values)
        self.row.store_ragged("out", chunk, kept_z)

    def _exponentials(self, z: list[list[Register]], top: Register) -> list[list[Register]]:
        """In place: e^(z - top) (times a common factor: self.rest in the exponent of 2), or z - top for log_softmax."""
        k, kind = self.k, self.kind
        if self.direct:
            k.section("z - top" + ("." if self.log else ", and its exponential."))
            for value in (value for slot in z for value in slot):
                k(f"sub.rn.{kind}", value, value, top)
                if not self.log:
                    exponential(k, value)
            return z
        k.section("e^(z - top) as 2^(z log2 e - shift), with top log2 e - shift near 1/2.")
        origin = k.let("f32", "origin", "mov.f32", top)
        size = k.let("f32", "size", "abs.f32", top)
        far = k.let("pred", "far", "setp.ge.f32", size, FAR)
        with k.when(far, "take_off", note="so large that z log2 e would be coarse: take top off"):
            for value in (value for slot in z for value in slot):
                k("sub.rn.f32", value, value, top)
            k("mov.f32", origin, 0.0)
        shift = k.let("f32", "minus_shift", "fma.rn.f32", origin, -LOG2E, 0.5)
        if self.row.warps > 1:
            self.rest = k.let("f32", "rest", "fma.rn.f32", origin, LOG2E, shift, note="top log2 e - shift")
        for value in (value for slot in z for value in slot):
            k("fma.rn.f32", value, value, LOG2E, shift)
            k("ex2.approx.ftz.f32", value, value)
        return z

    def _powers_of(self, differences: list[list[Register]]) -> list[list[Register]]:
        """The exponentials in registers of their own: log_softmax needs the differences again."""
        k, powers = self.k, []
        for slot in differences:
            copies = k.regs(self.kind, "power", len(slot))
            for copy, value in zip(copies, slot, strict=True):
                k(f"mov.{self.kind}", copy, value)
                exponential(k, copy)
            powers.append(copies)
        return powers

    def _exchange(self, top: Register, total: Register) -> tuple[Register, Register]:
        """Between the warps of a row: what each element's factor gets for its warp (log: what is added), and the sum
        about the row's largest z."""
        k, kind = self.k, self.kind
        k.section("Warps tell each other (largest, sum about it); sums are then taken about the row's largest.")
        if not self.direct:
            down = k.let("f32", "down", "neg.f32", self.rest)
            k("ex2.approx.f32", down, down)
            k("mul.rn.f32", total, total, down)
        largest, share = self.row.across_block([top, total], "pairs")
        best = k.let(kind, "best", f"mov.{kind}", largest)
        self.row.across_warp("max", [best], self.row.warps)
        k(f"sub.rn.{kind}", largest, largest, best)
        exponential(k, largest)
        k(f"mul.rn.{kind}", share, share, largest)
        self.row.across_warp("add", [share], self.row.warps)
        distance = k.let(kind, "distance", f"sub.rn.{kind}", top, best, note="of this warp's largest")
        if self.log:
            return distance, share
        if self.direct:
            exponential(k, distance)
        else:
            minus_rest = k.let("f32", "minus_rest", "neg.f32", self.rest)
            k("fma.rn.f32", distance, distance, LOG2E, minus_rest)
            k("ex2.approx.f32", distance, distance)
        return distance, share

    def _last(self, total: Register, base: Register | None) -> Register:
        """What `_finish` multiplies by (log: adds)."""
        k, kind = self.k, self.kind
        last = logarithm(k, total) if self.log else reciprocal(k, total)
        if self.mask is not None:
            nothing = k.let("pred", "nothing", f"setp.eq.{kind}", total, 0.0, note="the mask leaves nothing of the row")
            k(f"selp.{kind}", last, literal(kind, 0.0), last, nothing)
        if self.log:
            k(f"neg.{kind}", last, last)
        if base is not None:
            k(f"{'add' if self.log else 'mul'}.rn.{kind}", last, last, base)
        return last

    def _finish(self, values: Sequence[Register], last: Register) -> None:
        for value in values:
            self.k(f"{'add' if self.log else 'mul'}.rn.{self.kind}", value, value, last)

    # ---- rows in chunks

    def _streamed(self) -> None:
        k, kind = self.k, self.kind
        top = k.let(kind, "reference", f"mov.{kind}", LOWEST[kind])
        sums = Compensated(k, kind, "sum")
        with self.row.sweep("first") as chunk:
            z, largest = self._read(chunk, largest=True)
            assert largest is not None
            self._raise_reference(top, largest, sums)
            for value in (value for slot in z for value in slot):
                k(f"sub.rn.{kind}", value, value, top)
                exponential(k, value)
            sums.add(self.row.fold("add", z, "of_chunk"))
        total, reference = self._meet(top, sums.result("total"))
        last = self._last(total, None)
        if not self.log:
            reference, last = self._lower(reference, last)
        with self.row.sweep("second") as chunk:
            z, _ = self._read(chunk, largest=False)
            self._finish_chunk(chunk, z, reference, last)

    def _lower(self, reference: Register, last: Register) -> tuple[Register, Register]:
        """Results about a reference that is less by 1. The reference may be above the largest z, and 1/sum above 1: an
        exponential that is flushed about it could be a result that is not."""
        k, kind = self.k, self.kind
        k.section("Results are taken about a number below the largest z: none is flushed that 1/sum would lift.")
        lower = k.let(kind, "lower", f"add.rn.{kind}", reference, -1.0)
        factor = k.let(kind, "factor", f"sub.rn.{kind}", lower, reference, note="-1, or 0 for a huge one")
        exponential(k, factor)
        k(f"mul.rn.{kind}", last, last, factor)
        return lower, last

    def _raise_reference(self, top: Register, largest: Register, sums: Compensated) -> None:
        """The reference is the largest z so far, rounded up to a whole number. So it moves by 1 at least, and sums that
        are rescaled at each move forget their errors; if it moved with each z, these would add up."""
        k, kind = self.k, self.kind
        k.section("The largest z so far, rounded up to a whole number; sums about the one before are rescaled.")
        k(f"cvt.rpi.{kind}.{kind}", largest, largest)
        k(f"max.{kind}", largest, largest, top)
        factor = k.let(kind, "factor", f"sub.rn.{kind}", top, largest)
        exponential(k, factor)
        sums.scale(factor)
        k(f"mov.{kind}", top, largest)
        k.section("The sum of the exponentials about it.")

    def _meet(self, top: Register, total: Register) -> tuple[Register, Register]:
        """The sum over all lanes of the row about the largest of their references, and that."""
        k, kind = self.k, self.kind
        k.section("Lanes and warps tell each other (reference, sum); sums are then taken about the largest reference.")
        best = k.let(kind, "best", f"mov.{kind}", top)
        self._about_the_best(top, best, total, 0)
        if self.row.warps == 1:
            return total, best
        reference, share = self.row.across_block([best, total], "pairs")
        best = k.let(kind, "best", f"mov.{kind}", reference)
        self._about_the_best(reference, best, share, self.row.warps)
        return share, best

    def _about_the_best(self, own: Register, best: Register, total: Register, lanes: int) -> None:
        """best := the largest of all; total := the sum of all totals about it. own: about which this lane's is."""
        k, kind = self.k, self.kind
        self.row.across_warp("max", [best], lanes)
        factor = k.let(kind, "factor", f"sub.rn.{kind}", own, best)
        exponential(k, factor)
        k(f"mul.rn.{kind}", total, total, factor)
        self.row.across_warp("add", [total], lanes)

    def _finish_chunk(self, chunk: Chunk, z: list[list[Register]], reference: Register, last: Register) -> None:
        k, out = self.k, self.row.tensors["out"]
        k.section("The results.")
        for slot, values in enumerate(z):
            for value in values:
                k(f"sub.rn.{self.kind}", value, value, reference)
                if not self.log:
                    exponential(k, value)
            self._finish(values, last)
            out.store(chunk, slot, values)
        self.row.store_ragged("out", chunk, z)
