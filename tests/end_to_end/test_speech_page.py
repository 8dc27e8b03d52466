"""The text-to-speech page of an engine that imitates, used as a newcomer would, and listened to.

The engine is the stand-in for IndexTTS2: what it was asked for can be heard in its answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect

from steadyvoice.testing.browser import PHONE, WAIT_MS, fits, opened, wait_done
from steadyvoice.testing.indextts2_standin import REFERENCES, VOICES, code_of, number_of
from steadyvoice.testing.indextts2_tones import Heard, hear
from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import read, wav_bytes
from tests.conftest import MakeCheckout

EMMA, ANNE = "Emma", "安妮"  # who are there from the start


@pytest.fixture(scope="module")
def cloning(make_checkout: MakeCheckout) -> Iterator[RunningApp]:
    python = make_checkout("2.0") / ".venv" / "bin" / "python"
    with running("app_tts.py", TTS_ENGINE="indextts2", INDEXTTS_PYTHON=str(python)) as app:
        folder = app.files / "voices"
        folder.mkdir(exist_ok=True)
        for name, path in zip((EMMA, ANNE), CLIPS[1:], strict=True):
            (folder / f"{name}.wav").write_bytes(path.read_bytes())
        yield app


def number(app: RunningApp, voice: str, values: int) -> int:
    """By which the ear knows a voice."""
    with app.client as client:
        return number_of(client.get(f"/v1/voices/{quote(voice)}/audio").content, values)


def bring(page: Page, data: bytes, name: str, said: str) -> None:
    """Upload a recording, ask to keep it and wait for an answer."""
    page.locator("#sv-recording input[type=file]").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": data})
    expect(page.locator("#sv-recording")).to_contain_text(re.compile(r"\d:\d\d"), timeout=WAIT_MS)
    page.locator("#sv-name input").fill(name)
    page.locator("#sv-keep").click()
    expect(page.locator("#sv-voice-status")).to_contain_text(said, timeout=WAIT_MS)


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as begun:
        page.locator(f"#sv-{name}").click()
    return Path(begun.value.path()).read_bytes()


def heard(page: Page, text: str) -> Heard:
    """What is said when this one sentence is spoken."""
    page.locator("#sv-input textarea").fill(text)
    page.locator("#sv-start").click()
    expect(page.locator("#sv-status")).not_to_contain_text("✓", timeout=WAIT_MS)
    wait_done(page)
    return hear(*read(download(page, "download")))


def test_a_newcomer_brings_a_voice_speaks_in_it_and_removes_it(browser: Browser, cloning: RunningApp) -> None:
    text = "It is a truth universally acknowledged."
    with opened(browser, cloning, "en-US") as page:
        page.on("dialog", lambda dialog: dialog.accept())
        expect(page.locator("#sv-voice input")).to_have_value(re.compile(EMMA), timeout=WAIT_MS)
        page.locator("#sv-more > button").click()
        bring(page, wav_bytes(np.zeros(32_000, np.float32)), "Jane", "the recording is silent")
        page.get_by_label("Remove audio").or_(page.get_by_label("Clear")).first.click()
        bring(page, CLIPS[0].read_bytes(), EMMA, f"there is a voice '{EMMA}' already")
        page.locator("#sv-name input").fill("Jane")
        page.locator("#sv-keep").click()
        expect(page.locator("#sv-voice-status")).to_contain_text("“Jane” is kept", timeout=WAIT_MS)
        expect(page.locator("#sv-voice input")).to_have_value(re.compile("Jane"))
        expect(page.locator("#sv-sample audio")).to_have_attribute("src", "v1/voices/Jane/audio")
        jane = number(cloning, "Jane", VOICES)
        assert jane != number(cloning, EMMA, VOICES), "the ear could not tell them apart"

        answer = heard(page, text)

        assert (answer.voice, answer.code) == (jane, code_of(text))
        history = page.locator("#sv-history li")
        expect(history).to_have_count(1)
        expect(history.first).to_contain_text(re.compile(r"It is a truth.*\d\d:\d\d:\d\d · Jane"))
        address = history.first.locator("audio").evaluate("audio => audio.src")
        assert page.request.get(address).body() == download(page, "download")
        heard(page, "Another one.")
        expect(history).to_have_count(2)
        expect(history.first).to_contain_text("Another one.")

        page.locator("#sv-remove").click()
        expect(page.locator("#sv-voice-status")).to_contain_text("“Jane” is removed", timeout=WAIT_MS)
        expect(page.locator("#sv-voice input")).to_have_value(re.compile(EMMA))


def test_sliders_and_the_recording_of_another_reach_the_engine(browser: Browser, cloning: RunningApp) -> None:
    with opened(browser, cloning, "en-US") as page:
        expect(page.locator("#sv-voice input")).to_have_value(re.compile(EMMA), timeout=WAIT_MS)
        page.locator("#sv-more > button").click()
        page.get_by_role("tab", name="Emotion").click()
        expect(page.locator("#sv-emotion")).to_be_visible()
        page.get_by_label("Sliders", exact=True).click()
        expect(page.locator("#sv-emotion")).not_to_be_visible()
        page.locator("#sv-sad input[type=number]").fill("0.5")
        page.locator("#sv-strength input[type=number]").fill("1")
        page.locator("#sv-strength input[type=number]").blur()

        by_sliders = heard(page, "I am not quite happy.")

        assert by_sliders.emotion == pytest.approx((0, 0, 0.5, 0, 0, 0, 0, 0), abs=0.06)
        page.get_by_label("Recording", exact=True).click()
        expect(page.locator("#sv-sad")).not_to_be_visible()
        page.locator("#sv-emotion-voice input").click()
        page.get_by_role("option", name=re.compile(ANNE)).click()

        as_anne = heard(page, "I am as she is.")

        assert as_anne.voice == number(cloning, EMMA, VOICES)
        assert as_anne.reference == number(cloning, ANNE, REFERENCES)


def test_on_a_phone_in_chinese_sentences_are_foretold_marked_and_subtitled(
    browser: Browser, cloning: RunningApp, tmp_path: Path
) -> None:
    with opened(browser, cloning, "zh-CN", PHONE) as page:
        rows = page.locator("#sv-sentences tbody tr")
        page.locator("#sv-input textarea").fill("……")
        expect(page.locator("#sv-sentences")).to_contain_text("no letter and no digit", timeout=WAIT_MS)
        page.locator("#sv-input textarea").fill("今天天气很好。你想去公园吗？Then silence fell.")
        expect(rows).to_have_count(3, timeout=WAIT_MS)
        expect(rows.nth(1)).to_have_text(re.compile(r"^2你想去公园吗？≈.\d+≈.\d\.\d$"))
        page.locator("#sv-start").click()
        assert "有缺陷的句子：3" in wait_done(page)
        expect(rows.nth(1)).to_have_text(re.compile(r"^✓.2你想去公园吗？\d+\d\.\d$"))
        expect(rows.nth(2)).to_contain_text("无声")
        assert re.fullmatch(
            r"1\n00:00:00,000 --> \S+\n今天天气很好。\n\n2\n.*\n你想去公园吗？\n\n3\n.*\nThen silence fell.\n\n",
            download(page, "srt").decode(),
        )
        assert download(page, "vtt").decode().startswith("WEBVTT\n\n00:00:00.000 --> ")
        assert fits(page)
        page.locator("#sv-more > button").click()
        for index, said in enumerate(("保存此音色", "情感强度", "语速")):
            page.get_by_role("tab").nth(index).click()
            expect(page.locator("#sv-more").get_by_text(said).first).to_be_visible()
            if index == 1:
                page.get_by_label("滑块", exact=True).click()
                expect(page.locator("#sv-calm")).to_be_visible()
            assert fits(page), said
        page.screenshot(path=tmp_path / "speech-phone-zh.png", full_page=True)


def test_the_gradio_client_tells_emotion_and_seed_too(cloning: RunningApp) -> None:
    client = Client(cloning.url, verbose=False)

    def spoken(**wishes: object) -> bytes:
        path, _ = client.predict("Hello there.", speaker_id=EMMA, api_name="/synthesize", **wishes)
        return Path(path).read_bytes()

    assert hear(*read(spoken(emotion_vector=[0, 0, 0, 0.5, 0, 0, 0, 0], emotion_strength=1))).emotion[3] > 0.4
    assert hear(*read(spoken(emotion_voice=ANNE, emotion_strength=1))).reference == number(cloning, ANNE, REFERENCES)
    assert spoken(seed=7) == spoken(seed=7) != spoken(seed=8)
    for wishes, message in (
        ({"emotion_vector": "happy"}, "emotion_vector: Input should be a valid list"),
        ({"seed": -1}, "seed is no whole number"),
    ):
        with pytest.raises(Exception, match=message):
            spoken(**wishes)
