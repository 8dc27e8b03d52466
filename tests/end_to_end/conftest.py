"""One pair of apps for all tests that do not need an app of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.apps import RunningApp, running


@pytest.fixture(scope="session")
def asr() -> Iterator[RunningApp]:
    with running("app_sensevoice.py") as app:
        yield app


@pytest.fixture(scope="session")
def tts() -> Iterator[RunningApp]:
    with running("app_tts.py") as app:
        yield app
