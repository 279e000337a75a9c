"""What a backend for a new chip is made of: twelve driver functions, and everything else given.

    functions.py     the twelve, with their names in CUDA, CANN, MUSA, HIP, CNRT and OpenCL
    simulator.py     the twelve in host memory; a driver replaces them one by one
    backend.py       finds and opens devices by them
    device.py        memory and the queue by them
    kernels.py       a device that compiles and launches kernels by them
    operators.py     a device whose operators are calls of a vendor's library
    simulated.py     the operators on the host, as long as a driver does not launch
    library.py       a backend in C, part of which may be simulated
    vendor.py        a vendor's shared library, its errors in hal's form
    compiler.py      a vendor's compiler as a program
    arguments.py     a launch's arguments in the forms that drivers take

`hal new-backend NAME --kind KIND` writes a package that uses these. The names below are public.
"""

from __future__ import annotations

from hal.porting.arguments import Value, packed, pointers, values
from hal.porting.backend import DriverBackend
from hal.porting.compiler import compile_with
from hal.porting.device import DriverDevice
from hal.porting.functions import FUNCTIONS, VENDORS, Function
from hal.porting.kernels import DriverKernelDevice
from hal.porting.library import C_FUNCTIONS, LibraryBackend
from hal.porting.operators import OperatorDevice
from hal.porting.simulated import simulate
from hal.porting.simulator import Simulator, simulated
from hal.porting.vendor import SharedLibrary

__all__ = [
    "C_FUNCTIONS",
    "FUNCTIONS",
    "VENDORS",
    "DriverBackend",
    "DriverDevice",
    "DriverKernelDevice",
    "Function",
    "LibraryBackend",
    "OperatorDevice",
    "SharedLibrary",
    "Simulator",
    "Value",
    "compile_with",
    "packed",
    "pointers",
    "simulate",
    "simulated",
    "values",
]
