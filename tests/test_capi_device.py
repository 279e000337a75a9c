"""A device in C at work: asynchrony, order, memory, workspaces, plans of one launch, faults in the judge."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest

from hal.array import Array, Memory
from hal.capi import Backend
from hal.conformance.case import Case
from hal.conformance.cases import select
from hal.conformance.runner import run_case
from hal.dispatch import named_options
from hal.errors import DeviceError, DeviceMemoryError
from hal.op import Op, TensorSpec
from hal.ops import OPERATORS
from hal.settings import current

COUNTED = """
static int living;
static hal_status made(hal_device *a, const hal_op *b, hal_plan **c, hal_plan_info *d) {
    const hal_status status = prepare(a, b, c, d);
    if (!status) ++living;
    return status;
}
static void dropped(hal_plan *plan) { --living, release_plan(plan); }
static hal_status tell_living(hal_device *device) { return (void)device, living; }
"""
COUNT = "t->op_prepare = made; t->op_release = dropped; t->synchronize = tell_living;"
ONCE = """
struct single { hal_plan plan; int launches; };
static int prepared;
static hal_status prepare_once(hal_device *a, const hal_op *b, hal_plan **c, hal_plan_info *d) {
    hal_plan *plan;
    const hal_status status = prepare(a, b, &plan, d);
    if (status) return status;
    struct single *one = calloc(1, sizeof *one);
    one->plan = *plan;
    free(plan);
    d->flags = HAL_PLAN_SINGLE_USE;
    ++prepared;
    return *c = &one->plan, HAL_OK;
}
static hal_status launch_once(hal_plan *p, const hal_buffer *operands, const hal_buffer *space, hal_stream *stream) {
    if (((struct single *)(void *)p)->launches++) return 161001;
    return launch(p, operands, space, stream);
}
static hal_status tell_prepared(hal_device *device) { return (void)device, prepared; }
"""
ONE = "t->op_prepare = prepare_once; t->op_launch = launch_once; t->synchronize = tell_prepared;"


def device_of(path: Any) -> Any:
    backend = Backend(path)
    return backend.open(backend.devices()[0])


@pytest.fixture
def arena(c_plugins: Any) -> Any:
    device = device_of(c_plugins.arena())
    yield device
    device.close()


def op_of(name: str, *shapes: tuple[int, ...], dtype: str = "float32") -> Op:
    """A contiguous call."""
    operator = OPERATORS[name]
    specs = dict(zip(operator.roles, (TensorSpec.contiguous(dtype, shape) for shape in shapes)))  # noqa: B905
    options = named_options(name, list(operator.options.values()), current())
    outs = [TensorSpec.contiguous(result.dtype, result.shape) for result in operator.infer(specs, options)]
    return operator.build(specs, outs, options)


def put(device: Any, values: Any) -> tuple[int, int]:
    handle = device.alloc(values.nbytes)
    device.copy_in(handle, 0, values.view(np.uint8).reshape(-1))
    return handle, 0


def get(device: Any, operand: tuple[int, int], count: int) -> Any:
    out = np.empty(count, np.float32)
    device.copy_out(out.view(np.uint8), *operand)
    return out


def living(device: Any) -> int:
    """What the libraries above count, told as a status."""
    gc.collect()
    try:
        device.synchronize()
    except DeviceError as error:
        return int(str(error).rpartition("status ")[2].rstrip(")"))
    return 0


# ---- asynchrony and order


def test_a_launch_returns_before_its_work_is_done(arena: Any) -> None:
    n = 400
    x = np.ones((n, n), np.float32)
    a, out = put(arena, x), put(arena, np.zeros_like(x))
    plan = arena.prepare(op_of("matmul", (n, n), (n, n)))
    start = arena.mark()
    began = time.perf_counter()
    plan([out], [a, a])
    returned = time.perf_counter() - began
    took = arena.elapsed(start, arena.mark())
    assert returned < took / 4
    assert (get(arena, out, n * n) == n).all()


def test_freed_memory_lasts_until_the_work_on_it_is_done(arena: Any) -> None:
    n = 250
    x = np.ones((n, n), np.float32)
    with arena.stream() as stream:
        for queue in (None, stream):
            a, out = put(arena, x), put(arena, np.zeros_like(x))
            arena.synchronize()
            arena.prepare(op_of("matmul", (n, n), (n, n)))([out], [a, a], queue)
            arena.free(a[0])
            other = put(arena, np.full((n, n), 5, np.float32))  # takes the same place, were it free
            arena.synchronize()
            assert (get(arena, out, n * n) == n).all()
            arena.free(other[0]), arena.free(out[0])


def test_before_orders_streams(arena: Any) -> None:
    n = 250
    x = np.ones((n, n), np.float32)
    a, middle, out = put(arena, x), put(arena, np.zeros_like(x)), put(arena, np.zeros_like(x))
    plan = arena.prepare(op_of("matmul", (n, n), (n, n)))
    arena.synchronize()
    with arena.stream() as stream:
        plan([middle], [a, a])
        arena.before(stream)
        plan([out], [middle, a], stream)
    assert (get(arena, out, n * n) == n * n).all()


def test_an_event_that_was_never_recorded_has_no_time(arena: Any) -> None:
    from hal.capi.device import Event

    with pytest.raises(DeviceError, match="never recorded"):
        arena.elapsed(Event(arena), arena.mark())


def test_a_stream_is_what_the_driver_calls_it(arena: Any) -> None:
    x = put(arena, np.ones(64, np.float32))
    plan = arena.prepare(op_of("softmax", (64,)))  # with a workspace, which then is the call's own
    with arena.stream() as stream:
        plan([x], [x], int(arena.library.ffi.cast("intptr_t", stream)))
    assert np.allclose(get(arena, x, 64), 1 / 64)
    with pytest.raises(TypeError, match="a stream is given by the driver's handle"):
        plan([x], [x], "stream 1")


def test_copies_between_places_of_the_device(arena: Any) -> None:
    x, y = put(arena, np.arange(8, dtype=np.float32)), put(arena, np.zeros(8, np.float32))
    arena.copy(y[0], 4, x[0], 8, 12)
    assert get(arena, y, 8).tolist() == [0, 2, 3, 4, 0, 0, 0, 0]


# ---- memory


def test_what_lies_outside_of_memory_is_refused(arena: Any) -> None:
    x = put(arena, np.ones(4, np.float32))
    plan = arena.prepare(op_of("softmax", (4,)))
    for operand in ((x[0], 64), (x[0] + 8, 0), (12345, 0)):
        with pytest.raises(DeviceError, match="does not lie within its memory"):
            plan([operand], [x])
    with pytest.raises(DeviceError, match="copy_in of 4 bytes: the target"):
        arena.copy_in(x[0], 1 << 62, np.zeros(4, np.uint8))
    with pytest.raises(DeviceError, match="no memory of the device"):
        arena.free(77)


def test_no_memory_is_said_as_such(arena: Any) -> None:
    with pytest.raises(DeviceMemoryError, match="more than there is"):
        arena.alloc(1 << 31)
    held = [arena.alloc(200 << 20) for _ in range(5)]
    with pytest.raises(DeviceMemoryError, match="no piece of"):
        arena.alloc(200 << 20)
    for handle in held:
        arena.free(handle)
    arena.synchronize()
    arena.free(arena.alloc(1000 << 20))  # the pieces were joined again


def test_nothing_is_left_after_many_calls(arena: Any) -> None:
    for _ in range(300):
        x = put(arena, np.ones((8, 64), np.float32))
        arena.prepare(op_of("softmax", (8, 64)))([x], [x])
        arena.free(x[0])
    arena.synchronize()
    arena.free(arena.alloc(1000 << 20))
    assert len(arena.plans) <= 1


# ---- plans


def test_each_plan_is_released_once(c_plugins: Any) -> None:
    device = device_of(c_plugins.variant("counted", COUNT, COUNTED))
    plans = [device.prepare(op_of("matmul", (2, 3), (3, 4))) for _ in range(5)]
    assert living(device) == 5
    del plans[1:]
    assert living(device) == 1
    device.close()  # releases what callers still hold
    assert living(device) == 0
    del plans
    assert living(device) == 0


def test_a_plan_of_one_launch_is_prepared_for_each(c_plugins: Any) -> None:
    device = device_of(c_plugins.variant("once", ONE, ONCE))
    x = put(device, np.ones((2, 2), np.float32))
    plan = device.prepare(op_of("matmul", (2, 2), (2, 2)))
    assert plan.describe()["single_use"]
    out = put(device, np.zeros((2, 2), np.float32))
    for calls in (1, 2, 3):  # the first launch takes what was prepared to decide
        plan([out], [x, x])
        assert get(device, out, 4).tolist() == [2, 2, 2, 2]
        assert living(device) == calls


def test_threads_share_a_plan_with_a_workspace(arena: Any) -> None:
    plan = arena.prepare(op_of("layernorm", (4, 300)))
    wrong = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((4, 300)).astype(np.float32)
        operand, out = put(arena, x), put(arena, np.zeros_like(x))
        want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        for _ in range(20):
            plan([out], [operand])
            if not np.allclose(get(arena, out, x.size).reshape(x.shape), want, atol=1e-5):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_arrays_of_hal_live_there(arena: Any) -> None:
    import hal

    spec = TensorSpec.contiguous("float32", (3, 3), 64)
    arrays = [Array(Memory(arena, 36), spec) for _ in range(2)]
    for array in arrays:
        arena.copy_in(array.memory.handle, 0, np.eye(3, dtype=np.float32).view(np.uint8).reshape(-1))
    y = hal.rmsnorm(hal.softmax(hal.matmul(arrays[0], arrays[1], activation="relu")))
    assert y.device is arena and y.numpy().shape == (3, 3)
    del y, arrays, array
    gc.collect()


# ---- faults, in the judge


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ("abort();", "died of signal 6 in op_launch"),
        ("return *(volatile hal_status *)(void *)p->m;", "died of signal 11 in op_launch"),
        ("for (;;) {}", "it hangs in op_launch"),
    ],
    ids=["aborts", "crashes", "hangs"],
)
def test_a_fault_costs_one_case(c_plugins: Any, launch: str, words: str) -> None:
    function = f"""
