from __future__ import annotations

import ctypes
import http.server
import io
import os
import struct
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from steadyvoice.engine_specs import SAMPLE_RATE
from steadyvoice.errors import InvalidInput, TooLarge, UnsupportedMedia
from steadyvoice.media import decode as module
from steadyvoice.media.decode import MAX_CHANNELS, MAX_RATE, MIN_RATE, DecodeLimits, decode, decode_steps
from steadyvoice.media.sliced_work import complete

DATA = Path(__file__).parent.parent / "data"
MINUTE = DecodeLimits(max_seconds=60.0)
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
MEMORY_GROWTH = 50_000_000  # bytes; every bomb below would take several times that much if it went off

Samples = NDArray[np.float32]

# (kind, rate, channels) of everything that its encoder agrees to write.
ANY_RATE = [(rate, channels) for rate in (8_000, 22_050, 44_100, 48_000, 96_000) for channels in (1, 2, 6)]
EVERY_KIND = (
    [(kind, *shape) for kind in ("wav", "wav-float", "flac", "ogg", "m4a") for shape in ANY_RATE]
    + [("mp3", rate, channels) for rate, channels in ANY_RATE if rate <= 48_000 and channels <= 2]
    + [(kind, rate, channels) for kind in ("opus", "webm") for rate, channels in ANY_RATE if rate in (8_000, 48_000)]
)


@pytest.fixture(scope="module")
def clip() -> Samples:
    samples, rate = soundfile.read(DATA / "austen-0930.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


# --- what people upload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rate", "channels"), EVERY_KIND)
def test_every_format_rate_and_channel_count_becomes_mono_speech_at_16_khz(
    clip: Samples, kind: str, rate: int, channels: int
) -> None:
    decoded = decode(io.BytesIO(encoded(clip, kind, rate, channels)), MINUTE)

    assert decoded.dtype == np.float32
    assert decoded.ndim == 1
    assert abs(len(decoded) - len(clip)) <= 0.1 * SAMPLE_RATE
    assert likeness(decoded, clip) > 0.9


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"])
def test_every_sample_format_of_wav_sounds_the_same(clip: Samples, subtype: str) -> None:
    decoded = decode(io.BytesIO(written(clip, SAMPLE_RATE, format="WAV", subtype=subtype)), MINUTE)

    assert likeness(decoded, clip) > 0.98


@pytest.mark.parametrize("kind", ["webm", "fragmented-m4a"])
def test_a_recording_whose_length_no_header_tells_is_decoded_to_its_end(clip: Samples, kind: str) -> None:
    decoded = decode(io.BytesIO(encoded(clip, kind, 48_000, 1)), MINUTE)

    assert abs(len(decoded) - len(clip)) <= 0.1 * SAMPLE_RATE


def test_channels_are_averaged_so_that_nothing_is_louder_than_full_scale() -> None:
    left, right = np.full(SAMPLE_RATE, 0.75, np.float32), np.full(SAMPLE_RATE, -0.25, np.float32)

    decoded = decode(io.BytesIO(written(np.stack([left, right], axis=1), SAMPLE_RATE, format="WAV", subtype="FLOAT")), MINUTE)

    np.testing.assert_allclose(decoded, 0.25, atol=1e-6)


def test_finite_samples_beyond_full_scale_are_clipped(clip: Samples) -> None:
    decoded = decode(io.BytesIO(written(clip * 1e30, SAMPLE_RATE, format="WAV", subtype="FLOAT")), MINUTE)

    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() == 1.0


def test_16_khz_mono_pcm_comes_through_unchanged(clip: Samples) -> None:
    decoded = decode(io.BytesIO((DATA / "austen-0930.wav").read_bytes()), MINUTE)

    np.testing.assert_array_equal(decoded, clip)


def test_silence_is_audio(clip: Samples) -> None:
    decoded = decode(io.BytesIO(written(np.zeros(SAMPLE_RATE), SAMPLE_RATE, format="WAV")), MINUTE)

    assert len(decoded) == SAMPLE_RATE
    assert not decoded.any()


@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_the_upload_is_left_open_and_decodes_the_same_again(clip: Samples, kind: str) -> None:
    upload = io.BytesIO(encoded(clip, kind, 44_100, 1))

    first = decode(upload, MINUTE)
    upload.seek(0)
    second = decode(upload, MINUTE)

    np.testing.assert_array_equal(first, second)


# --- what is broken -------------------------------------------------------------------------------------------------------------


def test_an_empty_upload_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidInput, match="0 bytes"):
        decode(io.BytesIO(), MINUTE)


