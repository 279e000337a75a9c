"""The CUDA device's own code, unmodified, over a stand-in for NVIDIA's driver whose kernels the emulator runs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

# Each function `body` is run in a process of its own, by its source: it imports what it needs.


def test_everything_that_was_taken_is_given_back(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        import stand_in_driver

        import hal

        driver = stand_in_driver.CURRENT
        device = hal.device("cuda:0")
        x = hal.asarray(np.ones((64, 64), np.float32), device="cuda:0")
        y = hal.softmax(x)
        assert np.allclose(y.numpy(), 1 / 64, rtol=1e-6)
        assert driver.used[0] > 0 and driver.gpus[0].retained == 1
        mark = device.mark()
        del x, y, mark
        assert driver.used[0] == 0
        device.close()
        device.close()
        assert driver.gpus[0].retained == 0
        assert {thing[0] for thing in driver.things.values()} == {"function"}, driver.things
        assert driver.calls["cuInit"] == 1 and driver.history[0] == "cuInit"

    stand_in(body)


def test_devices_say_what_they_are(stand_in: Any) -> None:
    def body() -> None:
        import hal

        first, second, third = (entry for entry in hal.devices() if entry.backend == "cuda")
        assert [each.description for each in (first, second, third)] == [
            "Stand-in sm_80",
            "Stand-in sm_80 #2",
            "Stand-in sm_90",
        ]
        assert first.props["target"] == "sm_80" and third.props["target"] == "sm_90a"
        assert first.props["sms"] == 4 and first.props["driver"] == "12.8" and first.props["ptx"] == "8.7"
        assert first.props["uuid"] == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f" != second.props["uuid"]
        assert [each.info.number for each in (first, second, third)] == [0, 1, 2]
        assert hal.device("cuda:sm_90").name == "cuda:2"

    stand_in(body, targets=["sm_80", "sm_80", "sm_90"], driver=12080, kernels="nothing")


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ({"targets": []}, "100 CUDA_ERROR_NO_DEVICE"),
        ({"fail": {"cuInit": 34}}, "stub, not the driver"),
        ({"fail": {"cuInit": 803}}, "restart the machine"),
        ({"driver": 11040}, "too old: it is for CUDA 11.4"),
        ({"targets": ["sm_60"]}, "Stand-in sm_60: compute capability 6.0"),
    ],
)
def test_why_there_is_no_device_is_said_in_a_sentence(stand_in: Any, setup: dict[str, Any], said: str) -> None:
    def body() -> None:
        import stand_in_driver

        from hal_nvidia_ptx import Backend

        backend = Backend()
        assert backend.devices() == [] and Backend().devices() == []
        assert stand_in_driver.CURRENT.calls["cuInit"] == 1, "a driver that failed is not asked again"
        print(backend.why_none())

    assert said in stand_in(body, **setup)


def test_without_a_driver_nothing_hangs(strangers: Any) -> None:
    pytest.importorskip("cuda.bindings")
    source = """
import ctypes
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    from hal_nvidia_ptx import Backend
    backend = Backend()
    assert backend.devices() == [] == backend.devices()
    print(backend.why_none())
else:
    print("NVIDIA's driver is not installed")
