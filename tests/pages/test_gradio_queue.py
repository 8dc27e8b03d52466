from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from gradio.queueing import Event
from gradio.queueing import EventQueue as Waiting

from steadyvoice.pages.gradio_queue import MAX_SESSIONS, PageQueue

TIMEOUT_S = 20
TURNS = 20  # of the event loop, after which whatever was to begin has begun


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


class GatedQueue(PageQueue):
    """Its jobs are numbers, which run until they are let go."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            live_updates=False,
            concurrency_count=40,
            update_intervals=3_600,
            max_size=None,
            blocks=SimpleNamespace(),
            default_concurrency_limit=limit,
        )
        self.waiting = self.event_queue_per_concurrency_id["api"] = Waiting("api", limit)
        self.began: list[str] = []
        self.gate = asyncio.Semaphore(0)
        self.stopped = False

    def add(self, name: str) -> None:
        function: Any = type("Function", (), {"concurrency_id": "api", "batch": False, "connection": "sse", "_id": 0})()
        event = Event(name, function, request=None, username=None)
        self.waiting.queue.append(event)
        self._changed.set()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def test_a_queue_without_jobs_waits_and_sets_no_timer() -> None:
    async def scenario() -> None:
        queue = GatedQueue(2)
        queue.live_updates = True
        queue.start()
        await turns()
        timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert len(timers) == 1, "the test's own time limit"

    run(scenario())


def test_jobs_begin_at_once_as_many_as_may_and_the_next_when_one_ends(monkeypatch: Any) -> None:
    async def job(self: GatedQueue, events: list[Event], *_: Any) -> None:
        self.began.append(events[0].session_hash)
        await self.gate.acquire()
        self.waiting.current_concurrency -= 1
        self.active_jobs[self.active_jobs.index(events)] = None

    monkeypatch.setattr("gradio.queueing.Queue.process_events", job)

    async def scenario() -> None:
        queue = GatedQueue(2)
        queue.start()
        for name in "abcd":
            queue.add(name)
        await turns()
        assert queue.began == ["a", "b"]
        queue.gate.release()
        await turns()
        assert queue.began == ["a", "b", "c"]
        for _ in range(3):
            queue.gate.release()
        await turns()
        assert queue.began == ["a", "b", "c", "d"]
        queue.close()
        await turns()
        assert not queue._asyncio_tasks

    run(scenario())


def test_jobs_whose_end_is_never_read_are_forgotten() -> None:
    queue = PageQueue(live_updates=True, concurrency_count=1, update_intervals=1, max_size=None, blocks=SimpleNamespace())
    for session in range(MAX_SESSIONS + 5):
        queue.pending_event_ids_session[str(session)] = {"a"}

    assert len(queue.pending_event_ids_session) == MAX_SESSIONS
