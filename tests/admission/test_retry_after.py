from __future__ import annotations

import heapq
import itertools
import math
import random
from contextlib import AbstractContextManager

import pytest

from steadyvoice.admission.capacity import Capacity
from steadyvoice.admission.concurrency_limit import ConcurrencyLimit
from steadyvoice.errors import Overloaded


def test_refused_callers_are_spread_at_the_rate_at_which_places_fall_free() -> None:
    now = 1_000.0
    limit = ConcurrencyLimit(Capacity(1, 1), lambda: 7.0, lambda _: None, clock=lambda: now)

    def refused(caller: str = "a caller") -> float:
        with pytest.raises(Overloaded) as refusal:
            limit.check(caller)
        assert refusal.value.retry_after_s is not None
        return refusal.value.retry_after_s

    with limit.acquire("a caller"):
        for _ in range(10):  # a place falls free every two seconds
            with limit.acquire("a caller"):
                now += 2.0
        with limit.acquire("a caller"):
            assert [refused() for _ in range(4)] == [7.0, 9.5, 12.0, 14.5]
            now += 100.0
            assert [refused() for _ in range(2)] == [7.0, 9.5]  # the scheduled times are past
            for _ in range(10_000):
                refused()
            assert refused() == 3_600.0
            assert refused("another caller") == 9.5  # those ten thousand delay no other caller
    with limit.acquire("a caller"), limit.acquire("a caller"):
        assert refused() == 7.0  # nothing was in flight meanwhile


@pytest.mark.parametrize("addresses", [1, 1_000_000], ids=["one address", "many addresses"])
@pytest.mark.parametrize(("times", "share"), [(1.25, 0.9), (2, 0.9), (10, 0.95)])
def test_callers_that_come_back_when_told_are_admitted_once_the_rush_is_over(times: float, share: float, addresses: int) -> None:
    """On a virtual clock: batches of four in a quarter of a second, a minute of `times` as many callers as that serves."""
    rush_s, batch, batch_s = 60.0, 4, 0.25
    now = 0.0
    limit = ConcurrencyLimit(Capacity(8, 8), lambda: 1.0, lambda _: None, clock=lambda: now)
    order, arrivals = itertools.count(), random.Random(1)
    events: list[tuple[float, int, str, str]] = []  # when, order, what, caller; a caller comes back under its name

    def plan(when: float, what: str, name: str = "") -> None:
        heapq.heappush(events, (when, next(order), what, name))

    due = 0.0
    while due < rush_s:
        plan(due, "arrive", f"first {arrivals.randrange(addresses)}")
        due += arrivals.expovariate(times * batch / batch_s)
    in_flight: list[AbstractContextManager[None]] = []
    held = {True: 0, False: 0}
    while events:
        now, _, what, name = heapq.heappop(events)
        if what == "arrive":
            word, address = name.split()
            place = limit.acquire(address)
            try:
                place.__enter__()
                in_flight.append(place)
                if len(in_flight) == 1:
                    plan(now + batch_s, "leave")
            except Overloaded as refused:
                plan(now + math.ceil(refused.retry_after_s or 0), "arrive", f"again {address}")  # as the header says it
                place = None
            if word == "again" and now > rush_s:
                held[place is not None] += 1
        else:
            for place in in_flight[:batch]:
                place.__exit__(None, None, None)
            del in_flight[:batch]
            if in_flight:
                plan(now + batch_s, "leave")
    assert held[True] > 50
    assert held[True] >= share * sum(held.values()), held