static hal_status fault(hal_plan *p, const hal_buffer *operands, const hal_buffer *space, hal_stream *stream) {{
    if (p->n == 17) {{ {launch} }}
    return launch(p, operands, space, stream);
}}
"""
    path = c_plugins.variant("faulty", "t->op_launch = fault;", function)
    shapes = ("--timeout", "3", "-k", "float32/shape/1")  # in a child process without being told to
    done = c_plugins.hal("conformance", "faulty", *shapes, "--ops", "matmul", plugins=(path,))
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1 and "matmul/float32/shape/15x17x16" in failed[0] and words in failed[0]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("abort();", "hal_get_backend: ended by signal SIGABRT"),
        ("return (hal_backend *)16;", "reading the table that hal_get_backend gave: ended by signal SIGSEGV"),
        ("t->device_info = (hal_status (*)(int32_t, hal_device_info *))(uintptr_t)64;", "device_info: ended by signal"),
        ("t->device_open = (hal_status (*)(int32_t, hal_device **))(uintptr_t)64;", "signal 11 in device_open"),
    ],
    ids=["loading", "garbage table", "discovery", "opening"],
)
def test_a_fault_before_the_first_case_leaves_the_judge_alive(c_plugins: Any, edit: str, words: str) -> None:
    path = c_plugins.variant("early", f"(void)t; {edit}")
    done = c_plugins.hal("conformance", "early:0", "--ops", "matmul", plugins=(path,))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_file_of_a_failure_names_no_library(c_plugins: Any, tmp_path: Any) -> None:
    head = "static hal_status zero(hal_plan *p, const hal_buffer *a, const hal_buffer *b, hal_stream *c)"
    body = "(void)a, (void)b, (void)c, (void)p; return HAL_OK;"
    path = c_plugins.variant("idle", "t->op_launch = zero;", f"{head} {{ {body} }}")
    words = ("idle:0", "--ops", "matmul", "-k", "float32/shape/15x17x16", "--save", str(tmp_path))
    assert c_plugins.hal("conformance", *words, plugins=(path,)).returncode == 1
    (file,) = tmp_path.glob("*.safetensors")
    assert b"idle" in file.read_bytes() and str(path.parent).encode() not in file.read_bytes()
    again = c_plugins.hal("repro", str(file), plugins=(path,))
    assert again.returncode == 1 and "15x17x16" in again.stdout


def test_the_case_that_finds_a_wrong_result(c_plugins: Any) -> None:
    """The judge sees through the interface: a column too few."""
    body = "p->n -= 1; hal_status s = launch(p, a, b, c); p->n += 1; return s;"
    head = "static hal_status few(hal_plan *p, const hal_buffer *a, const hal_buffer *b, hal_stream *c)"
    device = device_of(c_plugins.variant("few", "t->op_launch = few;", f"{head} {{ {body} }}"))
    cases: list[Case] = list(select("smoke", ["matmul"], "float32/shape/15x17x16"))
    assert run_case(device, cases[0]).status == "failed"
