from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from steadyvoice.media.stretch import stretch
from steadyvoice.protocol import PcmArray
from tests.audio import loudness, median_pitch

RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> PcmArray:
    pcm, rate = soundfile.read(Path(__file__).parent.parent / "data" / "austen-0930.wav", dtype="int16")
    assert rate == RATE
    return pcm


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.7, 1.02, 1.5, 2.0, 4.0])
def test_speech_takes_another_time_at_the_same_pitch(speech: PcmArray, speed: float) -> None:
    stretched = stretch(speech, RATE, speed)

    assert stretched.dtype == np.int16
    assert len(stretched) == pytest.approx(len(speech) / speed, abs=1)
    assert median_pitch(stretched / 32_768, RATE) == pytest.approx(median_pitch(speech / 32_768, RATE), rel=0.05)
    assert loudness(stretched / 32_768) == pytest.approx(loudness(speech / 32_768), rel=0.1)


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_a_word_is_where_it_belongs_and_the_end_is_not_lost(speed: float) -> None:
    tone = (np.sin(np.arange(RATE) * 2 * np.pi * 220 / RATE) * 10_000).astype(np.int16)
    silence = np.zeros(RATE, np.int16)

    stretched = stretch(np.concatenate([silence, tone, silence, tone]), RATE, speed)

    second = int(RATE / speed)
    quiet_loud = [loudness(stretched[i * second : (i + 1) * second] / 32_768) for i in range(4)]
    assert max(quiet_loud[0::2]) < 0.08  # what leaks in is an edge of 50 ms
    assert min(quiet_loud[1::2]) > 0.19  # 0.216 is a whole one


@pytest.mark.parametrize("samples", [0, 1, 50, 3_000])
def test_what_is_shorter_than_a_window_of_the_filter_is_stretched_too(speech: PcmArray, samples: int) -> None:
    assert len(stretch(speech[20_000 : 20_000 + samples], RATE, 0.8)) == round(samples / 0.8)


@pytest.mark.parametrize("speed", [0.24, 4.01, 0.0, float("nan")])
def test_a_speed_that_would_drop_samples_is_refused(speech: PcmArray, speed: float) -> None:
    with pytest.raises(ValueError, match=r"0\.25 to 4"):
        stretch(speech, RATE, speed)
