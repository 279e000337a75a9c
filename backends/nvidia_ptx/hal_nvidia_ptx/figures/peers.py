"""Triton's figures beside hal's: the same calls, the same assembler, the same measuring.

Measured by tools/ptx_peers.py, which compiles Triton's usual kernels without a GPU, and kept in bench/results.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from hal.kernel import Config

RESULTS = Path(__file__).resolve().parents[4] / "bench" / "results" / "ptx_peers.json"


@cache
def peers() -> dict[str, Any]:
    """The document of tools/ptx_peers.py; without rows where this is no checkout."""
    if not RESULTS.is_file():
        return {"rows": []}
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def peer_of(case: str, target: str, config: Config) -> dict[str, Any] | None:
    """The peer's kernel for the case: that of the same tile if there is one, else its best; None where none was
    measured."""
    own = {target, f"{target}a"}  # peers are compiled for the architecture-specific form where there is one
    found = [row for row in peers()["rows"] if row["case"] == case and row["target"] in own]
    same = [row for row in found if row["tile"].items() <= dict(config.values).items()]
    return max(same or found, key=lambda row: row.get("util", 0.0), default=None)
