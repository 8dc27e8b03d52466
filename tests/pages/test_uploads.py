from __future__ import annotations

import pytest
from starlette.formparsers import MultiPartParser

from steadyvoice.admission.upload_slots import SMALL_BYTES
from steadyvoice.pages.uploads import MAX_NAME_BYTES, safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("meeting 1.wav", "meeting 1.wav"),
        ("会议.mp3", "会议.mp3"),
        ("../../etc/passwd", "passwd"),
        ("C:\\folder\\a.wav", "a.wav"),
        (".bashrc", "upload.bashrc"),
        ("..", "upload"),
        ("", "upload"),
        ("a\0b\n<c>.wav", "abc.wav"),
        ("\udcff.wav", "upload.wav"),
        ("noext", "noext"),
    ],
)
def test_a_name_is_kept_as_far_as_it_does_no_harm(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["x" * 400 + ".wav", "语" * 300 + ".wav", "a." + "x" * 400, "x" * 400])
def test_a_long_name_becomes_one_that_a_file_system_takes(name: str) -> None:
    assert 0 < len(safe_name(name).encode()) <= MAX_NAME_BYTES


def test_small_is_what_starlette_keeps_in_memory() -> None:
    assert MultiPartParser.spool_max_size == SMALL_BYTES
