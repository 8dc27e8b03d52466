"""Recordings to imitate, made of human speech."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from steadyvoice.errors import InvalidInput, TooLarge, UnsupportedMedia
from steadyvoice.media.decode import DecodeLimits, decode
from steadyvoice.media.reference import FRAME, MARGIN, REFERENCE_RATE, read_reference
from tests.audio import FORMATS, SAMPLE_RATE, as_format, clip, loudness, median_pitch, wav_bytes

Samples = NDArray[np.float32]
SPEECH = Path(__file__).resolve().parents[1] / "data" / "austen-0930.wav"  # 3.3 s


@pytest.fixture(scope="module")
def speech() -> Samples:
    return clip(SPEECH)


def reference(samples: Samples, rate: int = SAMPLE_RATE) -> NDArray[np.int16]:
    return read_reference(io.BytesIO(wav_bytes(samples, rate)))


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_becomes_16_bits_at_the_models_rate_and_stays_the_same_voice(speech: Samples, kind: str) -> None:
    pcm = read_reference(io.BytesIO(as_format(speech, kind)))
    heard = pcm.astype(np.float32) / 32_768
    assert pcm.dtype == np.int16
    assert len(heard) / REFERENCE_RATE == pytest.approx(len(speech) / SAMPLE_RATE, abs=0.15)  # an encoder may begin early
    assert loudness(heard) == pytest.approx(loudness(speech), rel=0.1)
    assert median_pitch(heard, REFERENCE_RATE) == pytest.approx(median_pitch(speech, SAMPLE_RATE), rel=0.05)


def test_what_a_rate_of_16_khz_would_lose_is_kept() -> None:
    t = np.arange(2 * 44_100) / 44_100
    tone = (0.3 * np.sin(2 * np.pi * 9_000 * t)).astype(np.float32)
    heard = reference(tone, 44_100) / 32_768
    assert loudness(heard.astype(np.float32)) == pytest.approx(loudness(tone), rel=0.05)
    assert loudness(decode(io.BytesIO(wav_bytes(tone, 44_100)), DecodeLimits(10))) < 0.01


@pytest.mark.parametrize("offset", [0.0, 0.05], ids=["silence", "a microphone's offset"])
def test_silence_at_both_ends_is_cut_off_and_a_pause_is_not(speech: Samples, offset: float) -> None:
    pause = np.concatenate([speech, silence(2), speech])
    padded = np.concatenate([silence(3), pause, silence(4)]) + np.float32(offset)
    assert len(reference(padded)) == pytest.approx(len(pause) * REFERENCE_RATE / SAMPLE_RATE, abs=2 * (MARGIN + 1) * FRAME)


def test_a_tenth_of_a_second_stays_around_what_is_loud() -> None:
    tone = np.sin(np.arange(2 * SAMPLE_RATE) * 0.1).astype(np.float32) * 0.3
    pcm = reference(np.concatenate([silence(1), tone, silence(1)]))
    assert len(pcm) / REFERENCE_RATE == pytest.approx(2.0 + 2 * 0.1, abs=0.05)


def test_a_recording_that_is_prepared_already_comes_out_as_it_went_in(speech: Samples) -> None:
    once = reference(np.concatenate([silence(1), speech, silence(1)]))
    again = read_reference(io.BytesIO(wav_bytes(once.astype(np.float32) / 32_768, REFERENCE_RATE)))
    assert np.array_equal(once, again)


@pytest.mark.parametrize(
    ("seconds", "error", "value", "limit"),
    [(0.5, InvalidInput, "0.5", "1 to 15 s"), (16.0, TooLarge, "16.0", "15 s"), (61.0, TooLarge, "longer", "60 s")],
)
def test_too_short_and_too_long_are_refused_naming_length_and_limit(
    seconds: float, error: type[Exception], value: str, limit: str
) -> None:
    hum = np.sin(np.arange(round(seconds * SAMPLE_RATE)) * 0.1).astype(np.float32) * 0.3
    with pytest.raises(error) as refused:
        reference(hum)
    assert value in str(refused.value)
    assert limit in str(refused.value)


def test_of_a_long_recording_only_the_speech_counts(speech: Samples) -> None:
    assert len(reference(np.concatenate([silence(25), speech, silence(25)]))) < 4 * REFERENCE_RATE


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_a_silent_recording_is_refused_with_its_loudness(level: float) -> None:
    noise = np.random.default_rng(0).normal(0, level, 3 * SAMPLE_RATE).astype(np.float32)
    with pytest.raises(InvalidInput, match=r"silent: its loudness is -\d+ dBFS, at least -50 is needed"):
        reference(noise)


@pytest.mark.parametrize("rate", [16_000, REFERENCE_RATE, 44_100])
def test_a_clipped_recording_is_refused_with_its_share_and_one_that_just_reaches_full_scale_is_not(
    speech: Samples, rate: int
) -> None:
    loudest = speech / np.abs(speech).max()
    assert len(reference(loudest, rate))
    with pytest.raises(InvalidInput, match=r"clipped: [\d.]+% of its samples are at full scale, the limit is 0.10%"):
        reference(np.clip(loudest * 4, -1, 1), rate)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"not audio" * 100])
def test_what_is_no_audio_is_refused(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        read_reference(io.BytesIO(content))
