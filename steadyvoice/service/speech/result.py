"""Results of a synthesis: sentences, the report on them, the encoded whole. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from steadyvoice.engine_specs import TOKENS_PER_SECOND
from steadyvoice.media.encode import AudioFormat
from steadyvoice.media.subtitles import Cue
from steadyvoice.protocol import Speech


@dataclass(frozen=True)
class SpokenSentence:
    """One synthesized sentence. Timings are those of this sentence."""

    index: int
    total: int
    text: str  # as in the cleaned text, letter for letter
    cue: Cue  # its time within the answer
    speech: Speech  # at the requested speed, with the pause before it
    stretched: bool
    queue_s: float
    inference_s: float


@dataclass
class SpeechReport:
    """Durations, timings, subtitles and defects of an answer, added up sentence by sentence."""

    cues: list[Cue] = field(default_factory=list)
    characters: int = 0  # of the cleaned text
    duration_s: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0
    stretched: bool = False
    defects: list[tuple[int, str]] = field(default_factory=list)  # number of the sentence, from 1, and what is wrong
    reduced: list[int] = field(default_factory=list)  # numbers of the sentences that were made with a simpler search

    def add(self, piece: SpokenSentence) -> None:
        self.queue_s = self.queue_s if self.cues else piece.queue_s
        self.inference_s += piece.inference_s
        self.duration_s += piece.speech.duration_s
        self.cues.append(piece.cue)
        self.characters += len(piece.text)
        self.stretched |= piece.stretched
        if piece.speech.defect:
            self.defects.append((piece.index + 1, piece.speech.defect))
        if piece.speech.reduced:
            self.reduced.append(piece.index + 1)

    @property
    def tokens(self) -> int:
        return round(self.duration_s * TOKENS_PER_SECOND)

    @property
    def speed_method(self) -> str:
        return "stretched" if self.stretched else "native"


@dataclass(frozen=True)
class EncodedSpeech:
    """The whole answer."""

    audio: bytes
    format: AudioFormat
    sample_rate: int
    report: SpeechReport
