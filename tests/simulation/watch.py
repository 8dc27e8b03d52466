"""What must be true of one card: its dispatcher, its worker, and everybody who waits for it.

The bookkeeping is its own and shares no code with the engine's, so that a bug there is not repeated here. It sees what the
worker is sent and says, and how every ticket ends. After every event `check` compares the two.
"""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from steadyvoice import errors
from steadyvoice.engine.dispatcher import Dispatcher
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.protocol.messages import Aborted, Batch, Done, FromWorker, ItemFailed, Loaded, LoadFailed, Result
from tests.simulation.fairness import Fairness
from tests.simulation.history import ENDED, HEARD, RESOLVED, SENT, STARTED, Clock, History
from tests.simulation.traffic import Kind, Piece, Request
from tests.simulation.verdicts import GRANULARITY_S, LONE_DEATHS, LONE_SHORTAGES, Broken, Verdicts
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.worker import ModelWorker

# What the engine promises, written down once more on purpose.
PADDING = 1.25  # padded over real seconds of a batch
RECOVERY, SMALLEST_SHARE = 1 / 32, 1 / 64

KINDS = {kind: number for number, kind in enumerate(("hello", "loaded", "load_failed", "result", "failed", "done", "aborted"))}
NONSENSE = len(KINDS)
CANCELLED_TICKET = 499


