"""What a synthesiser receives for one piece of text, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from steadyvoice.protocol.fields import parse
from steadyvoice.protocol.wire import Payload

PcmArray = NDArray[np.int16]


@dataclass(frozen=True)
class SynthesizeItem:
    """One piece of text, cleaned and bounded, and how to say it."""

    text: str
    language: str  # zh, yue, en, ja, ko
    speaker: str  # the engine's own, or the name of the voice that `reference` holds
    emotion: str = "neutral"
    emotion_strength: float = 0.6  # 0..1
    speed: float = 1.0  # 2.0 takes half the time
    seed: int | None = None
    expected_s: float = 0.0  # a rough estimate of its length at speed 1; 0: none
    # For engines that imitate. Files are named after what is in them and are there until the answer has come.
    reference: str | None = None  # WAV file with the voice to speak in
    emotion_reference: str | None = None  # WAV file with the emotion to speak with
    emotion_vector: tuple[float, ...] | None = None  # eight parts, in the order of `engine_specs.EMOTIONS` without neutral
    emotion_text: str | None = None  # a description of it

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> SynthesizeItem:
        return parse(cls, payload.fields)


@dataclass(frozen=True)
class Speech:
    """Samples int16 [n], mono, at `sample_rate` Hz."""

    samples: PcmArray
    sample_rate: int
    speed: float = 1.0  # at which it was spoken; what it falls short of the caller's is left to time-stretching
    defect: str | None = None  # what is wrong with it after a second try: silent, cut_off, too_short
    retried: bool = False  # the first try had a defect
    reduced: bool = False  # memory was short, and it was made with a simpler search

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    def to_payload(self) -> Payload:
        fields = {name: value for name, value in vars(self).items() if name != "samples"}
        return Payload(fields, (self.samples,))

    @classmethod
    def from_payload(cls, payload: Payload) -> Speech:
        return parse(cls, payload.fields, samples=payload.array)
