from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from steadyvoice.errors import Overloaded
from steadyvoice.media.sliced_work import Steps
from steadyvoice.service import thread_pool as module
from steadyvoice.service.thread_pool import ThreadPool


@pytest.fixture(autouse=True)
def _every_step_is_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_S", 0.0)


@asynccontextmanager
async def pool(threads: int = 1) -> AsyncIterator[ThreadPool]:
    host = ThreadPool(threads)
    try:
        yield host
    finally:
        host.close()


class Work:
    """Steps that tell where they are. Without a length they go on until they are closed."""

    def __init__(self, name: str = "work", length: int | None = None, order: list[str] | None = None) -> None:
        self.name, self.length, self.order = name, length, [] if order is None else order
        self.began, self.closed = threading.Event(), threading.Event()

    def steps(self) -> Steps[str]:
        done = 0
        try:
            while self.length is None or done < self.length:
                self.began.set()
                yield
                done += 1
                self.order.append(self.name)
            return self.name
        finally:
            self.closed.set()


def test_the_work_gives_its_result_and_raises_its_error() -> None:
    def fails() -> Steps[str]:
        yield
        raise ValueError("as it should")

    async def story() -> str:
        async with pool() as host:
            with pytest.raises(ValueError, match="as it should"):
                await host.run_sliced(fails())
            return await host.run_sliced(Work(length=3).steps())

    assert asyncio.run(story()) == "work"


def test_short_work_is_done_while_two_long_ones_are_at_work_in_the_only_thread() -> None:
    async def story() -> None:
        async with pool() as host:
            endless = [Work(), Work()]
            callers = [asyncio.ensure_future(host.run_sliced(work.steps())) for work in endless]
            await asyncio.to_thread(lambda: [work.began.wait(30) for work in endless])
            assert await host.run_sliced(Work("short", 3).steps()) == "short"
            assert await host.run(lambda: "shorter") == "shorter"
            assert not any(caller.done() for caller in callers)

    asyncio.run(story())


def test_of_two_long_ones_each_gets_every_second_slice() -> None:
    order: list[str] = []

    async def story() -> None:
        async with pool() as host:
            gate = threading.Event()
            held = asyncio.ensure_future(host.run(lambda: gate.wait(30)))
            both = [asyncio.ensure_future(host.run_sliced(Work(name, 20, order).steps())) for name in "ab"]
            await asyncio.sleep(0)  # both are in the queue
            gate.set()
            await asyncio.gather(held, *both)

    asyncio.run(story())
    assert order == ["a", "b"] * 20


@pytest.mark.parametrize("threads", [1, 2])
def test_work_whose_caller_is_cancelled_is_closed_before_the_caller_leaves(threads: int) -> None:
    async def story() -> None:
        async with pool(threads) as host:
            works = [Work() for _ in range(4)]
            callers = [asyncio.ensure_future(host.run_sliced(work.steps())) for work in works]
            await asyncio.to_thread(lambda: [work.began.wait(30) for work in works])
            for caller, work in zip(callers, works, strict=True):
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller
                assert work.closed.is_set()
            assert await host.run(lambda: "free") == "free"

    asyncio.run(story())


def test_work_that_has_not_begun_never_begins_once_its_caller_is_cancelled() -> None:
    async def story() -> None:
        async with pool() as host:
            gate, work = threading.Event(), Work()
            held = asyncio.ensure_future(host.run(lambda: gate.wait(30)))
            caller = asyncio.ensure_future(host.run_sliced(work.steps()))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            gate.set()  # only now the thread is free
            await held
            assert not work.began.is_set()

    asyncio.run(story())


def test_a_pool_that_is_closed_closes_what_is_in_it() -> None:
    async def story() -> None:
        async with pool() as host:
            works = [Work() for _ in range(3)]
            callers = [asyncio.ensure_future(host.run_sliced(work.steps())) for work in works]
            await asyncio.to_thread(lambda: [work.began.wait(30) for work in works])
            host.close()
            for caller in callers:
                with pytest.raises(asyncio.CancelledError):
                    await caller
            assert all(work.closed.is_set() for work in works)

    asyncio.run(story())


def test_the_pool_is_bounded_and_names_the_limit() -> None:
    async def story() -> None:
        host = ThreadPool(1, max_waiting=2)
        busy, go = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            go.wait(30)

        first = asyncio.ensure_future(host.run(hold))
        await asyncio.to_thread(busy.wait, 30)
        waiting = [asyncio.ensure_future(host.run(lambda: "done")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 tasks wait"):
            await host.run(lambda: "too much")
        go.set()
        assert await asyncio.gather(first, *waiting) == [None, "done", "done"]
        host.close()

    asyncio.run(story())


def test_a_function_whose_caller_is_cancelled_before_it_began_does_not_wait_for_a_thread() -> None:
    async def story() -> None:
        async with pool() as host:
            gate, ran = threading.Event(), threading.Event()
            held = asyncio.ensure_future(host.run(lambda: gate.wait(30)))
            waiting = asyncio.ensure_future(host.run(ran.set))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not held.done()
            gate.set()
            await held
            assert not ran.is_set()

    asyncio.run(story())


def test_the_pool_keeps_nothing_of_what_it_finished() -> None:
    class Result:
        pass

    async def story() -> None:
        async with pool() as host:
            kept = weakref.ref(await host.run(Result))
            await host.run(lambda: None)  # the thread has released the first
            gc.collect()
            assert kept() is None

    asyncio.run(story())


def test_work_that_never_ends_does_not_keep_the_process_from_ending() -> None:
    script = (
        "import asyncio, threading\n"
        "from steadyvoice.service.thread_pool import ThreadPool, _Task, _one_step\n"
        "pool, begun = ThreadPool(1), threading.Event()\n"
        "pool._queue(_Task(_one_step(lambda: (begun.set(), threading.Event().wait()))))\n"
        "begun.wait()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
