"""One hour in one request: what it takes in memory, and whether it says what its pieces say.

Memory is the resident set of the app and its worker, sampled 20 times a second: the peak during the hour over the peak during one
minute, less the decoded samples that the hour has more (64 kB a second), which any answer has to hold. It is compared with the
second minute that a fresh server hears (the first loads the model), and with the highest of the hour's own minutes given one
after another: what grows there as well grows with use and not with the length of a request.

What it says is compared twice, segment by segment, and nothing is forgiven:

- with the recogniser alone, given exactly the samples of each segment, one at a time: this finds out whether anything is lost,
  swapped or mixed up on the way through queue, batches and worker;
- with the app itself, given the hour in pieces that are cut in the middle of the widest pauses between its segments, at a frame
  of the speech detector. Not all of it can be equal: the detector is recurrent and begins each piece without memory, so its
  probabilities differ a little for long after a cut, ends of segments move by a frame (32 ms), and a pause of nearly 300 ms
  counts in one and not in the other. How much of the speech both find is told as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from peers_servers import Server, family, transcribe
from peers_speech import RATE, FloatArray, speech, wav_bytes

from steadyvoice.protocol import RecognizeItem
from steadyvoice.worker.recognizers.sensevoice.recognizer import SenseVoiceRecognizer

SAMPLES_PER_S = 20
MINUTE = 60 * RATE  # samples
PIECES = 10
FRAME = 512  # samples, of the speech detector
BYTES_PER_S = 4 * RATE  # decoded

Row = dict[str, Any]
Segment = dict[str, Any]


class Peak:
    """The largest sum of resident sets seen so far, in MB."""

    def __init__(self) -> None:
        self.mb = 0.0


@contextmanager
def watched(server: Server) -> Iterator[Peak]:
    """Sample the server's memory while the block runs."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(1 / SAMPLES_PER_S):
            with suppress(psutil.NoSuchProcess):
                peak.mb = max(peak.mb, sum(process.memory_info().rss for process in family(server)) / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def measure(server: Server, release: Path, minutes: float) -> Row:
    """The row of one long request."""
    transcribe(server, wav_bytes(speech(60, seed=20)))  # loads the model
    with watched(server) as in_a_minute:
        transcribe(server, wav_bytes(speech(60, seed=21)))
    samples = speech(60 * minutes, seed=22)
    with watched(server) as in_minutes:
        for first in range(0, len(samples), MINUTE):
            segments_of(server, wav_bytes(samples[first : first + MINUTE]))
    upload = wav_bytes(samples)
    began = time.perf_counter()
    with watched(server) as in_the_whole:
        segments = segments_of(server, upload)
    seconds = time.perf_counter() - began
    audio = (len(samples) / RATE - 60) * BYTES_PER_S / 1e6
    return {
        "minutes": minutes,
        "audio_s_per_s": len(samples) / RATE / seconds,
        "peak_minute_mb": in_a_minute.mb,
        "peak_mb": in_the_whole.mb,
        "more_audio_mb": audio,
        "beyond_audio_mb": in_the_whole.mb - in_a_minute.mb - audio,
        "peak_minutes_mb": in_minutes.mb,
        "beyond_minutes_mb": in_the_whole.mb - in_minutes.mb - audio,
        "segments": len(segments),
        "equal_alone": equal_alone(release, samples, segments),
        **compare_with_pieces(server, samples, segments),
    }


def equal_alone(release: Path, samples: FloatArray, segments: list[Segment]) -> int:
    """How many segments have the text that the recogniser gives for their samples alone."""
    recognizer = SenseVoiceRecognizer(str(release))
    equal = 0
    for segment in segments:
        start, end = place(segment)
        (alone,) = recognizer.recognize([RecognizeItem(samples[start:end])])
        equal += alone.text == segment["text"]
    return equal


def compare_with_pieces(server: Server, samples: FloatArray, whole: list[Segment]) -> Row:
    """How the segments of the whole differ from those of its pieces."""
    pieces: dict[tuple[int, int], str] = {}
    for first, last in pairwise([0, *cuts(whole), len(samples)]):
        for segment in segments_of(server, wav_bytes(samples[first:last])):
            start, end = place(segment)
            pieces[start + first, end + first] = segment["text"]
    places = [place(segment) for segment in whole]
    one, other = covered(places, len(samples)), covered(pieces, len(samples))
    return {
        "segments_in_pieces": len(pieces),
        "equal_times": sum(at in pieces for at in places),
        "equal_in_pieces": sum(pieces.get(at) == segment["text"] for at, segment in zip(places, whole, strict=True)),
        "speech_in_both": float((one & other).sum() / (one | other).sum()),
    }


def covered(places: Iterable[tuple[int, int]], total: int) -> NDArray[np.bool_]:
    """Which samples lie in a segment: bool [total]."""
    found = np.zeros(total, bool)
    for start, end in places:
        found[start:end] = True
    return found


def cuts(segments: list[Segment]) -> list[int]:
    """PIECES - 1 samples: of each stretch of segments the middle of its widest pause."""
    gaps = [(one["end"], other["start"]) for one, other in pairwise(segments)]
    found = []
    for piece in range(1, PIECES):
        near = gaps[(2 * piece - 1) * len(gaps) // (2 * PIECES) : (2 * piece + 1) * len(gaps) // (2 * PIECES)]
        if near:
            end, start = max(near, key=lambda gap: gap[1] - gap[0])
            found.append(round((end + start) / 2 * RATE / FRAME) * FRAME)
    return found


def place(segment: Segment) -> tuple[int, int]:
    """First and last sample."""
    return round(segment["start"] * RATE), round(segment["end"] * RATE)


def segments_of(server: Server, upload: bytes) -> list[Segment]:
    return list(transcribe(server, upload, response_format="verbose_json").json()["segments"])
