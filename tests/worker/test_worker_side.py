"""What the worker side promises to its app."""

from __future__ import annotations

import subprocess
import sys

import pytest

from steadyvoice.provision.service_factory import create_service
from steadyvoice.settings import ROOT, Settings
from steadyvoice.worker.__main__ import FOLDER


def test_a_worker_started_without_its_parent_ends_at_once() -> None:
    arguments = '{"fd": 0, "parent": 1, "engine": "espeak", "options": {}}'
    ended = subprocess.run([sys.executable, "-m", "steadyvoice.worker", arguments], cwd=ROOT, timeout=60)
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/secret/folder/weights.bin is missing", "weights.bin is missing"),
        ("no such file: '/home/John Smith/secret project/model.pt'", "no such file: 'model.pt'"),
        ('"/a b/c/" is a folder', '"" is a folder'),
    ],
)
def test_a_reason_names_files_and_no_folders(said: str, told: str) -> None:
    assert FOLDER.sub("", said) == told


def test_preload_loads_before_the_first_request() -> None:
    service = create_service(Settings(preload=True), "tts")
    try:
        assert service.engine.load().result(60).name == "espeak"
        assert service.engine.status().loads == 1
    finally:
        service.close()


def test_starting_an_app_imports_no_torch() -> None:
    code = "import sys, app_sensevoice, app_tts; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
