"""Which works run next, and which of them together. A pure state machine: no thread, no clock, no I/O.

Time comes in as an argument, so that the same code runs under the engine's thread and under a simulation with a virtual clock
and a seed. What it promises: every admitted work leaves exactly once (finished, failed, expired or cancelled); no batch exceeds
the budget; no job starves; a cancelled job costs nothing after its current batch.

A job is one request; a work is one piece of it (one segment of audio, one sentence of text). Jobs are ranked
  1. jobs that have waited longer than their class's patience since their last turn, longest wait first (so none starves), then
  2. interactive before batch, then the caller who has been served least (a clip does not wait behind a meeting), then the job
     that has been served least, then the one that came first. Who speaks in the voice that the device has at hand counts as
     served a little less, so that it need not change voices with every sentence.
The first work of the first job leads the batch; others join if they are of similar length and the budget holds them.

When a batch fails as a whole, its works are suspects: it is split in two, and the halves run apart from each other and from all
other works, until the work that causes the failure fails alone and the others have their answers (bisection). When memory ran
out, less of the budget is used for a while as well.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from steadyvoice.engine.batch_budget import Allowance, Budget
from steadyvoice.errors import Overloaded, TooLarge
from steadyvoice.protocol.model_info import Failure

# A batch may compute so much padding on top of its real seconds; beyond that two small batches are cheaper than one.
MAX_PADDING_SHARE = 0.25
# How far the search for companions looks; bounds the cost of one decision whatever the queue's length.
JOBS_LOOKED_AT = 64
WORKS_LOOKED_AT = 32
# A caller, and a job among its caller's, may be ahead by so many seconds of audio if that saves a change of what the device has
# at hand: about a sentence, so that no caller's first sentence waits for the third of another.
AFFINITY_S = 2.0


class ServiceClass(enum.Enum):
    """Interactive callers wait for the answer; batch work fills what capacity they leave."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


# Seconds without a turn after which a job goes before all younger ones.
PATIENCE_S = {ServiceClass.INTERACTIVE: 15.0, ServiceClass.BATCH: 60.0}


# A work that failed so often alone has failed for good. Other processes may have taken the memory for a moment, and a
# worker may be killed by others; what a model raises it raises again.
LONE_FAILURES = {Failure.OUT_OF_MEMORY: 3, Failure.ERROR: 1, Failure.DEATH: 2}


