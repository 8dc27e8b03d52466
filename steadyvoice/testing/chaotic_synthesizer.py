"""A voice that says the number it was given, and breaks in every way that an engine can. It runs in a real worker process."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from steadyvoice.protocol import Items, ModelInfo, Outcome, Speech, SynthesizeItem

RATE = 16_000
SAMPLES = 1_600
NUMBER = re.compile(r"\d+")


class ChaoticSynthesizer:
    """The audio of "number 12" is twelve in every sample. What the text calls poison raises, or ends the process."""

    def __init__(self, oom_share: float = 0.0, max_batch_items: int = 8) -> None:
        self._oom_share = oom_share
        self._random = random.Random()
        self._lone_ooms: Counter[str | None] = Counter()
        self.info = ModelInfo("chaos", "1", max_batch_items)

    def run(self, items: Items) -> Iterator[Outcome]:
        """All at once, as an engine does that computes its items together."""
        asked = [SynthesizeItem.from_payload(payload) for payload in items]
        activations = np.ones(2_000_000)  # what the exception's frames hold on to
        if any("deadly" in item.text for item in asked):
            os._exit(9)
        if any("poison" in item.text for item in asked):
            raise RuntimeError("a number of the model is not a number")
        alone = asked[0].text if len(asked) == 1 else None
        # Three times alone is refused, and rightly so: chance must not do that to an innocent.
        if self._random.random() < self._oom_share and self._lone_ooms[alone] < 2:
            self._lone_ooms[alone] += alone is not None
            raise MemoryError(f"no room beside {activations.nbytes} bytes")
        for item in asked:
            found = NUMBER.search(item.text)
            assert found
            yield Speech(np.full(SAMPLES, int(found[0]), np.int16), RATE).to_payload()
