"""Hears what the stand-in was asked to say: voice, emotion and text, whatever codec and speed the audio came through."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tests.indextts2.standin import (
    EMOTION_HZ,
    EMOTION_STEP,
    REFERENCE_HZ,
    REFERENCE_STEP,
    REFERENCES,
    SYMBOL_VALUES,
    SYMBOLS,
    TEXT_HZ,
    TEXT_STEP,
    VOICE_HZ,
    VOICE_STEP,
    VOICES,
)

AUDIBLE = 0.02  # of the loudest tone
SILENCE = 0.01  # of full scale


@dataclass(frozen=True)
class Heard:
    """One sentence. Strengths are against the voice's own tone, so about 1 for full."""

    voice: int
    emotion: tuple[float, ...]  # eight strengths
    reference: int | None  # number of the emotion's recording
    code: tuple[int, ...]  # as `standin.code_of` of the text


def sentences(samples: NDArray[np.float32], rate: int) -> list[NDArray[np.float32]]:
    """What lies between pauses of a tenth of a second and more."""
    frame = rate // 50
    loud = [np.abs(samples[start : start + frame]).max() > SILENCE for start in range(0, len(samples), frame)]
    found, begin, quiet = [], None, 0
    for index, is_loud in enumerate([*loud, *[False] * 5]):
        quiet = 0 if is_loud else quiet + 1
        if is_loud and begin is None:
            begin = index
        if begin is not None and quiet == 5:
            found.append(samples[begin * frame : (index - 4) * frame])
            begin = None
    return found


def hear(samples: NDArray[np.float32], rate: int) -> Heard:
    """float32 [n] of one sentence."""
    voices = [tone(samples, rate, VOICE_HZ + VOICE_STEP * value) for value in range(VOICES)]
    loudest = max(voices)
    emotion = tuple(tone(samples, rate, EMOTION_HZ + EMOTION_STEP * value) / loudest for value in range(8))
    references = [tone(samples, rate, REFERENCE_HZ + REFERENCE_STEP * value) for value in range(REFERENCES)]
    reference = int(np.argmax(references)) if max(references) > AUDIBLE * 5 * loudest else None
    edges = np.linspace(0, len(samples), SYMBOLS + 1).astype(int)
    code = []
    for begin, end in pairwise(edges):
        margin = (end - begin) // 5  # a codec smears the edges
        part = samples[begin + margin : end - margin]
        code.append(int(np.argmax([tone(part, rate, TEXT_HZ + TEXT_STEP * value) for value in range(SYMBOL_VALUES)])))
    return Heard(int(np.argmax(voices)), tuple(round(value, 2) for value in emotion), reference, tuple(code))


def tone(samples: NDArray[np.float32], rate: int, frequency: float) -> float:
    """Amplitude of one frequency, seen through a Hann window."""
    window = np.hanning(len(samples))
    turn = np.exp(-2j * np.pi * frequency * np.arange(len(samples)) / rate)
    return float(abs((samples * window * turn).sum()) * 2 / window.sum())
