"""Audio for tests: clips in every format, and figures read off a waveform."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

# name -> (FFmpeg's container, codec, rate that the codec takes)
FORMATS = {
    "wav": ("wav", "pcm_s16le", 16_000),
    "flac": ("flac", "flac", 16_000),
    "mp3": ("mp3", "libmp3lame", 16_000),
    "ogg": ("", "vorbis", 16_000),  # by libsndfile: this FFmpeg has no Vorbis encoder
    "opus": ("ogg", "libopus", 48_000),
    "m4a": ("ipod", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
}


def clip(path: Path) -> NDArray[np.float32]:
    """float32 [n] at 16 kHz."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


def as_format(samples: NDArray[np.float32], name: str) -> bytes:
    """float32 [n] at 16 kHz -> a file as a phone, a browser or an editor would make it."""
    container_name, codec, rate = FORMATS[name]
    out = io.BytesIO()
    if not container_name:
        soundfile.write(out, samples, SAMPLE_RATE, format=name.upper(), subtype=codec.upper())
        return out.getvalue()
    with av.open(out, "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray((samples[np.newaxis] * 32_767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for resampled in av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate).resample(frame):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return out.getvalue()


def silent_opus(seconds: float) -> bytes:
    """Hours of silence in some megabytes, made in half a second: one packet of 60 ms over and over, in Ogg."""
    rate, length = 48_000, 2_880
    out = io.BytesIO()
    with av.open(out, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono", options={"frame_duration": "60"})
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 6_000
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8 * length), np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        silence = bytes(stream.encode(frame)[-1])
        for index in range(round(seconds * rate / length)):
            packet = av.Packet(silence)
            packet.stream, packet.time_base = stream, Fraction(1, rate)
            packet.pts = packet.dts = index * length
            packet.duration = length
            container.mux(packet)
    return out.getvalue()


def wav_bytes(samples: NDArray[np.float32], rate: int = SAMPLE_RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def read(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Any audio file -> (float32 [n] mono, rate), by FFmpeg: not by the code under test."""
    pieces, rate = [], 0
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            rate = frame.sample_rate
            for converted in av.AudioResampler(format="flt", layout="mono").resample(frame):
                pieces.append(converted.to_ndarray().reshape(-1))
    return np.concatenate(pieces), rate


def loudness(samples: NDArray[np.float32]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def median_pitch(samples: NDArray[np.float32], rate: int) -> float:
    """Median fundamental frequency in Hz of the voiced frames, by autocorrelation."""
    frame, pitches = rate * 46 // 1000, []
    low, high = rate // 500, rate // 60
    for start in range(0, len(samples) - frame, frame // 2):
        window = samples[start : start + frame].astype(np.float64)
        window -= window.mean()
        if loudness(window) < 0.01:
            continue
        correlation = np.correlate(window, window, "full")[frame - 1 :]
        lag = low + int(np.argmax(correlation[low:high]))
        if correlation[lag] > 0.4 * correlation[0]:
            pitches.append(rate / lag)
    return float(np.median(pitches))


def voice_distance(one: NDArray[np.float32], other: NDArray[np.float32], rate: int) -> float:
    """How far apart two voices that say the same are: mean difference of their spectra in dB, and of their pitch in octaves
    times twenty. The same voice twice is under 1; two that a listener tells apart are over 2."""

    def spectrum(samples: NDArray[np.float32]) -> NDArray[np.float64]:
        power = np.abs(np.fft.rfft(samples)) ** 2
        frequencies = np.fft.rfftfreq(len(samples), 1 / rate)
        edges = np.geomspace(100, 9_000, 13)
        bands = [power[(frequencies >= low) & (frequencies < high)].sum() for low, high in pairwise(edges)]
        decibels = 10 * np.log10(bands)
        return decibels - decibels.mean()

    octaves = abs(np.log2(median_pitch(one, rate) / median_pitch(other, rate)))
    return float(np.abs(spectrum(one) - spectrum(other)).mean() + 20 * octaves)
