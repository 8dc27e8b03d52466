from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import psutil
import pytest

from steadyvoice import errors
from steadyvoice.engine import worker_lifecycle as module
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.status import EngineStatus
from steadyvoice.engine.tickets import Answer, JobHandle, Task
from steadyvoice.engine.worker_lifecycle import State
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, Policy
from steadyvoice.engine.worker_process import WorkerProcess, WorkerSpec
from steadyvoice.memory import MemoryLog, MemorySample
from steadyvoice.protocol import MemoryPlan, ModelInfo, Payload
from steadyvoice.protocol.messages import Batch, Load
from tests.engine.fake_model import MB_PER_S

ROOT = Path(__file__).resolve().parent.parent.parent
FAKE = "tests.engine.fake_model:FakeModel"
WHOLE_BATCH = 30.0  # seconds: a task so long runs alone
WAIT_S = 60.0  # for what should come at once; a busy machine may take its time

MakeEngine = Callable[..., Engine]


class Gate:
    """Where a worker waits in the middle of an item until the test lets it go on."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "gate")
        self._listener = Listener(self.address, "AF_UNIX")

    def payload(self, name: str = "waiting", **fields: Any) -> Payload:
        return Payload({"name": name, "do": "wait", "gate": self.address, **fields})

    def reached(self) -> tuple[Connection, int]:
        """Blocks until a worker has come; returns its connection, to be released, and its process id."""
        visitor = self._listener.accept()
        return visitor, visitor.recv()

    def close(self) -> None:
        self._listener.close()


class Diary:
    """What the fake model noted down, in every one of its processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    @property
    def loads(self) -> int:
        return self.lines.count("load")

    @property
    def items(self) -> list[str]:
        return [line.removeprefix("item ") for line in self.lines if line != "load"]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


@pytest.fixture
def make_engine(diary: Diary) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make(
        *,
        max_backlog_s: float = 1e6,
        heartbeat_timeout_s: float = 60.0,
        memory: MemoryLog | None = None,
        policy: Policy = DEFAULT_POLICY,
        plan: MemoryPlan | None = None,
        **options: Any,
    ) -> Engine:
        given = {"diary": str(diary.path), **options}
        spec = WorkerSpec(FAKE, given, heartbeat_timeout_s=heartbeat_timeout_s, memory=plan or MemoryPlan())
        engines.append(Engine(spec, Limits(Budget(WHOLE_BATCH), max_backlog_s), memory, policy=policy))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.0)


@pytest.fixture
def long_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 600.0)
    monkeypatch.setattr(module, "LONGEST_BACKOFF_S", 600.0)


def submit(engine: Engine, *names: str, length: float = WHOLE_BATCH, caller: str = "anna", **fields: Any) -> JobHandle:
    return engine.submit([Task(Payload({"name": name, **fields}), length) for name in names], caller=caller)


def submit_waiting(engine: Engine, gate: Gate, name: str = "waiting", **how: Any) -> JobHandle:
    return engine.submit([Task(gate.payload(name), WHOLE_BATCH)], caller="anna", **how)


def names(job: JobHandle) -> list[str]:
    """Waits for the answers; whose they are."""
    return [ticket.result(WAIT_S).payload.fields["name"] for ticket in job.tickets]


def failure(job: JobHandle) -> BaseException | None:
    (ticket,) = job.tickets
    return ticket.exception(WAIT_S)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def assert_gone(process: psutil.Process) -> None:
    _, alive = psutil.wait_procs([process], timeout=5)
    # A process that nobody has reaped yet has ended too.
    assert all(left.status() == psutil.STATUS_ZOMBIE for left in alive)


def assert_nothing_is_remembered(engine: Engine) -> None:
    """Whoever has left is forgotten; asked after a later job was answered, so that the engine's thread has been round."""
    assert names(submit(engine, "the last one")) == ["the last one"]
    assert (engine.status().jobs, engine.status().backlog_s) == (0, 0)
    assert not len(engine._jobs.ledger)
    assert not engine._jobs.ledger.jobs()


# --- answers


def test_a_job_is_answered_task_by_task_in_the_order_of_its_tasks(make_engine: MakeEngine) -> None:
    engine = make_engine()
    arrays = [np.arange(5, dtype=np.float32), np.arange(3, dtype=np.int16)]

    job = engine.submit(
        [Task(Payload({"name": n}, (a,)), length) for n, a, length in zip("ab", arrays, (7, 3), strict=True)], caller="anna"
    )

    answers = [ticket.result(WAIT_S) for ticket in job.tickets]
    assert [answer.payload.fields["name"] for answer in answers] == ["a", "b"]
    for answer, array in zip(answers, arrays, strict=True):
        np.testing.assert_array_equal(answer.payload.arrays[0], array)
        assert answer.queue_s >= 0
        assert answer.inference_s >= 0
    assert_nothing_is_remembered(engine)