def test_a_wav_without_samples_is_refused_as_having_none() -> None:
    with pytest.raises(InvalidInput, match="no samples") as refused:
        decode(io.BytesIO(written(np.zeros(0), SAMPLE_RATE, format="WAV")), MINUTE)
    assert refused.value.status == 422


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused(clip: Samples, value: float) -> None:
    spoilt = clip.copy()
    spoilt[-1] = value

    with pytest.raises(InvalidInput, match="finite") as refused:
        decode(io.BytesIO(written(spoilt, SAMPLE_RATE, format="WAV", subtype="FLOAT")), MINUTE)
    assert refused.value.status == 422


@pytest.mark.parametrize("kind", ["wav", "flac", "fragmented-m4a", "webm", "opus", "mp3"])
def test_a_file_that_breaks_off_gives_what_came_before(clip: Samples, kind: str) -> None:
    whole = encoded(clip, kind, 48_000, 1)

    decoded = decode(io.BytesIO(whole[: len(whole) // 2]), MINUTE)

    assert 0.2 * len(clip) < len(decoded) < 0.7 * len(clip)
    assert likeness(decoded, clip[: len(decoded)]) > 0.8


def test_an_m4a_that_breaks_off_before_its_index_is_refused(clip: Samples) -> None:
    whole = encoded(clip, "m4a", 48_000, 1)

    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(whole[: len(whole) // 2]), MINUTE)


def test_a_damaged_stretch_costs_no_more_than_itself(clip: Samples) -> None:
    damaged = bytearray(encoded(clip, "m4a", 48_000, 1))
    middle = len(damaged) // 2
    damaged[middle : middle + 600] = bytes(600)

    decoded = decode(io.BytesIO(bytes(damaged)), MINUTE)

    assert len(decoded) > 0.9 * len(clip)
    assert likeness(decoded[-SAMPLE_RATE:], clip[-SAMPLE_RATE:]) > 0.8


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "m4a", "webm"])
def test_the_first_thirty_bytes_of_a_file_are_not_audio(clip: Samples, kind: str) -> None:
    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(encoded(clip, kind, 48_000, 1)[:30]), MINUTE)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x", id="one byte"),
        pytest.param(bytes(range(30)), id="thirty bytes"),
        pytest.param(b"this is a text that somebody renamed to speech.wav\n" * 200, id="text"),
        pytest.param(b'{"text": "hello", "id": 1}\n' * 400, id="JSON lines"),
        pytest.param(b"<!doctype html><html><body><p>not found</p></body></html>\n" * 100, id="HTML"),
        pytest.param(bytes(200_000), id="zeros"),
        pytest.param(b"\xff" * 200_000, id="ones"),
        pytest.param(np.random.default_rng(0).bytes(200_000), id="noise"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(2_000), id="picture"),
        pytest.param(b"PK\x03\x04" + bytes(2_000), id="archive"),
    ],
)
def test_what_is_not_audio_is_refused_and_the_known_formats_are_named(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="known formats: wav, flac") as refused:
        decode(io.BytesIO(content), MINUTE)
    assert refused.value.status == 415


def test_a_container_that_nobody_uploads_is_refused_though_ffmpeg_could_read_it(clip: Samples) -> None:
    nut = encoded(clip, "nut", 48_000, 1)
    with av.open(io.BytesIO(nut)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 3 * len(clip)

    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(nut), MINUTE)


# --- what wants to be more than it says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_bytes", [0xFFFF_FFFF, 0x7FFF_FFF0])
def test_a_header_that_claims_gigabytes_gives_the_samples_that_are_there(clip: Samples, data_bytes: int) -> None:
    wav = bytearray(encoded(clip, "wav", SAMPLE_RATE, 1))
    wav[4:8] = wav[40:44] = struct.pack("<I", data_bytes)
    before = reset_peak_memory()

    decoded = decode(io.BytesIO(bytes(wav)), MINUTE)

    assert peak_memory() - before < MEMORY_GROWTH
    assert len(decoded) == len(clip)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "webm"])
