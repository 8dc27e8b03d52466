"""A synthesiser that does what the test says. It runs in a real worker process, like every model."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Client

import numpy as np

from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, Speech, SynthesizeItem
from steadyvoice.protocol.cost import CostModel

RATE = 22_050


class GatedVoice:
    """Says half a second of tone per sentence, always at speed 1.

    Words in a sentence make it behave: "gate" waits until the test lets it go on, "fail" fails, "Tell" fails and tells what was
    expected, "cut" gives audio with a defect, "poor" audio that was made with little memory.
    """

    cost = CostModel(0.0, 100e6, 0.0)  # a second of audio takes 100 MB, where memory is looked at

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self.info = ModelInfo("gated", "1", max_batch_items=4)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            item = SynthesizeItem.from_payload(payload)
            text = item.text
            if "gate" in text:
                with Client(self._gate) as gate:
                    gate.send("here")
                    gate.recv()
            if "Tell" in text:
                yield ItemError("invalid", f"expected {item.expected_s:.2f} s")
                continue
            if "fail" in text:
                yield ItemError("error", "it was told to fail")
                continue
            tone = (np.sin(np.arange(RATE // 2) * 2 * np.pi * 440 / RATE) * 10_000).astype(np.int16)
            defect = "cut_off" if "cut" in text else None
            yield Speech(tone, RATE, defect=defect, retried=defect is not None, reduced="poor" in text).to_payload()
