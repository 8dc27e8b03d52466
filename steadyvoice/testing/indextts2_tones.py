"""Finds in the audio what the stand-in for IndexTTS2 was asked for: voice, emotion and text. No codec or speed hides it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from steadyvoice.testing.indextts2_standin import (
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

AUDIBLE = 0.1  # of the loudest tone
HALF_BAND = 12.0  # Hz; less than half of the way to the next voice
SILENCE = 0.01  # of full scale


@dataclass(frozen=True)
class Heard:
    """One sentence. Strengths are against the voice's own tone, so about 1 for full."""

    voice: int
    emotion: tuple[float, ...]  # eight strengths
    reference: int | None  # number of the emotion's recording
    code: tuple[int, ...]  # as `indextts2_standin.code_of` of the text


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
    whole = Spectrum(samples, rate)
    voices = [whole.tone(VOICE_HZ + VOICE_STEP * value) for value in range(VOICES)]
    loudest = max(voices)
    emotion = tuple(round(whole.tone(EMOTION_HZ + EMOTION_STEP * value) / loudest, 2) for value in range(8))
    references = [whole.tone(REFERENCE_HZ + REFERENCE_STEP * value) for value in range(REFERENCES)]
    reference = int(np.argmax(references)) if max(references) > AUDIBLE * loudest else None
    code = []
    for begin, end in pairwise(np.linspace(0, len(samples), SYMBOLS + 1).astype(int)):
        margin = (end - begin) // 5  # a codec smears the edges
        part = Spectrum(samples[begin + margin : end - margin], rate)
        code.append(int(np.argmax([part.tone(TEXT_HZ + TEXT_STEP * value) for value in range(SYMBOL_VALUES)])))
    return Heard(int(np.argmax(voices)), emotion, reference, tuple(code))


class Spectrum:
    """Of a piece of sound, seen through a Hann window, in steps of less than half a hertz."""

    def __init__(self, samples: NDArray[np.float32], rate: int) -> None:
        size = 1 << max(len(samples), 2 * rate).bit_length()
        self._hz = rate / size
        self._power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size)) ** 2

    def tone(self, frequency: float) -> float:
        """Strength of what is around one frequency; stretching makes a narrow band of a tone."""
        return float(
            np.sqrt(self._power[round((frequency - HALF_BAND) / self._hz) : round((frequency + HALF_BAND) / self._hz)].sum())
        )
