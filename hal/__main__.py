"""`python -m hal` is `hal`, for where the folder of programs is not on PATH."""

from __future__ import annotations

import sys

from hal.cli import main

sys.exit(main())
