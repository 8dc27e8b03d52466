from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.scheduler import (
    AFFINITY_S,
    LONE_FAILURES,
    MAX_PADDING_SHARE,
    PATIENCE_S,
    Batch,
    Limits,
    Scheduler,
    ServiceClass,
    Work,
)
from steadyvoice.errors import Overloaded, TooLarge
from steadyvoice.protocol.model_info import Failure

INTERACTIVE, BATCH = ServiceClass.INTERACTIVE, ServiceClass.BATCH
FOREVER = float("inf")


class Queue:
    """A scheduler with ids handed out, for sentences that are about something else."""

    def __init__(self, budget: float = 30.0, max_backlog_s: float = 1e6, max_batch_items: int = 64) -> None:
        self.scheduler = Scheduler(Limits(Budget(budget), max_backlog_s, max_batch_items))
        self._ids = itertools.count(1)

    def submit(
        self,
        *lengths: float,
        now: float = 0.0,
        caller: str = "anna",
        of: ServiceClass = INTERACTIVE,
        deadline: float = FOREVER,
        affinity: str = "",
    ) -> int:
        job = next(self._ids)
        works = [Work(next(self._ids), job, length, affinity) for length in lengths]
        self.scheduler.submit(job, works, now, caller=caller, service_class=of, deadline=deadline)
        return job

    def run_batch(self, now: float = 0.0) -> Batch | None:
        """Take a batch and finish it."""
        batch = self.scheduler.next_batch(now)
        for work in batch.works if batch else ():
            self.scheduler.finished(work)
        return batch

    def turns(self, count: int, now: float = 0.0) -> list[list[int]]:
        """The jobs in each of the next batches."""
        return [[work.job for work in batch.works] for batch in (self.run_batch(now) for _ in range(count)) if batch]


def assert_empty(scheduler: Scheduler) -> None:
    """Nothing is remembered of those who have left."""
    assert scheduler.jobs == 0
    assert scheduler.backlog_s == 0
    assert not scheduler.has_waiting()
    assert scheduler.next_deadline() == FOREVER
    assert not scheduler._jobs
    assert not scheduler._served
    assert not scheduler._suspects


# --- everything that may happen, in any order


@dataclass
class Expected:
    """What the model of the test knows of a job."""

    waiting: dict[int, Work]
    deadline: float
    running: dict[int, Work] = field(default_factory=dict)
    dropped: bool = False


BUDGET, MAX_BACKLOG, MAX_ITEMS = 30.0, 120.0, 4
# Quarters of a second: sums of them are exact, so the accounts can be compared with ==.
lengths = st.integers(1, 4 * 31).map(lambda quarters: quarters / 4)


