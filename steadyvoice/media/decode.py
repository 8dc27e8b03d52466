"""Uploaded bytes -> float32 mono at one rate, within limits that are counted while decoding, whatever a header claims.

soundfile (libsndfile) first, PyAV (FFmpeg) for what it cannot read, or not to the end: webm and m4a, which browsers
record, and ogg and mp3, which may be chained. Both read from the
open upload itself; no name and no URL is ever given to a decoder, and FFmpeg's playlist formats and protocols are switched
off. Knows nothing of speech.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import av.error
import numpy as np
import soundfile
import soxr
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from steadyvoice.errors import InvalidInput, TooLarge, UnsupportedMedia

SAMPLE_RATE = 16_000  # Hz, of everything that is recognised
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; what a header may claim
MAX_CHANNELS = 64
BLOCK_VALUES = 1 << 18  # samples times channels decoded at a time: 1 MiB of float32
# Decoded bytes are limited to what the longest allowed audio takes as 48 kHz stereo float32.
DECODED_BYTES_PER_SECOND = 48_000 * 2 * 4
# Streams that may be chains of streams, of which libsndfile reads only the first.
CHAINED = ("OGG", "MP3", "MPEG")
MAX_DECODE_S = 600.0  # of wall clock; no honest file takes a fraction of this
# The demuxers of files that people and browsers make. Absent on purpose: hls, dash, concat, sdp, image and device formats.
DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,w64,wav,wv"
FORMATS = "wav, flac, ogg, opus, mp3, m4a, webm"

Block = tuple[NDArray[np.float32], int]  # samples [frames, channels], rate in Hz


@dataclass(frozen=True)
class DecodeLimits:
    """What one upload may grow to."""

    max_seconds: float

    @property
    def max_bytes(self) -> int:
        return int(self.max_seconds * DECODED_BYTES_PER_SECOND)


class _NotThisDecoder(Exception):
    """The decoder does not know the format; another may."""


def decode(file: BinaryIO, limits: DecodeLimits, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Decode one upload.

    Args:
        file: open, seekable and at most as large as the upload limit; read from its start.
        limits: counted on decoded samples.
        rate: of the answer, in Hz.

    Returns:
        float32 [n] mono at `rate`, n > 0, all finite. A file that breaks off gives what came before the break.

    Raises:
        UnsupportedMedia: no decoder recognises audio in it.
        TooLarge: it decodes to more than `limits`.
        InvalidInput: it holds no samples, or samples that are not numbers.
    """
    file.seek(0)
    if not file.read(1):
        raise InvalidInput("the file is empty: 0 bytes", param="file")
    for blocks in (_soundfile_blocks, _av_blocks):
        file.seek(0)
        try:
            return _collect(blocks(file), limits, rate)
        except _NotThisDecoder:
            continue
    raise UnsupportedMedia(f"the file is not audio that can be decoded; known formats: {FORMATS}", param="file")


def _collect(blocks: Iterator[Block], limits: DecodeLimits, rate: int) -> NDArray[np.float32]:
    """Mix down, resample to `rate` and join, counting as we go."""
    out = _Growing()
    seconds, decoded_bytes, last_rate = 0.0, 0, 0
    resampler: soxr.ResampleStream | None = None
    began = time.monotonic()
    for samples, block_rate in blocks:
        if not MIN_RATE <= block_rate <= MAX_RATE or samples.shape[1] > MAX_CHANNELS:
            raise UnsupportedMedia(
                f"{block_rate} Hz with {samples.shape[1]} channels; "
                f"allowed: {MIN_RATE} to {MAX_RATE} Hz, up to {MAX_CHANNELS} channels",
                param="file",
            )
        seconds += len(samples) / block_rate
        decoded_bytes += samples.nbytes
        if seconds > limits.max_seconds:
            raise TooLarge(f"the audio is longer than the limit of {limits.max_seconds:g} s", param="file")
        if decoded_bytes > limits.max_bytes:
            raise TooLarge(f"the audio decodes to more than the limit of {limits.max_bytes} bytes", param="file")
        if time.monotonic() - began > MAX_DECODE_S:
            raise TooLarge(f"the audio takes longer than {MAX_DECODE_S:g} s to decode", param="file")
        if not np.isfinite(samples).all():
            raise InvalidInput("the audio contains samples that are not finite numbers (NaN or infinity)", param="file")
        # Float files may hold anything finite; beyond full scale it is noise to every model and overflows the next step.
        mono = np.clip(samples, -1.0, 1.0).mean(axis=1, dtype=np.float32)
        if block_rate != last_rate:  # the first block, or a chained stream whose next link has another rate
            if resampler is not None:
                out.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            last_rate = block_rate
            resampler = None if block_rate == rate else soxr.ResampleStream(block_rate, rate, 1, dtype="float32")
        out.append(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None:
        out.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    joined = out.taken()
    if not len(joined):
        raise InvalidInput("the audio has no samples: 0.0 s", param="file")
    return joined


class _Growing:
    """Samples that are added to. Memory grows in place, so that an hour is never there twice, as it would be when joined."""

    STEP = 1_000_000  # samples, 4 MB: what is too much is filled with zeros, and is then memory like any other

    def __init__(self) -> None:
        self._samples = np.empty(0, np.float32)
        self._used = 0

    def append(self, block: NDArray[np.float32]) -> None:
        needed = self._used + len(block)
        if needed > len(self._samples):
            grown = len(self._samples) + min(len(self._samples), self.STEP)  # a short clip takes no more than it needs
            self._samples.resize(max(needed, grown), refcheck=False)
        self._samples[self._used : needed] = block
        self._used = needed

    def taken(self) -> NDArray[np.float32]:
        self._samples.resize(self._used, refcheck=False)
        return self._samples


def _soundfile_blocks(file: BinaryIO) -> Iterator[Block]:
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.format in CHAINED:
                raise _NotThisDecoder(sound.format)
            frames = max(1, BLOCK_VALUES // max(1, sound.channels))
            while len(block := sound.read(frames, dtype="float32", always_2d=True)):
                yield block, sound.samplerate
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        # libsndfile reports a damaged tail the same way as an unknown format: let FFmpeg try from the start.
        raise _NotThisDecoder from error


def _av_blocks(file: BinaryIO) -> Iterator[Block]:
    decoded = damaged = False
    try:
        options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none"}
        with av.open(file, mode="r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise _NotThisDecoder("no audio stream")
            stream = container.streams.audio[0]
            shape = None
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    damaged = True
                    continue  # one damaged packet; players skip it too
                for frame in frames:
                    assert isinstance(frame, av.AudioFrame)
                    if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        to_float = AudioResampler(format="fltp")  # takes one shape; a stream may change it in the middle
                    for converted in to_float.resample(frame):
                        decoded = True
                        yield np.ascontiguousarray(converted.to_ndarray().T, dtype=np.float32), converted.sample_rate
        if damaged and not decoded:
            raise _NotThisDecoder("no packet could be decoded")
    except (av.error.FFmpegError, ValueError, OSError, OverflowError, AssertionError) as error:
        if not decoded:
            raise _NotThisDecoder from error
        # It broke off in the middle: what came before is still speech.
