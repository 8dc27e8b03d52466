"""A disk that is really full: every way in says so, leaves nothing behind, and works again when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, expect

from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import clip, wav_bytes
from tests.disks import filled, opened_files, small_disk

PAGE = "/gradio_api/upload"
API = "/v1/audio/transcriptions"
LARGE = wav_bytes(np.zeros(50 * 16_000, np.float32))  # 1.6 MB: more than is kept in memory
REASON = "no space left on the server's disk"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("disk"), 8) as disk:
        yield disk


@pytest.fixture(scope="module")
def app(disk: Path) -> Iterator[RunningApp]:
    with running("app_sensevoice.py", files=disk) as app:
        yield app


@pytest.fixture(scope="module")
def speech(disk: Path) -> Iterator[RunningApp]:
    with running("app_tts.py", files=disk) as app:
        yield app


@contextmanager
def nothing_left(app: RunningApp) -> Iterator[None]:
    """The block leaves neither files, temporary or kept, nor descriptors."""

    def state() -> tuple[set[Path], list[str]]:
        return {path for path in app.files.rglob("*") if path.name != "filler"}, opened_files(app.process.pid)

    before = state()
    yield
    assert state() == before


def upload(app: RunningApp, path: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{app.url}{path}", files={"files" if path == PAGE else "file": ("a.wav", content)}, timeout=60)


@pytest.mark.parametrize("path", [PAGE, API])
def test_an_upload_is_507_while_the_disk_is_full_and_no_longer(app: RunningApp, disk: Path, path: str) -> None:
    with nothing_left(app), filled(disk):
        for _ in range(3):
            answer = upload(app, path, LARGE)
            assert answer.status_code == 507, answer.text
            error = answer.json()["error"]
            assert error["code"] == "insufficient_storage"
            assert error["message"] == f"{REASON} for the upload"
    assert upload(app, path, LARGE).status_code == 200


@pytest.mark.parametrize("path", [PAGE, API])
def test_an_upload_that_fills_the_disk_is_507_too(app: RunningApp, path: str) -> None:
    with nothing_left(app):
        assert upload(app, path, bytes(12_000_000)).status_code == 507
    assert upload(app, path, LARGE).status_code == 200


def test_what_needs_no_disk_works_while_it_is_full(app: RunningApp, disk: Path) -> None:
    client = Client(app.url, verbose=False)
    client.predict(handle_file(str(CLIPS[2])), api_name="/transcribe")
    with nothing_left(app), filled(disk):
        assert upload(app, API, wav_bytes(clip(CLIPS[2]))).status_code == 200
        for path in ("/live", "/ready", "/metrics", "/"):
            assert httpx.get(f"{app.url}{path}").status_code == 200
    assert "Traceback" not in "".join(app.log)


def test_the_page_shows_the_transcript_and_why_there_are_no_downloads(app: RunningApp, disk: Path, browser: Browser) -> None:
    page = browser.new_page(locale="en-US")
    page.goto(app.url)
    page.locator("#sv-audio input[type=file]").set_input_files(str(CLIPS[2]))
    expect(page.locator("#sv-audio audio, #sv-audio .waveform-container").first).to_be_attached(timeout=30_000)
    with filled(disk):
        page.locator("#sv-start").click()
        expect(page.locator("#sv-status")).to_contain_text(f"{REASON} for the downloads", timeout=60_000)
        assert "amiable" in page.locator("#sv-text textarea").input_value()
    page.locator("#sv-start").click()
    expect(page.locator("#sv-status")).to_contain_text("✓", timeout=60_000)
    page.close()


def test_a_refused_upload_is_told_on_the_page(app: RunningApp, disk: Path, browser: Browser) -> None:
    page = browser.new_page(locale="en-US")
    page.goto(app.url)
    with filled(disk):
        page.locator("#sv-audio input[type=file]").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": LARGE})
        expect(page.get_by_text(REASON).first).to_be_visible(timeout=30_000)
    page.close()


def test_synthesize_for_the_gradio_client_says_that_the_disk_is_full(speech: RunningApp, disk: Path) -> None:
    client = Client(speech.url, verbose=False)
    with nothing_left(speech), filled(disk), pytest.raises(AppError, match=f"{REASON} for the audio"):
        client.predict("Nowhere to go.", api_name="/synthesize")
    assert httpx.post(f"{speech.url}/synthesize", json={"text": "Hello."}, timeout=60).status_code == 200
    path, _ = client.predict("Nowhere to go.", api_name="/synthesize")
    assert Path(path).stat().st_size > 1_000
