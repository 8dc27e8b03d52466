from __future__ import annotations

import gc
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from steadyvoice.errors import DeadlineExceeded, EngineUnavailable, InvalidInput, ItemFailed, OutOfMemory, WorkerDied
from steadyvoice.serving.breaker import Breaker


def job(breaker: Breaker, *outcomes: BaseException | str | None) -> None:
    """One job, whose tickets end so; None is a ticket that its caller cancelled."""
    breaker.admit()
    tickets: list[Future[Any]] = [Future() for _ in outcomes]
    breaker.watch(tickets)
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        if outcome is None:
            ticket.cancel()
        elif isinstance(outcome, str):
            ticket.set_result(outcome)
        else:
            ticket.set_exception(outcome)


@pytest.mark.parametrize("failure", [WorkerDied("x"), ItemFailed("x"), OutOfMemory("x")])
def test_an_engine_that_keeps_failing_is_left_alone_for_a_while(failure: Exception) -> None:
    breaker = Breaker(threshold=3, open_s=100)
    for _ in range(3):
        job(breaker, failure)

    with pytest.raises(EngineUnavailable, match="keeps failing") as refused:
        breaker.admit()

    assert breaker.state == "opened"
    assert refused.value.retry_after_s == pytest.approx(100, abs=5)


def test_a_success_between_failures_starts_the_count_afresh() -> None:
    breaker = Breaker(threshold=3, open_s=100)
    for _ in range(5):
        job(breaker, WorkerDied("x"))
        job(breaker, WorkerDied("x"))
        job(breaker, "text")

    breaker.admit()
    assert breaker.state == "closed"


def test_many_failures_of_one_job_are_one() -> None:
    breaker = Breaker(threshold=3, open_s=100)

    job(breaker, *[ItemFailed("x")] * 50)

    breaker.admit()
    assert breaker.state == "closed"


def test_bad_input_late_answers_and_callers_who_leave_say_nothing() -> None:
    breaker = Breaker(threshold=3, open_s=100)
    job(breaker, WorkerDied("x"))
    job(breaker, WorkerDied("x"))
    job(breaker, InvalidInput("x"), DeadlineExceeded("x"), EngineUnavailable("x"), None)
    breaker.admit()

    job(breaker, WorkerDied("x"))

    with pytest.raises(EngineUnavailable):
        breaker.admit()


def test_after_a_while_one_is_let_through_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from purgatory.domain import model

    now = 1_000.0
    monkeypatch.setattr(model.time, "time", lambda: now)
    breaker = Breaker(threshold=1, open_s=30)
    job(breaker, WorkerDied("x"))
    now += 31

    job(breaker, WorkerDied("x"))  # let through, and fails again
    with pytest.raises(EngineUnavailable):
        breaker.admit()
    now += 31
    breaker.admit()
    for _ in range(3):  # as long as it has no outcome, nobody else
        with pytest.raises(EngineUnavailable, match="is being tried"):
            breaker.admit()
    breaker.gave_up()
    job(breaker, "text")

    assert breaker.state == "closed"
    breaker.admit()


def test_those_who_are_refused_are_not_kept_alive() -> None:
    breaker = Breaker(threshold=1, open_s=100)
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
