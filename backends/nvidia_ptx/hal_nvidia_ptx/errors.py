"""What NVIDIA's driver says went wrong, in hal's form: which call, the number, its name, and what to do.

Numbers and names are those of `CUresult` in cuda.h.
"""

from __future__ import annotations

from typing import Any

from hal.errors import DeviceError, DeviceMemoryError, HalError

OUT_OF_MEMORY = 2
NO_DEVICE = 100
INVALID_CONTEXT = 201
INVALID_PTX = 218
UNSUPPORTED_PTX_VERSION = 222
INVALID_HANDLE = 400
# A call that meets another context on its thread says one of these; with the right one it is made again.
WRONG_CONTEXT = frozenset((INVALID_CONTEXT, INVALID_HANDLE))
# Driver and image do not fit: it is for another chip, of a newer format, or not what it says.
NOT_LOADABLE = frozenset((200, 209, 300, 301))

# After these nothing works in the process's context any more, whatever is called.
STICKY = frozenset((214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999))

ADVICE = {
    34: "libcuda.so.1 is the CUDA toolkit's stub, not the driver: take its folder out of LD_LIBRARY_PATH",
    NO_DEVICE: "the driver has no GPU here: CUDA_VISIBLE_DEVICES may hide it, or a container lacks --gpus all",
    221: "the driver's compiler (libnvidia-ptxjitcompiler) is missing: install the whole driver",
    UNSUPPORTED_PTX_VERSION: "the driver is older than this PTX: update it, or write a lower .version",
    700: "a kernel read or wrote memory that is not its own; the PTX can be checked without a GPU: hal ptx check",
    701: "too many threads, registers or bytes of shared memory for one block",
    702: "the kernel ran longer than the display allows",
    715: "the kernel met an instruction that this GPU has not",
    716: "a kernel used an address that is not a multiple of the access's size; hal ptx check names the line",
    718: "the kernel jumped out of its code",
    719: "the kernel failed; hal ptx check may say where",
    803: "the driver's library and its kernel module are of different versions: restart the machine",
    804: "the forward-compatibility library does not support this GPU: use the driver's own libcuda.so.1",
}


def name_of(code: Any) -> str:
    """`CUDA_ERROR_INVALID_VALUE`, also for numbers that these bindings do not know yet."""
    return str(getattr(code, "name", "")) or "an error that cuda-bindings has no name for"


def describe(code: Any) -> str:
    """`719 CUDA_ERROR_LAUNCH_FAILED (what to do)`."""
    advice = ADVICE.get(int(code), "")
    return f"{int(code)} {name_of(code)}" + (f" ({advice})" if advice else "")


def failure(device: str, call: str, code: Any, detail: str = "") -> HalError:
    """The error of one driver call. `detail` says what was being done."""
    text = f"{device}: {call} failed: {describe(code)}" + (f"; {detail}" if detail else "")
    if int(code) == OUT_OF_MEMORY:
        return DeviceMemoryError(text)
    if int(code) in STICKY:
        text += "; the GPU's context is lost: only a new process can use this device again"
    return DeviceError(text)