class AnythingMayHappen(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(Limits(Budget(BUDGET), MAX_BACKLOG, MAX_ITEMS))
        self.now = 0.0
        self.ids = itertools.count(1)
        self.jobs: dict[int, Expected] = {}
        self.admitted: set[int] = set()
        self.left: Counter[int] = Counter()
        self.lone_failures: Counter[tuple[int, Failure]] = Counter()
        self.half: dict[int, set[int]] = {}  # of a batch that failed: with whom a work may run
        self.share = 1.0
        self.on_device: dict[int, Work] = {}

    def backlog(self) -> float:
        return sum(work.length for job in self.jobs.values() for work in job.waiting.values())

    def drop(self, job: Expected) -> set[int]:
        dropped = set(job.waiting)
        self.left.update(dropped)
        job.waiting.clear()
        job.dropped = True
        return dropped

    def forget_finished_jobs(self) -> None:
        self.jobs = {id: job for id, job in self.jobs.items() if job.waiting or job.running}

    @rule(
        lengths=st.lists(lengths, min_size=1, max_size=8),
        caller=st.sampled_from("abc"),
        of=st.sampled_from(ServiceClass),
        timeout=st.one_of(st.just(FOREVER), st.floats(0, 100)),
    )
    def submit(self, lengths: list[float], caller: str, of: ServiceClass, timeout: float) -> None:
        job_id = next(self.ids)
        works = [Work(next(self.ids), job_id, length) for length in lengths]
        refusal: type[Exception] | None = None
        if max(lengths) > BUDGET:
            refusal = TooLarge
        elif self.backlog() and self.backlog() + sum(lengths) > MAX_BACKLOG:
            refusal = Overloaded
        if refusal is not None:
            with pytest.raises(refusal):
                self.scheduler.submit(job_id, works, self.now, caller=caller, service_class=of, deadline=self.now + timeout)
            return  # and the invariants see that nothing of it was admitted
        self.scheduler.submit(job_id, works, self.now, caller=caller, service_class=of, deadline=self.now + timeout)
        self.jobs[job_id] = Expected({work.id: work for work in works}, self.now + timeout)
        self.admitted |= {work.id for work in works}

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from([0, *self.jobs]))
        dropped = self.scheduler.cancel(job_id)
        assert {work.id for work in dropped} == (self.drop(self.jobs[job_id]) if job_id else set())
        assert self.scheduler.cancel(job_id) == ()
        self.forget_finished_jobs()

    @rule()
    def expire(self) -> None:
        late = {id for id, job in self.jobs.items() if job.deadline <= self.now and not job.dropped}
        assert set(self.scheduler.expire(self.now)) == late
        for job_id in late:
            self.drop(self.jobs[job_id])
        self.forget_finished_jobs()

    @precondition(lambda self: not self.on_device)
    @rule()
    def start_a_batch(self) -> None:
        waiting = {id: work for job in self.jobs.values() for id, work in job.waiting.items()}
        batch = self.scheduler.next_batch(self.now)
        assert (batch is None) == (not waiting)
        if batch is None:
            return
        self.on_device = {work.id: work for work in batch.works}
        assert len(self.on_device) == len(batch.works)
        assert self.on_device.items() <= waiting.items()  # so nothing cancelled, expired, running or finished
        assert len(batch.works) <= MAX_ITEMS
        padded, real = len(batch.works) * batch.longest, sum(work.length for work in batch.works)
        assert padded <= (BUDGET if len(batch.works) == 1 else BUDGET * self.share)
        for id in self.on_device:
            assert set(self.on_device) <= self.half.get(id, set(self.on_device) - set(self.half))
        assert padded <= (1 + MAX_PADDING_SHARE) * real
        for work in batch.works:
            job = self.jobs[work.job]
            job.running[work.id] = job.waiting.pop(work.id)

    @precondition(lambda self: self.on_device)
    @rule(data=st.data())
    def one_is_answered(self, data: st.DataObject) -> None:
        work = self.on_device.pop(data.draw(st.sampled_from(sorted(self.on_device))))
        self.scheduler.finished(work)
        self.left[work.id] += 1
        del self.jobs[work.job].running[work.id]
        self.forget_finished_jobs()

    @precondition(lambda self: self.on_device)
    @rule()
    def all_are_answered(self) -> None:
        for work in self.on_device.values():
            self.scheduler.finished(work)
            self.left[work.id] += 1
            del self.jobs[work.job].running[work.id]
        self.on_device = {}
        self.forget_finished_jobs()

    @precondition(lambda self: self.on_device)
    @rule(failure=st.sampled_from(Failure), data=st.data())
    def the_batch_fails(self, failure: Failure, data: st.DataObject) -> None:
        alone = data.draw(st.booleans()) if len(self.on_device) == 1 else False  # or others had their answers before
        works = tuple(self.on_device.values())
        retried, lost = self.scheduler.failed(works, failure, alone)
        assert sorted(work.id for work in (*retried, *lost)) == sorted(self.on_device)
        self.share = max(1 / 64, self.share / 2) if failure is Failure.OUT_OF_MEMORY else self.share
        for work in works:
            job = self.jobs[work.job]
            del job.running[work.id]
            self.lone_failures[work.id, failure] += alone
            if job.dropped or self.lone_failures[work.id, failure] >= LONE_FAILURES[failure]:
                assert work in lost
                self.left[work.id] += 1
                self.half.pop(work.id, None)
            else:
                assert work in retried
                job.waiting[work.id] = work
        for group in (retried[: (len(retried) + 1) // 2], retried[(len(retried) + 1) // 2 :]):
            self.half |= {work.id: {other.id for other in group} for work in group}
        self.on_device = {}
        self.forget_finished_jobs()

    @precondition(lambda self: not self.on_device)
    @rule()
    def a_batch_went_well(self) -> None:
        self.scheduler.went_well()
        self.share = min(1.0, self.share + 1 / 32)
        assert self.scheduler.share == self.share

    @invariant()
    def the_accounts_are_right(self) -> None:
        assert self.scheduler.backlog_s == self.backlog()
        assert self.scheduler.jobs == len(self.jobs)
        assert self.scheduler.has_waiting() == any(job.waiting for job in self.jobs.values())
        deadlines = [job.deadline for job in self.jobs.values() if not job.dropped]
        assert self.scheduler.next_deadline() == min(deadlines, default=FOREVER)

    @invariant()
    def nobody_leaves_twice(self) -> None:
        assert set(self.left.values()) <= {1}
        inside = {id for job in self.jobs.values() for id in (*job.waiting, *job.running)}
        assert inside | set(self.left) == self.admitted

    def teardown(self) -> None:
        self.all_are_answered()
        while self.jobs:
            self.start_a_batch()
            self.all_are_answered()
        assert set(self.left) == self.admitted
        assert set(self.left.values()) <= {1}
        assert_empty(self.scheduler)


AnythingMayHappen.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAnythingMayHappen = AnythingMayHappen.TestCase


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(ServiceClass), st.integers(1, 3)), max_size=3),
        min_size=100,
        max_size=250,
    )
)
def test_nobody_starves_however_many_newcomers_there_are(seconds: list[list[tuple[str, ServiceClass, int]]]) -> None:
    backlog = 20  # works of one second each; one batch takes one and lasts a second
    queue = Queue(budget=1.0, max_backlog_s=backlog, max_batch_items=1)
    last_turn: dict[int, tuple[float, ServiceClass]] = {}
    left: dict[int, int] = {}
    for now, newcomers in enumerate(seconds):
        for caller, of, works in newcomers:
            try:
                job = queue.submit(*[1.0] * works, now=now, caller=caller, of=of)
            except Overloaded:
                continue
            last_turn[job], left[job] = (now, of), works
        for (job,) in queue.turns(1, now):
            left[job] -= 1
            last_turn[job] = (now, last_turn[job][1])
            if not left[job]:
                del last_turn[job]
        for since, of in last_turn.values():
            # Whoever has run out of patience is overtaken by nobody, and no more are before it than fit in the queue.
            assert now - since <= PATIENCE_S[of] + backlog + 1


# --- who goes first


def test_a_clip_does_not_wait_behind_a_meeting() -> None:
    queue = Queue()
    meeting = queue.submit(*[30.0] * 200, caller="anna")
    assert queue.turns(3) == [[meeting]] * 3

    clip = queue.submit(30.0, caller="ben")

    assert queue.turns(2) == [[clip], [meeting]]


def test_a_clip_does_not_wait_behind_a_meeting_of_the_same_caller_either() -> None:
    queue = Queue()
    meeting = queue.submit(*[30.0] * 200)
    assert queue.turns(1) == [[meeting]]

    clip = queue.submit(30.0)

    assert queue.turns(2) == [[clip], [meeting]]


def test_interactive_goes_before_batch_whoever_came_first() -> None:
    queue = Queue()
    night_work = queue.submit(30.0, 30.0, caller="anna", of=BATCH)
    at_the_page = queue.submit(30.0, 30.0, caller="ben", of=INTERACTIVE)

    assert queue.turns(4) == [[at_the_page], [at_the_page], [night_work], [night_work]]


def test_among_equals_the_first_to_come_is_the_first_to_go() -> None:
    queue = Queue()
    jobs = [queue.submit(30.0, now=second, caller=f"caller {second}") for second in range(5)]

    assert queue.turns(5, now=5.0) == [[job] for job in jobs]


@pytest.mark.parametrize("of", list(ServiceClass))
def test_whoever_has_waited_out_the_patience_of_its_class_goes_before_everybody_younger(of: ServiceClass) -> None:
    queue = Queue()
    greedy = queue.submit(*[30.0] * 50, caller="anna", of=of)
    assert queue.turns(1) == [[greedy]]  # anna has had her share
    patience = PATIENCE_S[of]
    young = queue.submit(30.0, 30.0, now=patience - 1, caller="ben", of=INTERACTIVE)

    assert queue.turns(1, now=patience - 0.5) == [[young]]
    assert queue.turns(2, now=patience) == [[greedy], [young]]


def test_of_two_who_have_waited_too_long_the_one_who_waited_longer_goes_first() -> None:
    queue = Queue()
    older = queue.submit(30.0, caller="anna", of=BATCH)
    newer = queue.submit(30.0, now=1.0, caller="ben", of=INTERACTIVE)

    assert queue.turns(2, now=100.0) == [[older], [newer]]


def test_callers_are_served_the_same_seconds_not_the_same_number_of_works() -> None:
    queue = Queue(max_batch_items=1)
    long = queue.submit(*[30.0] * 50, caller="anna")
    short = queue.submit(*[3.0] * 500, caller="ben")

    served = Counter[int]()
    for _ in range(110):
        batch = queue.run_batch()
        assert batch is not None
        served[batch.works[0].job] += int(batch.works[0].length)

    assert abs(served[long] - served[short]) <= 30


def test_ten_jobs_of_one_caller_have_no_more_share_than_one_job_of_another() -> None:
    queue = Queue(max_batch_items=1)
    crowd = {queue.submit(*[30.0] * 20, caller="anna") for _ in range(10)}
    single = queue.submit(*[30.0] * 20, caller="ben")

    turns = [job for (job,) in queue.turns(20)]

    assert turns.count(single) == 10
    assert set(turns) - {single} == crowd  # and within the caller's share the jobs take turns


def test_a_caller_who_was_away_is_not_owed_what_others_had_meanwhile() -> None:
    queue = Queue(max_batch_items=1)
    queue.submit(30.0, caller="ben")
    steady = queue.submit(*[30.0] * 100, caller="anna")
    queue.turns(41)  # ben's work is done, and anna alone is served for long

    back = queue.submit(*[30.0] * 20, caller="ben")

    turns = [job for (job,) in queue.turns(20)]
    assert abs(turns.count(back) - turns.count(steady)) <= 2


def test_work_of_the_voice_at_hand_goes_first_among_those_who_were_served_nearly_the_same() -> None:
    queue = Queue(max_batch_items=1)
    low = queue.submit(1.5, 1.5, caller="anna", affinity="low voice")
    high = queue.submit(1.5, 1.5, caller="ben", affinity="high voice")
    other = queue.submit(1.5, caller="carl", affinity="low voice")

    assert queue.turns(5) == [[low], [other], [low], [high], [high]]


@pytest.mark.parametrize("others", ["anna", "ben"])
def test_a_voice_at_hand_puts_nobody_ahead_by_more_than_about_a_sentence(others: str) -> None:
    queue = Queue(max_batch_items=1)
    meeting = queue.submit(*[1.0] * 100, caller="anna", affinity="low voice")
    assert queue.turns(1) == [[meeting]]
    clip = queue.submit(1.0, caller=others, affinity="high voice")

    assert queue.turns(10).index([clip]) <= AFFINITY_S


def test_work_of_no_voice_is_nobodys_favourite() -> None:
    queue = Queue(max_batch_items=1)
    first, second = (queue.submit(1.0, 1.0, caller=caller) for caller in ("anna", "ben"))

    assert queue.turns(4) == [[first], [second], [first], [second]]


def test_the_place_in_the_queue_counts_those_who_wait_for_their_first_turn() -> None:
    queue = Queue(max_batch_items=1)
    first, second, third = (queue.submit(30.0, 30.0, caller=name) for name in ("anna", "ben", "carl"))
    place = queue.scheduler.place
    assert [place(first), place(second), place(third)] == [1, 2, 3]

    queue.turns(1)
    assert [place(first), place(second), place(third)] == [0, 1, 2]

    queue.scheduler.cancel(second)
    assert [place(first), place(second), place(third)] == [0, 0, 1]


# --- with whom


def test_works_of_similar_length_run_together_whoever_they_belong_to() -> None:
    queue = Queue(budget=30.0)
    queue.submit(5.0, 20.0, caller="anna")
    queue.submit(21.0, 5.5, caller="ben")
    queue.submit(5.25, caller="carl")

    batch = queue.run_batch()

    assert batch is not None
    assert sorted(work.length for work in batch.works) == [5.0, 5.25, 5.5]


def test_the_most_alike_are_taken_first_where_not_all_fit() -> None:
    queue = Queue(budget=10.0)
    queue.submit(5.0, 4.0, 5.0)

    batch = queue.run_batch()

    assert batch is not None
    assert [work.length for work in batch.works] == [5.0, 5.0]


def test_a_batch_is_filled_up_to_its_budget_and_no_further() -> None:
    queue = Queue(budget=30.0)
    queue.submit(*[4.0] * 20)

    assert [len(turn) for turn in queue.turns(3)] == [7, 7, 6]


def test_a_batch_takes_no_more_items_than_the_model_has_use_for() -> None:
    queue = Queue(budget=30.0, max_batch_items=3)
    queue.submit(*[1.0] * 7)

    assert [len(turn) for turn in queue.turns(3)] == [3, 3, 1]


def test_a_short_work_is_not_padded_to_a_long_one_though_the_budget_would_hold_both() -> None:
    queue = Queue(budget=100.0)
    queue.submit(2.0, 10.0)

    assert [len(turn) for turn in queue.turns(2)] == [1, 1]


def test_padding_up_to_a_quarter_of_the_batch_is_cheaper_than_two_batches() -> None:
    assert MAX_PADDING_SHARE == 0.25
    queue = Queue(budget=100.0)
    queue.submit(6.0, 10.0)  # 20 padded seconds for 16 real ones

    assert [len(turn) for turn in queue.turns(2)] == [2]


def test_a_batch_leaves_at_once_however_small_it_is() -> None:
    queue = Queue()
    job = queue.submit(1.0, now=7.0)

    assert queue.turns(1, now=7.0) == [[job]]


# --- who is let in


def test_a_work_over_the_budget_keeps_its_whole_job_out() -> None:
    queue = Queue(budget=30.0)

    with pytest.raises(TooLarge, match=r"31\.0 s .* 30\.0 s"):
        queue.submit(1.0, 31.0, 1.0)

    assert_empty(queue.scheduler)


def test_a_full_queue_keeps_the_whole_job_out_and_names_the_limit() -> None:
    queue = Queue(max_backlog_s=100.0)
    queue.submit(*[30.0] * 3)

    with pytest.raises(Overloaded, match="100 s"):
        queue.submit(5.0, 6.0)

    assert queue.scheduler.backlog_s == 90.0
    assert queue.scheduler.jobs == 1


def test_a_queue_is_full_only_beyond_its_limit() -> None:
    queue = Queue(max_backlog_s=100.0)
    queue.submit(*[30.0] * 3)
    queue.submit(10.0)

    assert queue.scheduler.backlog_s == 100.0


def test_an_empty_queue_takes_a_job_of_any_length() -> None:
    queue = Queue(max_backlog_s=10.0)
    queue.submit(*[30.0] * 5)

    assert queue.scheduler.backlog_s == 150.0


def test_what_runs_makes_room_for_what_waits() -> None:
    queue = Queue(max_backlog_s=60.0)
    queue.submit(30.0, 30.0)
    queue.scheduler.next_batch(0.0)

    queue.submit(30.0)

    assert queue.scheduler.backlog_s == 60.0


def test_a_job_without_works_leaves_when_it_is_cancelled() -> None:
    queue = Queue()
    job = queue.submit()
    assert queue.scheduler.next_batch(0.0) is None

    queue.scheduler.cancel(job)

    assert_empty(queue.scheduler)


# --- who leaves early


