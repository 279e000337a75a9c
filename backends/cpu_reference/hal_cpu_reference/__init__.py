"""The reference backend: NumPy on the host, float64 inside, rounded once. Slow, obvious, always there.

Read this one first. operators.py is the definition of each operator; device.py is a complete Device whose handles are
plain addresses, as in a C driver.
"""

from __future__ import annotations

from hal_cpu_reference.device import Backend

__all__ = ["Backend"]