def test_audio_over_the_limit_is_refused_naming_the_limit(clip: Samples, kind: str) -> None:
    with pytest.raises(TooLarge, match=r"3 s") as refused:
        decode(io.BytesIO(encoded(clip, kind, 48_000, 1)), DecodeLimits(max_seconds=3.0))
    assert refused.value.status == 413


def test_audio_of_exactly_the_limit_is_allowed(clip: Samples) -> None:
    seconds = len(clip) / SAMPLE_RATE

    assert len(decode(io.BytesIO(encoded(clip, "wav", SAMPLE_RATE, 1)), DecodeLimits(seconds))) == len(clip)
    with pytest.raises(TooLarge):
        decode(io.BytesIO(encoded(clip, "wav", SAMPLE_RATE, 1)), DecodeLimits(seconds - 0.001))


def test_many_channels_at_a_high_rate_are_over_the_limit_of_bytes_before_that_of_seconds() -> None:
    wide = written(np.zeros((96_000, 32), np.int16), 96_000, format="WAV")  # one second, 12 MB as float32

    with pytest.raises(TooLarge, match="bytes"):
        decode(io.BytesIO(wide), DecodeLimits(max_seconds=10.0))


def test_a_file_that_takes_too_long_to_decode_is_given_up(clip: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DECODE_S", -1.0)

    with pytest.raises(TooLarge, match="to decode"):
        decode(io.BytesIO(encoded(clip, "wav", SAMPLE_RATE, 1)), MINUTE)


def test_waiting_between_two_steps_is_not_time_to_decode(clip: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "thread_time", lambda: now)
    monkeypatch.setattr(module, "STEP_S", 0.0)
    steps = decode_steps(io.BytesIO(encoded(clip, "opus", 48_000, 1)), MINUTE)
    for waits in range(3):
        next(steps)
        now += module.MAX_DECODE_S * (waits + 1)

    assert complete(steps).size > 0


def test_decoding_can_be_given_up_between_two_steps_and_lets_go_of_the_upload(
    clip: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP_S", 0.0)
    for kind in ("wav", "mp3", "opus", "webm"):
        upload = io.BytesIO(encoded(clip, kind, 48_000, 1))
        steps = decode_steps(upload, MINUTE)
        next(steps)
        steps.close()
        upload.seek(0)
        assert len(decode(upload, MINUTE)) > 0


def chunks_without_audio() -> dict[str, bytes]:
    """Files in which a decoder that is not stopped looks for audio for seconds."""
    count = 4_000_000
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    frames = b"TXXX\0\0\0\1\0\0\0" * (count // 2)
    size = bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0))
    return {
        "wav": b"RIFF" + struct.pack("<I", 8 * count + 36) + b"WAVE" + fmt + b"junk\0\0\0\0" * count,
        "flac": b"fLaC\0\0\0\x22" + bytes(34) + b"\1\0\0\0" * 4 * count,
        "id3": b"ID3\3\0\0" + size + frames,
    }


class CountedUpload(io.BytesIO):
    """An upload that knows how many bytes were read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.mark.parametrize("kind", ["wav", "flac", "id3"])
def test_a_step_without_audio_ends_long_before_the_file_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEP_S", 0.02)
    data = chunks_without_audio()[kind]
    upload = CountedUpload(data)

    with pytest.raises((TooLarge, UnsupportedMedia, InvalidInput)):
        decode(upload, MINUTE)

    assert upload.bytes_read < len(data) / 2


def test_packets_of_another_stream_are_steps_too(clip: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_S", 0.0)
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as container:
        container.add_stream("libopus", rate=48_000, layout="mono")
        pictures = container.add_stream("mjpeg", rate=25)
        assert isinstance(pictures, av.VideoStream)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuvj420p"
        (picture,) = pictures.encode(av.VideoFrame(16, 16, "yuvj420p"))
        for index in range(1_000):
            packet = av.Packet(bytes(picture))
            packet.stream, packet.time_base = pictures, Fraction(1, 25)
            packet.pts = packet.dts = index
            container.mux(packet)

    steps = decode_steps(film, MINUTE)
    for _ in range(1_000):
        next(steps)
    with pytest.raises(InvalidInput, match="no samples"):
        complete(steps)


@pytest.mark.parametrize("kind", ["flac", "ogg", "opus"])
def test_a_small_file_of_endless_silence_is_stopped_before_it_fills_the_memory(kind: str) -> None:
    bomb = silence_bomb(kind)
    assert len(bomb) < 250_000
    before = reset_peak_memory()

    with pytest.raises(TooLarge):
        decode(io.BytesIO(bomb), MINUTE)

    assert peak_memory() - before < MEMORY_GROWTH


@pytest.mark.parametrize("channels", [MAX_CHANNELS + 1, 255, 1024, 65_535, 0])
def test_more_channels_than_any_microphone_has_are_refused(clip: Samples, channels: int) -> None:
    wav = bytearray(encoded(clip, "wav", SAMPLE_RATE, 1))
    wav[22:24] = struct.pack("<H", channels)
    wav[32:34] = struct.pack("<H", 2 * channels & 0xFFFF)

    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(bytes(wav)), MINUTE)


@pytest.mark.parametrize("rate", [0, 1, MIN_RATE - 1, MAX_RATE + 1, 0xFFFF_FFFF])
def test_a_rate_that_no_recorder_has_is_refused(clip: Samples, rate: int) -> None:
    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(with_rate(encoded(clip, "wav", SAMPLE_RATE, 1), rate)), MINUTE)


@pytest.mark.parametrize("rate", [MIN_RATE, MAX_RATE])
def test_the_outermost_rates_are_allowed_and_give_the_length_that_they_imply(clip: Samples, rate: int) -> None:
    decoded = decode(io.BytesIO(with_rate(encoded(clip, "wav", SAMPLE_RATE, 1), rate)), MINUTE)

    assert len(decoded) == pytest.approx(len(clip) * SAMPLE_RATE / rate, abs=2)


# --- what points elsewhere ------------------------------------------------------------------------------------------------------


@dataclass
class Bait:
    """A recording that a playlist may point to, in the file system and on a server; both notice a visitor."""

    path: Path
    url: str
    visits: list[str]
    notifier: int

    def noticed(self) -> bool:
        try:
            opened = bool(os.read(self.notifier, 4096))
        except BlockingIOError:
            opened = False
        return opened or bool(self.visits)


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Bait]:
    path = tmp_path / "bait.wav"
    path.write_bytes((DATA / "austen-0930.wav").read_bytes())
    visits: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    libc = ctypes.CDLL(None)
    notifier = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(notifier, bytes(path), 0x20) > 0  # IN_OPEN
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Bait(path, f"http://127.0.0.1:{server.server_port}/bait.wav", visits, notifier)
    server.shutdown()
    thread.join()
    server.server_close()
    os.close(notifier)


PLAYLISTS = {
    "m3u": "{target}\n",
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\nduration 3\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=control:{target}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT10S">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="0" bandwidth="1"><BaseURL>{target}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "pls": "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
}


def target_of(bait: Bait, how: str) -> str:
    return {"path": str(bait.path), "relative path": bait.path.name, "file url": bait.path.as_uri(), "http url": bait.url}[how]


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("how", ["path", "relative path", "file url", "http url"])
def test_a_playlist_is_refused_and_what_it_points_to_is_never_touched(
    bait: Bait, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bait.path.parent)
    playlist = PLAYLISTS[kind].format(target=target_of(bait, how))

    with pytest.raises(UnsupportedMedia):
        decode(io.BytesIO(playlist.encode()), MINUTE)

    assert not bait.noticed()


@pytest.mark.parametrize(
    ("how", "options"),
    [
        pytest.param("relative path", {}, id="relative path"),  # as careless as FFmpeg is by itself
        pytest.param("path", {"safe": "0"}, id="path"),
        pytest.param("http url", {"safe": "0", "protocol_whitelist": "http,tcp"}, id="http url"),
    ],
)
def test_the_bait_notices_a_decoder_that_follows_playlists(
    bait: Bait, how: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bait.path.parent)
    playlist = PLAYLISTS["concat"].format(target=target_of(bait, how))

    try:
        with av.open(io.BytesIO(playlist.encode()), options=options) as container:
            next(container.decode(audio=0))
    except av.error.FFmpegError:
        assert how == "http url"  # the server has nothing to give

    assert bait.noticed()


def test_the_bait_notices_an_ordinary_visitor(bait: Bait) -> None:
    with pytest.raises(urllib.request.HTTPError):
        urllib.request.urlopen(bait.url)

    assert bait.noticed()


# --- making files ---------------------------------------------------------------------------------------------------------------


def written(samples: NDArray[np.generic], rate: int, **how: str) -> bytes:
    """[n] or [n, channels] -> a file made by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    return file.getvalue()


def encoded(clip: Samples, kind: str, rate: int, channels: int) -> bytes:
    """The clip at another rate, the same in every channel."""
    samples = soxr.resample(clip, SAMPLE_RATE, rate)
    by_libsndfile = {
        "wav": {"format": "WAV"},
        "wav-float": {"format": "WAV", "subtype": "FLOAT"},
        "flac": {"format": "FLAC"},
        "ogg": {"format": "OGG", "subtype": "VORBIS"},
        "mp3": {"format": "MP3"},
    }
    if kind in by_libsndfile:
        return written(np.repeat(samples[:, np.newaxis], channels, axis=1), rate, **by_libsndfile[kind])
    by_ffmpeg = {
        "opus": ("ogg", "libopus", {}),
        "webm": ("webm", "libopus", {"live": "1"}),  # as a browser's MediaRecorder writes it: no length, no index
        "m4a": ("ipod", "aac", {}),
        "nut": ("nut", "pcm_s16le", {}),
        "fragmented-m4a": ("mp4", "aac", {"movflags": "empty_moov+default_base_moof", "frag_duration": "200000"}),
    }
    container, codec, options = by_ffmpeg[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=LAYOUTS[channels])
        planes = np.ascontiguousarray(np.repeat(samples[np.newaxis], channels, axis=0))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=LAYOUTS[channels])
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def silence_bomb(kind: str) -> bytes:
    """A small file that decodes to at least 100 MB."""
    file = io.BytesIO()
    if kind == "opus":
        with av.open(file, "w", format="ogg") as output:
            stream = output.add_stream("libopus", rate=48_000, layout="mono")
            stream.options = {"frame_duration": "120", "compression_level": "0"}
            for second in range(900):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 48_000, second * 48_000
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    else:
        channels, seconds = {"flac": (8, 150), "ogg": (2, 300)}[kind]
        with soundfile.SoundFile(file, "w", 48_000, channels, format=kind.upper()) as sound:
            for _ in range(seconds):
                sound.write(np.zeros((48_000, channels), np.int16))
    return file.getvalue()


