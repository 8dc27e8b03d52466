"""Nobody starves, whatever class and caller the others are of.

Once a job has waited out its patience (15 s interactive, 60 s batch) since its last turn, only jobs go before it whose last turn
was longer ago, each with one batch, since its turn puts it behind. Those are at most the jobs that were there at its last turn.
So it waits no longer than its patience and (jobs that were there + 1) batches; and where a device does a batch in b seconds, the
recovery of a worker included, no longer than patience + (jobs + 1) * b seconds. Checked in batches, which is the stricter.

Before that, the batch class goes only when no interactive work waits.
"""

from __future__ import annotations

import bisect

from steadyvoice.engine.scheduler import ServiceClass
from tests.simulation.traffic import Request
from tests.simulation.verdicts import Broken

PATIENCE_S = {ServiceClass.INTERACTIVE: 15.0, ServiceClass.BATCH: 60.0}  # what the engine promises, written down once more


class Fairness:
    """Of one card."""

    def __init__(self) -> None:
        self.longest_wait_s = 0.0  # for a turn
        self.out_of_patience = 0  # turns that came so late
        self._sent_at: list[float] = []  # every batch

    def turn(self, now: float) -> None:
        """A batch goes."""
        self._sent_at.append(now)

    def check_first(self, first: Request, now: float, interactive: int) -> None:
        """`first` leads a batch while so many interactive works wait."""
        patient = now < first.last_turn + PATIENCE_S[first.service_class]
        if first.service_class is ServiceClass.BATCH and patient and interactive:
            raise Broken(f"the batch class goes before {interactive} interactive works, and is not out of patience")

    def check_wait(self, request: Request, now: float) -> None:
        """Its wait ends, by a turn or because it leaves."""
        self.longest_wait_s = max(self.longest_wait_s, now - request.last_turn)
        out_of_patience = request.last_turn + PATIENCE_S[request.service_class]
        if now <= out_of_patience:
            return
        self.out_of_patience += 1
        overtaken_by = len(self._sent_at) - bisect.bisect_right(self._sent_at, out_of_patience)
        if overtaken_by > request.ahead + 1:
            raise Broken(
                f"{overtaken_by} batches went before a job out of patience, where {request.ahead} jobs were there before"
            )
