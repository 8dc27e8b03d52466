"""Uploaded bytes -> float32 mono at one rate, within limits that are counted while decoding, whatever a header claims.

soundfile (libsndfile) first, PyAV (FFmpeg) for what it cannot read, or not to the end: webm and m4a, which browsers
record, and ogg and mp3, which may be chained. Both read from the
open upload itself; no name and no URL is ever given to a decoder, and FFmpeg's playlist formats and protocols are switched
off. Decoding is done in steps (`media.steps`) of some milliseconds. Knows nothing of speech.
"""

from __future__ import annotations

import io
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

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.errors import InvalidInput, TooLarge, UnsupportedMedia
from steadyvoice.media.sliced_work import Steps, complete

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; what a header may claim
MAX_CHANNELS = 64
BLOCK_VALUES = 1 << 18  # samples times channels decoded at a time: 1 MiB of float32
# Decoded bytes are limited to what the longest allowed audio takes as 48 kHz stereo float32.
DECODED_BYTES_PER_SECOND = 48_000 * 2 * 4
# Streams that may be chains of streams, of which libsndfile reads only the first.
CHAINED = ("OGG", "MP3", "MPEG")
MAX_DECODE_S = 600.0  # of CPU time; no honest file takes a fraction of this
STEP_S = 0.005  # after which a step ends with the block that is being decoded
MAX_STEP_S = 1.0  # of CPU time in one step: a decoder that finds no audio for so long is stopped
MAX_PACKET_BYTES = 1 << 22  # of one compressed packet; honest ones have some kilobytes
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
    """Decode one upload; see `decode_steps`."""
    return complete(decode_steps(file, limits, rate))


def decode_steps(file: BinaryIO, limits: DecodeLimits, rate: int = SAMPLE_RATE) -> Steps[NDArray[np.float32]]:
    """Decode one upload in steps that take at most `MAX_STEP_S`, and with honest files some milliseconds.

    Args:
        file: open, seekable and at most as large as the upload limit; read from its start.
        limits: counted on decoded samples.
        rate: of the answer, in Hz.

    Returns:
        float32 [n] mono at `rate`, n > 0, all finite. A file that breaks off gives what came before the break.

    Raises:
        UnsupportedMedia: no decoder recognises audio in it.
        TooLarge: it decodes to more than `limits`, or takes longer than `MAX_DECODE_S`.
        InvalidInput: it holds no samples, or samples that are not numbers.
    """
    file.seek(0)
    head = file.read(4)
    if not head:
        raise InvalidInput("the file is empty: 0 bytes", param="file")
    upload = _MeteredFile(file)
    for blocks in (_av_blocks,) if _may_be_chained(head) else (_soundfile_blocks, _av_blocks):
        upload.seek(0)
        audio = _Audio(limits, rate)
        upload.begin_step()
        next_yield = time.monotonic() + STEP_S
        try:
            for block in blocks(upload):
                if block is not None:
                    audio.add(*block)
                if time.monotonic() >= next_yield:
                    upload.end_step()
                    yield
                    upload.begin_step()
                    next_yield = time.monotonic() + STEP_S
        except _NotThisDecoder:
            upload.end_step()
            continue
        upload.end_step()
        return audio.finished()
    raise UnsupportedMedia(f"the file is not audio that can be decoded; known formats: {FORMATS}", param="file")


def _may_be_chained(head: bytes) -> bool:
    """Whether a file begins as Ogg or MP3. libsndfile would read all of an MP3 to find its length, and is not used for it."""
    return head.startswith((b"OggS", b"ID3")) or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)


class _MeteredFile:
    """An upload that ends early for a decoder that has used up its CPU time.

    A decoder cannot be interrupted, but every decoder copes with the end of a file. Time that the work waits between two steps
    does not count.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._spent_s = 0.0  # in steps that have ended
        self._began = 0.0
        self._refusal: str | None = None

    def begin_step(self) -> None:
        self._began = time.thread_time()

    def end_step(self) -> None:
        """Raises TooLarge once the time is up."""
        self._spent_s += self._check()
        if self._refusal is not None:
            raise TooLarge(self._refusal, param="file")

    def _check(self) -> float:
        """CPU seconds of the step so far."""
        step_s = time.thread_time() - self._began
        if self._spent_s + step_s > MAX_DECODE_S:
            self._refusal = f"the audio takes longer than {MAX_DECODE_S:g} s to decode"
        elif step_s > MAX_STEP_S:
            self._refusal = f"a part of the file without audio takes longer than {MAX_STEP_S:g} s to read"
        return step_s

    def read(self, size: int = -1) -> bytes:
        self._check()
        return b"" if self._refusal else self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Audio:
    """Decoded blocks mixed down, resampled to `rate` and joined, within `limits`."""

    def __init__(self, limits: DecodeLimits, rate: int) -> None:
        self._limits = limits
        self._rate = rate
        self._out = _Growing()
        self._seconds, self._decoded_bytes, self._last_rate = 0.0, 0, 0
        self._resampler: soxr.ResampleStream | None = None

    def add(self, samples: NDArray[np.float32], rate: int) -> None:
        """float32 [frames, channels] at `rate`. Raises as `decode_steps`."""
        self._check(samples, rate)
        # Float files may hold anything finite; beyond full scale it is noise to every model and overflows the next step.
        mono = np.clip(samples, -1.0, 1.0).mean(axis=1, dtype=np.float32)
        if rate != self._last_rate:  # the first block, or a chained stream whose next link has another rate
            self._flush()
            self._last_rate = rate
            self._resampler = None if rate == self._rate else soxr.ResampleStream(rate, self._rate, 1, dtype="float32")
        self._out.append(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def finished(self) -> NDArray[np.float32]:
        """Raises InvalidInput where there are no samples."""
        self._flush()
        joined = self._out.taken()
        if not len(joined):
            raise InvalidInput("the audio has no samples: 0.0 s", param="file")
        return joined

    def _flush(self) -> None:
        if self._resampler is not None:
            self._out.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _check(self, samples: NDArray[np.float32], rate: int) -> None:
        limits = self._limits
        if not MIN_RATE <= rate <= MAX_RATE or samples.shape[1] > MAX_CHANNELS:
            raise UnsupportedMedia(
                f"{rate} Hz with {samples.shape[1]} channels; "
                f"allowed: {MIN_RATE} to {MAX_RATE} Hz, up to {MAX_CHANNELS} channels",
                param="file",
            )
        self._seconds += len(samples) / rate
        self._decoded_bytes += samples.nbytes
        if self._seconds > limits.max_seconds:
            raise TooLarge(f"the audio is longer than the limit of {limits.max_seconds:g} s", param="file")
        if self._decoded_bytes > limits.max_bytes:
            raise TooLarge(f"the audio decodes to more than the limit of {limits.max_bytes} bytes", param="file")
        if not np.isfinite(samples).all():
            raise InvalidInput("the audio contains samples that are not finite numbers (NaN or infinity)", param="file")


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


def _soundfile_blocks(file: _MeteredFile) -> Iterator[Block | None]:
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


def _av_blocks(file: _MeteredFile) -> Iterator[Block | None]:
    """None before every packet, so that steps stay short where packets hold no audio."""
    decoded = damaged = False
    try:
        options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none"}
        with av.open(file, mode="r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise _NotThisDecoder("no audio stream")
            stream = container.streams.audio[0]
            shape = None
            for packet in container.demux():  # of every stream, as what is skipped takes time too
                yield None
                if packet.stream_index != stream.index:
                    continue
                if packet.size > MAX_PACKET_BYTES:
                    damaged = True
                    continue
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
