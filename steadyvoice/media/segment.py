"""Speech detection and segmenting: samples -> segments short enough for a recogniser.

silero-vad's sequence model (ONNX, 32 ms frames, on the CPU) gives a probability per frame; everything after that is arithmetic
on sample positions and can be tested without a model. The package's own Python imports torch, so only its weights are taken. A
segment is a half-open range of samples; segments are in order, never overlap, cover all detected speech, and are never longer
than the cap.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.media.sliced_work import Steps, complete

# Read once, at the import: otherwise onnxruntime gives this machine a number, keeps a file of what it does and sends it to
# its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

FRAME = 512  # samples per probability: 32 ms
CONTEXT = 64  # samples of the previous frame that the model sees before each frame
BLOCK = 512  # frames per call of the model: 16.4 s
STEP = 1 << 14  # frames in one step of what follows it: some milliseconds
STATE = (1, 1, 128)  # shape of the recurrent state, h and c

SPEECH_ON = 0.5  # probability at which speech begins
SPEECH_OFF = 0.35  # and below which it ends
HYSTERESIS = SPEECH_ON - SPEECH_OFF
MIN_SPEECH = 250 * SAMPLE_RATE // 1000  # shorter bursts are clicks
MIN_SILENCE = 300 * SAMPLE_RATE // 1000  # shorter pauses are part of speech
PADDING = 200 * SAMPLE_RATE // 1000  # kept after speech, for soft endings; before it too, unless a caller says otherwise
MAX_GAP = 2 * SAMPLE_RATE  # neighbours further apart are not joined: silence costs as much as speech
MIN_PIECE = SAMPLE_RATE // 2  # a cut leaves no piece shorter than this where it can


@dataclass(frozen=True, order=True)
class Span:
    """Samples `start` to `end`, `end` not included."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def start_s(self) -> float:
        return self.start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        return self.end / SAMPLE_RATE


@dataclass(frozen=True)
class SpeechDetection:
    """How speech is told from silence."""

    threshold: float = SPEECH_ON  # probability at which speech begins
    padding_before_s: float = PADDING / SAMPLE_RATE
    min_silence_s: float = MIN_SILENCE / SAMPLE_RATE  # shorter pauses are part of speech


DEFAULT_DETECTION = SpeechDetection()


@dataclass(frozen=True)
class SegmentOptions:
    """Seconds. `merge_length_s` joins neighbours up to that length; `max_segment_s` is never exceeded, pause or no pause."""

    merge_length_s: float = 10.0
    max_segment_s: float = 30.0
    detection: SpeechDetection = DEFAULT_DETECTION


def segment(samples: NDArray[np.float32], options: SegmentOptions) -> list[Span]:
    """Find speech and cut it; see `segment_steps`."""
    return complete(segment_steps(samples, options))


def segment_steps(samples: NDArray[np.float32], options: SegmentOptions) -> Steps[list[Span]]:
    """Find speech and cut it, in steps of some milliseconds.

    Args:
        samples: float32 [n], mono at 16 kHz.

    Returns:
        Spans in order. Empty where there is no speech.
    """
    probabilities = yield from _probability_steps(samples)
    speech = yield from _speech_steps(probabilities, len(samples), options.detection)
    merged = merge(speech, int(options.merge_length_s * SAMPLE_RATE))
    return cut(merged, int(options.max_segment_s * SAMPLE_RATE), probabilities)


