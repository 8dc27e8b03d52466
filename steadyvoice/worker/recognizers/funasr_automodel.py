"""SenseVoiceSmall through `funasr.AutoModel` as its users run it: the reference of every comparison, and the way to other
models of FunASR that take arrays, such as Paraformer, by name.

One owner and one call at a time, because AutoModel keeps every call's options for the next; arrays only, because it opens strings
as files, manifests and URLs. Imports funasr, torch and numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from funasr import AutoModel

from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, Recognition, RecognizeItem, Word
from steadyvoice.worker.recognizers.sensevoice.tags import emotion_of, events_of, language_of

# Fewer samples divide by zero in its front end, or kill the process.
MIN_SAMPLES = 400
LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko")
TAG = re.compile(r"<\|([^|<>]+)\|>")


class FunasrRecognizer:
    """See `steadyvoice.worker.registry.Model`. Not thread-safe."""

    def __init__(
        self,
        model: str,
        device: str = "auto",
        vad_model: str | None = None,
        batch_size_s: int = 30,
        merge_vad: bool = True,
        merge_length_s: int = 10,
        max_single_segment_time: int = 30_000,
        dither: float | None = 0.0,
    ) -> None:
        """
        Args:
            model: a release directory, or a name that FunASR's hub knows.
            device: cpu, cuda, or auto.
            vad_model: FunASR's own voice activity detection; not needed for segments that are cut already.
            batch_size_s: seconds of its own batches, which its VAD's segments make.
            merge_vad: join those segments up to `merge_length_s` seconds.
            merge_length_s: given here and not to a call, where FunASR ignores it.
            max_single_segment_time: milliseconds; longer segments are cut.
            dither: noise added to the samples; 0 gives equal answers to equal calls, None leaves FunASR's default of 1.
        """
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        options: dict[str, Any] = {"model": model, "device": chosen, "disable_update": True, "disable_pbar": True}
        if vad_model is not None:
            options |= {"vad_model": vad_model, "vad_kwargs": {"max_single_segment_time": max_single_segment_time}}
            options |= {"merge_vad": merge_vad, "merge_length_s": merge_length_s}
        if dither is not None:  # only here: every call goes back to what was given at construction
            options["frontend_conf"] = {"dither": dither}
        self._model = AutoModel(log_level="ERROR", **options)
        self._batch_size_s = batch_size_s
        self.info = ModelInfo("funasr", Path(model).name, max_batch_items=1)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            item = RecognizeItem.from_payload(payload)
            if item.language not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                yield ItemError("invalid", f"language {item.language!r} is unknown; known: {known}")
            elif not np.isfinite(item.samples).all():
                yield ItemError("invalid", "the audio has samples that are not numbers")
            else:
                yield self.recognize(item).to_payload()

    def generate(self, item: RecognizeItem, **options: Any) -> dict[str, Any]:
        """AutoModel's own answer for one item; `options` as its `generate` takes them."""
        samples = np.array(item.samples, dtype=np.float32)
        if len(samples) < MIN_SAMPLES:
            samples = np.pad(samples, (0, MIN_SAMPLES - len(samples)))
        # Every option is given every time: what is left out would be the last call's.
        results = self._model.generate(
            input=samples, language=item.language, use_itn=item.use_itn, batch_size_s=self._batch_size_s, **options
        )
        return dict(results[0]) if results else {}

    def recognize(self, item: RecognizeItem) -> Recognition:
        return parse(self.generate(item))


def parse(result: dict[str, Any]) -> Recognition:
    """One of AutoModel's results -> text without tags, tags as fields, and its word times in seconds where it gives any."""
    raw = str(result.get("text", ""))
    tags = TAG.findall(raw)
    times = result.get("timestamp") or []
    texts = result.get("words") or TAG.sub("", raw).split()
    words = (
        tuple(Word(str(text), start / 1_000, end / 1_000) for text, (start, end) in zip(texts, times, strict=True))
        if len(texts) == len(times)
        else ()
    )
    return Recognition(
        text=TAG.sub("", raw).strip(),
        language=language_of(tags),
        emotion=emotion_of(tags),
        events=events_of(tags),
        words=words,
    )
