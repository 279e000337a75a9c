"""Every OpenCL device of the machine, from bare OpenCL 1.2 without extensions up.

    driver.py       the device: memory, queue, building, launching
    discovery.py    which devices there are, found without opening one
    kernels/        for each operator the algorithm (Python picks the numbers) and real .cl files

Importing this package does not import pyopencl; asking the Backend for devices does.
"""

from __future__ import annotations

from hal_opencl.discovery import Backend

__all__ = ["Backend"]
