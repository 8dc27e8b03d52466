"""What every contender hears: three sentences read by a human (tests/data) in random order, cut at random places, both seeded.

Imports the standard library and numpy only, since it is imported within the time to the first transcript.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
RATE = 16_000  # Hz
CLIP_S = 10.0
SHORTEST_S, LONGEST_S = 2.0, 30.0

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Amount:
    """How much there is to hear."""

    clips: int  # of CLIP_S
    varied: int  # of SHORTEST_S to LONGEST_S, evenly spread
    compared: int  # of the varied ones, for the agreement of tokens


AMOUNTS = {
    "cpu": {"full": Amount(12, 12, 12), "quick": Amount(3, 4, 4)},
    "cuda": {"full": Amount(512, 512, 48), "quick": Amount(64, 64, 12)},
}


def sentences() -> list[FloatArray]:
    """The three recordings, 15.7 s together, float32 in -1..1."""
    found = []
    for path in sorted(DATA.glob("austen-*.wav")):
        with wave.open(str(path)) as file:
            found.append(np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32_768)
    return found


def speech(seconds: float, seed: int) -> FloatArray:
    """So many seconds: sentences in random order, beginning somewhere in the first."""
    generator, known, wanted = np.random.default_rng(seed), sentences(), round(seconds * RATE)
    parts: list[FloatArray] = []
    skipped = int(generator.integers(0, 3 * RATE))
    while sum(map(len, parts)) < wanted + skipped:
        parts.append(known[generator.integers(len(known))])
    return np.concatenate(parts)[skipped : skipped + wanted]


def clips(count: int, seed: int) -> list[FloatArray]:
    """Clips of CLIP_S, each another cut."""
    return [speech(CLIP_S, seed * 100_000 + number) for number in range(count)]


def varied(count: int, seed: int, longest: float = LONGEST_S) -> list[FloatArray]:
    """Segments whose lengths are spread evenly over SHORTEST_S to `longest`, in random order."""
    lengths = np.random.default_rng(seed).permutation(np.linspace(SHORTEST_S, longest, count))
    return [speech(float(length), seed * 100_000 + number) for number, length in enumerate(lengths)]


def work(amount: Amount) -> list[FloatArray]:
    """What the throughput is measured on: the clips and the varied segments."""
    return clips(amount.clips, seed=1) + varied(amount.varied, seed=2)


def seconds_of(pieces: list[FloatArray]) -> float:
    return sum(map(len, pieces)) / RATE


def wav_bytes(samples: FloatArray) -> bytes:
    """16 bit mono WAV; whoever reads it has the same samples, as the recordings are 16 bit."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32_768).astype(np.int16).tobytes())
    return buffer.getvalue()
