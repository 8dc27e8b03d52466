"""What a caller may be told, and when: why a request is refused, and how a ticket ends.

Every answer and every error needs its reason in what truly happened. So whoever is innocent has an answer, or a reason that is
not its own: cancelled, late, or a model that could not be loaded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from steadyvoice import errors
from steadyvoice.protocol.model_info import BatchBudget
from tests.simulation.history import Clock
from tests.simulation.traffic import Kind, Piece, Request
from tests.simulation.world import World

# What the engine promises, written down once more on purpose.
LONGEST_BACKOFF_S = 30.0
QUARANTINE_S, MOST_IN_QUARANTINE = 3_600.0, 1_000
# So often an item has failed with nobody beside it, when it is held against it.
LONE_DEATHS, LONE_SHORTAGES, LONE_ERRORS = 2, 3, 1
GRANULARITY_S = 1e-6  # of the timer, on a clock that never oversleeps; and of sums of seconds


class Broken(BaseException):
    """An invariant does not hold. No `Exception`: nothing between here and the loop of events may swallow it."""


class WatchedTicket(Future):  # type: ignore[type-arg]
    """A ticket that may be resolved once. The engine ignores that a ticket cannot be resolved, since its holder may have
    cancelled it; one that has an answer already is another matter."""

    def set_result(self, result: Any) -> None:
        if self.done() and not self.cancelled():
            raise Broken("a ticket is answered that was resolved before")
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        if self.done() and not self.cancelled():
            raise Broken("a ticket fails that was resolved before")
        super().set_exception(exception)


class Verdicts:
    """Of one card."""

    def __init__(self, world: World, clock: Clock) -> None:
        self.measured: BatchBudget | None = None  # what the worker said of its memory when it had loaded
        self.load_failed_at = -math.inf
        self.closing = False
        self._limits = world.limits
        self._clock = clock
        self._quarantine: OrderedDict[int, float] = OrderedDict()  # sound -> until when

    def fits(self, items: int, longest: float, share: float = 1.0) -> bool:
        """Whether a batch is within this share of the budget."""
        padded, exactness = items * longest, 1 + 1e-12  # sums in another order
        if padded > share * self._limits.budget.padded_s * exactness:
            return False
        measured = self.measured
        if measured is None:
            return True
        cost = measured.cost
        takes = cost.fixed + cost.linear * padded + cost.quadratic * padded * longest
        return takes <= share * measured.bytes * exactness

    def why_refuse(self, request: Request, waiting: int, waiting_s: float) -> str | None:
        """The code of the error that it deserves while so many works of so many seconds wait."""
        now, length = self._clock.now, 0.0
        for piece in request.pieces:
            if self._quarantine and self._quarantine.get(piece.sound, 0.0) > now:
                return errors.Quarantined.code
            length += piece.length
        if not all(self.fits(1, piece.length) for piece in request.pieces):
            return errors.TooLarge.code
        if waiting and waiting_s + length > self._limits.max_backlog_s + GRANULARITY_S:
            return errors.Overloaded.code
        return None

    def check_refusal(self, error: errors.SteadyvoiceError, why: str | None) -> None:
        match error:
            case errors.EngineUnavailable():
                right = self.closing or self._clock.now < self.load_failed_at + LONGEST_BACKOFF_S
            case errors.Quarantined() | errors.TooLarge() | errors.Overloaded():
                right = why == error.code
            case _:
                right = False
        if not right:
            raise Broken(f"a request was refused without reason: {error!r}")
        if isinstance(error, errors.Overloaded) and not 1 <= (error.retry_after_s or 0) <= errors.LONGEST_WAIT_S:
            raise Broken(f"a refused caller is told to come back after {error.retry_after_s} s")

    def check_answer(self, piece: Piece, ticket: Future[Any]) -> None:
        answer = ticket.result()
        if answer.payload.fields["of"] != piece.id:
            raise Broken(f"piece {piece.id} is answered with the result of piece {answer.payload.fields['of']}")
        if not piece.answered or piece.kind is not Kind.GOOD:
            raise Broken(f"{piece.kind.name} piece {piece.id} is answered, and nobody had an answer for it")
        if answer.queue_s != piece.dispatched - piece.request.arrived:
            raise Broken(f"piece {piece.id} is said to have waited {answer.queue_s} s")

    def check_error(self, piece: Piece, error: errors.SteadyvoiceError) -> None:
        if not self._is_right(piece, error):
            raise Broken(
                f"{piece.kind.name} piece {piece.id} ends with {error!r}, after failures alone: {dict(piece.lone_failures)}"
            )
        if isinstance(error, errors.WorkerDied):
            self._quarantine.pop(piece.sound, None)
            self._quarantine[piece.sound] = self._clock.now + QUARANTINE_S
            if len(self._quarantine) > MOST_IN_QUARANTINE:
                self._quarantine.popitem(last=False)

    def _is_right(self, piece: Piece, error: errors.SteadyvoiceError) -> bool:
        """Whether it is what this piece deserves now."""
        match error:
            case errors.Cancelled():
                return piece.request.cancelled < math.inf and piece.dispatches >= 1
            case errors.DeadlineExceeded():
                return piece.request.deadline <= self._clock.now
            case errors.EngineUnavailable():
                return self.closing or self.load_failed_at == self._clock.now
            case errors.OutOfMemory():
                return piece.lone_failures["oom"] == LONE_SHORTAGES
            case errors.WorkerDied():
                return piece.lone_failures["death"] == LONE_DEATHS
            case errors.ItemFailed():
                return piece.kind is Kind.UNSENDABLE or (
                    piece.kind is Kind.RAISES and piece.lone_failures["error"] >= LONE_ERRORS
                )
            case errors.InvalidInput():
                return piece.kind is Kind.INVALID and piece.answered
        return False