"""
    assert "NVIDIA's driver is not installed" in strangers.code(source)


def test_without_the_bindings_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from hal.errors import BackendUnavailable
    from hal_nvidia_ptx import loader

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loader, "version", missing)
    with pytest.raises(BackendUnavailable, match="pip install 'hal-kernels\\[nvidia\\]'"):
        loader._bindings()
    monkeypatch.setattr(loader, "version", lambda name: "12.6.2")
    with pytest.raises(BackendUnavailable, match=r"12\.6\.2 is too old, wanted 12\.8"):
        loader._bindings()


def test_memory_is_copied_where_it_should_be(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        import stand_in_driver

        import hal

        device = hal.device("cuda:0")
        data = np.arange(256, dtype=np.uint8)
        block = device.alloc(1000)
        device.copy_in(block, 100, data)
        device.copy(block, 600, block, 100, 256)
        device.copy(block, 110, block, 100, 256)  # overlaps: through the host
        out = np.zeros(256, np.uint8)
        for offset in (600, 110):
            device.copy_out(out, block, offset)
            assert np.array_equal(out, data)
        device.free(block)
        assert stand_in_driver.CURRENT.used[0] == 0
        assert stand_in_driver.CURRENT.calls["cuMemcpyDtoDAsync"] == 1

    stand_in(body)
    stand_in(body, pools=False)


def test_memory_that_is_short_is_collected_then_refused(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        import stand_in_driver

        import hal

        class Cycle:
            pass

        def leave_in_a_cycle() -> None:
            cycle = Cycle()
            cycle.array = hal.empty((1 << 18,), dtype="float32", device="cuda:0")
            cycle.self = cycle

        leave_in_a_cycle()
        again = hal.empty((1 << 18,), dtype="float32", device="cuda:0")  # fits only once the cycle is gone
        try:
            hal.empty((1 << 18,), dtype="float32", device="cuda:0")
        except hal.DeviceMemoryError as error:
            assert "1048576 bytes wanted" in str(error) and "of 1500000 are free" in str(error), error
            assert isinstance(error, MemoryError)
        else:
            raise AssertionError("there was no room")
        del again
        hal.softmax(np.ones((8, 8), np.float32), device="cuda:0")  # the device is as good as before
        assert stand_in_driver.CURRENT.used[0] == 0

    stand_in(body, memory=1_500_000)
    stand_in(body, memory=1_500_000, pools=False)


def test_the_judge_passes_kernels_through_the_driver(stand_in: Any) -> None:
    def body() -> None:
        import hal
        from hal.conformance import run_case, select

        device = hal.device("cuda:1")
        for operator in ("matmul", "softmax", "layernorm"):
            cases = [case for case in select("smoke", [operator]) if case.dtype == "float32"][::12]
            assert cases
            for case in cases:
                result = run_case(device, case)
                assert result.status == "passed", result

    stand_in(body, targets=["sm_75", "sm_80"])


def test_a_text_that_does_not_compile_is_shown_with_log_and_line(stand_in: Any) -> None:
    def body() -> None:
        from stand_in_texts import SCALE

        import hal
        from hal.kernel import Kernel

        device = hal.device("cuda:0")

        def refusal(text: str, entry: str = "scale") -> Exception:
            try:
                device.compiled(Kernel(entry, text))
            except hal.HalError as error:
                return error
            raise AssertionError("it compiled")

        error = refusal(SCALE.replace("mul.f32 ", "mull.f32 "))
        assert isinstance(error, hal.CompileError)
        assert "218 CUDA_ERROR_INVALID_PTX\n  line 31: mull.f32 %v, %v, %a;" in str(error), error
        assert "line 31" in error.log and error.source.startswith(".version"), error.log
        error = refusal(SCALE.replace(".version 8.0", ".version 9.1"))
        assert isinstance(error, hal.UnsupportedError)
        assert "is PTX 9.1, the driver (for CUDA 13.0) takes up to 9.0: 222" in str(error), error
        error = refusal(SCALE.replace("sm_80", "sm_90"))
        assert isinstance(error, hal.UnsupportedError) and "is for sm_90: 209" in str(error), error
        assert "this PTX has no entry other: 500" in str(refusal(SCALE, "other"))

    stand_in(body)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("", ""), "700 CUDA_ERROR_ILLEGAL_ADDRESS"),
        (("add.s64 %x, %x, %offset", "add.s64 %x, %x, 2"), "716 CUDA_ERROR_MISALIGNED_ADDRESS"),
        (("done:", "trap;\ndone:"), "715 CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    ],
)
def test_what_a_kernel_did_wrong_loses_the_device(stand_in: Any, change: tuple[str, str], code: str) -> None:
    def body() -> None:
        import os

        import numpy as np
        from stand_in_texts import SCALE

        import hal
        from hal_nvidia_ptx import load

        old, new = os.environ["CHANGE"].split("|")
        scale = load(SCALE.replace(old, new) if old else SCALE)["scale"]
        x = hal.asarray(np.ones(1000, np.float32), device="cuda:0")
        y = hal.empty((1000,), dtype="float32", device="cuda:0")
        scale(4, 256, x, y, 2.0, 1001 if not old else 1000)  # asynchronous: the launch itself is in order
        for wanted in ("failed", "failed"):  # at the first call that waits, and at every one after
            try:
                y.numpy()
            except hal.DeviceError as error:
                assert wanted in str(error) and "only a new process can use this device again" in str(error), error
                print(error)
            else:
                raise AssertionError("nothing was said")
        try:
            hal.device("cuda:0")
        except hal.DeviceError as error:
            assert "context is lost" in str(error)
        else:
            raise AssertionError("the registry gives out a lost device")

    os.environ["CHANGE"] = "|".join(change)
    try:
        assert code in stand_in(body)
    finally:
        del os.environ["CHANGE"]


def test_threads_share_a_plan(stand_in: Any) -> None:
    def body() -> None:
        import sys
        import threading

        import numpy as np

        import hal

        sys.setswitchinterval(1e-5)
        x = hal.asarray(np.ones((4, 256), np.float32), device="cuda:0")
        plan = hal.plan("softmax", x)
        wrong: list[str] = []

        def work(seed: int) -> None:
            values = np.random.default_rng(seed).standard_normal((4, 256)).astype(np.float32)
            source = hal.asarray(values, device="cuda:0")
            target = hal.empty((4, 256), dtype="float32", device="cuda:0")
            expected = hal.softmax(values, device="cpu")
            for _ in range(20):
                plan(source, target)
                if abs(target.numpy() - expected).max() > 1e-6:
                    wrong.append(f"thread {seed}")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong

    stand_in(body)


def test_a_thread_keeps_the_context_it_had(stand_in: Any) -> None:
    """Launches, copies and allocations on one device while another's context is current, as torch may leave it."""

    def body() -> None:
        import numpy as np
        from cuda.bindings import driver as cuda

        import hal

        one, two = hal.device("cuda:0"), hal.device("cuda:1")
        cuda.cuCtxSetCurrent(one.context.handle)
        x = np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32)
        for device in (one, two):
            a = hal.asarray(x, device=device.name)
            y = hal.softmax(a)
            assert abs(y.numpy() - hal.softmax(x, device="cpu")).max() < 1e-6
            device.elapsed(device.mark(), device.mark())
            del a, y
            assert int(cuda.cuCtxGetCurrent()[1]) == int(one.context.handle)
        plan = hal.plan("softmax", a := hal.asarray(x, device="cuda:1"))
        plan(a, out := hal.empty(x.shape, dtype="float32", device="cuda:1"))
        plan._plan([out.operand()], [a.operand()], 0)  # the default stream of cuda:1, not of the current context
        assert int(cuda.cuCtxGetCurrent()[1]) == int(one.context.handle)

    stand_in(body, targets=["sm_80", "sm_90"])


