"""The contract of devices that compile source, proved by a toy: its kernels are Python text, its memory is bytearrays.

The toy's rmsnorm has two kernels, two outputs and scratch memory, so everything a Launch can say is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import pytest

from hal.device import DeviceInfo, Operand
from hal.errors import UnsupportedError
from hal.kernel import F32, I64, Algorithm, Config, In, Kernel, KernelDevice, Launch, Number, Out, Schedule, Scratch
from hal.op import Op, OpClass, TensorSpec
from hal.ops import OPERATORS, judge
from hal.ops.rows import walk

# ---- the toy, in sixty lines: an algorithm (pure), then a driver

SOURCE = """
def squares(row, x, partial, n):                  # one block a row: the sum of x^2 into scratch
    values = view(x, n, row * n)
    view(partial, 1, row)[0] = np.sum(values * values, dtype=np.float32)

def scale(row, out, rstd, x, partial, n, eps):    # then 1/sqrt(mean + eps) and the product
    r = np.float32(1) / np.sqrt(view(partial, 1, row)[0] / np.float32(n) + np.float32(eps))
    view(rstd, 1, row)[0] = r
    view(out, n, row * n)[:] = view(x, n, row * n) * r
"""


class ToyRMSNorm:
    """Contiguous float32 rows without weight."""

    def configs(self, op: Op, info: DeviceInfo) -> Sequence[Config]:
        if any(not spec.is_contiguous for _, spec in (*op.inputs, *op.outputs)) or len(op.inputs) > 1:
            raise UnsupportedError("rmsnorm: the toy takes contiguous rows without weight")
        return [Config("greedy", (("rows_a_block", 1000),)), Config("plain", (("rows_a_block", 1),))]

    def kernels(self, op_class: OpClass, config: Config) -> tuple[Kernel, ...]:
        options = (f"-D{config['rows_a_block']}",)
        return (Kernel("squares", SOURCE, ("x", "partial", "n"), options), Kernel("scale", SOURCE, (), options))

    def schedule(self, op: Op, config: Config) -> Schedule:
        rows, n = walk(op).count, op.inputs[0][1].shape[-1]
        grid, block = (rows, 1, 1), (1, 1, 1)
        first = Launch(0, grid, block, (In(0), Scratch(0), I64(n)))
        second = Launch(1, grid, block, (Out(0), Out(1), In(0), Scratch(0), I64(n), F32(op.param("eps"))))
        return Schedule((first, second), scratch_bytes=4 * rows)


class Toy(KernelDevice):
    """alloc free copy_in copy_out synchronize compile launch: a whole driver."""

    algorithms: ClassVar[Mapping[str, Algorithm]] = {"rmsnorm": ToyRMSNorm()}

    def __init__(self) -> None:
        super().__init__(DeviceInfo("toy", frozenset(("float32",)), memory=1 << 20))
        self.allocated = 0

    def alloc(self, nbytes: int) -> bytearray:
        self.allocated += 1
        return bytearray(nbytes)

    def free(self, handle: bytearray) -> None:
        self.allocated -= 1

    def copy_in(self, target: bytearray, offset: int, source: Any) -> None:
        target[offset : offset + source.nbytes] = source.tobytes()

    def copy_out(self, target: Any, source: bytearray, offset: int) -> None:
        target[:] = np.frombuffer(source, np.uint8, target.nbytes, offset)

    def synchronize(self) -> None: ...

    def compile(self, kernel: Kernel) -> Callable[..., None]:
        if kernel.options == ("-D1000",):
            raise UnsupportedError("1000 rows a block are more than this device has room for")
        namespace: dict[str, Any] = {"np": np, "view": float32_view}
        exec(kernel.source, namespace)
        function: Callable[..., None] = namespace[kernel.entry]
        return function

    def launch(self, compiled: Any, launch: Launch, arguments: Sequence[Operand | Number], stream: Any) -> None:
        values = [a.value if hasattr(a, "value") else a for a in arguments]
        for row in range(prod(launch.grid)):
            compiled(row, *values)


def float32_view(operand: Operand, count: int, start: int) -> np.ndarray[Any, Any]:
    memory, offset = operand
    return np.frombuffer(memory, np.float32, count, offset + 4 * start)


# ---- what it proves


def rmsnorm_op(rows: int, n: int, strides: tuple[int, int] | None = None) -> Op:
    operator = OPERATORS["rmsnorm"]
    x = TensorSpec("float32", (rows, n), strides or (n, 1), 64)
    options = {"axis": -1, "eps": None, "return_stats": True, "deterministic": "run"}
    results = operator.infer({"x": x}, options)
    return operator.build({"x": x}, [TensorSpec.contiguous(r.dtype, r.shape) for r in results], options)


def run(device: Toy, op: Op, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    plan = device.prepare(op)
    source = device.alloc(x.nbytes)
    device.copy_in(source, 0, x.reshape(-1).view(np.uint8))
    targets = [device.alloc(4 * spec.size) for _, spec in op.outputs]
    plan([(t, 0) for t in targets], [(source, 0)])
    results = []
    for (_, spec), target in zip(op.outputs, targets, strict=True):
        result = np.empty(spec.shape, np.float32)
        device.copy_out(result.reshape(-1).view(np.uint8), target, 0)
        results.append(result)
    for handle in (source, *targets):
        device.free(handle)
    return results


def test_two_kernels_two_outputs_and_scratch_give_the_right_result() -> None:
    device, x = Toy(), np.random.default_rng(1).standard_normal((5, 33), dtype=np.float32)
    op = rmsnorm_op(5, 33)
    verdict = judge(op, [x], run(device, op, x))
    assert verdict.ok, verdict.message
    assert device.allocated == 0  # scratch was given back


def test_a_config_that_does_not_fit_is_passed_over_and_reported() -> None:
    described = Toy().prepare(rmsnorm_op(2, 8)).describe()
    assert described["config"] == "plain(rows_a_block=1)"
    assert "more than this device has room for" in described["rejected"][0]


def test_a_new_shape_of_a_known_class_compiles_nothing() -> None:
    device = Toy()
    for rows in range(1, 50):
        device.prepare(rmsnorm_op(rows, 33 + rows % 16))
    assert device.compilations() == 2


def test_the_launches_are_plain_data() -> None:
    launches = Toy().prepare(rmsnorm_op(3, 8)).describe()["launches"]
    assert [launch["entry"] for launch in launches] == ["squares", "scale"]
    assert launches[0]["arguments"] == ["In(index=0)", "Scratch(offset=0)", "I64(value=8)"]


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (rmsnorm_op(3, 8, strides=(16, 2)), "contiguous rows"),
        (Op("rmsnorm", (), (("x", TensorSpec.contiguous("float16", (3, 8))),), ()), "does not compute in float16"),
        (Op("softmax", (), (("x", TensorSpec.contiguous("float32", (3, 8))),), ()), "no kernel for it"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(op: Op, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        Toy().prepare(op)


def test_each_kernel_is_compiled_once_whatever_the_threads() -> None:
    device, compiled = Toy(), []
    original = device.compile

    def counted(kernel: Kernel) -> Callable[..., None]:
        compiled.append(kernel.entry)
        return original(kernel)

    device.compile = counted  # type: ignore[method-assign]
    threads = [threading.Thread(target=device.prepare, args=(rmsnorm_op(4, 16),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Once for the config that was refused (its first kernel is enough), once for the one that was taken.
    assert sorted(compiled) == ["scale", "squares", "squares"]
