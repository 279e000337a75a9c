"""The kinds of package: which templates make one, and what its README says of it."""

from __future__ import annotations

from dataclasses import dataclass

from hal.porting.functions import FUNCTIONS, Function
from hal.porting.operators import COMPILED

_WITHOUT_KERNELS = tuple(function for function in FUNCTIONS if function.name not in COMPILED)
_ABOVE = (
    ("pyproject.toml", "the package; its entry point makes hal find `@NAME@:0`"),
    ("hal_@NAME@/__init__.py", "the backend"),
    ("hal_@NAME@/driver.py", "the driver: @COUNT@ functions"),
)
_BELOW = (
    ("profile.toml", "what the device is declared not to do, with reasons"),
    ("tests/  ci.sh", "the judge, for pytest and for a CI job"),
)
_FOUND = "1. `find`, `properties`, `open`: then the device has its own name."
_MEMORY = "2. `alloc`, `free`, `copy_in`, `copy_out`, `copy`, `synchronize`: all at once, since they share addresses."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind.

    folders: of templates; a later one's file wins. functions: those of its driver. tree: its files, for the README.
    order: what to write, line by line. without: common files that it does not have.
    copies: files of hal's own, (path in the package, path in hal).
    """

    summary: str
    folders: tuple[str, ...]
    functions: tuple[Function, ...] = FUNCTIONS
    tree: tuple[tuple[str, str], ...] = ()
    order: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


_COMPILER = (
    "3. The compiler in `device.py`, then `load`, `function`, `launch`: now hal's own kernels compute every operator."
)

KINDS = {
    "cuda-like": Kind(
        "hal's own kernels by a compiler for a language like CUDA's",
        ("common", "cuda-like"),
        tree=(*_ABOVE, ("hal_@NAME@/device.py", "the device: which compiler"), *_BELOW),
        order=(_FOUND, _MEMORY, _COMPILER),
    ),
    "mixed": Kind(
        "the vendor's BLAS for matmul, hal's own kernels for the rest",
        ("common", "mixed"),
        tree=(
            *_ABOVE,
            ("hal_@NAME@/device.py", "the device: which compiler"),
            ("hal_@NAME@/blas.py", "matmul by the vendor's BLAS"),
            *_BELOW,
        ),
        order=(_FOUND, _MEMORY, _COMPILER, "4. `blas.py`: what it does not take stays with hal's kernel."),
    ),
    "library": Kind(
        "the operators are calls of the vendor's library",
        ("common", "library"),
        _WITHOUT_KERNELS,
        (
            *_ABOVE,
            ("hal_@NAME@/device.py", "the device: which operators, by which calls"),
            ("hal_@NAME@/operators.py", "a function for each operator, five in all"),
            *_BELOW,
        ),
        (
            _FOUND,
            _MEMORY,
            "3. The operators, one by one: matmul, softmax, log_softmax, rmsnorm, layernorm. Each counts as one more.",
        ),
    ),
    "source": Kind(
        "kernels of one's own",
        ("common", "source"),
        tree=(
            *_ABOVE,
            ("hal_@NAME@/device.py", "the device: which compiler, which algorithms"),
            ("hal_@NAME@/rmsnorm.py", "a whole algorithm to copy: configs, kernels, schedule"),
            *_BELOW,
        ),
        order=(
            _FOUND,
            _MEMORY,
            "3. `build` in `device.py` (the compiler), then `load`, `function`, `launch`. From here on operators",
            "   without a kernel of their own are refused; `profile.toml` declares them until they have one.",
            "4. A file like `rmsnorm.py` for each operator, and its line in `device.py`.",
        ),
    ),
    "opencl-vendor": Kind(
        "quirks and single kernels over hal's OpenCL backend",
        ("common", "opencl-vendor"),
        tree=(
            _ABOVE[0],
            ("hal_@NAME@/__init__.py", "the backend: which platform, which facts, which kernels"),
            ("hal_@NAME@/rmsnorm.py", "a kernel of one's own for one operator, to copy"),
            ("hal_@NAME@/rmsnorm.cl", "its text"),
            *_BELOW,
        ),
        order=(
            "1. `PLATFORM` in `__init__.py`: hal's kernels compute every operator.",
            "2. `refine`: what the device says wrongly of itself; `profile.toml`: what it cannot do for good.",
            "3. Kernels of one's own, operator by operator, like `rmsnorm.py`.",
        ),
        without=("hal_@NAME@/driver.py",),
    ),
    "c": Kind(
        "a library in C over hal_backend.h",
        ("common", "c"),
        tree=(
            _ABOVE[0],
            ("hatch_build.py", "compiles the library into the wheel"),
            ("hal_@NAME@/__init__.py", "the backend: where the library is"),
            ("csrc/driver.c", "the driver: twelve functions"),
            ("csrc/simulator.h", "the same in host memory"),
            ("csrc/hal_backend.h", "hal's interface in C, with all of its rules"),
            *_BELOW,
        ),
        order=(
            "1. `device_count`, `device_info`, `device_open`: then the device has its own name.",
            "2. `memory_alloc`, `memory_free`, `copy_in`, `copy_out`, `copy`, `synchronize`: all at once.",
            "3. `op_prepare`, `op_launch`, `op_release`: from here on the library computes; what it answers with",
            "   HAL_UNSUPPORTED is declared in `profile.toml`.",
        ),
        without=("hal_@NAME@/driver.py",),
        copies=(("csrc/hal_backend.h", "include/hal_backend.h"),),
    ),
}
