"""NVIDIA's architectures as PTX knows them: what each can do, and how much of everything it has.

The limits are those of the table "Technical Specifications per Compute Capability" in NVIDIA's CUDA programming guide;
the lowest PTX version is that in which the PTX ISA document introduces the target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """One `.target`.

    sm: 10 * major + minor of the compute capability. ptx: the lowest `.version` that names it.
    shared_block, shared_sm: bytes of shared memory that one block may have, and that an SM has for all (a block costs
    `shared_reserved` more than it asks for). sms: of the largest common part, for estimates only.
    """

    name: str
    sm: int
    ptx: tuple[int, int]
    shared_block: int
    shared_sm: int
    threads_sm: int
    blocks_sm: int
    sms: int
    registers_sm: int = 65536
    shared_reserved: int = KIB
    cluster: int = 1  # largest portable cluster of blocks

    @property
    def specific(self) -> bool:
        """Architecture-specific: its code runs on exactly one chip, with that chip's own instructions."""
        return self.name[-1] in "af"

    def runs(self, other: Target) -> bool:
        """Whether PTX written for `other` can be compiled for this target."""
        return self.name == other.name or (not other.specific and other.sm <= self.sm)


def _target(name: str, ptx: tuple[int, int], *limits: int, **more: int) -> Target:
    block, whole, threads, blocks, sms = limits
    return Target(name, int(re.sub(r"\D", "", name)), ptx, block * KIB, whole * KIB, threads, blocks, sms, **more)


TARGETS = {
    target.name: target
    for target in (
        _target("sm_75", (6, 3), 64, 64, 1024, 16, 40, shared_reserved=0),
        _target("sm_80", (7, 0), 163, 164, 2048, 32, 108),
        _target("sm_86", (7, 1), 99, 100, 1536, 16, 84),
        _target("sm_87", (7, 4), 163, 164, 1536, 16, 16),
        _target("sm_89", (7, 8), 99, 100, 1536, 24, 128),
        _target("sm_90", (7, 8), 227, 228, 2048, 32, 132, cluster=8),
        _target("sm_90a", (8, 0), 227, 228, 2048, 32, 132, cluster=8),
        _target("sm_100", (8, 6), 227, 228, 2048, 32, 148, cluster=8),
        _target("sm_100a", (8, 6), 227, 228, 2048, 32, 148, cluster=8),
        _target("sm_120", (8, 7), 99, 100, 1536, 24, 170, cluster=8),
        _target("sm_120a", (8, 7), 99, 100, 1536, 24, 170, cluster=8),
    )
}

# Devices that are emulated, and for which every kernel is assembled.
CHECKED = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120")


def of_capability(major: int, minor: int) -> Target:
    """The target of a device: its own if it is known, else the newest that its driver can compile for.

    Raises ValueError for devices older than sm_75.
    """
    sm = 10 * major + minor
    plain = [target for target in TARGETS.values() if not target.specific and target.sm <= sm]
    if not plain:
        raise ValueError(f"compute capability {major}.{minor}: hal's PTX needs 7.5 or newer")
    own = TARGETS.get(f"sm_{sm}a")
    return own or max(plain, key=lambda target: target.sm)
