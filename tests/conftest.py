from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from steadyvoice.testing.indextts2_standin import write_checkout

MakeCheckout = Callable[..., Path]


@pytest.fixture(scope="session")
def digits_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release directory that recognises digits in English and Mandarin."""
    from tests.sensevoice_digits import write_digits_release  # imports torch, which most tests do without

    folder = tmp_path_factory.mktemp("digits-release")
    write_digits_release(folder)
    return folder


@pytest.fixture(scope="session")
def make_checkout(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckout:
    """(version, **what the stand-in is told) -> the root of a checkout of IndexTTS2 with an environment of its own."""

    def make(version: str, root: Path | None = None, **told: object) -> Path:
        root = root or tmp_path_factory.mktemp(f"index-tts-{version}")
        write_checkout(root, version, sys.executable, [sysconfig.get_path("purelib")], **told)
        return root

    return make


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three recordings of voices, told apart by what is in them."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"{number}.wav" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths
