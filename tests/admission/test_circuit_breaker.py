from __future__ import annotations

import gc
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from steadyvoice.admission.circuit_breaker import CircuitBreaker
from steadyvoice.errors import DeadlineExceeded, EngineUnavailable, InvalidInput, ItemFailed, OutOfMemory, WorkerDied


def job(breaker: CircuitBreaker, *outcomes: BaseException | str | None) -> None:
    """One job, whose tickets end so; None is a ticket that its caller cancelled."""
    tickets: list[Future[Any]] = [Future() for _ in outcomes]
    breaker.watch(breaker.admit(), tickets)
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        if outcome is None:
            ticket.cancel()
        elif isinstance(outcome, str):
            ticket.set_result(outcome)
        else:
            ticket.set_exception(outcome)


@pytest.mark.parametrize("failure", [WorkerDied("x"), OutOfMemory("x")])
def test_while_an_engine_keeps_failing_jobs_are_refused(failure: Exception) -> None:
    breaker = CircuitBreaker(threshold=3, open_s=100)
    for _ in range(3):
        job(breaker, failure)

    with pytest.raises(EngineUnavailable, match="keeps failing") as refused:
        breaker.admit()

    assert breaker.state == "opened"
    assert refused.value.retry_after_s == pytest.approx(100, abs=5)


def test_a_success_between_failures_starts_the_count_afresh() -> None:
    breaker = CircuitBreaker(threshold=3, open_s=100)
    for _ in range(5):
        job(breaker, WorkerDied("x"))
        job(breaker, WorkerDied("x"))
        job(breaker, "text")

    breaker.admit()
    assert breaker.state == "closed"


def test_many_failures_of_one_job_count_once() -> None:
    breaker = CircuitBreaker(threshold=3, open_s=100)

    job(breaker, *[WorkerDied("x")] * 50)

    breaker.admit()
    assert breaker.state == "closed"


def test_a_job_whose_last_item_failed_counts_as_failed() -> None:
    breaker = CircuitBreaker(threshold=3, open_s=100)
    for _ in range(3):
        job(breaker, "text", "text", WorkerDied("x"))

    assert breaker.state == "opened"


def test_bad_input_late_answers_and_cancelled_requests_are_not_counted() -> None:
    breaker = CircuitBreaker(threshold=3, open_s=100)
    job(breaker, WorkerDied("x"))
    job(breaker, WorkerDied("x"))
    job(breaker, InvalidInput("x"), DeadlineExceeded("x"), EngineUnavailable("x"), ItemFailed("x"), None)
    breaker.admit()

    job(breaker, WorkerDied("x"))

    with pytest.raises(EngineUnavailable):
        breaker.admit()


def test_after_a_while_one_job_is_admitted_as_a_probe_and_decides() -> None:
    now = 1_000.0
    breaker = CircuitBreaker(threshold=1, open_s=30, clock=lambda: now)
    job(breaker, WorkerDied("x"))
    now += 31

    job(breaker, WorkerDied("x"))  # the probe, which fails again
    with pytest.raises(EngineUnavailable):
        breaker.admit()
    now += 31
    probe = breaker.admit()
    for _ in range(3):  # until the probe has an outcome
        with pytest.raises(EngineUnavailable, match="is being tried"):
            breaker.admit()
    breaker.abandon(probe)
    job(breaker, "text")

    assert breaker.state == "closed"
    breaker.admit()


@pytest.mark.parametrize(("outcome", "state"), [("text", "closed"), (WorkerDied("x"), "opened")])
def test_of_a_long_probe_the_first_outcome_decides(outcome: str | Exception, state: str) -> None:
    now = 1_000.0
    breaker = CircuitBreaker(threshold=1, open_s=30, clock=lambda: now)
    job(breaker, WorkerDied("x"))
    now += 31
    tickets: list[Future[Any]] = [Future() for _ in range(360)]
    breaker.watch(breaker.admit(), tickets)

    if isinstance(outcome, str):
        tickets[0].set_result(outcome)
    else:
        tickets[0].set_exception(outcome)

    assert breaker.state == state


def test_jobs_from_before_the_circuit_opened_do_not_decide_for_the_probe() -> None:
    now = 1_000.0
    breaker = CircuitBreaker(threshold=1, open_s=30, clock=lambda: now)
    before: list[Future[Any]] = [Future() for _ in range(3)]
    for ticket in before:
        breaker.watch(breaker.admit(), [ticket])
    job(breaker, WorkerDied("x"))
    now += 31
    breaker.admit()

    before[0].set_result("text")
    before[1].cancel()
    before[2].set_exception(WorkerDied("x"))

    assert breaker.state == "half-opened"
    with pytest.raises(EngineUnavailable, match="is being tried"):
        breaker.admit()


def test_refused_requests_are_not_kept_alive() -> None:
    breaker = CircuitBreaker(threshold=1, open_s=100)
    job(breaker, WorkerDied("x"))

    class Upload:
        """What a request holds while it is refused."""

    def ask() -> weakref.ref[Upload]:
        upload = Upload()
        with pytest.raises(EngineUnavailable):
            breaker.check()
        return weakref.ref(upload)

    refused = [ask() for _ in range(5)]
    gc.collect()
    assert [upload() for upload in refused] == [None] * 5
