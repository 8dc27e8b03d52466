"""From samples to transcript, with an engine that tells emotion and events: what the embedded one leaves empty."""

from __future__ import annotations

import asyncio
import gc
import io
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app_sensevoice import build_app
from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import JobHandle, Ticket
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.errors import DeadlineExceeded, InvalidInput, ItemFailed, OutOfMemory, SteadyvoiceError
from steadyvoice.protocol.cost import CostModel
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service.service import Service
from steadyvoice.service.transcription.result import Progress, Transcript, TranscriptionOptions, TranscriptSegment
from steadyvoice.service.transcription.transcriber import Transcriber, finished
from steadyvoice.settings import Settings
from steadyvoice.testing.running_apps import CLIPS
from tests.audio import clip, wav_bytes

PAUSE = np.zeros(3 * 16_000, np.float32)
THREE_SEGMENTS = wav_bytes(np.concatenate([part for path in CLIPS for part in (clip(path), PAUSE)]))


@contextmanager
def service(*lines: str, **settings: object) -> Iterator[Service]:
    spec = WorkerSpec("tests.service.scripted_recognizer:ScriptedRecognizer", {"lines": list(lines)})
    running = create_service(Settings(**settings), "asr", spec)  # type: ignore[arg-type]
    try:
        yield running
    finally:
        running.close()


def transcribe(running: Service, data: bytes = THREE_SEGMENTS, **options: object) -> Transcript:
    transcriber = Transcriber(running)
    checked = transcriber.check(TranscriptionOptions(**options))  # type: ignore[arg-type]
    return asyncio.run(finished(transcriber.transcribe(io.BytesIO(data), checked, "test")))


def test_segments_keep_their_order_their_times_and_what_the_engine_told_of_each() -> None:
    with service("甲。/HAPPY/BGM", "乙。/HAPPY", "丙。/SAD/Laughter") as running:
        transcript = transcribe(running)
    assert transcript.text == "甲。乙。丙。"
    assert transcript.rich_text == "🎼甲。乙。😊😀丙。😔"
    assert [segment.emotion for segment in transcript.segments] == ["HAPPY", "HAPPY", "SAD"]
    assert (transcript.language, transcript.emotion, transcript.events) == ("zh", "HAPPY", ("BGM", "Laughter"))
    starts = [segment.start for segment in transcript.segments]
    assert starts == pytest.approx([0.0, 10.1, 18.4], abs=0.4)
    assert transcript.segments[1].words[0].start == pytest.approx(starts[1] + 0.1)
    assert transcript.srt.count(" --> ") == transcript.vtt.count(" --> ") == 3
    assert transcript.tokens == round(transcript.duration * 50)


def test_an_answer_is_let_go_when_it_has_been_read_and_not_with_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with service("甲/", "乙/", "丙/") as running:
        tickets: list[weakref.ref[Ticket]] = []

        def submit(*args: Any, **options: Any) -> JobHandle:
            job = real(*args, **options)
            tickets.extend(weakref.ref(ticket) for ticket in job.tickets)
            return job

        async def held() -> list[int]:
            found = []
            async for event in transcriber.transcribe(
                io.BytesIO(THREE_SEGMENTS), transcriber.check(TranscriptionOptions()), "test"
            ):
                if isinstance(event, Progress) and event.stage == "recognizing" and event.done > 1:
                    await asyncio.to_thread(gc.collect)
                    found.append(sum(ticket() is not None for ticket in tickets[: event.done - 1]))
            return found

        real = running.submit
        monkeypatch.setattr(running, "submit", submit)
        transcriber = Transcriber(running)
        found = asyncio.run(held())

    assert found
    assert not any(found)


def test_where_less_fits_the_device_speech_is_cut_shorter_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    with service(*["甲/"] * 20) as running:
        running.engine.load().result(60)
        scheduler = running.engine._jobs.scheduler
        scheduler.limits = replace(scheduler.limits, budget=Budget(30.0, bytes=2e9, cost=CostModel(linear=1e9)))
        transcript = transcribe(running)

    assert len(transcript.segments) > 6
    assert max(segment.end - segment.start for segment in transcript.segments) <= 2.0
    assert "segments are cut to 2.0 s instead of 30 s" in caplog.text


