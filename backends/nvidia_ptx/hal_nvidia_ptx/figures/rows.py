"""One kernel on one target as a row: figures beside their goals and beside Triton's; and the file of all rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hal_nvidia_ptx.assembly.assembler import version
from hal_nvidia_ptx.figures.goals import goal_of, unmet
from hal_nvidia_ptx.figures.measure import Figures, Job
from hal_nvidia_ptx.figures.peers import peer_of


def row(job: Job, figures: Figures) -> dict[str, Any]:
    """One line of the table as plain values, with goals, what is not met, and Triton's figures."""
    goal = goal_of(job.case, job.target, job.config)
    return {
        "case": job.case,
        "target": job.target,
        "config": str(job.config),
        "entry": job.kernel.entry,
        **{key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(figures).items()},
        "goal": goal.to_json(),
        "unmet": unmet(goal, asdict(figures)),
        "peer": peer_of(job.case, job.target, job.config),
    }


def record(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows, one a line, without goals and peers: bench/results/ptx_figures.json is made so."""
    kept = [{k: v for k, v in row.items() if k not in ("goal", "peer") and v not in (None, (), [])} for row in rows]
    head = f'{{"ptxas": {json.dumps(version())}, "rows": [\n'
    path.write_text(head + ",\n".join(map(json.dumps, kept)) + "\n]}\n", encoding="utf-8")
