"""The twelve functions of a driver that hal needs, and what six public interfaces call them.

The names are those of the vendors' own pages and headers: CUDA driver API, CANN (AscendCL), MUSA driver API (Moore
Threads), HIP (AMD, and Hygon's DTK), Cambricon's driver and CNRT, OpenCL 1.2. Only what runs in hal's tests was tried:
CUDA by a stand-in driver, and OpenCL. MetaX, Iluvatar and Enflame have CUDA's or HIP's names with another prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

VENDORS = ("CUDA", "CANN", "MUSA", "HIP", "CNRT", "OpenCL")


@dataclass(frozen=True, slots=True)
class Function:
    """One of the twelve. calls: its names in the order of VENDORS."""

    name: str
    does: str
    calls: tuple[str, str, str, str, str, str]


FUNCTIONS = (
    Function(
        "find",
        "how many devices there are; 0 where there is no hardware",
        (
            "cuInit, cuDeviceGetCount",
            "aclInit, aclrtGetDeviceCount",
            "muInit, muDeviceGetCount",
            "hipInit, hipGetDeviceCount",
            "cnInit, cnDeviceGetCount",
            "clGetPlatformIDs, clGetDeviceIDs",
        ),
    ),
    Function(
        "properties",
        "name, memory, dtypes and facts of one device, without opening it",
        (
            "cuDeviceGetName, cuDeviceTotalMem, cuDeviceGetAttribute",
            "aclrtGetSocName, aclrtGetMemInfo",
            "muDeviceGetName, muDeviceTotalMem, muDeviceGetAttribute",
            "hipGetDeviceProperties",
            "cnDeviceGetName, cnDeviceTotalMem, cnDeviceGetAttribute",
            "clGetDeviceInfo",
        ),
    ),
    Function(
        "open",
        "make a device the calling thread's; called once in each thread",
        (
            "cuDevicePrimaryCtxRetain, cuCtxSetCurrent",
            "aclrtSetDevice",
            "muDevicePrimaryCtxRetain, muCtxSetCurrent",
            "hipSetDevice",
            "cnrtSetDevice",
            "clCreateContext, clCreateCommandQueue",
        ),
    ),
    Function(
        "alloc",
        "device memory: its address",
        ("cuMemAlloc", "aclrtMalloc", "muMemAlloc", "hipMalloc", "cnMalloc", "clCreateBuffer"),
    ),
    Function(
        "free",
        "give device memory back",
        ("cuMemFree", "aclrtFree", "muMemFree", "hipFree", "cnFree", "clReleaseMemObject"),
    ),
    Function(
        "copy_in",
        "host to device; the source has been read when it returns",
        (
            "cuMemcpyHtoD",
            "aclrtMemcpy(ACL_MEMCPY_HOST_TO_DEVICE)",
            "muMemcpyHtoD",
            "hipMemcpyHtoD",
            "cnMemcpyHtoD",
            "clEnqueueWriteBuffer",
        ),
    ),
    Function(
        "copy_out",
        "device to host, after all work queued before; the data is there when it returns",
        (
            "cuMemcpyDtoH",
            "aclrtMemcpy(ACL_MEMCPY_DEVICE_TO_HOST)",
            "muMemcpyDtoH",
            "hipMemcpyDtoH",
            "cnMemcpyDtoH",
            "clEnqueueReadBuffer",
        ),
    ),
    Function(
        "copy",
        "device to device, in order; the regions do not overlap",
        (
            "cuMemcpyDtoD",
            "aclrtMemcpy(ACL_MEMCPY_DEVICE_TO_DEVICE)",
            "muMemcpyDtoD",
            "hipMemcpyDtoD",
            "cnMemcpyDtoD",
            "clEnqueueCopyBuffer",
        ),
    ),
    Function(
        "load",
        "compiled code to a module",
        (
            "cuModuleLoadData",
            "aclrtBinaryLoadFromData",
            "muModuleLoadData",
            "hipModuleLoadData",
            "cnModuleLoadFatBinary",
            "clCreateProgramWithSource, clBuildProgram",
        ),
    ),
    Function(
        "function",
        "a module's kernel of a name",
        (
            "cuModuleGetFunction",
            "aclrtBinaryGetFunction",
            "muModuleGetFunction",
            "hipModuleGetFunction",
            "cnModuleGetKernel",
            "clCreateKernel",
        ),
    ),
    Function(
        "launch",
        "queue one kernel; may return before it has run",
        (
            "cuLaunchKernel",
            "aclrtLaunchKernelWithHostArgs",
            "muLaunchKernel",
            "hipModuleLaunchKernel",
            "cnInvokeKernel",
            "clSetKernelArg, clEnqueueNDRangeKernel",
        ),
    ),
    Function(
        "synchronize",
        "wait for all queued work; its errors come up here",
        (
            "cuCtxSynchronize",
            "aclrtSynchronizeDevice",
            "muCtxSynchronize",
            "hipDeviceSynchronize",
            "cnCtxSync",
            "clFinish",
        ),
    ),
)
