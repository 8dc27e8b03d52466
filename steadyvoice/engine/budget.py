"""How much one batch may cost. Pure arithmetic.

The cost of a batch is what the device computes, padding included: every item is padded to the longest. For now it is counted
in padded seconds; the unit can become bytes without any change to the scheduler, which only ever asks `fits`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit of one batch, in padded seconds."""

    limit: float

    def cost(self, items: int, longest: float) -> float:
        """Cost of a batch of `items` whose longest is `longest` seconds."""
        return items * longest

    def fits(self, items: int, longest: float) -> bool:
        return self.cost(items, longest) <= self.limit
