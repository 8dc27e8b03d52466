"""int16 PCM -> wav, mp3, opus, aac, flac or raw pcm, in one piece or piece by piece.

Everything goes through PyAV (FFmpeg, with its encoders inside the wheel), so no ffmpeg binary is needed. Knows nothing of speech.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import soxr

from steadyvoice.errors import InvalidInput
from steadyvoice.protocol import PcmArray

STREAMING_WAV_SIZE = 0xFFFFFFFF  # "until the stream ends", as players understand it


@dataclass(frozen=True)
class AudioFormat:
    """One output format. `container` and `codec` are FFmpeg's names; none for what needs no encoder."""

    name: str
    media_type: str
    suffix: str
    container: str = ""
    codec: str = ""
    rate: int | None = None  # Hz that the format insists on
    bit_rate: int | None = None


AUDIO_FORMATS = {
    "wav": AudioFormat("wav", "audio/wav", ".wav"),
    "mp3": AudioFormat("mp3", "audio/mpeg", ".mp3", "mp3", "libmp3lame", bit_rate=64_000),
    "opus": AudioFormat("opus", "audio/ogg", ".opus", "ogg", "libopus", rate=48_000, bit_rate=32_000),
    # In ADTS, whose every frame stands by itself: the other container of AAC, MP4, cannot be streamed as it is made.
    "aac": AudioFormat("aac", "audio/aac", ".aac", "adts", "aac", bit_rate=64_000),
    "flac": AudioFormat("flac", "audio/flac", ".flac", "flac", "flac"),
    # OpenAI's raw format: 24 kHz, 16 bit little-endian, mono. Clients assume it, since nothing in the bytes says so.
    "pcm": AudioFormat("pcm", "audio/pcm", ".pcm", rate=24_000),
}


def audio_format(name: str, param: str = "format") -> AudioFormat:
    """Raises InvalidInput for an unknown name, in the field `param`."""
    try:
        return AUDIO_FORMATS[name]
    except KeyError:
        raise InvalidInput(f"format {name[:32]!r} is unknown; known: {', '.join(AUDIO_FORMATS)}", param=param) from None


def encode(pcm: PcmArray, sample_rate: int, fmt: AudioFormat) -> bytes:
    """A whole file, with the right length in its header.

    Args:
        pcm: int16 [n], mono.
        sample_rate: of `pcm`, in Hz.
    """
    if fmt.name == "wav":
        return wav_header(sample_rate, pcm.nbytes) + pcm.tobytes()
    sink = io.BytesIO()  # can be wound back, so that a container can fill in its length at the end
    encoder = StreamEncoder(sample_rate, fmt, sink)
    head = encoder.feed(pcm)
    tail = encoder.finish()
    return sink.getvalue() or head + tail


class StreamEncoder:
    """Feed int16 pieces, get bytes. `finish` must be called to get the tail. Not thread-safe.

    With a `file` of one's own the encoded container goes there, and `feed` and `finish` have nothing to give.
    """

    def __init__(self, sample_rate: int, fmt: AudioFormat, file: io.BytesIO | None = None) -> None:
        self._format = fmt
        rate = fmt.rate or sample_rate
        self._resampler = soxr.ResampleStream(sample_rate, rate, 1, dtype="int16") if rate != sample_rate else None
        self._sink = _Sink()
        self._container: av.container.OutputContainer | None = None
        self._samples = 0
        self._rate = rate
        if fmt.container:
            # Ogg gathers a second or two into a page by default, and a page is played only when it is full.
            options = {"page_duration": "100000"} if fmt.container == "ogg" else {}
            self._container = av.open(self._sink if file is None else file, "w", format=fmt.container, options=options)
            stream = self._container.add_stream(fmt.codec, rate=rate, layout="mono")
            assert isinstance(stream, av.AudioStream)
            self._stream = stream
            if fmt.bit_rate:
                self._stream.bit_rate = fmt.bit_rate
        elif fmt.name == "wav":
            self._sink.write(wav_header(rate, None))

    def feed(self, pcm: PcmArray) -> bytes:
        """int16 [n] -> bytes that are ready to leave, perhaps none yet."""
        self._push(self._resample(pcm, last=False))
        return self._sink.take()

    def finish(self) -> bytes:
        """The tail. The encoder is spent afterwards."""
        if self._resampler is not None:
            self._push(self._resample(np.zeros(0, np.int16), last=True))
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._sink.take()

    def _resample(self, pcm: PcmArray, last: bool) -> PcmArray:
        return self._resampler.resample_chunk(np.ascontiguousarray(pcm), last=last) if self._resampler else pcm

    def _push(self, pcm: PcmArray) -> None:
        if not len(pcm):
            return
        if self._container is None:
            self._sink.write(pcm.astype("<i2").tobytes())
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[np.newaxis, :]), format="s16", layout="mono")
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._samples
        self._samples += len(pcm)
        self._container.mux(self._stream.encode(frame))


class _Sink(io.RawIOBase):
    """A place to write to that cannot be wound back, as a network connection cannot."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        chunk = bytes(data)  # type: ignore[call-overload]
        self._buffer += chunk
        return len(chunk)

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken


def wav_header(sample_rate: int, data_bytes: int | None) -> bytes:
    """44 bytes of RIFF header for 16 bit mono; `None` for a stream, whose length is not known yet."""
    size = STREAMING_WAV_SIZE if data_bytes is None else data_bytes
    riff = min(size + 36, STREAMING_WAV_SIZE)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16, b"data", size
    )
