"""The scenarios of bench/memory.py, and what is heard in them: the same recordings and the same stretches of speech for all.

Each recording is a 16 bit WAV file made by bench/peers_speech.py. Beside it lie the stretches in which somebody speaks, found
beforehand with steadyvoice's own detector: random weights come without FunASR's, and a second detector would be a second thing
that differs. steadyvoice itself gets the whole recording and finds them anew, in the memory and the time that are counted; the
others are given them, and their detector costs them nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers_setup import CACHE, ROOT
from peers_speech import DATA, RATE, speech, wav_bytes

from steadyvoice.media.segment import SegmentOptions, segment

LONGEST_S = 30.0  # of a stretch, as FunASR's max_single_segment_time in its README
WARM_UP_S = 10.0
MADE_BY = (ROOT / "bench" / "peers_speech.py", ROOT / "steadyvoice" / "media" / "segment.py", *sorted(DATA.glob("austen-*.wav")))


@dataclass(frozen=True)
class Scenario:
    """So many requests at once, each with a recording of its own of so many seconds."""

    name: str
    requests: int
    seconds: float

    @property
    def audio_s(self) -> float:
        return self.requests * self.seconds


SCENARIOS = {
    "full": (
        Scenario("1min", 1, 60),
        Scenario("3min", 1, 180),
        Scenario("5min", 1, 300),
        Scenario("5x3min", 5, 180),
        Scenario("20x5min", 20, 300),
        Scenario("1hour", 1, 3_600),
    ),
    "quick": (Scenario("10s", 1, 10), Scenario("3x10s", 3, 10)),
}
# Memory over time is drawn for the first of these that was measured: 5 x 3 min is what was published.
DRAWN = ("5x3min", "3x10s")


def recordings(scenario: Scenario) -> list[Path]:
    """Its WAV files, one for each request."""
    return [recording(scenario.seconds, number) for number in range(scenario.requests)]


def warm_up() -> Path:
    """What is recognised once before anything is measured, by whoever keeps a model."""
    return recording(WARM_UP_S, 99)


def recording(seconds: float, number: int) -> Path:
    """A WAV file of so many seconds, made once and kept. Its stretches of speech lie beside it; see `stretches_of`."""
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in MADE_BY)).hexdigest()[:16]
    path = CACHE / f"memory-speech-{made_of}" / f"{seconds:g}s-{number}.wav"
    stretches = path.with_suffix(".json")
    if not stretches.is_file():
        samples = speech(seconds, seed=1_000 * round(seconds) + number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(samples))
        unfinished = stretches.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(stretches_in(samples)), encoding="ascii")
        unfinished.rename(stretches)
    return path


def stretches_in(samples: np.ndarray) -> list[list[int]]:
    """Where somebody speaks: [[first, last], …] in milliseconds, not yet merged, none longer than LONGEST_S."""
    spans = segment(samples, SegmentOptions(merge_length_s=0.0, max_segment_s=LONGEST_S))
    return [[span.start * 1_000 // RATE, span.end * 1_000 // RATE] for span in spans]
