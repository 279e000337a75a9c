"""A Python started with this folder in PYTHONPATH and STAND_IN set has the stand-in for NVIDIA's driver.

STAND_IN is a `Setup` as JSON, STAND_IN_LIBRARY the compiled libcuda.so.1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

if "STAND_IN" in os.environ:
    import stand_in_driver
    import stand_in_library

    driver = stand_in_driver.Driver(stand_in_driver.Setup(**json.loads(os.environ["STAND_IN"])))
    kept = stand_in_library.register(Path(os.environ["STAND_IN_LIBRARY"]), driver.table())
    stand_in_driver.CURRENT = driver
