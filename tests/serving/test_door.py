from __future__ import annotations

import threading

import pytest

from steadyvoice.errors import EngineUnavailable, Overloaded
from steadyvoice.serving.door import Door
from steadyvoice.serving.hardware import Admission


def door(concurrency: int = 1, queue_size: int = 1) -> Door:
    return Door(Admission(concurrency, queue_size), lambda: 7.0, lambda _: None)


def test_as_many_as_may_be_inside_come_in_and_the_next_is_told_when_to_come_back() -> None:
    front = door()
    with front.enter(), front.enter():
        with pytest.raises(Overloaded, match=r"2 requests .*\(1 at work, 1 waiting\)") as refused, front.enter():
            pass
        assert refused.value.retry_after_s == 7.0
    with front.enter():
        assert front.inside == 1


def test_a_place_is_given_back_when_the_work_fails() -> None:
    front = door()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), front.enter():
            raise ZeroDivisionError
    assert front.inside == 0


def test_a_closing_door_lets_nobody_in_and_waits_for_those_inside() -> None:
    front = door()
    entered, leave = threading.Event(), threading.Event()

    def visit() -> None:
        with front.enter():
            entered.set()
            leave.wait(30)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert entered.wait(30)
    front.close()
    with pytest.raises(EngineUnavailable, match="draining"), front.enter():
        pass
    assert not front.wait_empty(0)
    leave.set()
    assert front.wait_empty(30)
    visitor.join()


def test_those_who_are_refused_are_told_to_come_one_after_the_other_at_the_pace_at_which_people_leave() -> None:
    now = 1_000.0
    front = Door(Admission(1, 1), lambda: 7.0, lambda _: None, clock=lambda: now)

    def refused() -> float:
        with pytest.raises(Overloaded) as refusal:
            front.check()
        assert refusal.value.retry_after_s is not None
        return refusal.value.retry_after_s

    with front.enter():
        for _ in range(10):  # somebody leaves every two seconds
            with front.enter():
                now += 2.0
        with front.enter():
            assert [refused() for _ in range(4)] == [7.0, 9.0, 11.0, 13.0]
            now += 100.0
            assert [refused() for _ in range(2)] == [7.0, 9.0]  # what was promised is past
            for _ in range(10_000):
                refused()
            assert refused() == 300.0
    with front.enter(), front.enter():
        assert refused() == 7.0  # there was room meanwhile