def test_after_fork_the_child_is_told(stand_in: Any) -> None:
    def body() -> None:
        import os
        import signal

        import numpy as np

        import hal

        x = hal.asarray(np.ones((4, 4), np.float32), device="cuda:0")
        plan = hal.plan("softmax", x)
        y = hal.softmax(x)
        device = hal.device("cuda:0")
        pid = os.fork()
        if not pid:
            signal.alarm(20)  # the end of a child that waits
            failures = 0
            for use in (
                lambda: plan._plan([y.operand()], [x.operand()]),
                lambda: hal.softmax(x),
                lambda: device.alloc(4),
                lambda: device.synchronize(),
                lambda: hal.softmax(np.ones((4, 4), np.float32), device="cuda:1"),
            ):
                try:
                    use()
                except hal.DeviceError as error:
                    failures += "fork" in str(error)
            device.close()
            os._exit(failures)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        assert np.array_equal(hal.softmax(x).numpy(), y.numpy())

    stand_in(body, targets=["sm_80", "sm_80"])


def test_a_closed_device_says_so(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np

        import hal

        x = hal.asarray(np.ones((4, 4), np.float32), device="cuda:0")
        device = hal.device("cuda:0")
        device.close()
        for use in (x.numpy, device.synchronize, device.mark, lambda: hal.softmax(x), lambda: device.alloc(1)):
            try:
                use()
            except hal.DeviceError as error:
                assert "the device is closed" in str(error), error
            else:
                raise AssertionError("a closed device was used")

    stand_in(body)


def test_work_goes_to_the_callers_stream(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        import stand_in_driver
        from cuda.bindings import driver as cuda
        from stand_in_texts import SCALE

        import hal
        from hal_nvidia_ptx import load

        class TorchStream:
            def __init__(self, handle: int) -> None:
                self.cuda_stream = handle

        class Protocol:
            def __init__(self, handle: int) -> None:
                self.handle = handle

            def __cuda_stream__(self) -> tuple[int, int]:
                return 0, self.handle

        driver = stand_in_driver.CURRENT
        device = hal.device("cuda:0")
        with device.context.current():
            stream = cuda.cuStreamCreate(1)[1]
        x = hal.asarray(np.ones((4, 4), np.float32), device="cuda:0")
        y = hal.empty((4, 4), dtype="float32", device="cuda:0")
        plan = hal.plan("softmax", x)._plan
        for form in (None, int(stream), stream, TorchStream(int(stream)), Protocol(int(stream)), None):
            plan([y.operand()], [x.operand()], form)
            assert driver.launched == int(device.stream if form is None else stream)
        scale = load(SCALE)["scale"]
        driver.history.clear()
        scale(1, 16, x, y, 3.0, 16, stream=stream)
        order = [call for call in driver.history if call in ("cuStreamWaitEvent", "cuLaunchKernelEx")]
        assert order == ["cuStreamWaitEvent", "cuLaunchKernelEx", "cuStreamWaitEvent"], "the two queues wait"
        assert np.array_equal(y.numpy(), np.full((4, 4), 3, np.float32))
        assert device.elapsed(device.mark(stream), device.mark(stream)) >= 0
        for wrong, said in (("x", "is no CUDA stream"), (12345, "400 CUDA_ERROR_INVALID_HANDLE")):
            try:
                plan([y.operand()], [x.operand()], wrong)
            except hal.DeviceError as error:
                assert said in str(error), error
            else:
                raise AssertionError("no stream was taken for one")

    stand_in(body)


def test_tensors_of_others_are_used_where_they_are(stand_in: Any) -> None:
    def body() -> None:
        import os

        import numpy as np
        import stand_in_driver

        import hal
        from hal import dlpack

        class Tensor:
            """As CuPy's: on a device, with streams of its own."""

            def __init__(self, array: hal.Array) -> None:
                self.array, self.asked = array, []

            def __dlpack_device__(self) -> tuple[int, int]:
                return self.array.__dlpack_device__()

            def __dlpack__(self, stream: int | None = None, **_: object) -> object:
                self.asked.append(stream)
                array = self.array
                return dlpack.write(array.memory.handle + array.offset, array.spec, array, self.__dlpack_device__())

            def __array_namespace__(self) -> object:
                class Namespace:
                    @staticmethod
                    def from_dlpack(x: hal.Array) -> Tensor:
                        x.__dlpack__(stream=1)
                        return Tensor(x)

                return Namespace

        driver = stand_in_driver.CURRENT
        values = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
        x = Tensor(hal.asarray(values, device="cuda:1"))
        copies = driver.calls["cuMemcpyHtoDAsync"] + driver.calls["cuMemcpyDtoHAsync"]
        driver.history.clear()
        y = hal.softmax(x)
        assert isinstance(y, Tensor) and x.asked[-1] == int(hal.device("cuda:1").stream)
        assert driver.history[-8:].count("cuStreamWaitEvent") == 1, "the result's consumer waits for it"
        assert driver.calls["cuMemcpyHtoDAsync"] + driver.calls["cuMemcpyDtoHAsync"] == copies, "it was copied"
        assert abs(y.array.numpy() - hal.softmax(values, device="cpu")).max() < 1e-6
        assert hal.explain("softmax", x).device.name == "cuda:1"
        os.environ["HAL_CHECK"] = "1"
        hal.softmax(x, scale=2.0)
        elsewhere = Tensor(hal.asarray(values, device="cuda:0"))
        for wrong in ({"residual": elsewhere}, {"device": "cuda:0"}):
            try:
                hal.rmsnorm(x, **wrong)
            except hal.DeviceError as error:
                assert "cuda:0" in str(error) and "cuda:1" in str(error)
            else:
                raise AssertionError("two devices at once")

    stand_in(body, targets=["sm_80", "sm_80"])


def test_torch_tensors_go_with_torch_s_stream() -> None:
    """No GPU, hence no such tensor: torch is stood in for by what hal reads of one."""
    from hal import interop
    from hal.calls import ForeignCall

    class Stream:
        pass

    class Tensor:
        device = type("Device", (), {"type": "cuda", "index": 1})()

        def data_ptr(self) -> int:
            return 4096

    stream = Stream()
    names = (*interop.DTYPES,)
    module = type("torch", (), {**{name: name for name in names}, "cuda": type("cuda", (), {})})
    module.cuda.current_stream = staticmethod(lambda device: stream if device.index == 1 else None)
    kind = interop.TorchKind(module)
    seen: list[Any] = []
    call = ForeignCall.__new__(ForeignCall)
    call.kind, call.plan = kind, lambda *arguments: seen.append(arguments)
    call.run([Tensor()], [Tensor()])
    assert seen == [([(4096, 0)], [(4096, 0)], stream)]


def test_shared_memory_beyond_48_kib_is_asked_for(stand_in: Any) -> None:
    def body() -> None:
        import numpy as np
        from stand_in_texts import SHARED

        import hal
        from hal_nvidia_ptx import load

        rotate = load(SHARED)["rotate"]
        y = np.zeros(256, np.int32)
        for size in (1024, 100 << 10, 163 << 10, 2048):
            y[:] = 0
            rotate(1, 256, y, shared=size, device="cuda:0")
            assert np.array_equal(y, (np.arange(256) + 1) % 256)
        try:
            rotate(1, 256, y, shared=164 << 10, device="cuda:0")
        except hal.UnsupportedError as error:
            assert "rotate: 167936 bytes of shared memory, Stand-in sm_80 has 166912" in str(error), error
        else:
            raise AssertionError("more than there is")

    stand_in(body)


def test_cubins_are_kept_and_refused_ones_end_the_attempts(stand_in: Any) -> None:
    def body() -> None:
        from stand_in_texts import SCALE, SHARED

        import hal
        from hal.kernel import Kernel
        from hal_nvidia_ptx.assembly import assembler

        made: list[str] = []

        class Assembled:
            cubin = b"\x7fELF and so on"

        def assemble(text: str, target: str, *, options: tuple[str, ...] = ()) -> Assembled:
            made.append(target)
            return Assembled()

        assembler.assemble, assembler.version = assemble, lambda: "13.5.37"
        for name in ("cuda:0", "cuda:1"):
            device = hal.device(name)
            device.compiled(Kernel("scale", SCALE))
            device.compiled(Kernel("rotate", SHARED))
        print(made)

    assert stand_in(body, kernels="nothing", targets=["sm_90", "sm_90"], cubins=True).strip() == "['sm_90a', 'sm_90a']"
    refused = stand_in(body, kernels="nothing", targets=["sm_80", "sm_80"])  # each device tries once
    assert refused.strip() == "['sm_80', 'sm_80']"


def test_tensor_maps_are_what_the_emulator_reads(stand_in: Any) -> None:
    def body() -> None:
        import ctypes

        from cuda.bindings import driver as cuda

        from hal_nvidia_ptx.emulator.tensormap import TensorMap

        def numbers(kind: type, *values: int) -> list[object]:
            return [kind(value) for value in values]

        u64, u32 = cuda.cuuint64_t, cuda.cuuint32_t
        cuda.cuInit(0)
        tried = []
        for _ in range(64):  # the bindings' own memory is not always aligned to 64, as the driver wants it
            tried.append(cuda.CUtensorMap())  # takes a place, so that the next has another
            code, made = cuda.cuTensorMapEncodeTiled(
                cuda.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                0x10000,
                numbers(u64, 256, 128),
                numbers(u64, 512),
                numbers(u32, 64, 32),
                numbers(u32, 1, 1),
                cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
                cuda.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
                cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                cuda.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            if not code:
                break
        found = TensorMap.decode(ctypes.string_at(int(made.getPtr()), 128))
        assert (found.dtype, found.shape, found.box, found.swizzle) == ("bf16", (256, 128), (64, 32), 128), found

    stand_in(body)


def test_doctor_and_devices_name_the_gpu(stand_in: Any) -> None:
    done = stand_in.python("-m", "hal", "devices", "--json", targets=["sm_90"], kernels="nothing")
    found = [each for each in json.loads(done.stdout)["devices"] if each["backend"] == "cuda"]
    assert [each["name"] for each in found] == ["Stand-in sm_90"]
    done = stand_in.python("-m", "hal", "doctor", "--json", targets=["sm_90"], kernels="nothing")
    findings = {(each["section"], each["name"]): each for each in json.loads(done.stdout)["findings"]}
    assert findings["NVIDIA", "driver"]["detail"] == "for CUDA up to 13.0"
    assert "Stand-in sm_90" in findings["backends", "cuda"]["detail"]


def test_a_launch_costs_little_in_python(stand_in: Any) -> None:
    """Goal: 0.5 us beside a driver that does nothing, 0.2 of which are cuda.bindings'. The limit allows for noise."""

    def body() -> None:
        import timeit

        import numpy as np

        import hal

        x = hal.asarray(np.ones((64, 1024), np.float32), device="cuda:0")
        y = hal.empty((64, 1024), dtype="float32", device="cuda:0")
        plan = hal.plan("softmax", x)._plan
        outputs, inputs = [y.operand()], [x.operand()]
        plan(outputs, inputs)
        print(min(timeit.repeat(lambda: plan(outputs, inputs), number=20000, repeat=7)) / 20000)

    seconds = float(stand_in(body, kernels="nothing", slots=["cuLaunchKernelEx"]))
    assert seconds < 1.0e-6, f"{seconds * 1e6:.2f} us"
