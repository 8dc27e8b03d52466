from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
from contextlib import AbstractContextManager

import pytest

from steadyvoice.admission.capacity import Capacity
from steadyvoice.admission.concurrency_limit import Door
from steadyvoice.errors import EngineUnavailable, Overloaded


def door(concurrency: int = 1, queue_size: int = 1) -> Door:
    return Door(Capacity(concurrency, queue_size), lambda: 7.0, lambda _: None)


def test_as_many_as_may_be_inside_come_in_and_the_next_is_told_when_to_come_back() -> None:
    front = door()
    with front.enter("somebody"), front.enter("somebody"):
        with pytest.raises(Overloaded, match=r"2 requests .*\(1 at work, 1 waiting\)") as refused, front.enter("somebody"):
            pass
        assert refused.value.retry_after_s == 7.0
    with front.enter("somebody"):
        assert front.inside == 1


def test_a_place_is_given_back_when_the_work_fails() -> None:
    front = door()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), front.enter("somebody"):
            raise ZeroDivisionError
    assert front.inside == 0


def test_a_closing_door_lets_nobody_in_and_waits_for_those_inside() -> None:
    front = door()
    entered, leave = threading.Event(), threading.Event()

    def visit() -> None:
        with front.enter("somebody"):
            entered.set()
            leave.wait(30)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert entered.wait(30)
    front.close()
    with pytest.raises(EngineUnavailable, match="draining"), front.enter("somebody"):
        pass
    assert not front.wait_empty(0)
    leave.set()
    assert front.wait_empty(30)
    visitor.join()


def test_those_who_are_refused_are_told_to_come_one_after_the_other_at_the_pace_at_which_people_leave() -> None:
    now = 1_000.0
    front = Door(Capacity(1, 1), lambda: 7.0, lambda _: None, clock=lambda: now)

    def refused(caller: str = "somebody") -> float:
        with pytest.raises(Overloaded) as refusal:
            front.check(caller)
        assert refusal.value.retry_after_s is not None
        return refusal.value.retry_after_s

    with front.enter("somebody"):
        for _ in range(10):  # somebody leaves every two seconds
            with front.enter("somebody"):
                now += 2.0
        with front.enter("somebody"):
            assert [refused() for _ in range(4)] == [7.0, 9.5, 12.0, 14.5]
            now += 100.0
            assert [refused() for _ in range(2)] == [7.0, 9.5]  # what was promised is past
            for _ in range(10_000):
                refused()
            assert refused() == 3_600.0
            assert refused("who did not ask before") == 9.5  # nobody else waits for those ten thousand
    with front.enter("somebody"), front.enter("somebody"):
        assert refused() == 7.0  # nobody was inside meanwhile


@pytest.mark.parametrize("addresses", [1, 1_000_000], ids=["one address", "many addresses"])
@pytest.mark.parametrize(("times", "share"), [(1.25, 0.9), (2, 0.9), (10, 0.95)])
def test_who_comes_back_when_told_is_let_in_once_the_rush_is_over(times: float, share: float, addresses: int) -> None:
    """On a virtual clock: batches of four in a quarter of a second, a minute of `times` as many callers as that serves."""
    rush_s, batch, batch_s = 60.0, 4, 0.25
    now = 0.0
    front = Door(Capacity(8, 8), lambda: 1.0, lambda _: None, clock=lambda: now)
    order, arrivals = itertools.count(), random.Random(1)
    events: list[tuple[float, int, str, str]] = []  # when, order, what, who; somebody comes back under the name of before

    def plan(when: float, what: str, who: str = "") -> None:
        heapq.heappush(events, (when, next(order), what, who))

    due = 0.0
    while due < rush_s:
        plan(due, "arrive", f"first {arrivals.randrange(addresses)}")
        due += arrivals.expovariate(times * batch / batch_s)
    inside: list[AbstractContextManager[None]] = []
    held = {True: 0, False: 0}
    while events:
        now, _, what, who = heapq.heappop(events)
        if what == "arrive":
            word, address = who.split()
            place = front.enter(address)
            try:
                place.__enter__()
                inside.append(place)
                if len(inside) == 1:
                    plan(now + batch_s, "leave")
            except Overloaded as refused:
                plan(now + math.ceil(refused.retry_after_s or 0), "arrive", f"again {address}")  # as the header says it
                place = None
            if word == "again" and now > rush_s:
                held[place is not None] += 1
        else:
            for place in inside[:batch]:
                place.__exit__(None, None, None)
            del inside[:batch]
            if inside:
                plan(now + batch_s, "leave")
    assert held[True] > 50
    assert held[True] >= share * sum(held.values()), held
