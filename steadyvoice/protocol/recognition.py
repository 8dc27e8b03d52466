"""What a recogniser receives for one segment, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from steadyvoice.protocol.fields import parse
from steadyvoice.protocol.wire import Payload

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)  # an hour has tens of thousands
class Word:
    """One word with its place in the segment, in seconds from the segment's start."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of the text: what it reads as, and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Scores:
    """How sure an engine is of one segment. The defaults stand for an engine that cannot tell."""

    tokens: tuple[int, ...] = ()  # ids in the engine's own vocabulary
    avg_logprob: float = 0.0  # mean log probability of the tokens
    no_speech_prob: float = 0.0
    logprobs: tuple[TokenScore, ...] = ()  # of each token, if the item asked for them

    @property
    def bytes(self) -> int:
        """Of memory, roughly and rather too much."""
        return 40 * len(self.tokens) + 200 * len(self.logprobs)


NO_SCORES = Scores()


@dataclass(frozen=True)
class RecognizeItem:
    """One segment: samples float32 [n] at 16 kHz in -1..1, and the options of the caller it belongs to."""

    samples: FloatArray
    language: str = "auto"
    use_itn: bool = True
    logprobs: bool = False

    def to_payload(self) -> Payload:
        fields = {"language": self.language, "use_itn": self.use_itn, "logprobs": self.logprobs}
        return Payload(fields, (self.samples,))

    @classmethod
    def from_payload(cls, payload: Payload) -> RecognizeItem:
        return parse(cls, payload.fields, samples=payload.array)


@dataclass(frozen=True)
class Recognition:
    """The answer for one segment. Emotion and events are None and empty where the engine cannot tell them."""

    text: str
    language: str
    emotion: str | None = None
    events: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    scores: Scores = NO_SCORES

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> Recognition:
        return parse(cls, payload.fields)