@dataclass(frozen=True, slots=True)
class Work:
    """One schedulable piece. `length` is in seconds of audio, known for recognition and estimated for synthesis. Works of the
    same `affinity`, if they have one, are cheaper one after the other."""

    id: int
    job: int
    length: float
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Works that run together."""

    id: int
    works: tuple[Work, ...]

    @property
    def longest(self) -> float:
        return max(work.length for work in self.works)


@dataclass(slots=True)
class Job:
    """One request's state. `served` is in seconds of audio."""

    id: int
    caller: str
    service_class: ServiceClass
    arrived: float
    deadline: float
    waiting: deque[Work]
    running: set[int] = field(default_factory=set)
    served: float = 0.0
    last_turn: float = 0.0
    started: bool = False
    dropped: bool = False  # cancelled or expired: what still runs is not retried


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler admits and how it batches."""

    budget: Budget
    max_backlog_s: float  # seconds of audio waiting in total
    max_batch_items: int = 64


@dataclass(slots=True)
class _Suspicion:
    """Of a work whose batch failed. `group` are the works of the same half, itself included: the only ones it runs with."""

    group: list[Work]
    alone: Counter[Failure]  # failures in a batch of its own


class Scheduler:
    """See the module's docstring. Not thread-safe: one owner feeds it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs: dict[int, Job] = {}  # insertion order is order of arrival
        self._served: dict[str, float] = {}  # virtual time of each caller, seconds of audio
        self._floor = 0.0  # virtual time at which newcomers start
        self._suspects: dict[int, _Suspicion] = {}  # by work id
        self._allowance = Allowance()
        self._backlog = 0.0
        self._batches = 0
        self._at_hand = ""  # affinity of the last batch

    # --- arriving and leaving

    def submit(
        self,
        job_id: int,
        works: Sequence[Work],
        now: float,
        *,
        caller: str,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        deadline: float = float("inf"),
    ) -> None:
        """Admit all works of a job, or none.

        Raises:
            TooLarge: one work alone is over the budget of a batch; nothing was admitted.
            Overloaded: the backlog is full; nothing was admitted. An empty queue takes any job.
        """
        budget = self.limits.budget
        for work in works:
            if not budget.fits(1, work.length):
                raise TooLarge(f"a segment of {work.length:.1f} s does not fit the batch budget of {budget.longest_s:.1f} s")
        length = sum(work.length for work in works)
        if self.has_waiting() and self._backlog + length > self.limits.max_backlog_s:
            raise Overloaded(
                f"{length:.0f} s of work on top of the {self._backlog:.0f} s already waiting "
                f"is over the limit of {self.limits.max_backlog_s:.0f} s"
            )
        # A newcomer starts level with the callers that are being served: its absence neither favours nor delays it.
        self._served[caller] = max(self._served.get(caller, 0.0), self._floor)
        self._jobs[job_id] = Job(job_id, caller, service_class, now, deadline, deque(works), last_turn=now)
        self._backlog += length

    def cancel(self, job_id: int) -> tuple[Work, ...]:
        """Drop what waits of a job; what runs is finished and then forgotten. Returns what was dropped; twice is harmless."""
        job = self._jobs.get(job_id)
        return () if job is None else self._drop(job)

    def expire(self, now: float) -> tuple[int, ...]:
        """Drop every job whose deadline has passed, and return their ids."""
        late = [job for job in self._jobs.values() if job.deadline <= now and not job.dropped]
        for job in late:
            self._drop(job)
        return tuple(job.id for job in late)

    # --- batches

    def next_batch(self, now: float) -> Batch | None:
        """The best batch at this moment, or None when nothing waits."""
        waiting = [job for job in self._jobs.values() if job.waiting]
        # Of a caller as a whole, or its jobs in another voice would never get a turn.
        favoured = {job.caller for job in waiting if self._is_at_hand(job)}
        ranked = sorted(waiting, key=lambda job: self._rank(job, now, favoured))
        if not ranked:
            return None
        lead = ranked[0].waiting[0]
        self._at_hand = lead.affinity
        self._floor = max(self._floor, min(self._served[job.caller] for job in ranked))
        works = [lead, *self._companions(lead, ranked)]
        for work in works:
            job = self._jobs[work.job]
            job.waiting.remove(work)
            job.running.add(work.id)
            job.served += work.length
            job.last_turn = now
            job.started = True
            self._served[job.caller] += work.length
            self._backlog -= work.length
        self._batches += 1
        return Batch(self._batches, tuple(works))

    def finished(self, work: Work) -> None:
        """A work has its answer, good or bad. A batch is over when each of its works was `finished` or `failed`."""
        self._leave(work)

    def failed(self, works: Sequence[Work], failure: Failure, alone: bool) -> tuple[tuple[Work, ...], tuple[Work, ...]]:
        """A batch failed before these works had their answers. Returns (those that will be tried again, those that will not).

        `alone`: the batch held only this work, which is therefore the cause.
        """
        if failure is Failure.OUT_OF_MEMORY:
            self._allowance.halve()
        retried, lost = [], []
        for work in works:
            suspicion = self._suspects.setdefault(work.id, _Suspicion([], Counter()))
            suspicion.alone[failure] += alone
            if self._jobs[work.job].dropped or suspicion.alone[failure] >= LONE_FAILURES[failure]:
                lost.append(work)
            else:
                retried.append(work)
        middle = (len(retried) + 1) // 2
        for group in (retried[:middle], retried[middle:]):
            for work in group:
                self._suspects[work.id].group = group
        # Back to the front of their jobs, in their old order.
        for work in sorted(retried, key=lambda work: work.id, reverse=True):
            job = self._jobs[work.job]
            job.running.discard(work.id)
            job.waiting.appendleft(work)
            self._backlog += work.length
        for work in lost:
            self._leave(work)
        return tuple(retried), tuple(lost)

    def is_last_try(self, works: Sequence[Work]) -> bool:
        """Whether they are a single work, which has failed for good if memory runs out once more."""
        suspicion = self._suspects.get(works[0].id)
        last = LONE_FAILURES[Failure.OUT_OF_MEMORY] - 1
        return len(works) == 1 and suspicion is not None and suspicion.alone[Failure.OUT_OF_MEMORY] == last

    def went_well(self) -> None:
        """A batch ended with memory to spare."""
        self._allowance.recover()

    # --- looking in

    @property
    def backlog_s(self) -> float:
        """Seconds of audio that wait."""
        return self._backlog

    @property
    def share(self) -> float:
        """Of the budget that is used at the moment: 1, or less after memory ran out."""
        return self._allowance.share

    @property
    def jobs(self) -> int:
        """Jobs that have not left."""
        return len(self._jobs)

    def job_ids(self) -> tuple[int, ...]:
        """Of all jobs that have not left, in order of arrival."""
        return tuple(self._jobs)

    def has_waiting(self) -> bool:
        return any(job.waiting for job in self._jobs.values())

    def place(self, job_id: int) -> int:
        """Place in the queue: 0 once the first work has been on the device, else 1 + the jobs before it that wait for their
        first turn."""
        job = self._jobs.get(job_id)
        if job is None or job.started:
            return 0
        return 1 + sum(1 for other in self._jobs.values() if not other.started and other.id < job.id)

    def next_deadline(self) -> float:
        """The earliest deadline of any job, or infinity."""
        return min((job.deadline for job in self._jobs.values() if not job.dropped), default=float("inf"))

    # --- inside

    def _is_at_hand(self, job: Job) -> bool:
        return self._at_hand != "" and job.waiting[0].affinity == self._at_hand

    def _rank(self, job: Job, now: float, favoured: Collection[str]) -> tuple[float, float, float, float]:
        if now - job.last_turn >= PATIENCE_S[job.service_class]:
            return (0, job.last_turn, 0, 0)
        return (
            1 if job.service_class is ServiceClass.INTERACTIVE else 2,
            self._served[job.caller] - AFFINITY_S * (job.caller in favoured),
            job.served - AFFINITY_S * self._is_at_hand(job),
            job.arrived,
        )

    def _companions(self, lead: Work, ranked: list[Job]) -> Iterator[Work]:
        """Works to run with `lead`: the most alike in length first, as long as budget and padding allow."""
        if (suspicion := self._suspects.get(lead.id)) is not None:
            candidates = [work for work in suspicion.group if work is not lead and self._is_still_suspect(work, suspicion.group)]
        else:
            candidates = [
                work
                for job in islice(ranked, JOBS_LOOKED_AT)
                for work in islice(job.waiting, WORKS_LOOKED_AT)
                if work is not lead and work.id not in self._suspects
            ]
        candidates.sort(key=lambda work: abs(work.length - lead.length))  # stable: rank decides between equals
        items, longest, total = 1, lead.length, lead.length
        for work in candidates:
            if items == self.limits.max_batch_items:
                return
            longest_then = max(longest, work.length)
            padded = (items + 1) * longest_then
            fits = self.limits.budget.fits(items + 1, longest_then, self._allowance.share)
            if fits and padded <= (1 + MAX_PADDING_SHARE) * (total + work.length):
                items, longest, total = items + 1, longest_then, total + work.length
                yield work

    def _is_still_suspect(self, work: Work, group: list[Work]) -> bool:
        """It waits, and has not moved on to another group."""
        suspicion = self._suspects.get(work.id)
        return suspicion is not None and suspicion.group is group and work.id not in self._jobs[work.job].running

    def _drop(self, job: Job) -> tuple[Work, ...]:
        dropped = tuple(job.waiting)
        job.waiting.clear()
        job.dropped = True
        for work in dropped:
            self._leave(work)
        self._backlog = max(0.0, self._backlog - sum(work.length for work in dropped))
        if not dropped:
            self._forget_if_empty(job)
        return dropped

    def _leave(self, work: Work) -> None:
        job = self._jobs.get(work.job)
        self._suspects.pop(work.id, None)
        if job is not None:
            job.running.discard(work.id)
            self._forget_if_empty(job)

    def _forget_if_empty(self, job: Job) -> None:
        if job.waiting or job.running:
            return
        self._jobs.pop(job.id, None)
        if not self._jobs:  # no competitors: start afresh, which also removes rounding errors from the sums
            self._backlog = self._floor = 0.0
            self._served.clear()
            return
        # A caller's account is kept only while it is ahead of newcomers or still has work.
        active = {other.caller for other in self._jobs.values()}
        for caller in [name for name, served in self._served.items() if name not in active and served <= self._floor]:
            del self._served[caller]
