from __future__ import annotations

from steadyvoice.service.usage import Meter, Usage


def test_usage_adds_up_by_caller() -> None:
    meter = Meter()
    meter.count("one", Usage(1, 10, 0.5, 25))
    meter.count("other", Usage(1, 7, 1.0, 50))
    meter.count("one", Usage(1, 5, 0.25, 13))

    assert meter.usage("one") == Usage(2, 15, 0.75, 38)
    assert meter.usage("other") == Usage(1, 7, 1.0, 50)
    assert meter.usage("stranger") == Usage()


def test_of_too_many_callers_the_one_served_longest_ago_is_forgotten() -> None:
    meter = Meter(callers=2)
    for caller in ("one", "two", "one", "three"):
        meter.count(caller, Usage(requests=1))

    assert [meter.usage(caller).requests for caller in ("one", "two", "three")] == [2, 0, 1]


def test_asking_takes_no_place() -> None:
    meter = Meter(callers=2)
    meter.count("one", Usage(requests=1))
    for stranger in range(10):
        meter.usage(f"stranger {stranger}")

    assert meter.usage("one").requests == 1
