"""DLPack's structures, in and out, by ctypes: NumPy's own support leaves out bfloat16.

Only legacy capsules ("dltensor") are read and written: every library understands them. A capsule that is not renamed
frees its tensor when it is collected, so holding the capsule is holding the memory.

Layout: dmlc/dlpack, include/dlpack/dlpack.h, version 0.8.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hal.dtypes import DTYPES, from_dlpack
from hal.errors import ArgumentError
from hal.op import TensorSpec, row_major

HOST_TYPES = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost: memory that the CPU can read
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]

_python = ctypes.pythonapi
_get_pointer = _python.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = _python.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def describe(capsule: Any) -> tuple[int, TensorSpec, tuple[int, int]]:
    """Address of element [0, …, 0], layout, and (device type, device number) of the tensor in a capsule.

    Raises:
        ArgumentError: no legacy capsule. DTypeError: a dtype hal has not.
    """
    if not _is_valid(capsule, _NAME):
        raise ArgumentError("__dlpack__ gave no legacy 'dltensor' capsule, or one that was consumed already")
    tensor = ctypes.cast(_get_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    dtype = from_dlpack(tensor.code, tensor.bits, tensor.lanes)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else row_major(shape)
    address = (tensor.data or 0) + tensor.byte_offset
    align = min(address & -address, 64) or DTYPES[dtype].itemsize
    return address, TensorSpec(dtype, shape, strides, align), (tensor.device_type, tensor.device_id)


def read(capsule: Any) -> NDArray[Any]:
    """A NumPy array over the tensor in a capsule; it keeps the capsule, and so the memory.

    Raises:
        ArgumentError: no legacy capsule, or memory that the CPU cannot read. DTypeError: a dtype hal has not.
    """
    address, spec, (device_type, _) = describe(capsule)
    if device_type not in HOST_TYPES:
        raise ArgumentError(f"a DLPack tensor on device type {device_type} is not in host memory")
    if spec.size == 0:
        return np.empty(spec.shape, DTYPES[spec.dtype].numpy)
    array = _over(address, spec, DTYPES[spec.dtype].numpy, capsule)
    array.flags.writeable = False  # a legacy capsule cannot say whether writing is allowed
    return array


def write(address: int, spec: TensorSpec, owner: Any, device: tuple[int, int] = (1, 0)) -> Any:
    """A capsule over memory of a (device type, device number); `owner` is kept until the consumer lets go.

    NumPy makes the capsule, over integers of the same width, and the true dtype is then written into it: so the
    destructor is NumPy's, in C. One in Python would run with exceptions pending, which Python code must not.
    """
    integers = _over(address, spec, np.dtype(f"i{spec.itemsize}"), owner)
    capsule = integers.__dlpack__()
    tensor = ctypes.cast(_get_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    tensor.code, tensor.bits = DTYPES[spec.dtype].dlpack
    tensor.device_type, tensor.device_id = device
    return capsule


def _over(address: int, spec: TensorSpec, dtype: np.dtype[Any], owner: Any) -> NDArray[Any]:
    """An array over memory at an address, which keeps `owner`."""
    low, high = (n * spec.itemsize for n in spec.extent())
    memory: Any = (ctypes.c_char * max(high - low, 1)).from_address(address + low)
    memory._owner = owner
    return np.ndarray(spec.shape, dtype, memory, -low, tuple(s * spec.itemsize for s in spec.strides))
