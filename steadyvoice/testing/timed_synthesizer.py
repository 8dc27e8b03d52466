"""A voice that takes as long as it is told to, whatever the machine: batches of a device whose speed is known."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from steadyvoice.protocol import Items, ModelInfo, Outcome, Speech

RATE = 16_000


class TimedSynthesizer:
    """A batch takes `batch_s`, however many items it has; the answers come together at its end."""

    def __init__(self, batch_s: float, max_batch_items: int) -> None:
        self._batch_s = batch_s
        self.info = ModelInfo("timed", "1", max_batch_items)

    def run(self, items: Items) -> Iterator[Outcome]:
        time.sleep(self._batch_s)
        for _ in items:
            yield Speech(np.zeros(RATE, np.int16), RATE).to_payload()
