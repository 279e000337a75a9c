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


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]

_python = ctypes.pythonapi
_get_pointer = _python.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = _python.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = _python.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, _DESTRUCTOR]
# The destructor sees an object that is being destroyed: by address, not as a Python object.
_name_of_dying = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_GetName", _python))
_pointer_of_dying = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)

_alive: dict[int, tuple[Any, ...]] = {}  # exported tensors by address: what keeps each of them in place


def read(capsule: Any) -> NDArray[Any]:
    """A NumPy array over the tensor in a capsule; it keeps the capsule, and so the memory.

    Raises:
        ArgumentError: no legacy capsule, or memory that the CPU cannot read. DTypeError: a dtype hal has not.
    """
    if not _is_valid(capsule, _NAME):
        raise ArgumentError("__dlpack__ gave no legacy 'dltensor' capsule, or one that was consumed already")
    tensor = ctypes.cast(_get_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    if tensor.device_type not in HOST_TYPES:
        raise ArgumentError(f"a DLPack tensor on device type {tensor.device_type} is not in host memory")
    dtype = from_dlpack(tensor.code, tensor.bits, tensor.lanes)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else row_major(shape)
    spec = TensorSpec(dtype, shape, strides)
    if spec.size == 0:
        return np.empty(shape, DTYPES[dtype].numpy)
    low, high = (n * spec.itemsize for n in spec.extent())
    memory = (ctypes.c_char * (high - low)).from_address((tensor.data or 0) + tensor.byte_offset + low)
    memory._capsule = capsule
    array = np.ndarray(shape, DTYPES[dtype].numpy, memory, -low, tuple(s * spec.itemsize for s in strides))
    array.flags.writeable = False  # a legacy capsule cannot say whether writing is allowed
    return array


def write(address: int, spec: TensorSpec, owner: Any) -> Any:
    """A capsule over host memory; `owner` is kept until the consumer lets go."""
    managed = _Managed()
    shape = (ctypes.c_int64 * spec.ndim)(*spec.shape)
    strides = (ctypes.c_int64 * spec.ndim)(*spec.strides)
    code, bits = DTYPES[spec.dtype].dlpack
    managed.tensor = _Tensor(address, 1, 0, spec.ndim, code, bits, 1, shape, strides, 0)
    managed.deleter = _release
    _alive[ctypes.addressof(managed)] = (managed, shape, strides, owner)
    return _new_capsule(ctypes.addressof(managed), _NAME, _destroy)


@_DELETER
def _release(managed: Any) -> None:
    _alive.pop(ctypes.addressof(managed.contents), None)


@_DESTRUCTOR
def _destroy(capsule: int) -> None:
    # A consumer renames the capsule and calls the deleter itself; nobody did.
    if _name_of_dying(capsule) == _NAME:
        _alive.pop(_pointer_of_dying(capsule, _NAME) or 0, None)
