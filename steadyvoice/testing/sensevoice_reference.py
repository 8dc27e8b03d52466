"""Random segments for SenseVoice, and what FunASR's modules and ours compute for them, to compare the two."""

from __future__ import annotations

import numpy as np
import soundfile
import torch

from steadyvoice.protocol import FloatArray, RecognizeItem
from steadyvoice.testing.running_apps import CLIPS
from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer
from steadyvoice.worker.recognizers.sensevoice.recognizer import LANGUAGE_QUERIES, SenseVoiceRecognizer, queries_of

RATE = 16_000  # Hz


def speech() -> FloatArray:
    """The clips of tests/data one after the other, three times: float32 [n], more than 30 s."""
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in CLIPS] * 3)


def random_items(count: int, seed: int) -> list[RecognizeItem]:
    """Segments of 0.1 to 30 s, more short ones than long ones, with any language and ITN."""
    generator, samples = np.random.default_rng(seed), speech()
    items = []
    for _ in range(count):
        length = int(RATE * (0.1 + 29.9 * generator.random() ** 4))
        start = int(generator.integers(0, len(samples) - length + 1))
        language = str(generator.choice(list(LANGUAGE_QUERIES)))
        items.append(RecognizeItem(samples[start : start + length].copy(), language, bool(generator.integers(2))))
    return items


def reference_logits(funasr: FunasrRecognizer, item: RecognizeItem) -> torch.Tensor:
    """What FunASR's own modules compute for one item: float32 [4 + rows, 25055]."""
    model, frontend = funasr._model.model, funasr._model.kwargs["frontend"]
    features, _ = frontend(torch.from_numpy(item.samples)[None], torch.tensor([len(item.samples)]))
    with torch.no_grad():
        rows = torch.cat([model.embed(queries_of([item], torch.device("cpu"))), features], dim=1)
        encoded, _ = model.encoder(rows, torch.tensor([rows.shape[1]]))
        logits: torch.Tensor = model.ctc.ctc_lo(encoded)[0]
    return logits


def our_logits(recognizer: SenseVoiceRecognizer, item: RecognizeItem) -> torch.Tensor:
    """What our network computes for one item: float32 [4 + rows, 25055]."""
    features, rows = recognizer.filterbank([torch.from_numpy(item.samples)])
    with torch.inference_mode():
        encoded = recognizer.network.encode(features, rows, queries_of([item], recognizer.device))
        return recognizer.network.logits(encoded)[0]
