"""One pair of apps for all tests that do not need an app of their own, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from steadyvoice.testing.browser import ARGUMENTS, CHROMIUM
from steadyvoice.testing.running_apps import RunningApp, running


@pytest.fixture(scope="session")
def asr() -> Iterator[RunningApp]:
    with running("app_sensevoice.py") as app:
        yield app


@pytest.fixture(scope="session")
def tts() -> Iterator[RunningApp]:
    with running("app_tts.py") as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "Chromium is needed for this test: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