def test_a_model_that_came_back_with_less_room_gets_shorter_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    with service(*["甲/"] * 20) as running:
        running.engine.load().result(60)
        submit = running.submit

        def submit_after_a_reload(*args: Any, **options: Any) -> JobHandle:
            monkeypatch.setattr(running, "submit", submit)
            scheduler = running.engine._jobs.scheduler
            scheduler.limits = replace(scheduler.limits, budget=Budget(2.0))
            return submit(*args, **options)

        monkeypatch.setattr(running, "submit", submit_after_a_reload)
        transcript = transcribe(running)

    assert max(segment.end - segment.start for segment in transcript.segments) <= 2.0


def test_what_was_spent_before_the_engine_counts_against_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []
    with service("甲/", request_timeout_s=100) as running:
        submit = running.submit

        def submit_late(*args: Any, spent_s: float) -> JobHandle:
            spent.append(spent_s)
            return submit(*args, spent_s=spent_s + 100)

        monkeypatch.setattr(running, "submit", submit_late)
        with pytest.raises(DeadlineExceeded):
            transcribe(running)
    assert 0 < spent[0] < 60


def test_events_tell_the_whole_way_and_segments_come_one_by_one() -> None:
    async def story(running: Service) -> list[object]:
        transcriber = Transcriber(running)
        options = transcriber.check(TranscriptionOptions())
        return [event async for event in transcriber.transcribe(io.BytesIO(THREE_SEGMENTS), options, "test")]

    with service("甲/", "乙/", "丙/") as running:
        events = asyncio.run(story(running))
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(stages))[:2] == ["decoding", "segmenting"]
    assert stages[-1] == "finishing"
    assert [event.text for event in events if isinstance(event, TranscriptSegment)] == ["甲", "乙", "丙"]
    assert isinstance(events[-1], Transcript)


@pytest.mark.parametrize(("kind", "error"), [("invalid", InvalidInput), ("error", ItemFailed), ("oom", OutOfMemory)])
def test_a_segment_that_fails_fails_the_request_and_leaves_nothing_behind(kind: str, error: type[SteadyvoiceError]) -> None:
    with service("甲/", f"!{kind}", "丙/", "一/", "二/", "三/") as running:
        with pytest.raises(error, match=f"scripted {kind}"):
            transcribe(running)
        assert transcribe(running).text.startswith(("一", "丙")), "the next request is served"
        assert running.engine.status().jobs == 0


def test_a_language_comes_in_the_forms_in_which_clients_write_it() -> None:
    with service() as running:
        check = Transcriber(running).check
        for written in ("en", "EN", "en-US", "en_GB"):
            assert check(TranscriptionOptions(written)).language == "en"
        for wrong, said in (("english", "unknown"), ("ja", "not available with engine pocketsphinx"), ("xx", "auto, zh")):
            with pytest.raises(InvalidInput, match=said):
                check(TranscriptionOptions(wrong))


def test_the_service_class_does_not_make_another_result() -> None:
    with service("甲/", "乙/", "丙/") as running:
        transcriber = Transcriber(running)

        def ask(service_class: ServiceClass) -> Transcript:
            options = transcriber.check(TranscriptionOptions(service_class=service_class))
            return asyncio.run(finished(transcriber.transcribe(io.BytesIO(THREE_SEGMENTS), options, "test")))

        first, second = ask(ServiceClass.INTERACTIVE), ask(ServiceClass.BATCH)
    assert (first.cached, second.cached) == (False, True)
    assert first.segments == second.segments


def test_an_error_in_the_middle_of_a_stream_is_an_event_that_the_sdk_raises_on() -> None:
    with (
        service("甲/", "!error", "丙/") as running,
        TestClient(build_app(running.settings, running), base_url="http://127.0.0.1") as client,
    ):
        form = {"files": {"file": THREE_SEGMENTS}, "data": {"stream": "true"}}
        with client.stream("POST", "/v1/audio/transcriptions", **form) as answer:
            lines = [line for line in answer.iter_lines() if line]
    assert '"delta": "甲"' in lines[0]
    assert lines[-2] == "event: error"
    assert '"code": "item_failed"' in lines[-1]
    assert "transcript.text.done" not in "".join(lines)


def test_no_result_is_kept_where_the_cache_has_no_room() -> None:
    with service("甲/", "乙/", "丙/", "丁/", "戊/", "己/", result_cache_mb=0) as running:
        transcriber = Transcriber(running)

        def ask() -> str:
            options = transcriber.check(TranscriptionOptions())
            return asyncio.run(finished(transcriber.transcribe(io.BytesIO(THREE_SEGMENTS), options, "test"))).text

        assert (ask(), ask()) == ("甲乙丙", "丁戊己")
