"""The app with engine sensevoice on the trained digits: what is spoken comes back as text, tags and times."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from numpy.typing import NDArray

from steadyvoice.protocol import FloatArray
from steadyvoice.testing.running_apps import RunningApp, running
from tests.sensevoice_digits import say, written

RATE = 16_000
PAUSE_S = 1.0
URL = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def asr(digits_release: Path) -> Iterator[RunningApp]:
    with running("app_sensevoice.py", SENSEVOICE_DIR=str(digits_release), QUEUE_SIZE="40", MERGE_LENGTH_S="0") as app:
        yield app


def wav(*parts: FloatArray) -> bytes:
    """The parts with pauses before, between and after them."""
    pause = np.zeros(int(PAUSE_S * RATE), np.float32)
    return pcm_wav(np.concatenate([pause, *(piece for part in parts for piece in (part, pause))]))


def pcm_wav(samples: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def post(app: RunningApp, audio: bytes, **fields: Any) -> httpx.Response:
    with app.client as client:
        return client.post(URL, files={"file": ("a.wav", audio)}, data=fields).raise_for_status()


SPOKEN = wav(say("3 5 2 6", "en", "f1", "happy"), say("8 4 0 9", "en", "m1", "sad"))


def test_what_is_spoken_comes_back_with_tags_per_segment(asr: RunningApp) -> None:
    answer = post(asr, SPOKEN, response_format="verbose_json").json()

    assert [segment["text"] for segment in answer["segments"]] == ["3526.", "8409."]
    assert answer["text"] == "3526. 8409."
    assert answer["rich_text"] == "3526.😊8409.😔"
    assert [segment["emotion"] for segment in answer["segments"]] == ["HAPPY", "SAD"]
    assert [segment["language"] for segment in answer["segments"]] == ["en", "en"]
    assert [segment["events"] for segment in answer["segments"]] == [["Speech"], ["Speech"]]
    assert (answer["language"], answer["no_speech"]) == ("en", False)
    assert answer["engine"] == {"name": "sensevoice", "revision": "local"}


def test_words_have_times_in_the_audio(asr: RunningApp) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word", "use_itn": "false"}

    answer = post(asr, SPOKEN, **fields).json()

    assert [word["word"] for word in answer["words"]] == ["three", "five", "two", "six", "eight", "four", "zero", "nine"]
    edges = [edge for word in answer["words"] for edge in (word["start"], word["end"])]
    assert edges == sorted(edges)
    first, second = answer["words"][0], answer["words"][4]
    assert PAUSE_S - 0.2 < first["start"] < PAUSE_S + 0.5
    assert second["start"] - answer["words"][3]["end"] > PAUSE_S - 0.5


@pytest.mark.parametrize(("kind", "mark"), [("srt", ","), ("vtt", ".")])
def test_subtitles_begin_with_the_first_word_and_can_be_had_word_by_word(asr: RunningApp, kind: str, mark: str) -> None:
    sentences = post(asr, SPOKEN, response_format=kind, use_itn="false").text
    words = post(asr, SPOKEN, response_format=kind, use_itn="false", **{"timestamp_granularities[]": "word"}).text

    assert "three five two six\n" in sentences
    assert sentences.count("-->") == 2
    assert words.count("-->") == 8
    first = re.search(r"00:00:0(\d)([,.])(\d{3}) --> ", sentences)
    assert first is not None
    assert first[2] == mark
    assert PAUSE_S - 0.2 < int(first[1]) + int(first[3]) / 1_000 < PAUSE_S + 0.5
    assert first[0] in words  # the same word at the same time


def test_callers_at_the_same_time_each_get_their_own_language_and_digits(asr: RunningApp) -> None:
    generator = np.random.default_rng(9)
    asked = []
    for number in range(24):
        digits = " ".join(generator.choice(list("0123456789"), 4))
        language, itn = ("en", "zh")[number % 2], number % 3 == 0
        # Spoken in the one and written in the other: only the request's own field can tell.
        audio = wav(say(digits, "zh" if language == "en" else "en"))
        asked.append((digits, language, itn, audio))

    def ask(_: str, language: str, itn: bool, audio: bytes) -> str:
        return str(post(asr, audio, language=language, use_itn=str(itn).lower()).json()["text"])

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda one: ask(*one), asked))

    right = [text == written(digits, language, itn) for text, (digits, language, itn, _) in zip(texts, asked, strict=True)]
    assert sum(right) >= 22  # the recogniser is right in 99 of 100 strings
    ideographs = [bool(re.search(r"[零一二三四五六七八九。]", text)) for text in texts]
    assert ideographs == [language == "zh" for _, language, _, _ in asked]


def test_minutes_in_one_request_say_what_they_say_in_pieces(asr: RunningApp) -> None:
    generator = np.random.default_rng(11)
    strings = [" ".join(generator.choice(list("0123456789"), generator.integers(3, 9))) for _ in range(60)]
    whole = wav(*(say(digits, ("en", "zh")[number % 2]) for number, digits in enumerate(strings)))
    samples = soundfile.read(io.BytesIO(whole), dtype="int16")[0]

    segments = post(asr, whole, response_format="verbose_json").json()["segments"]
    pauses = [(one["end"] + other["start"]) / 2 for one, other in pairwise(segments)][11::12]
    # The speech detector looks at 512 samples at a time, which begin where an upload begins.
    cuts = [round(pause * RATE / 512) * 512 for pause in pauses]
    pieces = [pcm_wav(samples[first:last]) for first, last in pairwise([0, *cuts, len(samples)])]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda piece: post(asr, piece, response_format="verbose_json").json(), pieces))

    assert len(samples) > 180 * RATE
    assert len(pieces) >= 5
    assert len(segments) >= 60
    assert [segment["text"] for segment in segments] == [segment["text"] for answer in answers for segment in answer["segments"]]


def test_the_model_is_listed_with_what_it_knows(asr: RunningApp) -> None:
    with asr.client as client:
        model = client.get("/v1/models").json()["data"][0]

    assert (model["id"], model["embedded"], model["languages"]) == ("sensevoice", False, ["auto", "zh", "en", "yue", "ja", "ko"])


def test_the_memory_log_has_the_load_and_the_batches(asr: RunningApp) -> None:
    post(asr, wav(say("1 2", "en")))

    with asr.client as client:
        steps = {sample["step"] for sample in client.get("/memory").json()["samples"] if sample["process"] == "worker"}

    assert {"load", "batch"} <= steps


def test_funasr_s_own_automodel_answers_the_same_through_the_same_app(digits_release: Path) -> None:
    with running("app_sensevoice.py", ASR_ENGINE="funasr", SENSEVOICE_DIR=str(digits_release), MERGE_LENGTH_S="0") as app:
        answer = post(app, SPOKEN, response_format="verbose_json").json()

    assert answer["text"] == "3526. 8409."
    assert [segment["emotion"] for segment in answer["segments"]] == ["HAPPY", "SAD"]
    assert answer["engine"]["name"] == "funasr"


def test_a_release_with_the_wrong_weights_is_an_answer_and_not_an_end(digits_release: Path, tmp_path: Path) -> None:
    for file in digits_release.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt").write_bytes(b"no weights")

    with running("app_sensevoice.py", SENSEVOICE_DIR=str(tmp_path)) as app, app.client as client:
        answer = client.post(URL, files={"file": ("a.wav", SPOKEN)})
        alive = client.get("/live")

    assert (answer.status_code, alive.status_code) == (503, 200)
    assert "Retry-After" in answer.headers
    assert str(tmp_path) not in answer.text


def test_openais_sdk_gets_the_log_probabilities_of_the_tokens(asr: RunningApp) -> None:
    with openai.OpenAI(base_url=f"{asr.url}/v1", api_key="none", max_retries=0) as client:
        told = client.audio.transcriptions.create(
            file=("a.wav", SPOKEN), model="gpt-4o-transcribe", response_format="json", include=["logprobs"]
        )
        *deltas, done = client.audio.transcriptions.create(
            file=("a.wav", SPOKEN), model="gpt-4o-transcribe", include=["logprobs"], stream=True
        )
        verbose = client.audio.transcriptions.create(file=("a.wav", SPOKEN), model="whisper-1", response_format="verbose_json")
    assert told.logprobs is not None
    assert "".join(token.token or "" for token in told.logprobs).replace(" ", "") == "3526.8409."
    for token in told.logprobs:
        assert bytes(int(byte) for byte in token.bytes or ()).decode() == token.token
        assert token.logprob is not None
        assert token.logprob <= 0
    assert done.logprobs is not None
    assert [token.token for token in done.logprobs] == [token.token for token in told.logprobs]
    assert sum(len(delta.logprobs) for delta in deltas if delta.type == "transcript.text.delta" and delta.logprobs) == len(
        done.logprobs
    )
    assert verbose.segments is not None
    for segment in verbose.segments:
        assert segment.tokens
        assert -1 < segment.avg_logprob < 0
        assert segment.no_speech_prob < 0.5
