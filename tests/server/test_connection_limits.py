from __future__ import annotations

import resource

import pytest

from steadyvoice.server.connection_limits import (
    DESCRIPTORS_PER_CONNECTION,
    HEADROOM,
    MAX_CONNECTIONS,
    MIN_CONNECTIONS,
    RESERVE,
    ConnectionLimits,
    ConnectionTable,
    limits_for,
    raise_descriptor_limit,
)


class FakeConnection:
    def __init__(self, table: ConnectionTable) -> None:
        self.is_cut = False
        table.opening += 1
        table.make_room()
        table.opened(self)

    def cut(self) -> None:
        self.is_cut = True


@pytest.mark.parametrize("descriptors", [64, 128, 256, 1_024, 4_096, 1_048_576])
def test_all_connections_at_work_leave_descriptors_for_the_rest(descriptors: int) -> None:
    limits = limits_for(descriptors, in_use=18)

    assert limits.working >= 6
    assert 2 <= limits.reserve <= RESERVE
    assert limits.total * DESCRIPTORS_PER_CONNECTION + 18 + HEADROOM <= descriptors
    assert limits.total <= MAX_CONNECTIONS


def test_where_hardly_a_descriptor_is_left_a_few_connections_are_tried_all_the_same() -> None:
    assert limits_for(32, in_use=30).total == MIN_CONNECTIONS


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1_024, 1_048_576, 4_096),
        (1_024, resource.RLIM_INFINITY, 4_096),
        (256, 512, 512),
        (64, 64, 64),
        (20_000, 20_000, 20_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4_096),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_is_useful_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))

    assert raise_descriptor_limit() == expected
    assert given == ([] if soft in (hard, resource.RLIM_INFINITY) else [(expected, hard)])


def test_the_longest_idle_connection_makes_room() -> None:
    table = ConnectionTable(ConnectionLimits(working=2, reserve=1))
    first, second, third = (FakeConnection(table) for _ in range(3))
    table.begin(first, health_check=False)
    table.idle(first)
    table.idle(second)  # was idle all the time, and keeps its place

    FakeConnection(table)

    assert [c.is_cut for c in (first, second, third)] == [False, True, False]
    assert len(table) == 3


def test_a_request_beyond_the_limit_is_refused_and_a_health_check_is_not() -> None:
    table = ConnectionTable(ConnectionLimits(working=1, reserve=3))
    first, second, third = (FakeConnection(table) for _ in range(3))

    assert table.begin(first, health_check=False)
    assert not table.begin(second, health_check=False)
    assert table.begin(third, health_check=True)
    table.idle(first)
    assert table.begin(second, health_check=False)


def test_a_working_connection_is_never_closed_for_another() -> None:
    table = ConnectionTable(ConnectionLimits(working=1, reserve=2))
    worker, refused, checked = (FakeConnection(table) for _ in range(3))
    for connection, health_check in ((worker, False), (refused, False), (checked, True)):
        table.begin(connection, health_check)

    newest = [FakeConnection(table) for _ in range(3)]

    assert not worker.is_cut
    assert refused.is_cut
    assert not newest[-1].is_cut
    assert len(table) == 3
