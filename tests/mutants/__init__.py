"""Devices with one planted fault each, as data: tests/test_mutants.py judges the suite by them, and
bench/acceptance_rules.py other rules."""

from __future__ import annotations

from mutants import matmul, memory, norms, softmax
from mutants.mutant import Mutant

MUTANTS: dict[str, Mutant] = {**softmax.MUTANTS, **matmul.MUTANTS, **norms.MUTANTS, **memory.MUTANTS}

__all__ = ["MUTANTS", "Mutant"]
