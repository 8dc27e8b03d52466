"""What a transcription takes and gives: options, the events while it runs, segments and the transcript. Does no work of its own
but to put a transcript together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine_specs import TOKENS_PER_SECOND
from steadyvoice.media.rich_text import RichSegment, funasr_rich_text, join_text, rich_text
from steadyvoice.media.segment import DEFAULT_DETECTION, Span, SpeechDetection
from steadyvoice.media.subtitles import Cue, cues_of, to_srt, to_vtt
from steadyvoice.media.words import WORD_BYTES, PackedWords
from steadyvoice.protocol import NO_SCORES, Recognition, Scores, Word

UNKNOWN_EMOTION = "EMO_UNKNOWN"
NO_LANGUAGE = frozenset({"nospeech", "auto"})


@dataclass(frozen=True)
class TranscriptionOptions:
    """What a caller may choose."""

    language: str = "auto"
    use_itn: bool = True
    merge_length_s: float | None = None  # None: the server's setting
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    logprobs: bool = False  # of each token, for an engine that gives them
    detection: SpeechDetection = DEFAULT_DETECTION


@dataclass(frozen=True)
class Progress:
    """Where a request stands. `place` counts those before it in the queue, itself included; 0 once it is being worked on."""

    stage: str  # decoding, segmenting, waiting, recognizing, finishing
    place: int = 0
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class TranscriptSegment:
    """One segment with its times in seconds from the start of the audio."""

    id: int
    start: float
    end: float
    text: str
    language: str
    emotion: str | None
    events: tuple[str, ...]
    words: PackedWords
    scores: Scores = NO_SCORES


@dataclass(frozen=True)
class Transcript:
    """The whole answer."""

    text: str
    rich_text: str  # as FunASR's users know it
    page_text: str  # the same with spaces between the segments
    language: str
    emotion: str | None
    events: tuple[str, ...]
    duration: float  # seconds
    segments: tuple[TranscriptSegment, ...]
    srt: str
    vtt: str
    engine: str
    revision: str
    queue_s: float
    inference_s: float
    cached: bool = False

    @property
    def no_speech(self) -> bool:
        """No speech was found in this audio."""
        return not any(segment.text for segment in self.segments)

    @property
    def tokens(self) -> int:
        return round(self.duration * TOKENS_PER_SECOND)


Event = Progress | TranscriptSegment | Transcript


def segment_of(index: int, span: Span, recognition: Recognition) -> TranscriptSegment:
    """What the engine recognised in a span, with its times moved to those of the whole audio."""
    words = PackedWords.of(
        Word(word.text, round(span.start_s + word.start, 3), round(span.start_s + word.end, 3)) for word in recognition.words
    )
    return TranscriptSegment(
        id=index,
        start=round(span.start_s, 3),
        end=round(span.end_s, 3),
        text=recognition.text,
        language=recognition.language,
        emotion=recognition.emotion,
        events=recognition.events,
        words=words,
        scores=recognition.scores,
    )


def transcript_of(
    segments: tuple[TranscriptSegment, ...], duration: float, engine: str, revision: str, queue_s: float, inference_s: float
) -> Transcript:
    """All segments in order -> the transcript with its views. CPU-bound, so not for the event loop."""
    cues = [cue for s in segments for cue in cues_of(Cue(s.start, s.end, s.text), tuple(s.words))]
    rich = [RichSegment(s.text, s.language, s.emotion, s.events) for s in segments]
    languages = Counter(s.language for s in segments if s.language not in NO_LANGUAGE)
    emotions = Counter(s.emotion for s in segments if s.emotion and s.emotion != UNKNOWN_EMOTION)
    return Transcript(
        text=join_text([(s.text, s.language) for s in segments]),
        rich_text=funasr_rich_text(rich),
        page_text=rich_text(rich),
        language=languages.most_common(1)[0][0] if languages else "auto",
        emotion=emotions.most_common(1)[0][0] if emotions else None,
        events=tuple(dict.fromkeys(event for s in segments for event in s.events)),
        duration=round(duration, 3),
        segments=segments,
        srt=to_srt(cues),
        vtt=to_vtt(cues),
        engine=engine,
        revision=revision,
        queue_s=queue_s,
        inference_s=inference_s,
    )


def size_of(transcript: Transcript) -> int:
    """Bytes that a transcript takes in memory, roughly and rather too much."""
    texts = (
        transcript.text,
        transcript.rich_text,
        transcript.page_text,
        transcript.srt,
        transcript.vtt,
        *(s.text for s in transcript.segments),
    )
    words = sum(len(s.words) for s in transcript.segments)
    scored = sum(s.scores.bytes for s in transcript.segments)
    return 1_000 + 4 * sum(map(len, texts)) + 1_000 * len(transcript.segments) + WORD_BYTES * words + scored
