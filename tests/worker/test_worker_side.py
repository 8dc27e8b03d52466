"""What the worker side promises to other interpreters and to its app."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from steadyvoice.serving.service import Service
from steadyvoice.settings import ROOT, Settings

WORKER_SIDE = [ROOT / "steadyvoice" / f"{name}.py" for name in ("__init__", "protocol", "memory", "catalogue")] + sorted(
    (ROOT / "steadyvoice" / "worker").rglob("*.py")
)


@pytest.mark.parametrize("path", WORKER_SIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_worker_side_is_written_in_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


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
