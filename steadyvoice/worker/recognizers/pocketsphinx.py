"""The embedded recogniser: pocketsphinx with the English model inside its package. No network, no GPU, no download.

Lower case, no punctuation, about one word error in four on read speech: it shows that everything around it works, and says so.
Knows only English and tells neither emotion nor events. Imports pocketsphinx and numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
from pocketsphinx import Config, Decoder

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.protocol import FloatArray, ItemError, Items, ModelInfo, Outcome, Recognition, RecognizeItem, Word

FRAME_S = 0.01  # one decoder frame
LANGUAGES = ("auto", "en")
# Shorter than this the decoder finds no frame to work on.
MIN_SAMPLES = SAMPLE_RATE // 10
# Fillers are <s>, </s>, <sil>, [NOISE], ++breath++; "(2)" marks a word's second pronunciation.
FILLER = re.compile(r"^[<\[+]")
VARIANT = re.compile(r"\(\d+\)$")


class PocketsphinxRecognizer:
    """See `steadyvoice.worker.registry.Model`. Not thread-safe."""

    def __init__(self) -> None:
        self._decoder = Decoder(Config(loglevel="FATAL"))
        # Until a decoder has heard its first sound it makes words of a short silence, and afterwards no longer.
        self._recognize(np.random.default_rng(0).uniform(-1, 1, MIN_SAMPLES).astype(np.float32))
        # Items run one after the other; a few at a time save round trips without keeping other callers waiting.
        self.info = ModelInfo("pocketsphinx", version("pocketsphinx"), max_batch_items=4)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            item = RecognizeItem.from_payload(payload)
            if item.language not in LANGUAGES:
                yield ItemError(
                    "invalid", f"language {item.language!r} is unknown to pocketsphinx; it knows: {', '.join(LANGUAGES)}"
                )
                continue
            yield self._recognize(item.samples).to_payload()

    def _recognize(self, samples: FloatArray) -> Recognition:
        """float32 [n] at 16 kHz -> words with times."""
        if len(samples) < MIN_SAMPLES:
            return Recognition("", "en")
        pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2")
        # Every utterance starts from the same cepstral mean, so that an answer does not depend on whose came before.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        words = tuple(
            Word(VARIANT.sub("", s.word), round(s.start_frame * FRAME_S, 2), round((s.end_frame + 1) * FRAME_S, 2))
            for s in self._decoder.seg() or ()
            if not FILLER.match(s.word)
        )
        return Recognition(" ".join(word.text for word in words), "en", words=words)
