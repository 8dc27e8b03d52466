"""How much one batch may cost. Pure arithmetic.

The cost of a batch is what the device computes, padding included: every item is padded to the longest. It is counted in bytes
where the worker has measured the model (see `worker.memory_profile`), and in padded seconds in any case. The scheduler only
ever asks `fits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadyvoice.protocol.cost import CostModel

SMALLEST_SHARE = 1 / 64  # what running out of memory again and again leaves of a budget
UNMEASURED = CostModel()  # costs nothing in bytes, so that only the padded seconds bound a batch
RECOVERY = 1 / 32  # of the budget, added back by each batch that went well


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit of one batch: padded seconds, and bytes where they are known."""

    padded_s: float
    bytes: float = math.inf
    cost: CostModel = UNMEASURED

    def fits(self, items: int, longest: float, share: float = 1.0) -> bool:
        """Whether a batch of `items` whose longest is `longest` seconds is within this share of the budget."""
        return items * longest <= share * self.padded_s and self.cost.bytes(items, longest) <= share * self.bytes

    @property
    def longest_s(self) -> float:
        """Seconds of the longest item that fits alone."""
        if self.fits(1, self.padded_s):  # the inverse may be a rounding short of it
            return self.padded_s
        return min(self.padded_s, self.cost.longest(self.bytes))


class Allowance:
    """How much of the budget is used at the moment: halved when memory ran out, given back slowly (AIMD, as in TCP).

    The memory that the budget counts on may be taken by others, for a while or for good.
    """

    def __init__(self) -> None:
        self.share = 1.0

    def halve(self) -> None:
        self.share = max(SMALLEST_SHARE, self.share / 2)

    def recover(self) -> None:
        self.share = min(1.0, self.share + RECOVERY)
