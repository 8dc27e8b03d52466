"""Gradio's queue of jobs, woken by events. Gradio's own looks for jobs every millisecond and for progress every ten."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gradio.queueing import Event, Queue
from gradio.utils import LRUCache, run_coro_in_background, set_task_name

MAX_SESSIONS = 1_000  # clients whose state and unread messages are kept; Gradio takes some 70 kB for each
PROGRESS_S = 0.05  # between two messages about the progress of a job


class PageQueue(Queue):
    """As its parent, which decides which job is next and runs it; only the two loops that look for news are others."""

    stopped: bool

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Gradio keeps the ids of jobs for ever whose client never reads of their end.
        self.pending_event_ids_session = LRUCache(MAX_SESSIONS)
        self._changed, self._progressed = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        super().start()

    def close(self) -> None:
        super().close()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)
            self._loop.call_soon_threadsafe(self._progressed.set)

    async def push(self, *arguments: Any, **options: Any) -> Any:
        """Add a job."""
        try:
            return await super().push(*arguments, **options)
        finally:
            self._changed.set()

    async def process_events(self, *arguments: Any, **options: Any) -> None:
        """Run a job; afterwards another may begin."""
        try:
            await super().process_events(*arguments, **options)
        finally:
            self._changed.set()

    async def start_processing(self) -> None:
        try:
            while not self.stopped:
                await self._changed.wait()
                self._changed.clear()
                while None in self.active_jobs:
                    async with self.delete_lock:
                        batch = self.get_events()
                    if batch is None:
                        break
                    self._run(*batch)
        finally:
            self.stopped = True
            self._cancel_asyncio_tasks()

    def _run(self, events: list[Event], batch: bool, concurrency_id: str) -> None:
        began, function, first = time.time(), events[0].fn, events[0]
        waiting = self.event_queue_per_concurrency_id[concurrency_id]
        self.active_jobs[self.active_jobs.index(None)] = events
        waiting.current_concurrency += 1
        waiting.start_times_per_fn[function].add(began)
        for event in events:
            if event._id in self.event_analytics:
                self.event_analytics[event._id]["status"] = "processing"
        task = run_coro_in_background(self.process_events, events, batch, began, function)
        set_task_name(task, first.session_hash, function._id, first._id, batch)  # by which Gradio finds what to cancel
        self._asyncio_tasks.add(task)
        task.add_done_callback(self._asyncio_tasks.discard)
        if self.live_updates:
            self.broadcast_estimations(concurrency_id)

    def set_progress(self, *arguments: Any, **options: Any) -> None:
        """Note how far a job is. Called from its thread."""
        super().set_progress(*arguments, **options)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._progressed.set)

    async def start_progress_updates(self) -> None:
        while not self.stopped:
            await self._progressed.wait()
            self._progressed.clear()
            for event in [event for job in self.active_jobs if job is not None for event in job]:
                if event.progress_pending and event.progress:
                    event.progress_pending = False
                    self.send_message(event, event.progress)
            await asyncio.sleep(PROGRESS_S)
