"""Both pages in a real browser, used as a newcomer would, in both languages.

Screenshots are kept under each test's temporary folder.
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import jiwer
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from steadyvoice.testing.browser import PHONE, WAIT_MS, fits, opened, wait_done
from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import clip, loudness, read, silent_opus, wav_bytes


def upload(page: Page, data: bytes, name: str = "clip.wav") -> None:
    page.locator("#sv-audio input[type=file]").set_input_files({"name": name, "mimeType": "audio/wav", "buffer": data})
    expect(page.locator("#sv-audio")).to_contain_text(re.compile(r"\d:\d\d"), timeout=WAIT_MS)


TRANSCRIBING = [("en-US", "Transcribe", "s of audio", "Language"), ("zh-CN", "开始识别", "音频", "语言")]


@pytest.mark.parametrize(("locale", "button", "said", "column"), TRANSCRIBING, ids=["en", "zh"])
def test_a_newcomer_uploads_transcribes_and_downloads(
    browser: Browser, asr: RunningApp, tmp_path: Path, locale: str, button: str, said: str, column: str
) -> None:
    path = CLIPS[0]
    with asr.client as client:
        expected = client.post("/v1/audio/transcriptions", files={"file": (path.name, path.read_bytes())}).json()["text"]
    with opened(browser, asr, locale) as page:
        upload(page, path.read_bytes(), path.name)
        page.get_by_role("button", name=button).click()
        assert said in wait_done(page)
        assert page.locator("#sv-text textarea").input_value() == expected
        assert jiwer.wer(path.with_suffix(".txt").read_text(), expected) <= 0.4
        expect(page.locator("#sv-segments th").nth(2)).to_have_text(column)
        expect(page.locator("#sv-segments td").nth(1)).to_have_text(expected)
        contents = {}
        for suffix in ("txt", "srt", "vtt", "json"):
            with page.expect_download() as download:
                page.locator(f"#sv-{suffix}").click()
            assert download.value.suggested_filename == f"{path.stem}.{suffix}"
            contents[suffix] = Path(download.value.path()).read_text(encoding="utf-8")
        assert contents["txt"].strip() == expected
        assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n", contents["srt"])
        assert contents["vtt"].startswith("WEBVTT")
        assert json.loads(contents["json"])["text"] == expected
        assert fits(page)
        page.screenshot(path=tmp_path / f"transcribe-{locale}.png", full_page=True)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_the_page_shows_the_same_text_as_the_api_gives(browser: Browser, asr: RunningApp, path: Path) -> None:
    with asr.client as client:
        expected = client.post("/v1/audio/transcriptions", files={"file": (path.name, path.read_bytes())}).json()["text"]
    assert jiwer.wer(path.with_suffix(".txt").read_text(), expected) <= 0.4
    with opened(browser, asr, "en-GB") as page:
        upload(page, path.read_bytes(), path.name)
        page.locator("#sv-start").click()
        wait_done(page)
        assert page.locator("#sv-text textarea").input_value() == expected


def test_the_page_can_be_used_on_a_phone(browser: Browser, asr: RunningApp, tts: RunningApp, tmp_path: Path) -> None:
    with opened(browser, asr, "zh-CN", PHONE) as page:
        upload(page, CLIPS[2].read_bytes())
        page.locator("#sv-start").click()
        wait_done(page)
        assert fits(page)
        page.screenshot(path=tmp_path / "phone-asr.png", full_page=True)
    with opened(browser, tts, "en-US", PHONE) as page:
        page.locator("#sv-input textarea").fill("Hello there.")
        page.locator("#sv-start").click()
        wait_done(page)
        assert fits(page)
        page.screenshot(path=tmp_path / "phone-tts.png", full_page=True)


def test_text_appears_while_later_segments_are_still_being_recognised(browser: Browser, asr: RunningApp) -> None:
    pause = np.zeros(3 * 16_000, np.float32)
    long = np.concatenate([part for path in CLIPS for part in (clip(path) * 0.83, pause)])
    with opened(browser, asr, "en-US") as page:
        upload(page, wav_bytes(long))
        page.locator("#sv-start").click()
        expect(page.locator("#sv-status")).to_contain_text(re.compile(r"[12] of 3 segments"), timeout=WAIT_MS)
        assert page.locator("#sv-text textarea").input_value() != ""
        assert page.locator("#sv-segments tbody tr").count() in (1, 2)
        wait_done(page)
        assert page.locator("#sv-segments tbody tr").count() == 3


@pytest.mark.parametrize(
    ("locale", "button", "said"), [("en-US", "Stop", "Stopped"), ("zh-CN", "停止", "已停止")], ids=["en", "zh"]
)
def test_stop_ends_the_transcription_and_frees_its_place(
    browser: Browser, asr: RunningApp, locale: str, button: str, said: str
) -> None:
    speech = np.concatenate([clip(path) for path in CLIPS])
    gain = 0.8 if locale == "en-US" else 0.79
    with opened(browser, asr, locale) as page, asr.client as client:
        upload(page, wav_bytes(np.tile(speech, 4) * gain))
        page.locator("#sv-start").click()
        expect(page.locator("#sv-segments tbody tr").first).to_be_visible(timeout=WAIT_MS)
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator("#sv-status")).to_contain_text(said, timeout=WAIT_MS)
        gone = threading.Event()
        for _ in range(2_000):
            if "steadyvoice_engine_jobs 0.0" in client.get("/metrics").text:
                gone.set()
                break
        assert gone.is_set(), "the engine still works on what was stopped"
        assert "steadyvoice_requests_in_progress 0.0" in client.get("/metrics").text
        page.locator("#sv-start").click()  # and the page can be used again
        expect(page.locator("#sv-segments tbody tr")).to_have_count(0, timeout=WAIT_MS)
        expect(page.locator("#sv-segments tbody tr").first).to_be_visible(timeout=WAIT_MS)
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator("#sv-status")).to_contain_text(said, timeout=WAIT_MS)


def test_who_comes_third_sees_a_place_in_the_queue_and_then_the_text(browser: Browser, asr: RunningApp) -> None:
    speech = np.concatenate([clip(path) for path in CLIPS])
    with opened(browser, asr, "zh-CN") as first, opened(browser, asr, "en-US") as second, opened(browser, asr, "zh-CN") as third:
        for page, samples in ((first, speech * 0.77), (second, speech * 0.78), (third, clip(CLIPS[0]) * 0.79)):
            upload(page, wav_bytes(samples))
            page.locator("#sv-start").click()
        expect(third.locator("#sv-status")).to_contain_text("queue: 1/1", timeout=WAIT_MS)
        expect(third.locator("#sv-status")).to_contain_text("处理中", timeout=WAIT_MS)
        for page in (first, second, third):
            wait_done(page)
        assert "how much there might be" in third.locator("#sv-text textarea").input_value()


@pytest.mark.parametrize(("locale", "said"), [("en-US", "no audio was given"), ("zh-CN", "出错")], ids=["en", "zh"])
def test_a_mistake_is_explained_on_the_page(browser: Browser, asr: RunningApp, locale: str, said: str) -> None:
    with opened(browser, asr, locale) as page:
        page.locator("#sv-start").click()
        expect(page.locator("#sv-status")).to_contain_text(said, timeout=WAIT_MS)


@pytest.mark.parametrize("how", ["stop", "closed tab"])
def test_a_visitor_who_stops_or_leaves_while_the_audio_is_read_frees_the_place(
    browser: Browser, asr: RunningApp, how: str
) -> None:
    with opened(browser, asr, "en-US") as page, asr.client as client:
        page.locator("#sv-audio input[type=file]").set_input_files(
            {"name": f"{how}.opus", "mimeType": "audio/ogg", "buffer": silent_opus(4 * 3_600 - 10) + how.encode()}
        )
        expect(page.locator("#sv-audio")).to_contain_text(re.compile(r"\d:\d\d"), timeout=WAIT_MS)
        page.locator("#sv-start").click()
        expect(page.locator("#sv-status")).to_contain_text("reading the audio", timeout=WAIT_MS)
        if how == "stop":
            page.locator("#sv-stop").click()
            expect(page.locator("#sv-status")).to_contain_text("Stopped", timeout=WAIT_MS)
        else:
            page.close()
        deadline = time.monotonic() + 8  # decoding takes some twenty seconds
        while "steadyvoice_requests_in_progress 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < deadline, "the audio is still being read"


def test_stop_counts_in_the_very_moment_after_start_too(browser: Browser, asr: RunningApp) -> None:
    speech = np.concatenate([clip(path) for path in CLIPS])
    with opened(browser, asr, "en-US", console_errors=True) as page, asr.client as client:
        upload(page, wav_bytes(np.tile(speech, 4) * 0.76))
        for _ in range(3):
            page.locator("#sv-start").click()
            page.locator("#sv-stop").click()
            expect(page.locator("#sv-status")).to_contain_text("Stopped", timeout=WAIT_MS)
            assert any("steadyvoice_requests_in_progress 0.0" in client.get("/metrics").text for _ in range(2_000))
            expect(page.locator("#sv-status")).to_contain_text("Stopped", timeout=WAIT_MS)


def test_who_finds_the_queue_full_is_told_so_in_the_browsers_language(browser: Browser) -> None:
    speech = np.tile(np.concatenate([clip(path) for path in CLIPS]), 4)
    with running("app_sensevoice.py", QUEUE_SIZE="1", CONCURRENCY="1", DRAIN_S="0") as app, ExitStack() as tabs:
        pages = [tabs.enter_context(opened(browser, app, "zh-CN", console_errors=True)) for _ in range(3)]
        for number, page in enumerate(pages):
            upload(page, wav_bytes(speech * (0.7 + number / 100)))
            page.locator("#sv-start").click()
            expect(page.locator("#sv-status")).to_contain_text(("识别中", "queue: 1/1", "排队人数已满")[number], timeout=WAIT_MS)


def test_silence_says_that_nobody_speaks(browser: Browser, asr: RunningApp) -> None:
    with opened(browser, asr, "en-US") as page:
        upload(page, wav_bytes(np.zeros(3 * 16_000, np.float32)))
        page.locator("#sv-start").click()
        assert "No speech found" in wait_done(page)


def test_a_recording_from_the_microphone_is_transcribed(browser: Browser, asr: RunningApp) -> None:
    with opened(browser, asr, "en-US") as page:
        page.locator("#sv-audio").get_by_label("Record audio").click()
        page.locator("#sv-audio .record-button").click()
        expect(page.locator("#sv-audio .stop-button")).to_be_visible(timeout=WAIT_MS)
        page.wait_for_function("[...document.querySelectorAll('#sv-audio time')].some(t => /0:0[1-9]/.test(t.innerText))")
        page.locator("#sv-audio .stop-button").click()
        expect(page.locator("#sv-audio .record")).to_have_count(0, timeout=WAIT_MS)
        page.locator("#sv-start").click()
        wait_done(page)  # the fake microphone beeps, so what it says is not asserted


SPEAKING = [
    ("en-US", "Speak", "The weather is nice today. Shall we go for a walk in the park? I would like that.", "sentences: 3"),
    ("zh-CN", "开始合成", "今天天气很好，我们去公园散步吧。你想和我一起去吗？", "2 句"),
]


@pytest.mark.parametrize(("locale", "button", "text", "said"), SPEAKING, ids=["en", "zh"])
def test_a_newcomer_types_hears_and_downloads(
    browser: Browser, tts: RunningApp, tmp_path: Path, locale: str, button: str, text: str, said: str
) -> None:
    with opened(browser, tts, locale) as page:
        page.locator("#sv-input textarea").fill(text)
        page.get_by_role("button", name=button, exact=True).click()
        page.wait_for_function("(a => a && a.currentTime > 0.3 && !a.error)(document.querySelector('#sv-player audio'))")
        assert said in wait_done(page)
        with page.expect_download() as download:
            page.locator("#sv-download").click()
        samples, rate = read(Path(download.value.path()).read_bytes())
        assert download.value.suggested_filename == "speech.wav"
        assert 2 < len(samples) / rate < 10
        assert loudness(samples) > 0.03
        page.wait_for_function("document.querySelector('#sv-player audio').ended")
        played = page.evaluate("document.querySelector('#sv-player audio').currentTime")
        assert played == pytest.approx(len(samples) / rate, abs=0.3), "the player heard the whole text"
        page.screenshot(path=tmp_path / f"speak-{locale}.png", full_page=True)


def test_stop_silences_the_player(browser: Browser, tts: RunningApp) -> None:
    with opened(browser, tts, "en-US") as page:
        page.locator("#sv-input textarea").fill("This goes on for quite a while. " * 20)
        page.locator("#sv-start").click()
        page.wait_for_function("(a => a && a.currentTime > 0)(document.querySelector('#sv-player audio'))")
        page.locator("#sv-stop").click()
        expect(page.locator("#sv-player audio")).to_have_count(0, timeout=WAIT_MS)
        expect(page.locator("#sv-status")).to_contain_text("Stopped", timeout=WAIT_MS)


def test_the_memory_of_both_processes_is_drawn(browser: Browser, tts: RunningApp) -> None:
    with opened(browser, tts, "en-US") as page:
        page.locator("#sv-input textarea").fill("Hello.")
        page.locator("#sv-start").click()
        wait_done(page)
        expect(page.locator(".sv-plot")).to_contain_text(re.compile(r"app \d+ MB.*worker \d+ MB", re.DOTALL), timeout=WAIT_MS)
        expect(page.locator(".sv-plot polyline")).to_have_count(2)
