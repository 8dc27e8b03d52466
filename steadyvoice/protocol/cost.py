"""What a batch costs in memory: the one formula, used by the worker that measures it and by the scheduler that keeps to it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostModel:
    """bytes = fixed + linear * items * longest + quadratic * items * longest^2, `longest` in seconds of audio.

    Linear are activations, quadratic is what attention keeps for every pair of rows.
    """

    fixed: float = 0.0
    linear: float = 0.0
    quadratic: float = 0.0

    def bytes(self, items: int, longest: float) -> float:
        """Beyond what the loaded model takes at rest."""
        return self.fixed + items * longest * (self.linear + self.quadratic * longest)

    def longest(self, limit: float) -> float:
        """Seconds of the longest single item within `limit` bytes; 0 if there is none, infinity if there is no end."""
        room = limit - self.fixed
        if room < 0:
            return 0.0
        if self.quadratic:
            return (math.sqrt(self.linear**2 + 4 * self.quadratic * room) - self.linear) / (2 * self.quadratic)
        return room / self.linear if self.linear else math.inf

    def __str__(self) -> str:
        fixed, linear, quadratic = self.fixed / 1e6, self.linear / 1e6, self.quadratic / 1e6
        return f"{fixed:.1f} MB + {linear:.2f} MB per second + {quadratic:.4f} MB per second squared"
