from __future__ import annotations

import numpy as np

from steadyvoice.engine import quarantine as module
from steadyvoice.engine.quarantine import QUARANTINE_S, Quarantine
from steadyvoice.protocol import Payload


def payload(*samples: float, **fields: object) -> Payload:
    return Payload(fields, (np.array(samples, np.float32),))


def test_what_ended_the_worker_is_known_again_by_its_contents_and_nothing_else_is() -> None:
    quarantine = Quarantine()
    quarantine.add(payload(1, 2, language="zh"), now=0.0)

    assert quarantine.seconds_left(payload(1, 2, language="zh"), now=10.0) == QUARANTINE_S - 10.0
    assert not quarantine.seconds_left(payload(1, 2, language="en"), now=10.0)
    assert not quarantine.seconds_left(payload(1, 3, language="zh"), now=10.0)
    assert not quarantine.seconds_left(Payload({"language": "zh"}, (np.array([1, 2], np.int16),)), now=10.0)


def test_after_an_hour_it_may_come_again() -> None:
    quarantine = Quarantine()
    quarantine.add(payload(1), now=0.0)

    assert quarantine.seconds_left(payload(1), now=QUARANTINE_S - 1) == 1.0
    assert not quarantine.seconds_left(payload(1), now=QUARANTINE_S)
    assert not len(quarantine)


def test_it_remembers_no_more_than_so_many() -> None:
    quarantine = Quarantine()
    for number in range(module.MAX_INPUTS + 10):
        quarantine.add(payload(number), now=float(number))

    assert len(quarantine) == module.MAX_INPUTS
    assert not quarantine.seconds_left(payload(9), now=0.0)
    assert quarantine.seconds_left(payload(10), now=0.0)
