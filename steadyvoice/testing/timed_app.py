"""The text-to-speech app on `TimedSynthesizer`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import app_tts
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.provision.service_factory import create_service
from steadyvoice.server.run import run_app
from steadyvoice.settings import Settings

ENGINE = "steadyvoice.testing.timed_synthesizer:TimedSynthesizer"
BATCH_S, BATCH_ITEMS = 0.25, 4


def build_app(settings: Settings) -> object:
    worker = WorkerSpec(ENGINE, {"batch_s": BATCH_S, "max_batch_items": BATCH_ITEMS})
    return app_tts.build_app(settings, create_service(settings, "tts", worker))


if __name__ == "__main__":
    run_app(build_app, lambda settings: settings.tts_port)  # type: ignore[arg-type]
