"""A synthesiser that waits where the test says. It runs in a real worker process, like every model."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Client

import numpy as np

from steadyvoice.protocol import Items, ModelInfo, Outcome, Speech, SynthesizeItem

RATE = 22_050


class GatedVoice:
    """Says half a second of tone per sentence; before a sentence with the word "gate" it waits until the test lets it go on."""

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self.info = ModelInfo("gated", "1", max_batch_items=4)

    def run(self, items: Items) -> Iterator[Outcome]:
        for item in items:
            if "gate" in SynthesizeItem.from_payload(item).text:
                with Client(self._gate) as gate:
                    gate.send("here")
                    gate.recv()
            tone = np.sin(np.arange(RATE // 2) * 2 * np.pi * 440 / RATE) * 10_000
            yield Speech(tone.astype(np.int16), RATE).to_payload()
