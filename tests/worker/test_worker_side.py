"""What the worker side promises to its app."""

from __future__ import annotations

import subprocess
import sys

from steadyvoice.serving.service import Service
from steadyvoice.settings import ROOT, Settings


def test_a_worker_started_without_its_parent_ends_at_once() -> None:
    arguments = '{"fd": 0, "parent": 1, "engine": "espeak", "options": {}}'
    ended = subprocess.run([sys.executable, "-m", "steadyvoice.worker", arguments], cwd=ROOT, timeout=60)
    assert ended.returncode == 1


def test_preload_loads_before_the_first_request() -> None:
    service = Service(Settings(preload=True), "tts")
    try:
        assert service.engine.load().result(60).name == "espeak"
        assert service.engine.status().loads == 1
    finally:
        service.close()


def test_starting_an_app_imports_no_torch() -> None:
    code = "import sys, app_sensevoice, app_tts; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