def test_two_hundred_callers_at_once_each_get_their_own_answer(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_items=16)

    def call(number: int) -> Answer:
        samples = np.full(100 + number, number, np.float32)
        task = Task(Payload({"name": str(number)}, (samples,)), 1.0 + number % 7)
        return engine.submit([task], caller=f"caller {number % 20}").tickets[0].result(WAIT_S)

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(call, range(200)))

    for number, answer in enumerate(answers):
        assert answer.payload.fields["name"] == str(number)
        np.testing.assert_array_equal(answer.payload.arrays[0], np.full(100 + number, number, np.float32))
    assert 1 < engine.status().largest_batch <= 16
    assert_nothing_is_remembered(engine)


def test_a_batch_holds_no_more_items_than_the_model_said_it_has_use_for(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_items=3)

    assert names(submit(engine, *"abcdefg", length=1.0)) == list("abcdefg")

    assert engine.status().largest_batch == 3
    assert engine.status().batches == 3


def test_tickets_can_be_awaited_on_an_event_loop(make_engine: MakeEngine) -> None:
    engine = make_engine()

    async def call(number: int) -> str:
        (ticket,) = submit(engine, str(number), length=1.0).tickets
        answer = await asyncio.wrap_future(ticket)
        return str(answer.payload.fields["name"])

    async def main() -> list[str]:
        return await asyncio.gather(*(call(number) for number in range(20)))

    assert asyncio.run(main()) == [str(number) for number in range(20)]


def test_whoever_is_told_of_an_answer_may_ask_again_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    second: Future[JobHandle] = Future()

    (ticket,) = submit(engine, "first").tickets
    ticket.add_done_callback(lambda _: second.set_result(submit(engine, "second")))

    assert names(second.result(WAIT_S)) == ["second"]


def test_a_job_without_tasks_has_no_tickets_and_leaves_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()

    assert submit(engine).tickets == ()

    assert engine.status().jobs == 0
    assert engine.status().state is State.UNLOADED


def test_each_step_of_the_worker_is_in_the_memory_log(make_engine: MakeEngine) -> None:
    samples = SimpleQueue[MemorySample]()
    engine = make_engine(memory=MemoryLog(observe=samples.put))
    names(submit(engine, "a"))

    for step in ("load", "batch"):
        sample = samples.get(timeout=WAIT_S)
        assert (sample.step, sample.process) == (step, "worker")
        assert sample.rss > 1_000_000


def test_every_batch_is_reported_with_its_padded_seconds(diary: Diary) -> None:
    batches = SimpleQueue[tuple[int, float]]()
    spec, limits = WorkerSpec(FAKE, {"diary": str(diary.path)}), Limits(Budget(WHOLE_BATCH), 1e6)

    with Engine(spec, limits, on_batch=lambda report: batches.put((report.items, report.padded_s))) as engine:
        engine.submit([Task(Payload({"name": "a"}), 4.0), Task(Payload({"name": "b"}), 5.0)], caller="anna")

        assert batches.get(timeout=WAIT_S) == (2, 10.0)


# --- loading


def test_many_first_callers_share_one_load(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()
    together = threading.Barrier(16)

    def call(number: int) -> list[str]:
        together.wait()
        return names(submit(engine, str(number), length=1.0))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(16))) == [[str(number)] for number in range(16)]

    assert diary.loads == engine.status().loads == 1