def test_a_cancelled_job_costs_nothing_after_its_current_batch() -> None:
    queue = Queue(max_batch_items=1)
    job = queue.submit(30.0, 30.0, 30.0)
    other = queue.submit(30.0, caller="ben")
    running = queue.scheduler.next_batch(0.0)
    assert running is not None

    dropped = queue.scheduler.cancel(job)

    assert [work.job for work in dropped] == [job, job]
    queue.scheduler.finished(running.works[0])
    assert queue.turns(5) == [[other]]
    assert_empty(queue.scheduler)


def test_a_work_of_a_cancelled_job_is_not_tried_again_when_its_worker_dies() -> None:
    queue = Queue()
    job = queue.submit(30.0)
    running = queue.scheduler.next_batch(0.0)
    assert running is not None
    queue.scheduler.cancel(job)

    assert queue.scheduler.failed(running.works, Failure.DEATH, alone=True) == ((), running.works)
    assert_empty(queue.scheduler)


def test_a_job_leaves_when_its_deadline_has_come_and_only_once() -> None:
    queue = Queue()
    job = queue.submit(30.0, deadline=10.0)
    patient = queue.submit(30.0, caller="ben", deadline=20.0)

    assert queue.scheduler.next_deadline() == 10.0
    assert queue.scheduler.expire(9.9) == ()
    assert queue.scheduler.expire(10.0) == (job,)
    assert queue.scheduler.expire(10.0) == ()
    assert queue.scheduler.next_deadline() == 20.0
    assert queue.turns(2, now=10.0) == [[patient]]


def test_a_job_that_expires_while_it_runs_is_told_once() -> None:
    queue = Queue()
    job = queue.submit(30.0, deadline=10.0)
    running = queue.scheduler.next_batch(0.0)
    assert running is not None

    assert queue.scheduler.expire(10.0) == (job,)
    assert queue.scheduler.expire(11.0) == ()
    assert queue.scheduler.next_deadline() == FOREVER
    queue.scheduler.finished(running.works[0])
    assert_empty(queue.scheduler)


def test_callers_who_came_once_are_not_remembered_for_as_long_as_the_server_is_busy() -> None:
    queue = Queue(max_batch_items=1)
    queue.submit(*[10.0] * 300, caller="anna")
    for number in range(100):
        queue.submit(1.0, caller=f"visitor {number}")
        queue.turns(3)

    assert len(queue.scheduler._served) < 10


@pytest.mark.parametrize("poison", range(8))
@pytest.mark.parametrize("failure", Failure)
def test_bisection_finds_the_one_bad_work_of_a_batch_and_all_others_finish(failure: Failure, poison: int) -> None:
    queue = Queue()
    queue.submit(*[2.0] * 8)
    finished, lost, batches = [], [], []
    while batch := queue.scheduler.next_batch(0.0):
        batches.append([work.id for work in batch.works])
        if any(work.id == poison + 2 for work in batch.works):
            lost += queue.scheduler.failed(batch.works, failure, alone=len(batch.works) == 1)[1]
        else:
            finished += batch.works
            for work in batch.works:
                queue.scheduler.finished(work)

    assert [work.id for work in lost] == [poison + 2]
    assert sorted(work.id for work in finished) == sorted({*range(2, 10)} - {poison + 2})
    # One batch of eight; the halves of what failed, level by level; and as often alone as it takes.
    assert [len(batch) for batch in batches if poison + 2 in batch] == [8, 4, 2, *[1] * LONE_FAILURES[failure]]
    assert_empty(queue.scheduler)


def test_suspects_run_with_nobody_but_their_half() -> None:
    queue = Queue()
    suspect = queue.submit(*[5.0] * 4)
    failed = queue.scheduler.next_batch(0.0)
    assert failed is not None
    queue.scheduler.failed(failed.works, Failure.ERROR, alone=False)
    newcomer = queue.submit(*[5.0] * 2, caller="ben")

    batches = queue.turns(4)

    assert sorted(batches) == [[suspect] * 2, [suspect] * 2, [newcomer] * 2]


