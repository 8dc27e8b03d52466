from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release directory that recognises digits in English and Mandarin."""
    from tests.sensevoice_digits import write_digits_release  # imports torch, which most tests do without

    folder = tmp_path_factory.mktemp("digits-release")
    write_digits_release(folder)
    return folder