class Watch:
    """See the module's docstring."""

    dispatcher: Dispatcher

    def __init__(self, number: int, world: World, clock: Clock, history: History) -> None:
        self.number = number
        self.turns = 0
        self.workers = 0
        self.counts: Counter[str] = Counter()
        self.open: dict[Request, None] = {}  # those with tickets that are not resolved, in order of arrival
        self.unresolved = 0  # tickets
        self.waiting = 0  # of them, those that are not on the device
        self.waiting_s = 0.0
        self.waiting_interactive = 0
        self.fairness = Fairness()
        self.verdicts = Verdicts(world, clock)
        self.worker: ModelWorker | None = None
        self.ready = False  # the worker has loaded the model
        self.batch: list[Piece] | None = None
        self._busy_s = 0.0  # with batches that are over
        self._busy_since = 0.0
        self._world = world
        self._clock = clock
        self._history = history
        self._max_items = world.limits.max_batch_items
        self._share = 1.0
        self._failed: list[list[Piece]] = []  # what batches left unanswered that failed just now
        self._failures = 0
        self._is_lost = False  # the worker; the engine knows, and has only to remove it
        self._owes_a_kill = False  # it said that it cannot load, or what nobody may say

    # --- who comes

    def admitted(self, request: Request, at_once: bool) -> None:
        """`at_once`: of somebody who was told of an answer this moment, when the accounts here are not yet made up."""
        why = self.verdicts.why_refuse(request, self.waiting, self.waiting_s)
        if why and not (at_once and why == errors.Overloaded.code):
            raise Broken(f"a request was admitted though {why}")
        assert request.handle is not None
        if len(request.handle.tickets) != len(request.pieces):
            raise Broken("a job has not one ticket per task")
        request.watch = self
        self.open[request] = None
        request.left = len(request.pieces)
        request.ahead = self.dispatcher._jobs.scheduler.jobs
        for piece, ticket in zip(request.pieces, request.handle.tickets, strict=True):
            piece.ticket = ticket
            self.unresolved += 1
            self._waits(piece)

    def refused(self, request: Request, error: errors.SteadyvoiceError, at_once: bool) -> None:
        self.counts[f"refused: {error.code}"] += 1
        if not (at_once and isinstance(error, errors.Overloaded)):
            self.verdicts.check_refusal(error, self.verdicts.why_refuse(request, self.waiting, self.waiting_s))

    # --- what the worker is sent and says

    def started(self, worker: ModelWorker) -> None:
        if self.worker is not None:
            raise Broken("a worker is started beside another")
        self.workers += 1
        self.worker, self.ready, self._is_lost, self._owes_a_kill = worker, False, False, False
        self._history.note(STARTED, self.number, self.workers)

    def could_not_start(self) -> None:
        self.verdicts.load_failed_at = self._clock.now

    def sent(self, worker: ModelWorker, batch: Batch) -> list[Piece]:
        """Everything that must be true of a batch. Returns its pieces."""
        self.take_back()
        pieces: list[Piece] = [payload.piece for payload in batch.items]  # type: ignore[attr-defined]
        self._history.note(SENT, self.number, len(pieces), pieces[0].id if pieces else 0)
        if worker is not self.worker or not self.ready or self.batch is not None or not pieces:
            raise Broken("a batch is sent to a worker that is not there, not loaded or busy, or without items")
        self._check_size(pieces)
        self._check_suspects(pieces)
        now, jobs = self._clock.now, self.dispatcher._jobs.scheduler.jobs
        self.fairness.check_first(pieces[0].request, now, self.waiting_interactive)
        for piece in pieces:
            request = piece.request
            if piece.resolved or piece.on_device or piece.answered or request.watch is not self:
                raise Broken(f"piece {piece.id} runs though it is resolved, runs already, or belongs to another card")
            if request.deadline <= now:
                raise Broken(f"piece {piece.id} runs {now - request.deadline} s after its deadline")
            if request.cancelled < self.turns:
                raise Broken(f"piece {piece.id} runs though its request was cancelled")
            piece.on_device = True
            piece.dispatched = now
            piece.dispatches += 1
            if piece.dispatches > (self._max_items - 1).bit_length() + LONE_SHORTAGES + LONE_DEATHS - 1:
                raise Broken(f"piece {piece.id} is sent for the {piece.dispatches}th time")
            self._waits_no_longer(piece)
            self.fairness.check_wait(request, now)
            request.last_turn, request.ahead = now, jobs
        self.fairness.turn(now)
        self.batch, self._busy_since = pieces, now
        self.counts["batches"] += 1
        return pieces

    def _check_size(self, pieces: list[Piece]) -> None:
        items, longest = len(pieces), max(piece.length for piece in pieces)
        # One alone runs in any case: it was admitted, though perhaps before the budget was measured.
        if items > self._max_items or (items > 1 and not self.verdicts.fits(items, longest, self._share)):
            raise Broken(f"{items} items of at most {longest:.3f} s at {self._share:.4f} of the budget, {self._max_items} items")
        if items * longest > PADDING * sum(piece.length for piece in pieces) + GRANULARITY_S:
            raise Broken(f"more than a quarter of padding: {items} items of at most {longest:.3f} s")

    def _check_suspects(self, pieces: list[Piece]) -> None:
        first = pieces[0]
        if any(piece.half != first.half for piece in pieces):
            raise Broken(f"a suspect runs with strangers: {[piece.half for piece in pieces]}")
        if first.half and len(pieces) > first.half_size:
            raise Broken(f"{len(pieces)} suspects run together, and half of what failed are {first.half_size}")

    def not_sent(self) -> None:
        """An item cannot cross the pipe; the batch is not sent."""
        assert self.batch is not None
        for piece in self.batch:
            piece.answered = piece.kind is Kind.UNSENDABLE
        self._give_up([piece for piece in self.batch if not piece.answered])

    def heard(self, message: FromWorker) -> None:
        answered = isinstance(message, Result | ItemFailed)
        self._history.note(HEARD, self.number, KINDS[message.kind], message.index if answered else -1)
        match message:
            case Result() | ItemFailed():
                assert self.batch is not None
                self.batch[message.index].answered = True
            case Done():
                self._share = min(1.0, self._share + RECOVERY)
                self._over()
            case Aborted():
                self.batch_failed(message.failure.value)
            case Loaded():
                self.ready, self._max_items = True, message.model.max_batch_items
                self.verdicts.measured = message.budget
                self.counts["loads"] += 1
            case LoadFailed():
                self.verdicts.load_failed_at, self._owes_a_kill = self._clock.now, True
                self.counts["loads that failed"] += 1

    def heard_nonsense(self) -> None:
        self._owes_a_kill = True
        self._history.note(HEARD, self.number, NONSENSE, -1)
        self.counts["nonsense"] += 1

    def batch_failed(self, failure: str) -> None:
        """The batch on the device ended without all its answers."""
        pieces = self.batch
        assert pieces is not None
        self.counts[f"batches that failed: {failure}"] += 1
        if failure == "oom":
            self._share = max(SMALLEST_SHARE, self._share / 2)
        unanswered = [piece for piece in pieces if not piece.answered]
        if len(pieces) == 1:
            for piece in unanswered:
                piece.lone_failures[failure] += 1
        self._give_up(unanswered)

    def _give_up(self, unanswered: list[Piece]) -> None:
        self._failed.append(unanswered)
        self._over()

    def _over(self) -> None:
        self.batch = None
        self._busy_s += self._clock.now - self._busy_since

    def take_back(self) -> None:
        """What failed just now and was not resolved waits again. After the engine has had its say, and before it goes on."""
        for unanswered in self._failed:
            retried = [piece for piece in unanswered if not piece.resolved]
            self._failures += 1
            self.counts["retries"] += len(retried)
            for piece in retried:
                piece.on_device = False
                # Of what was unanswered when it failed: a caller may have left since, and the halves were made before.
                piece.half, piece.half_size = self._failures, (len(unanswered) + 1) // 2
                self._waits(piece)
        self._failed.clear()

    def _waits(self, piece: Piece) -> None:
        self.waiting += 1
        self.waiting_s += piece.length
        self.waiting_interactive += piece.request.service_class is ServiceClass.INTERACTIVE

    def _waits_no_longer(self, piece: Piece) -> None:
        self.waiting -= 1
        # Nobody waits: rid of rounding.
        self.waiting_s = self.waiting_s - piece.length if self.waiting else 0.0
        self.waiting_interactive -= piece.request.service_class is ServiceClass.INTERACTIVE

    @property
    def busy_s(self) -> float:
        """For so long the device has had a batch."""
        return self._busy_s + (self._clock.now - self._busy_since if self.batch is not None else 0.0)

    # --- how a worker ends

    def died(self) -> None:
        self.counts["workers that died"] += 1
        self._lost(0)

    def killed(self, worker: ModelWorker) -> None:
        if worker is not self.worker:
            raise Broken("a worker is ended twice")
        in_vain = self.batch is not None and all(piece.resolved or piece.answered for piece in self.batch)
        if worker.is_well and not self._owes_a_kill and not in_vain:
            raise Broken("a worker that is well is killed")
        if not self._is_lost:
            self._lost(1)
        self.worker = None

    def stopped(self, worker: ModelWorker) -> None:
        if worker is not self.worker:
            raise Broken("a worker is ended twice")
        if self.batch is not None and not self.verdicts.closing:
            raise Broken("a worker is asked to leave in the middle of a batch")
        self.counts["workers that left"] += 1
        self._history.note(ENDED, self.number, self.workers, 2)
        self.worker, self.ready = None, False

    def _lost(self, how: int) -> None:
        self._history.note(ENDED, self.number, self.workers, how)
        if not self.ready:
            self.verdicts.load_failed_at = self._clock.now
        if self.batch is not None:
            self.batch_failed("death")
        self.ready, self._is_lost = False, True

    # --- how a ticket ends

    def resolved(self, piece: Piece, ticket: Future[Any]) -> None:
        request, now = piece.request, self._clock.now
        if piece.resolved:
            raise Broken(f"piece {piece.id} is resolved a second time")
        piece.resolved = True
        request.left -= 1
        if not request.left:
            del self.open[request]
        self.unresolved -= 1
        if not piece.on_device:
            self._waits_no_longer(piece)
            self.fairness.check_wait(request, now)
        if now > request.deadline + GRANULARITY_S:
            raise Broken(f"piece {piece.id} is resolved {now - request.deadline:.6f} s after its deadline")
        if ticket.cancelled():
            status = CANCELLED_TICKET
            self.counts["cancelled"] += 1
            if request.cancelled == math.inf:
                raise Broken(f"piece {piece.id} is cancelled, and nobody did it")
        elif (error := ticket.exception()) is None:
            status = 200
            self.counts["answered"] += 1
            self.verdicts.check_answer(piece, ticket)
        else:
            assert isinstance(error, errors.SteadyvoiceError)
            status = error.status
            self.counts[f"failed: {error.code}"] += 1
            self.verdicts.check_error(piece, error)
        self._history.note(RESOLVED, self.number, piece.id, status)

    # --- after every event, and now and then

    def check(self, asleep: bool) -> None:
        """`asleep`: the engine has done what it can do now."""
        self.take_back()
        scheduler = self.dispatcher._jobs.scheduler
        if abs(scheduler._backlog - self.waiting_s) > GRANULARITY_S:
            raise Broken(f"the backlog is {scheduler._backlog} s, and {self.waiting_s} s wait")
        if scheduler.share != self._share:
            raise Broken(f"the share is {scheduler.share}, not {self._share}")
        if len(self.dispatcher._jobs.ledger) != self.unresolved:
            raise Broken(f"{len(self.dispatcher._jobs.ledger)} tickets are owed, and {self.unresolved} not resolved")
        if asleep and self.waiting and self.batch is None:
            if self.ready:
                raise Broken(f"the device idles while {self.waiting} works wait")
            if self.worker is None and not self.dispatcher._lifecycle.wait_s:
                raise Broken(f"nobody starts a worker while {self.waiting} works wait")

    def check_thoroughly(self) -> None:
        """What takes longer, as it looks at every request."""
        scheduler, ledger, requests = self.dispatcher._jobs.scheduler, self.dispatcher._jobs.ledger, self.open
        waiting = [request for request in requests if any(not piece.resolved and not piece.on_device for piece in request.pieces)]
        if scheduler.has_waiting() != bool(waiting) or bool(waiting) != bool(self.waiting):
            raise Broken(f"{len(waiting)} jobs wait, and the scheduler says {scheduler.has_waiting()}")
        abandoned = {piece.request for piece in self.batch or () if not piece.answered} - requests.keys()
        if scheduler.jobs != len(requests) + len(abandoned) or len(ledger._jobs) != len(requests):
            raise Broken(f"{len(requests)} and {len(abandoned)} jobs are known as {scheduler.jobs}, owed {len(ledger._jobs)}")
        if scheduler.next_deadline() != min((request.deadline for request in requests), default=math.inf):
            raise Broken(f"the next deadline is said to be {scheduler.next_deadline()}")
        suspects = sum(1 for request in requests for piece in request.pieces if piece.half and not piece.resolved)
        if len(scheduler._suspects) > suspects + len(self.batch or ()):
            raise Broken(f"{len(scheduler._suspects)} works are suspect, not {suspects}")

    def check_nothing_leaks(self) -> None:
        """Everybody has gone."""
        engine, scheduler = self.dispatcher, self.dispatcher._jobs.scheduler
        left = {
            "tickets": self.unresolved,
            "works that wait": self.waiting,
            "jobs": scheduler._jobs,
            "accounts of callers": scheduler._served,
            "suspects": scheduler._suspects,
            "backlog": scheduler.backlog_s,
            "ledger": engine._jobs.ledger._pending or engine._jobs.ledger._jobs,
            "running batch": engine._runner.running,
            "cancelled jobs": engine._jobs.cancelled,
        }
        if leaks := {name: what for name, what in left.items() if what}:
            raise Broken(f"left behind when everybody has gone: {leaks}")