def test_nothing_is_loaded_before_somebody_asks(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()

    assert engine.status().state is State.UNLOADED
    assert engine.status().worker_pid is None
    engine.close()
    assert diary.loads == 0


def test_all_who_ask_for_the_model_share_one_load_and_later_work_uses_it(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()

    loads = [engine.load() for _ in range(8)]

    assert {load.result(WAIT_S) for load in loads} == {ModelInfo("fake", "1", 4)}
    assert engine.status().state is State.READY
    assert engine.load().result(0).name == "fake"
    assert names(submit(engine, "a")) == ["a"]
    assert diary.loads == 1


def test_a_failed_load_fails_all_who_wait_naming_the_file_but_not_its_folder(make_engine: MakeEngine, long_backoff: None) -> None:
    engine = make_engine(failing_loads=1)
    jobs = [submit(engine, name) for name in "abc"]
    load = engine.load()

    for error in [*(failure(job) for job in jobs), load.exception(WAIT_S)]:
        assert isinstance(error, errors.EngineUnavailable)
        assert "weights.bin is missing" in error.message
        assert "secret" not in error.message
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
    assert engine.status().state is State.BACKOFF
    assert engine.status().last_error is not None
    assert engine.status().jobs == 0


def test_after_a_failed_load_callers_are_refused_at_once_until_the_next_may_be_tried(
    make_engine: MakeEngine, diary: Diary, long_backoff: None
) -> None:
    engine = make_engine(failing_loads=1)
    failure(submit(engine, "a"))

    with pytest.raises(errors.EngineUnavailable, match=r"weights\.bin") as refused:
        submit(engine, "b")
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 60
    assert isinstance(engine.load().exception(0), errors.EngineUnavailable)
    assert diary.loads == 1


def test_a_failed_load_is_tried_again_when_somebody_asks_after_the_backoff(
    make_engine: MakeEngine, diary: Diary, no_backoff: None
) -> None:
    engine = make_engine(failing_loads=2)
    assert isinstance(failure(submit(engine, "a")), errors.EngineUnavailable)
    assert isinstance(engine.load().exception(WAIT_S), errors.EngineUnavailable)

    assert names(submit(engine, "c")) == ["c"]

    assert diary.loads == 3
    assert engine.status().last_error is None
    assert engine.load().result(0).name == "fake"


def test_an_engine_that_does_not_exist_is_unavailable(long_backoff: None) -> None:
    with Engine(WorkerSpec("tests.engine.no_such_model:Model"), Limits(Budget(1), 1)) as engine:
        error = engine.load().exception(WAIT_S)

    assert isinstance(error, errors.EngineUnavailable)
    assert "no_such_model" in error.message


def test_a_worker_that_cannot_even_be_started_is_a_failed_load(diary: Diary, long_backoff: None) -> None:
    spec = WorkerSpec(FAKE, {"diary": str(diary.path)}, python="/no/such/python")
    with Engine(spec, Limits(Budget(WHOLE_BATCH), 1e6)) as engine:
        assert isinstance(failure(submit(engine, "a")), errors.EngineUnavailable)
        assert engine.status().state is State.BACKOFF


def test_a_worker_that_ends_while_loading_is_a_failed_load(diary: Diary, long_backoff: None) -> None:
    with Engine(WorkerSpec("os:_exit", {"status": 3}), Limits(Budget(WHOLE_BATCH), 1e6)) as engine:
        assert isinstance(failure(submit(engine, "a")), errors.EngineUnavailable)
        assert engine.status().state is State.BACKOFF


# --- items that go wrong


@pytest.mark.parametrize(
    ("do", "error", "status"),
    [("invalid", errors.InvalidInput, 422), ("oom", errors.OutOfMemory, 503), ("error", errors.ItemFailed, 500)],
)
def test_a_bad_item_fails_alone_with_its_own_reason(
    make_engine: MakeEngine, do: str, error: type[errors.SteadyvoiceError], status: int
) -> None:
    engine = make_engine()

    job = engine.submit(
        [Task(Payload({"name": n, "do": d}), 1.0) for n, d in (("a", "echo"), ("b", do), ("c", "echo"))], caller="anna"
    )

    first, bad, last = (ticket.exception(WAIT_S) for ticket in job.tickets)
    assert type(bad) is error
    assert (str(bad), bad.status) == (f"this item is {do}", status)  # type: ignore[union-attr]
    assert (first, last) == (None, None)
    assert engine.status().restarts == 0


@pytest.mark.parametrize("do", ["raise", "answer nothing"])
def test_a_model_that_breaks_off_fails_what_it_left_unanswered_and_goes_on(make_engine: MakeEngine, do: str) -> None:
    engine = make_engine()

    job = engine.submit([Task(Payload({"name": n, "do": d}), 1.0) for n, d in (("a", "echo"), ("b", do))], caller="anna")

    answered, left = (ticket.exception(WAIT_S) for ticket in job.tickets)
    assert answered is None
    assert isinstance(left, errors.ItemFailed)
    assert "secret" not in left.message
    assert_nothing_is_remembered(engine)
    assert engine.status().restarts == 0


def test_a_model_that_answers_too_much_is_replaced_and_nobody_gets_a_foreign_answer(make_engine: MakeEngine) -> None:
    engine = make_engine()

    assert names(submit(engine, "a", do="answer twice")) == ["a"]

    assert names(submit(engine, "b", "c")) == ["b", "c"]


# --- workers that go wrong


def test_work_whose_worker_was_killed_is_done_by_the_next(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    job = submit_waiting(engine, gate)
    _, first = gate.reached()
    assert engine.status().worker_pid == first

    kill(first)
    released, second = gate.reached()
    released.send("go")

    assert job.tickets[0].result(WAIT_S).payload.fields["pid"] == second != first
    assert engine.status().restarts == 1
    assert diary.loads == engine.status().loads == 2
    assert_nothing_is_remembered(engine)


def test_what_was_answered_before_the_worker_died_stays_answered(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    job = engine.submit([Task(Payload({"name": "a"}), 1.0), Task(gate.payload("b"), 1.0)], caller="anna")
    _, first = gate.reached()
    assert job.tickets[0].result(WAIT_S).payload.fields["pid"] == first

    kill(first)
    released, _ = gate.reached()
    released.send("go")

    assert names(job) == ["a", "b"]
    assert diary.items == ["a", "b", "b"]


def test_work_that_killed_two_workers_fails_and_its_neighbours_finish(
    make_engine: MakeEngine, diary: Diary, no_backoff: None
) -> None:
    engine = make_engine()
    before = [submit(engine, f"before {number}", caller=f"caller {number}") for number in range(3)]
    poison = submit(engine, "poison", do="die")
    after = [submit(engine, f"after {number}", caller=f"caller {number}") for number in range(3)]

    error = failure(poison)

    assert type(error) is errors.WorkerDied
    for number in range(3):
        assert names(before[number]) == [f"before {number}"]
        assert names(after[number]) == [f"after {number}"]
    assert diary.items.count("poison") == 2
    assert engine.status().restarts == 2
    assert_nothing_is_remembered(engine)


def test_other_work_of_the_same_job_is_done_though_one_piece_kills_its_workers(make_engine: MakeEngine, no_backoff: None) -> None:
    engine = make_engine()

    tasks = [Task(Payload({"name": n, "do": d}), WHOLE_BATCH) for n, d in (("a", "echo"), ("b", "die"), ("c", "echo"))]
    job = engine.submit(tasks, caller="anna")

    assert [type(ticket.exception(WAIT_S)) for ticket in job.tickets] == [type(None), errors.WorkerDied, type(None)]
    assert_nothing_is_remembered(engine)


def test_a_worker_that_died_while_idle_is_replaced_when_work_comes(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()
    (first,) = submit(engine, "a").tickets

    kill(first.result(WAIT_S).payload.fields["pid"])

    assert names(submit(engine, "b")) == ["b"]
    assert diary.loads == 2
    assert engine.status().state is State.READY


def test_a_worker_that_hangs_in_a_batch_is_killed_and_replaced(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine(heartbeat_timeout_s=5.0)
    hung = psutil.Process(submit(engine, "a").tickets[0].result(WAIT_S).payload.fields["pid"])

    job = submit(engine, "b", do="hang", once=True)

    assert job.tickets[0].result(WAIT_S).payload.fields["pid"] != hung.pid
    assert engine.status().restarts == 1
    assert engine.status().last_error is None
    assert_gone(hung)


@pytest.mark.parametrize(
    ("do", "error", "times"),
    [("raise", errors.ItemFailed, 1), ("run out of memory", errors.OutOfMemory, 3), ("die", errors.WorkerDied, 2)],
)
def test_one_bad_item_of_a_batch_is_found_by_halving_and_its_neighbours_finish(
    make_engine: MakeEngine, gate: Gate, diary: Diary, no_backoff: None, do: str, error: type[Exception], times: int
) -> None:
    engine = make_engine()
    first = submit_waiting(engine, gate)
    released, _ = gate.reached()
    bad = submit(engine, "bad", length=5.0, do=do, caller="somebody")  # comes first, so that no neighbour has been answered
    good = [submit(engine, f"good {number}", length=5.0, caller=f"caller {number}") for number in range(3)]
    released.send("go")

    assert type(failure(bad)) is error
    assert [names(job) for job in good] == [[f"good {number}"] for number in range(3)]
    assert names(first) == ["waiting"]
    assert engine.status().largest_batch == 4
    assert diary.items.count("bad") == 2 + times  # of four, of two, alone
    assert_nothing_is_remembered(engine)


def test_an_item_that_ran_out_of_memory_alone_is_told_when_to_come_back(make_engine: MakeEngine) -> None:
    engine = make_engine()

    error = failure(submit(engine, "large", do="run out of memory"))

    assert isinstance(error, errors.OutOfMemory)
    assert "secret" not in error.message
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1
    assert engine.status().events["oom_again"] == 2
    assert engine.status().events["oom_refused"] == 1
    assert engine.status().budget_share < 1
    assert names(submit(engine, "small")) == ["small"]


def test_the_last_try_before_a_refusal_is_the_one_that_takes_less_memory(diary: Diary) -> None:
    with Engine(
        WorkerSpec("tests.engine.fake_model:FrugalModel", {"diary": str(diary.path)}), Limits(Budget(30.0), 1e6)
    ) as engine:
        large = submit(engine, "large", do="run out of memory").tickets[0].result(WAIT_S).payload.fields
        small = submit(engine, "small").tickets[0].result(WAIT_S).payload.fields

    assert large["frugally"]
    assert "frugally" not in small
    assert diary.items == ["large", "large", "small"]


def test_memory_that_is_there_at_the_second_attempt_is_enough(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()

    assert names(submit(engine, "large", do="run out of memory", once=True)) == ["large"]

    assert diary.items == ["large", "large"]


def test_what_ended_two_workers_is_refused_when_it_comes_again_and_nothing_else_is(
    make_engine: MakeEngine, diary: Diary, no_backoff: None
) -> None:
    engine = make_engine()
    assert isinstance(failure(submit(engine, "poison", do="die")), errors.WorkerDied)

    with pytest.raises(errors.Quarantined, match="60 more minutes"):
        submit(engine, "poison", do="die", caller="somebody else")

    assert names(submit(engine, "poison", do="echo")) == ["poison"]
    assert diary.items.count("poison") == 3
    assert engine.status().events["quarantined"] == 1


def test_a_worker_whose_device_broke_ends_at_once_and_is_replaced(make_engine: MakeEngine, no_backoff: None) -> None:
    engine = make_engine()
    first = submit(engine, "a").tickets[0].result(WAIT_S).payload.fields["pid"]

    second = submit(engine, "b", do="break the device", once=True).tickets[0].result(WAIT_S).payload.fields["pid"]

    assert first != second
    assert engine.status().events["died"] == 1


def test_a_batch_that_does_not_get_on_is_ended_though_its_worker_says_that_it_lives(
    make_engine: MakeEngine, gate: Gate, no_backoff: None
) -> None:
    engine = make_engine(policy=Policy(batch_limit_s=2.0, slowness=0.0))
    job = submit_waiting(engine, gate)
    _, first = gate.reached()

    released, second = gate.reached()  # nobody let the first one go on
    released.send("go")

    assert job.tickets[0].result(WAIT_S).payload.fields["pid"] == second != first
    assert engine.status().events["hung"] == 1
    assert not psutil.pid_exists(first)


# --- memory that is given back


def test_an_idle_worker_leaves_with_its_memory_and_comes_back_when_it_is_needed(make_engine: MakeEngine, diary: Diary) -> None:
    steps = SimpleQueue[str]()
    engine = make_engine(policy=Policy(idle_unload_s=1.0), memory=MemoryLog(observe=lambda sample: steps.put(sample.step)))
    worker = psutil.Process(submit(engine, "a").tickets[0].result(WAIT_S).payload.fields["pid"])

    while steps.get(timeout=WAIT_S) != "unload":
        pass

    assert_gone(worker)
    assert engine.status().state is State.UNLOADED
    assert engine.status().restarts == 0
    assert engine.status().events["unloaded"] == 1
    assert names(submit(engine, "b")) == ["b"]
    assert diary.loads == 2


def test_a_busy_worker_stays_however_long_it_takes(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(policy=Policy(idle_unload_s=0.0))
    job = submit_waiting(engine, gate)
    released, worker = gate.reached()
    waiting = submit(engine, "b")

    for _ in range(20):  # the engine's thread has been round often
        engine.cancel(submit(engine, "nothing"))
    released.send("go")

    assert job.tickets[0].result(WAIT_S).payload.fields["pid"] == worker
    assert waiting.tickets[0].result(WAIT_S).payload.fields["pid"] == worker


def hungry(diary: Diary, **plan: Any) -> WorkerSpec:
    return WorkerSpec("tests.engine.fake_model:HungryModel", {"diary": str(diary.path)}, memory=MemoryPlan(padded_s=30.0, **plan))


def loaded(spec: WorkerSpec) -> tuple[EngineStatus, int]:
    """What an engine says after its model has loaded, and what its worker held then."""
    memory = MemoryLog()
    with Engine(spec, Limits(Budget(30.0), 1e6), memory) as engine:
        engine.load().result(WAIT_S)
        return engine.status(), memory.samples()[-1].rss


def test_a_model_that_can_be_measured_is_budgeted_in_bytes(diary: Diary, tmp_path: Path) -> None:
    status, _ = loaded(hungry(diary, folder=str(tmp_path)))

    assert status.budget_bytes == pytest.approx(1.1 * 30 * MB_PER_S, rel=0.3)  # one batch of 30 padded seconds, and a margin
    assert status.longest_s == pytest.approx(30.0, rel=0.01)
    measured = diary.items.count("example")
    assert measured > 3
    assert loaded(hungry(diary, folder=str(tmp_path)))[0].budget_bytes == status.budget_bytes
    assert diary.items.count("example") == measured  # and not measured again


def test_where_less_memory_is_allowed_segments_are_to_be_shorter(diary: Diary, tmp_path: Path) -> None:
    _, held = loaded(hungry(diary, folder=str(tmp_path)))

    status, _ = loaded(hungry(diary, folder=str(tmp_path), limit=held + 12 * MB_PER_S))

    assert 3 < status.longest_s < 20
    assert status.budget_bytes is not None
    assert status.budget_bytes < 20 * MB_PER_S


def test_a_model_beside_which_not_one_second_fits_is_not_loaded(diary: Diary, long_backoff: None) -> None:
    with (
        Engine(hungry(diary, limit=1_000_000), Limits(Budget(30.0), 1e6)) as engine,
        pytest.raises(errors.EngineUnavailable, match=r"out of memory: beside the model's \d+ MB there are 0 MB for a batch"),
    ):
        engine.load().result(WAIT_S)


def test_a_worker_that_holds_too_much_is_replaced_between_batches_and_nobody_notices(diary: Diary) -> None:
    with Engine(hungry(diary), Limits(Budget(30.0), 1e6)) as engine:
        grow = {"seconds": 1.0, "do": "grow", "bytes": 900_000_000}
        first = submit(engine, "a", **grow).tickets[0].result(WAIT_S).payload.fields["pid"]
        second = submit(engine, "b", seconds=1.0).tickets[0].result(WAIT_S).payload.fields["pid"]

        assert first != second
        assert engine.status().events["recycled"] == 1
        assert engine.status().restarts == 0


def test_an_idle_worker_leaves_when_another_one_needs_the_memory(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(plan=MemoryPlan(folder=str(tmp_path / "memory")))
    worker = psutil.Process(submit(engine, "a").tickets[0].result(WAIT_S).payload.fields["pid"])

    (tmp_path / "memory" / "please-leave").write_text("1")

    worker.wait(WAIT_S)
    assert names(submit(engine, "b")) == ["b"]
    assert engine.status().events["unloaded"] == 1


# --- callers who leave


def test_a_job_cancelled_before_its_batch_never_reaches_the_model(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    running = submit_waiting(engine, gate)
    released, _ = gate.reached()
    unwanted = submit(engine, "b", "c")
    assert engine.place(unwanted) == 1

    engine.cancel(unwanted)

    assert all(ticket.cancelled() for ticket in unwanted.tickets)
    released.send("go")
    assert names(running) == ["waiting"]
    assert_nothing_is_remembered(engine)
    assert diary.items == ["waiting", "the last one"]


def test_cancelling_one_ticket_cancels_its_whole_job(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    submit_waiting(engine, gate)
    released, _ = gate.reached()
    unwanted = submit(engine, "b", "c")

    assert unwanted.tickets[1].cancel()

    with pytest.raises(CancelledError):
        unwanted.tickets[0].result(WAIT_S)
    released.send("go")
    assert_nothing_is_remembered(engine)
    assert diary.items == ["waiting", "the last one"]


def test_a_cancelled_await_cancels_the_work(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    submit_waiting(engine, gate)
    released, _ = gate.reached()

    async def main() -> None:
        awaited = asyncio.wrap_future(submit(engine, "b").tickets[0])
        awaited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaited

    asyncio.run(main())

    released.send("go")
    assert_nothing_is_remembered(engine)
    assert diary.items == ["waiting", "the last one"]


def test_a_job_cancelled_while_it_runs_fails_at_once_and_the_worker_goes_on(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    job = engine.submit([Task(gate.payload(), WHOLE_BATCH), Task(Payload({"name": "b"}), WHOLE_BATCH)], caller="anna")
    released, worker = gate.reached()

    engine.cancel(job)

    assert isinstance(job.tickets[0].exception(0), errors.Cancelled)
    with pytest.raises(CancelledError):
        job.tickets[1].result(0)
    engine.cancel(job)  # twice is harmless
    released.send("go")
    assert_nothing_is_remembered(engine)
    assert engine.status().worker_pid == worker


def test_a_running_ticket_cannot_be_cancelled_by_itself_and_is_answered(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    job = submit_waiting(engine, gate)
    released, _ = gate.reached()

    assert not job.tickets[0].cancel()

    released.send("go")
    assert names(job) == ["waiting"]


def test_cancelled_work_is_not_tried_again_when_its_worker_dies(make_engine: MakeEngine, gate: Gate, diary: Diary) -> None:
    engine = make_engine()
    job = submit_waiting(engine, gate)
    _, worker = gate.reached()
    engine.cancel(job)

    kill(worker)

    assert_nothing_is_remembered(engine)
    assert diary.items == ["waiting", "the last one"]


# --- time limits, full queues


def test_a_job_that_waits_past_its_deadline_fails_and_never_reaches_the_model(
    make_engine: MakeEngine, gate: Gate, diary: Diary
) -> None:
    engine = make_engine()
    submit_waiting(engine, gate)
    released, _ = gate.reached()

    late = engine.submit([Task(Payload({"name": "late"}), 1.0)], caller="ben", timeout_s=0.05)

    assert isinstance(failure(late), errors.DeadlineExceeded)
    released.send("go")
    assert_nothing_is_remembered(engine)
    assert diary.items == ["waiting", "the last one"]


def test_a_job_that_runs_past_its_deadline_fails_while_it_runs(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    engine.load().result(WAIT_S)
    late = submit_waiting(engine, gate, timeout_s=1.0)
    released, worker = gate.reached()

    assert isinstance(failure(late), errors.DeadlineExceeded)

    released.send("go")
    assert_nothing_is_remembered(engine)
    assert engine.status().worker_pid == worker


def test_a_full_queue_refuses_the_whole_job_and_says_when_to_come_back(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(max_backlog_s=100.0)
    submit_waiting(engine, gate)
    released, _ = gate.reached()
    admitted = submit(engine, "a", "b", "c")

    with pytest.raises(errors.Overloaded, match="100 s") as refused:
        submit(engine, "d", caller="ben")

    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    assert engine.status().backlog_s == 90.0
    released.send("go")
    assert names(admitted) == ["a", "b", "c"]


def test_a_task_over_the_batch_budget_is_refused_before_anything_is_loaded(make_engine: MakeEngine, diary: Diary) -> None:
    engine = make_engine()

    with pytest.raises(errors.TooLarge, match=r"31\.0 s .* 30\.0 s"):
        engine.submit([Task(Payload(), 1.0), Task(Payload(), 31.0)], caller="anna")

    assert engine.status().jobs == 0
    engine.close()
    assert diary.loads == 0


# --- the end


def test_closing_fails_all_who_still_wait_and_ends_the_worker(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    running = submit_waiting(engine, gate)
    _held, worker = gate.reached()
    waiting = submit(engine, "a", "b", caller="ben")

    engine.close()

    assert not psutil.pid_exists(worker)  # ended, and reaped
    for ticket in (*running.tickets, *waiting.tickets):
        assert isinstance(ticket.exception(0), errors.EngineUnavailable)
    assert engine.status().state is State.CLOSED


def test_a_worker_goes_by_itself_when_its_pipe_closes_even_in_the_middle_of_a_batch(diary: Diary, gate: Gate) -> None:
    handle = WorkerProcess(WorkerSpec(FAKE, {"diary": str(diary.path)}))
    handle.send(Load())
    handle.send(Batch(1, False, (gate.payload(),)))
    _held, worker = gate.reached()
    assert worker == handle.pid

    handle.stop()

    assert handle._process.returncode == 0  # not a signal: nobody had to kill it


def test_a_worker_that_does_not_listen_is_ended_when_its_engine_closes(make_engine: MakeEngine) -> None:
    engine = make_engine()
    (ticket,) = submit(engine, "a").tickets
    worker = ticket.result(WAIT_S).payload.fields["pid"]
    os.kill(worker, signal.SIGSTOP)

    engine.close()

    assert not psutil.pid_exists(worker)


def test_a_closed_engine_takes_nothing_more(make_engine: MakeEngine) -> None:
    engine = make_engine()
    names(submit(engine, "a"))
    engine.close()
    engine.close()  # twice is harmless

    with pytest.raises(errors.EngineUnavailable, match="shutting down"):
        submit(engine, "b")
    assert isinstance(engine.load().exception(0), errors.EngineUnavailable)


def test_closing_while_the_model_loads_fails_those_who_asked_for_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    load = engine.load()

    engine.close()

    assert load.done()
    assert load.cancelled() or load.exception() is None or isinstance(load.exception(), errors.EngineUnavailable)
    assert engine.status().worker_pid is None


def test_thirty_engines_leave_no_thread_no_process_and_no_open_file_behind(diary: Diary) -> None:
    me = psutil.Process()
    gc.collect()
    threads, children, files = threading.active_count(), set(me.children()), me.num_fds()

    for number in range(30):
        with Engine(WorkerSpec(FAKE, {"diary": str(diary.path)}), Limits(Budget(WHOLE_BATCH), 1e6)) as engine:
            if number % 3 == 0:  # a third of them get as far as a worker
                names(submit(engine, "a"))

    assert threading.active_count() == threads
    assert set(me.children()) <= children
    assert me.num_fds() <= files
    assert diary.loads == 10


APP = f"""
import sys
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, Policy
from steadyvoice.engine.engine_thread import Engine
from steadyvoice.engine.tickets import Task
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.protocol import Payload

diary, gate = sys.argv[1:]
engine = Engine(WorkerSpec("{FAKE}", {{"diary": diary}}), Limits(Budget(30), 1e6))
if gate:
    engine.submit([Task(Payload({{"name": "a", "do": "wait", "gate": gate}}), 1.0)], caller="anna")
else:
    engine.load().result()
    print(engine.status().worker_pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start_app(diary: Diary) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """An app process of its own, which can be killed."""
    apps: list[subprocess.Popen[str]] = []

    def start(gate_address: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", APP, str(diary.path), gate_address]
        apps.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return apps[-1]

    yield start
    for app in apps:
        app.kill()
        app.communicate()


def test_an_idle_worker_dies_with_its_app_however_the_app_ends(start_app: Callable[[str], subprocess.Popen[str]]) -> None:
    app = start_app("")
    assert app.stdout is not None
    worker = psutil.Process(int(app.stdout.readline()))

    app.kill()

    assert_gone(worker)


def test_a_worker_that_is_stopped_dies_with_its_app(start_app: Callable[[str], subprocess.Popen[str]]) -> None:
    app = start_app("")
    assert app.stdout is not None
    worker = psutil.Process(int(app.stdout.readline()))
    worker.suspend()

    app.kill()

    assert_gone(worker)


def test_a_worker_in_the_middle_of_a_batch_dies_with_its_app(
    start_app: Callable[[str], subprocess.Popen[str]], gate: Gate
) -> None:
    app = start_app(gate.address)
    _held, pid = gate.reached()
    worker = psutil.Process(pid)

    app.kill()

    assert_gone(worker)


# What must not end the engine's thread


@pytest.mark.parametrize("bad", [{"text": "\ud800"}, {"text": {1, 2}}], ids=["a lone surrogate", "not JSON"])
def test_a_payload_that_cannot_be_sent_fails_alone_and_its_batch_is_done(make_engine: MakeEngine, gate: Gate, bad: Any) -> None:
    engine = make_engine()
    first = submit_waiting(engine, gate)
    released, _ = gate.reached()
    neighbours = submit(engine, "a", "b", length=1.0)
    unsendable = engine.submit([Task(Payload({"name": "bad", **bad}), 1.0)], caller="bert")
    released.send("go on")

    assert isinstance(failure(unsendable), errors.ItemFailed)
    assert names(neighbours) == ["a", "b"]
    assert names(first) == ["waiting"]
    assert engine.status().restarts == 0
    assert_nothing_is_remembered(engine)


def test_one_who_no_longer_waits_for_the_load_does_not_take_it_from_the_others(make_engine: MakeEngine) -> None:
    engine = make_engine()
    mine, others = engine.load(), engine.load()
    mine.cancel()

    assert others.result(WAIT_S).name == "fake"
    assert names(submit(engine, "a")) == ["a"]


def test_an_observer_that_fails_stops_nothing(diary: Diary) -> None:
    def complain(*_: Any) -> None:
        raise KeyError("an observer's own mistake")

    spec = WorkerSpec(FAKE, {"diary": str(diary.path)})
    with Engine(spec, Limits(Budget(WHOLE_BATCH), 1e6), MemoryLog(complain), complain) as engine:
        assert names(submit(engine, "a")) == ["a"]
        assert names(submit(engine, "b")) == ["b"]
        assert engine.status().restarts == 0
