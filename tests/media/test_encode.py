from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.errors import InvalidInput
from steadyvoice.media.decode import DecodeLimits, decode
from steadyvoice.media.encode import (
    AUDIO_FORMATS,
    STREAMING_WAV_SIZE,
    AudioFormat,
    StreamEncoder,
    audio_format,
    encode,
    wav_header,
)
from steadyvoice.protocol import PcmArray

DATA = Path(__file__).parent.parent / "data"
RATES = [16_000, 22_050, 24_000, 48_000]
WAV_HEADER_BYTES = 44
PCM_RATE = 24_000
CONTAINERS = [name for name in AUDIO_FORMATS if name != "pcm"]


@pytest.fixture(scope="module")
def speech() -> PcmArray:
    pcm, _ = soundfile.read(DATA / "austen-0930.wav", dtype="int16")
    return pcm


def encode_stream(pieces: Iterable[PcmArray], sample_rate: int, fmt: AudioFormat) -> Iterator[bytes]:
    """One stream as the server makes it: each piece is on its way before the next is asked for."""
    encoder = StreamEncoder(sample_rate, fmt)
    for piece in pieces:
        yield encoder.feed(piece)
    yield encoder.finish()


def pieces_of(pcm: PcmArray, sizes: list[int]) -> Iterator[PcmArray]:
    """The whole of `pcm`, in pieces of the given sizes and a last one of whatever is left."""
    start = 0
    for size in sizes:
        yield pcm[start : start + size]
        start += size
    yield pcm[start:]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_format_decodes_back_to_the_same_duration(speech: PcmArray, name: str, rate: int) -> None:
    file = encode(speech, rate, AUDIO_FORMATS[name])

    decoded = decode(io.BytesIO(file), DecodeLimits(60))

    # ADTS has no place to say how much silence the codec put before and behind: a frame of 1,024 samples each.
    tolerance = 2 * 1_024 / rate if name == "aac" else 0.1
    assert len(decoded) / SAMPLE_RATE == pytest.approx(len(speech) / rate, abs=tolerance)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_format_decodes_back_to_the_same_sound(speech: PcmArray, name: str) -> None:
    decoded = decode(io.BytesIO(encode(speech, SAMPLE_RATE, AUDIO_FORMATS[name])), DecodeLimits(60))

    source = speech / 32_768
    size = 1 << 18
    correlation = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(source, size)), size)
    assert correlation.max() / np.linalg.norm(decoded) / np.linalg.norm(source) > 0.9


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_lossless_formats_give_back_every_sample(speech: PcmArray, name: str) -> None:
    with av.open(io.BytesIO(encode(speech, 22_050, AUDIO_FORMATS[name]))) as file:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])

    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, speech)


@pytest.mark.parametrize(
    ("name", "container", "codec", "rate"),
    [
        ("mp3", "mp3", "mp3", 22_050),
        ("opus", "ogg", "opus", 48_000),
        ("aac", "aac", "aac", 22_050),
        ("flac", "flac", "flac", 22_050),
        ("wav", "wav", "pcm_s16le", 22_050),
    ],
)
def test_a_file_holds_what_its_media_type_promises(speech: PcmArray, name: str, container: str, codec: str, rate: int) -> None:
    with av.open(io.BytesIO(encode(speech, 22_050, AUDIO_FORMATS[name]))) as file:
        (stream,) = file.streams.audio
        assert container in file.format.name.split(",")
        assert stream.codec_context.name.startswith(codec)
        assert stream.codec_context.sample_rate == rate
        assert stream.codec_context.layout.nb_channels == 1


def test_the_header_of_a_whole_wav_tells_its_length(speech: PcmArray) -> None:
    file = encode(speech, 22_050, AUDIO_FORMATS["wav"])

    assert len(file) == WAV_HEADER_BYTES + speech.nbytes
    assert struct.unpack("<4sI4s4sIHHIIHH4sI", file[:WAV_HEADER_BYTES]) == (
        *(b"RIFF", len(file) - 8, b"WAVE", b"fmt ", 16),
        *(1, 1, 22_050, 44_100, 2, 16),
        *(b"data", speech.nbytes),
    )


def test_the_header_of_a_streamed_wav_says_that_the_end_is_not_known_yet(speech: PcmArray) -> None:
    file = b"".join(encode_stream([speech, speech], 22_050, AUDIO_FORMATS["wav"]))

    assert file[:WAV_HEADER_BYTES] == wav_header(22_050, None)
    assert struct.unpack("<I", file[40:44]) == (STREAMING_WAV_SIZE,)
    assert struct.unpack("<I", file[4:8]) == (STREAMING_WAV_SIZE,)
    assert len(decode(io.BytesIO(file), DecodeLimits(60))) / SAMPLE_RATE == pytest.approx(2 * len(speech) / 22_050, abs=0.01)


