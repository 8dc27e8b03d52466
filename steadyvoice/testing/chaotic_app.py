"""The text-to-speech app on `ChaoticSynthesizer`, for what looks at it from outside. Run with OOM_SHARE as its argument."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import app_tts
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.provision.service_factory import create_service
from steadyvoice.server.run import run_app
from steadyvoice.settings import Settings

ENGINE = "steadyvoice.testing.chaotic_synthesizer:ChaoticSynthesizer"
OOM_SHARE = 0.05


def build_app(settings: Settings) -> object:
    return app_tts.build_app(settings, create_service(settings, "tts", WorkerSpec(ENGINE, {"oom_share": OOM_SHARE})))


if __name__ == "__main__":
    run_app(build_app, lambda settings: settings.tts_port)  # type: ignore[arg-type]
