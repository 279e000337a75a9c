"""What a chip's arithmetic is, measured through hal's operators alone. Reported; it widens no bound.

finding.py    one measured fact, and how calls are made
products.py   matmul: accumulators, rounding, fused products, subnormals, integers
rows.py       exponential and root in units in the last place, NaN and infinities
orders.py     what a result's bits depend on: the order of terms, the run, the neighbours
command.py    `hal probe`
"""

from __future__ import annotations

from hal.conformance.probe.finding import Finding, probe

__all__ = ["Finding", "probe"]