def with_rate(wav: bytes, rate: int) -> bytes:
    changed = bytearray(wav)
    changed[24:28] = struct.pack("<I", rate)
    changed[28:32] = struct.pack("<I", 2 * rate & 0xFFFF_FFFF)
    return bytes(changed)


def likeness(decoded: Samples, source: Samples) -> float:
    """Largest normalised correlation of the two within 100 ms of each other: 1 for the same sound."""
    size = 1 << (len(decoded) + len(source)).bit_length()
    spectrum = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(source, size))
    correlation, lag = np.fft.irfft(spectrum, size), SAMPLE_RATE // 10
    near = np.concatenate([correlation[:lag], correlation[-lag:]])
    return float(near.max() / (np.linalg.norm(decoded) * np.linalg.norm(source)))


def reset_peak_memory() -> int:
    """Forget the process's highest resident set size so far; returns the present one, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


# --- chains of streams


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_a_chain_of_files_is_heard_to_its_end(container: str, subtype: str) -> None:
    samples, rate = soundfile.read(DATA / "austen-0930.wav", dtype="float32")
    link = io.BytesIO()
    soundfile.write(link, samples, rate, format=container, subtype=subtype)

    heard = decode(io.BytesIO(link.getvalue() * 2), DecodeLimits(60))

    assert len(heard) / SAMPLE_RATE == pytest.approx(2 * len(samples) / rate, abs=0.3)