@pytest.mark.parametrize("rate", RATES)
def test_pcm_is_always_24_khz_because_nothing_in_its_bytes_says_so(speech: PcmArray, rate: int) -> None:
    raw = encode(speech, rate, AUDIO_FORMATS["pcm"])

    assert len(raw) / 2 / PCM_RATE == pytest.approx(len(speech) / rate, abs=0.001)


def test_pcm_at_24_khz_is_the_samples_themselves_little_endian(speech: PcmArray) -> None:
    assert encode(speech, PCM_RATE, AUDIO_FORMATS["pcm"]) == speech.astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("name", "rate"), [("wav", 22_050), ("mp3", 22_050), ("aac", 22_050), ("flac", 22_050), ("opus", 48_000), ("pcm", PCM_RATE)]
)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 10_000), max_size=6))
def test_a_stream_in_pieces_is_the_stream_in_one_piece(name: str, rate: int, sizes: list[int]) -> None:
    pcm, _ = soundfile.read(DATA / "austen-0930.wav", dtype="int16", frames=30_000)

    whole = b"".join(encode_stream([pcm], rate, AUDIO_FORMATS[name]))
    streamed = b"".join(encode_stream(pieces_of(pcm, sizes), rate, AUDIO_FORMATS[name]))

    np.testing.assert_array_equal(decoded_samples(streamed, name), decoded_samples(whole, name))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 10_000), max_size=6))
def test_a_stream_that_is_resampled_in_pieces_has_no_seams(sizes: list[int]) -> None:
    pcm, _ = soundfile.read(DATA / "austen-0930.wav", dtype="int16", frames=30_000)

    whole = np.frombuffer(encode(pcm, 22_050, AUDIO_FORMATS["pcm"]), "<i2").astype(int)
    streamed = np.frombuffer(b"".join(encode_stream(pieces_of(pcm, sizes), 22_050, AUDIO_FORMATS["pcm"])), "<i2").astype(int)

    assert len(streamed) == len(whole)
    assert np.abs(streamed - whole).max() <= 4  # the last bits are dithered, in another order


def decoded_samples(file: bytes, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    if name == "pcm":
        return np.frombuffer(file, "<i2").astype(np.float32) / 32_768
    return decode(io.BytesIO(file), DecodeLimits(60))


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_each_piece_is_on_its_way_before_the_next_is_asked_for(speech: PcmArray, name: str) -> None:
    asked: list[int] = []

    def pieces() -> Iterator[PcmArray]:
        for number in range(3):
            asked.append(number)
            yield speech

    stream = encode_stream(pieces(), 22_050, AUDIO_FORMATS[name])
    for number in range(3):
        assert len(next(stream)) > 0
        assert asked == list(range(number + 1))


@pytest.mark.parametrize("name", ["wav", "mp3", "aac", "flac"])
def test_what_has_been_fed_can_be_heard_but_for_a_quarter_of_a_second(speech: PcmArray, name: str) -> None:
    encoder, sent = StreamEncoder(22_050, AUDIO_FORMATS[name]), b""
    fed = 0.0
    for piece in np.split(speech, 5):
        sent += encoder.feed(piece)
        fed += len(piece) / 22_050

        assert fed - 0.25 < len(decode(io.BytesIO(sent), DecodeLimits(60))) / SAMPLE_RATE < fed + 0.05


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_empty_pieces_add_nothing(speech: PcmArray, name: str) -> None:
    empty = np.zeros(0, np.int16)

    with_gaps, without = (
        b"".join(encode_stream(pieces, 24_000, AUDIO_FORMATS[name])) for pieces in ([empty, speech, empty], [speech])
    )

    assert len(decoded_samples(with_gaps, name)) == len(decoded_samples(without, name))


@pytest.mark.parametrize("name", ["wav", "flac", "mp3"])
def test_a_whole_file_says_in_its_header_how_long_it_is(speech: PcmArray, name: str) -> None:
    info = soundfile.info(io.BytesIO(encode(speech, 24_000, AUDIO_FORMATS[name])))

    assert info.frames == pytest.approx(len(speech), abs=24_000 // 10)


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_pieces_that_are_views_with_a_stride_are_read_right(speech: PcmArray, name: str) -> None:
    strided = np.repeat(speech, 2)[::2]
    assert not strided.flags.c_contiguous

    np.testing.assert_array_equal(
        decoded_samples(encode(strided, 22_050, AUDIO_FORMATS[name]), name),
        decoded_samples(encode(speech, 22_050, AUDIO_FORMATS[name]), name),
    )


@pytest.mark.parametrize(
    ("name", "media_type"), [("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("aac", "audio/aac"), ("wav", "audio/wav")]
)
def test_a_format_is_found_by_its_name(name: str, media_type: str) -> None:
    assert audio_format(name).media_type == media_type


@pytest.mark.parametrize("name", ["m4a", "", "WAV", "../wav"])
def test_an_unknown_format_is_refused_naming_it_and_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidInput, match="wav, mp3, opus, aac, flac, pcm") as refused:
        audio_format(name)
    assert repr(name) in refused.value.message
    assert refused.value.param == "format"
