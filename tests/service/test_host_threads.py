from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from steadyvoice.media.steps import Steps
from steadyvoice.service import host_threads as module
from steadyvoice.service.host_threads import HostThreads


@pytest.fixture(autouse=True)
def _every_step_is_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_S", 0.0)


@asynccontextmanager
async def pool(threads: int = 1) -> AsyncIterator[HostThreads]:
    host = HostThreads(threads)
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
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
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