def test_works_whose_worker_died_keep_their_order_and_count_as_waiting() -> None:
    queue = Queue(budget=30.0)
    queue.submit(*[10.0] * 5)
    first = queue.scheduler.next_batch(0.0)
    assert first is not None
    assert queue.scheduler.backlog_s == 20.0

    retried, lost = queue.scheduler.failed(first.works, Failure.DEATH, alone=False)

    assert (retried, lost) == (first.works, ())
    assert queue.scheduler.backlog_s == 50.0
    assert [work.id for work in (queue.run_batch() or first).works] == [first.works[0].id, first.works[1].id]
    assert [work.id for work in (queue.run_batch() or first).works] == [first.works[2].id]


def test_a_work_that_was_the_last_unanswered_of_its_batch_is_only_a_suspect() -> None:
    queue = Queue()
    queue.submit(5.0, 5.0)
    batch = queue.scheduler.next_batch(0.0)
    assert batch is not None
    queue.scheduler.finished(batch.works[0])

    for _ in range(3):  # and stays one however often it is in company
        assert queue.scheduler.failed(batch.works[1:], Failure.ERROR, alone=False) == (batch.works[1:], ())
        assert queue.scheduler.next_batch(0.0).works == batch.works[1:]  # type: ignore[union-attr]
    queue.scheduler.finished(batch.works[1])
    assert_empty(queue.scheduler)


def test_a_work_whose_worker_died_twice_is_lost_and_its_job_goes_on() -> None:
    queue = Queue(max_batch_items=1)
    job = queue.submit(30.0, 29.0)
    poison = queue.scheduler.next_batch(0.0)
    assert poison is not None
    assert queue.scheduler.failed(poison.works, Failure.DEATH, alone=True) == (poison.works, ())
    assert queue.scheduler.next_batch(0.0).works == poison.works  # type: ignore[union-attr]

    assert queue.scheduler.failed(poison.works, Failure.DEATH, alone=True) == ((), poison.works)

    assert queue.turns(2) == [[job]]
    assert_empty(queue.scheduler)


def test_a_work_that_is_answered_after_one_death_is_forgotten() -> None:
    queue = Queue()
    queue.submit(30.0)
    batch = queue.scheduler.next_batch(0.0)
    assert batch is not None
    queue.scheduler.failed(batch.works, Failure.DEATH, alone=True)

    queue.turns(1)

    assert_empty(queue.scheduler)


def test_after_memory_ran_out_batches_are_half_as_large_and_grow_again_slowly() -> None:
    queue = Queue()
    queue.submit(*[5.0] * 600)

    def size() -> int:
        batch = queue.run_batch()
        assert batch is not None
        queue.scheduler.went_well()
        return len(batch.works)

    assert size() == 6
    failed = queue.scheduler.next_batch(0.0)
    assert failed is not None
    queue.scheduler.failed(failed.works, Failure.OUT_OF_MEMORY, alone=False)

    assert [size() for _ in range(2)] == [3, 3]  # the two halves
    sizes = [size() for _ in range(20)]
    assert sizes[0] == 3
    assert sizes[-1] == 6
    assert sizes == sorted(sizes)
    assert queue.scheduler.share == 1.0


def test_a_work_is_on_its_last_try_when_memory_has_run_out_twice_with_nobody_beside_it() -> None:
    queue = Queue()
    queue.submit(1.0)
    last = []
    while (batch := queue.scheduler.next_batch(0.0)) is not None:
        last.append(queue.scheduler.is_last_try(batch.works))
        queue.scheduler.failed(batch.works, Failure.OUT_OF_MEMORY, alone=True)

    assert last == [False, False, True]


def test_a_batch_of_several_is_never_on_its_last_try() -> None:
    queue = Queue()
    queue.submit(1.0, 1.0)
    batch = queue.scheduler.next_batch(0.0)
    assert batch is not None

    assert not queue.scheduler.is_last_try(batch.works)


def test_however_often_memory_runs_out_one_work_alone_may_run() -> None:
    queue = Queue()
    queue.submit(*[30.0] * 20)
    for _ in range(10):
        batch = queue.scheduler.next_batch(0.0)
        assert batch is not None
        queue.scheduler.failed(batch.works, Failure.OUT_OF_MEMORY, alone=True)

    assert queue.scheduler.share == 1 / 64
    assert len((queue.run_batch() or batch).works) == 1
