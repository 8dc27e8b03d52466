"""The embedded voice: espeak-ng through ctypes, library and voice data from the package espeakng-loader.

espeak-ng is GPLv3; it is loaded here, in a process of its own, and nowhere else. It is not thread-safe and keeps one global
voice; the worker's single model thread is what makes it safe. Imports espeakng_loader, numpy and the standard library only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np

from steadyvoice.engine_specs import EMOTIONS, ESPEAK, NATIVE_SPEEDS
from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, PcmArray, Speech, SynthesizeItem

# speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8 = 1
POS_CHARACTER = 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
RATE_LIMITS = (80, 450)  # words per minute

VOICES = {"zh": "cmn", "yue": "yue", "en": "gmw/en", "ja": "ja", "ko": "ko"}
PEAK_OF_SILENCE = 200  # of 32,767; below it nothing was said

BASE_RATE, BASE_VOLUME, BASE_PITCH, BASE_RANGE = 175, 80, 50, 50
DURATION_TOLERANCE = 0.03
MAX_CALIBRATIONS = 5


@dataclass(frozen=True)
class Prosody:
    """How an emotion at full strength moves the neutral voice."""

    rate: float = 1.0
    volume: float = 1.0
    pitch: int = 0  # added, of 0..99
    range: int = 0  # added, of 0..99


PROSODY = {
    "neutral": Prosody(),
    "happy": Prosody(rate=1.06, volume=1.2, pitch=20, range=30),
    "angry": Prosody(rate=1.06, volume=1.35, pitch=6, range=40),
    "sad": Prosody(rate=0.94, volume=0.6, pitch=-20, range=-25),
    "afraid": Prosody(rate=1.06, volume=0.85, pitch=25, range=10),
    "disgusted": Prosody(rate=0.96, volume=0.95, pitch=-10, range=15),
    "melancholic": Prosody(rate=0.92, volume=0.7, pitch=-14, range=-35),
    "surprised": Prosody(rate=1.02, volume=1.2, pitch=30, range=40),
    "calm": Prosody(rate=0.95, volume=0.85, pitch=-6, range=-20),
}
assert tuple(PROSODY) == EMOTIONS


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready, and its sample rate in Hz. Once in a process: a second `espeak_Initialize` leaves it with phonemes
    that are none, and after some hundred of them it speaks without end."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = Path(espeakng_loader.get_data_path())
    # Length 0: the library hands out samples as they come. 1 << 15: do not exit the process on an error.
    sample_rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), 1 << 15)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak_Initialize answered {sample_rate}")
    # espeak goes on in another voice when a variant is unknown, so it is checked once, here.
    missing = [speaker for speaker in ESPEAK.speakers if not (data / "voices" / "!v" / speaker).is_file()]
    if missing:
        raise RuntimeError(f"espeak-ng has no voice variants {', '.join(missing)}")
    return library, sample_rate


class EspeakSynthesizer:
    """See `steadyvoice.worker.registry.Model`. Not thread-safe, and neither are two in one process."""

    def __init__(self) -> None:
        self._library, self._sample_rate = _library()
        self._chunks: list[PcmArray] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = prototype(self._collect)  # the library keeps the pointer, so we keep the object
        self._library.espeak_Info.restype = ctypes.c_char_p
        revision = self._library.espeak_Info(None).decode().split()[0]
        self.info = ModelInfo("espeak", revision, max_batch_items=8)

    def run(self, items: Items) -> Iterator[Outcome]:
        for payload in items:
            item = SynthesizeItem.from_payload(payload)
            problem = _problem(item)
            if problem:
                yield ItemError("invalid", problem)
                continue
            item = replace(item, speed=min(max(item.speed, NATIVE_SPEEDS[0]), NATIVE_SPEEDS[1]))
            samples = self._say_at_speed(item)
            if np.abs(samples.astype(np.int32)).max(initial=0) < PEAK_OF_SILENCE:
                yield ItemError("invalid", f"the {item.language} voice of espeak has no sound for it")
                continue
            yield Speech(samples, self._sample_rate, item.speed).to_payload()

    def _say_at_speed(self, item: SynthesizeItem) -> PcmArray:
        """Say it so that it lasts 1/speed of what it lasts at speed 1.

        espeak's rate is not proportional to duration (pauses and tones keep their own time), so the rate is found by
        measuring: at hundreds of times real time, a few tries cost a few milliseconds.
        """
        prosody = PROSODY[item.emotion]
        rate = BASE_RATE * (1 + (prosody.rate - 1) * item.emotion_strength)
        samples = self._say(item, rate)
        if item.speed == 1.0 or not len(samples):
            return samples
        wanted = len(samples) / item.speed
        rate *= item.speed
        best = samples
        for _ in range(MAX_CALIBRATIONS):
            samples = self._say(item, rate)
            best = min(best, samples, key=lambda tried: abs(len(tried) - wanted))
            error = len(samples) / wanted
            if abs(error - 1) <= DURATION_TOLERANCE:
                break
            rate = float(np.clip(rate * error, *RATE_LIMITS))
        return best

    def _say(self, item: SynthesizeItem, rate: float) -> PcmArray:
        """One pass of the library. Returns int16 [n] at `self._sample_rate`."""
        voice = f"{VOICES[item.language]}+{item.speaker}"
        status = self._library.espeak_SetVoiceByName(voice.encode())
        if status != 0:
            raise RuntimeError(f"espeak has no voice {voice}: status {status}")
        prosody, strength = PROSODY[item.emotion], item.emotion_strength
        self._set(RATE, np.clip(rate, *RATE_LIMITS))
        self._set(VOLUME, BASE_VOLUME * (1 + (prosody.volume - 1) * strength))
        self._set(PITCH, np.clip(BASE_PITCH + prosody.pitch * strength, 0, 99))
        self._set(RANGE, np.clip(BASE_RANGE + prosody.range * strength, 0, 99))
        text = item.text.encode() + b"\0"
        self._chunks.clear()
        self._library.espeak_SetSynthCallback(self._callback)  # it may have been another's
        status = self._library.espeak_Synth(text, len(text), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak_Synth answered {status}")
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)

    def _set(self, parameter: int, value: float) -> None:
        self._library.espeak_SetParameter(parameter, round(float(value)), 0)

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())  # the buffer is reused after we return
        return 0  # go on


def _problem(item: SynthesizeItem) -> str | None:
    if item.language not in VOICES:
        return f"language {item.language!r} is unknown to espeak; it knows: {', '.join(VOICES)}"
    if item.speaker not in ESPEAK.speakers:
        return f"speaker {item.speaker!r} is unknown to espeak; it knows: {', '.join(ESPEAK.speakers)}"
    if item.emotion not in PROSODY:
        return f"emotion {item.emotion!r} is unknown; known: {', '.join(PROSODY)}"
    if "\0" in item.text:
        return "the text contains a NUL character"
    return None
