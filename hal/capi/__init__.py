"""Backends written in C: shared libraries with the one symbol of hal/include/hal_backend.h, loaded by cffi.

    header     the interface as cffi reads it, and where the file is
    library    one loaded library: its table, its status numbers as hal's errors
    describe   an Op as the header's struct
    device     Backend and Device over the table
    plan       plans, their workspaces, those that can be launched once
    probe      what a library provides, found out in a child process

cffi comes with hal's extra `capi` and is imported when the first library is loaded; no compiler is needed.
"""

from __future__ import annotations

from hal.capi.device import Backend
from hal.capi.header import include
from hal.capi.library import check_path, listen, plugin_name

__all__ = ["Backend", "check_path", "include", "listen", "plugin_name"]
