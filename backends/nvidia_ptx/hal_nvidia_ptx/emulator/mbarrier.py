"""An mbarrier: arrivals and bytes that one phase waits for, by the rules of the PTX ISA document.

A phase is complete when no arrival and no byte is pending; the next begins at once. Fresh barriers are in phase 0, so
"the phase of parity 1" counts as complete before anything happened. Bytes may complete before they are expected, which
makes their count negative and keeps nothing complete, since the arrival that expects them is still pending.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NBYTES = 8
MOST_ARRIVALS = (1 << 20) - 1
MOST_BYTES = (1 << 20) - 1
_PENDING_BITS = 20


class MbarrierFault(Exception):
    """What a program must not do with an mbarrier; `expected` says what it may."""

    def __init__(self, message: str, expected: str) -> None:
        super().__init__(message)
        self.expected = expected


@dataclass(slots=True)
class Mbarrier:
    """The state of one. made: the mbarrier.init; user: the instruction that last expected or completed bytes.

    expected: arrivals of each later phase; pending: of this one; transactions: bytes expected and not yet complete;
    announced, landed: the bytes of this phase for messages.
    """

    expected: int
    pending: int
    made: Any = None
    phase: int = 0
    transactions: int = 0
    announced: int = 0
    landed: int = 0
    user: Any = None

    @classmethod
    def init(cls, count: int, made: Any = None) -> Mbarrier:
        if not 1 <= count <= MOST_ARRIVALS:
            raise MbarrierFault(f"mbarrier.init with count {count}", f"a count from 1 to {MOST_ARRIVALS}")
        return cls(count, count, made)

    def token(self) -> int:
        """The 64-bit state that arrive returns: this phase and its pending arrivals."""
        return (self.phase << _PENDING_BITS) | self.pending

    def arrive(self, count: int = 1, drop: bool = False) -> None:
        """`count` arrivals, on the next phases as well if this one completes on the way."""
        if count < 1:
            raise MbarrierFault(f"an arrival with count {count}", "a count of 1 or more")
        while count:
            taken = min(count, self.pending)
            if not taken:
                raise MbarrierFault(
                    f"an arrival too many: all {self.expected} of this phase have come and it is not complete,"
                    f" since {self.bytes_missing()}",
                    "as many arrivals in a phase as mbarrier.init said",
                )
            if drop:
                self._drop(taken)
            self.pending -= taken
            count -= taken
            self._complete()

    def grow(self, count: int) -> None:
        """This phase waits for more arrivals than the others."""
        self.pending += count

    def _drop(self, count: int) -> None:
        if self.expected < count:
            raise MbarrierFault("arrive_drop by more threads than the barrier counts", "one drop for each arrival")
        self.expected -= count

    def expect(self, nbytes: int) -> None:
        """Wait for more bytes in this phase."""
        if not 0 <= nbytes <= MOST_BYTES or self.transactions + nbytes > MOST_BYTES:
            raise MbarrierFault(
                f"expect_tx of {nbytes} bytes with {self.transactions} pending", f"at most {MOST_BYTES} bytes pending"
            )
        self.transactions += nbytes
        self.announced += nbytes

    def land(self, nbytes: int) -> None:
        """Bytes have arrived: complete_tx."""
        if self.transactions - nbytes < -MOST_BYTES:
            raise MbarrierFault(
                f"{nbytes} bytes complete that nobody expected, {-self.transactions} before them",
                "an expect_tx for every byte that completes",
            )
        self.transactions -= nbytes
        self.landed += nbytes
        self._complete()

    def _complete(self) -> None:
        if self.pending == 0 and self.transactions == 0:
            self.phase += 1
            self.pending = self.expected
            self.announced = self.landed = 0

    def done(self, token: int) -> bool:
        """Whether the phase of a token is complete."""
        return self.phase != token >> _PENDING_BITS

    def parity_done(self, parity: int) -> bool:
        """Whether the phase of this parity is complete: this one has the other parity."""
        return self.phase & 1 != parity & 1

    def bytes_missing(self) -> str:
        """What the count of bytes says, for messages."""
        return f"{self.announced} bytes are expected and {self.landed} arrived"

    def __str__(self) -> str:
        came = self.expected - self.pending
        return f"phase {self.phase}: {came} of {self.expected} arrivals came; {self.bytes_missing()}"


def pending_count(token: int) -> int:
    """The arrivals that were pending when a token was made."""
    return token & ((1 << _PENDING_BITS) - 1)
