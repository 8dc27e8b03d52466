"""The dispatcher by hand: a clock that the test turns, and a worker that says what it is told to say."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from steadyvoice import errors
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.batch_runner import FIRST_RATE
from steadyvoice.engine.dispatcher import LEAVE_WAIT_S, Dispatcher
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.tickets import Task
from steadyvoice.engine.worker_process import WorkerGone, WorkerSpec
from steadyvoice.memory import sample
from steadyvoice.protocol import ModelInfo, Payload
from steadyvoice.protocol.messages import (
    EXIT_OUT_OF_MEMORY,
    AskedToLeave,
    Batch,
    Done,
    FromWorker,
    Loaded,
    Result,
    ToWorker,
)

LOADED = Loaded(ModelInfo("scripted", "1", 4), sample("load", "worker"))


class ScriptedWorker:
    """Says what is in `says`; `status` is how it ends when it is killed."""

    connection = None
    pid = 1
    heartbeat_timeout_s = 60.0
    hung = False

    def __init__(self, status: int) -> None:
        self.says: deque[FromWorker | Exception] = deque([LOADED])
        self.batches: list[Batch] = []
        self.stopped = False
        self._status = status

    def send(self, message: ToWorker) -> None:
        if isinstance(message, Batch):
            self.batches.append(message)

    def receive(self) -> FromWorker | None:
        said = self.says.popleft() if self.says else None
        if isinstance(said, Exception):
            raise said
        return said

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> int:
        return self._status


class Scene:
    """One dispatcher and its workers."""

    def __init__(self, status: int = -9) -> None:
        self.now = 1_000.0
        self.workers: list[ScriptedWorker] = []

        def spawn(_: WorkerSpec) -> Any:
            self.workers.append(ScriptedWorker(status))
            return self.workers[-1]

        self.dispatcher = Dispatcher(WorkerSpec("scripted"), Limits(Budget(30.0), 1e6), clock=lambda: self.now, spawn=spawn)

    @property
    def worker(self) -> ScriptedWorker:
        return self.workers[-1]

    def run(self) -> None:
        """Until nothing is left to be said or done."""
        for _ in range(5):
            self.dispatcher.step()
            self.dispatcher.receive()

    def says(self, message: FromWorker) -> None:
        self.worker.says.append(message)
        self.run()

    def answers(self) -> None:
        """The batch that runs is done."""
        batch = self.worker.batches[-1]
        for index, item in enumerate(batch.items):
            self.says(Result(batch.id, index, 1.0, item))
        self.says(Done(batch.id, 1.0, sample("batch", "worker")))


def submit(scene: Scene, name: str = "a") -> Any:
    (ticket,) = scene.dispatcher.submit([Task(Payload({"name": name}), 1.0)], caller="somebody").tickets
    scene.run()
    return ticket


def test_a_busy_worker_that_is_asked_to_leave_goes_when_it_has_finished() -> None:
    scene = Scene()
    ticket = submit(scene)
    scene.says(AskedToLeave())
    assert not scene.worker.stopped

    scene.now += LEAVE_WAIT_S / 2
    scene.answers()

    assert ticket.result(0).payload.fields["name"] == "a"
    assert scene.worker.stopped
    assert scene.dispatcher.status().events["unloaded"] == 1


def test_who_asked_for_the_memory_and_has_gone_costs_no_worker() -> None:
    scene = Scene()
    submit(scene)
    scene.says(AskedToLeave())

    scene.now += LEAVE_WAIT_S + 1
    scene.answers()

    assert not scene.worker.stopped


def test_a_worker_that_left_on_request_is_not_sent_away_again_when_it_is_needed() -> None:
    scene = Scene()
    submit(scene)
    scene.says(AskedToLeave())
    scene.answers()

    submit(scene, "b")
    scene.answers()

    assert len(scene.workers) == 2
    assert not scene.worker.stopped


@pytest.mark.parametrize(
    ("status", "failure"), [(EXIT_OUT_OF_MEMORY, errors.OutOfMemory), (-9, errors.WorkerDied)], ids=["no memory", "death"]
)
def test_a_worker_that_had_not_the_memory_to_read_is_no_sign_of_poison(status: int, failure: type[Exception]) -> None:
    scene = Scene(status)
    ticket = submit(scene)
    for _ in range(10):
        if not ticket.done():
            scene.worker.says.append(WorkerGone("the pipe is closed"))
            scene.run()
            scene.now += 60.0  # past every backoff

    assert isinstance(ticket.exception(0), failure)
    assert scene.dispatcher.status().events["quarantined"] == (failure is errors.WorkerDied)


def test_an_answer_that_there_is_no_memory_for_costs_the_worker_and_not_the_engine() -> None:
    scene = Scene()
    ticket = submit(scene)
    scene.worker.says.append(MemoryError())
    scene.run()
    assert len(scene.workers) == 2

    scene.answers()

    assert ticket.result(0).payload.fields["name"] == "a"


def test_who_finds_the_backlog_full_is_told_when_there_is_room_for_all_of_it() -> None:
    scene = Scene()
    scene.dispatcher._jobs.scheduler.limits = Limits(Budget(30.0), max_backlog_s=7_200.0)
    submit(scene)
    hour = [Task(Payload(), 30.0) for _ in range(120)]
    for caller in "ab":
        scene.dispatcher.submit(hour, caller=caller)

    with pytest.raises(errors.Overloaded) as refused:
        scene.dispatcher.submit(hour, caller="c")

    assert refused.value.retry_after_s == pytest.approx(3_600 / FIRST_RATE, rel=0.01)