def speech_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n] -> float32 [ceil(n / FRAME)], the probability of speech in each frame."""
    return complete(_probability_steps(samples))


def _probability_steps(samples: NDArray[np.float32]) -> Steps[NDArray[np.float32]]:
    session = _session()
    frames = -(-len(samples) // FRAME)
    h, c = np.zeros(STATE, np.float32), np.zeros(STATE, np.float32)
    context = np.zeros(CONTEXT, np.float32)
    out = []
    for first in range(0, frames, BLOCK):
        piece = samples[first * FRAME : (first + BLOCK) * FRAME]
        block = np.zeros((-(-len(piece) // FRAME), FRAME), np.float32)
        block.reshape(-1)[: len(piece)] = piece
        contexts = np.vstack([context[np.newaxis], block[:-1, -CONTEXT:]])
        context = block[-1, -CONTEXT:]
        probabilities, h, c = session.run(["speech_probs", "hn", "cn"], {"input": np.hstack([contexts, block]), "h": h, "c": c})
        out.append(probabilities.reshape(-1))
        yield
    return np.concatenate(out) if out else np.zeros(0, np.float32)


def find_speech(probabilities: NDArray[np.float32], total: int, detection: SpeechDetection = DEFAULT_DETECTION) -> list[Span]:
    """Hysteresis over frames, then padding that never makes neighbours overlap.

    Args:
        probabilities: float32 [frames].
        total: samples in the audio; no span reaches beyond it.
    """
    return complete(_speech_steps(probabilities, total, detection))


def _speech_steps(probabilities: NDArray[np.float32], total: int, detection: SpeechDetection) -> Steps[list[Span]]:
    speech_on, speech_off = detection.threshold, max(0.0, detection.threshold - HYSTERESIS)
    min_silence, padding = round(detection.min_silence_s * SAMPLE_RATE), round(detection.padding_before_s * SAMPLE_RATE)
    spans: list[Span] = []
    start: int | None = None  # of the speech we are in
    quiet: int | None = None  # where the pause that we are in began
    for index, probability in enumerate(probabilities.tolist()):
        at = index * FRAME
        if index % STEP == 0:
            yield
        if probability >= speech_on:
            start, quiet = (at if start is None else start), None
        elif start is not None and probability < speech_off:
            quiet = at if quiet is None else quiet
            if at + FRAME - quiet >= min_silence:
                spans.append(Span(start, quiet))
                start = quiet = None
    if start is not None:
        spans.append(Span(start, total if quiet is None else quiet))
    spans = [span for span in spans if span.length >= MIN_SPEECH]
    padded: list[Span] = []
    for index, span in enumerate(spans):
        # Two neighbours share the pause between them, half each.
        before = spans[index - 1].end if index else -span.start
        after = spans[index + 1].start if index + 1 < len(spans) else 2 * total - span.end
        padded.append(
            Span(
                max(0, span.start - min(padding, (span.start - before) // 2)),
                min(total, span.end + min(PADDING, (after - span.end) // 2)),
            )
        )
    return padded


def merge(spans: Sequence[Span], longest: int) -> list[Span]:
    """Join neighbours while the joined span is at most `longest` samples and the gap at most `MAX_GAP`."""
    merged: list[Span] = []
    for span in spans:
        if merged and span.end - merged[-1].start <= longest and span.start - merged[-1].end <= MAX_GAP:
            merged[-1] = Span(merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged


def cut(spans: Sequence[Span], cap: int, probabilities: NDArray[np.float32]) -> list[Span]:
    """Cut spans over `cap` samples where speech is least likely, at the latest at the cap."""
    pieces: list[Span] = []
    for span in spans:
        start = span.start
        while span.end - start > cap:
            # The later half of what the cap allows, leaving the rest at least MIN_PIECE where that is possible.
            low, high = start + cap // 2, min(start + cap, span.end - MIN_PIECE)
            first, last = -(-low // FRAME), high // FRAME
            at = high
            if first < min(last, len(probabilities)):
                at = (first + int(np.argmin(probabilities[first:last]))) * FRAME
            at = min(max(at, start + 1), start + cap)
            pieces.append(Span(start, at))
            start = at
        pieces.append(Span(start, span.end))
    return pieces


_session_lock = threading.Lock()


def _session() -> onnxruntime.InferenceSession:
    with _session_lock:  # several first callers, one load
        return _load_session()


@functools.cache
def _load_session() -> onnxruntime.InferenceSession:
    spec = importlib.util.find_spec("silero_vad")  # finds the package without importing it
    assert spec is not None
    assert spec.origin is not None
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
