"""The text-to-speech app: its parts put together, and main(). Port 7860."""

from __future__ import annotations

from fastapi import FastAPI

from steadyvoice.api.app import close_routes, create_app
from steadyvoice.api.speech_routes import add_speech_routes
from steadyvoice.api.voice_routes import add_voice_routes
from steadyvoice.pages.live_audio import LiveAudioStore
from steadyvoice.pages.mount import mount
from steadyvoice.pages.speech_page import build_page
from steadyvoice.pages.speech_texts import TEXTS
from steadyvoice.pages.uploads import add_upload_routes
from steadyvoice.provision.service_factory import create_service
from steadyvoice.server.run import run_app
from steadyvoice.service.service import Service
from steadyvoice.service.speech.synthesis import Synthesizer
from steadyvoice.service.voices.store import VoiceStore
from steadyvoice.settings import Settings


def build_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Everything, ready to serve."""
    service = service or create_service(settings, "tts")
    app = create_app(service)
    voices = VoiceStore(settings.cache_hub / "voices", service.examples) if service.spec.clones else None
    synthesizer = Synthesizer(service, voices)
    add_speech_routes(app, synthesizer)
    add_voice_routes(app, service, voices)
    add_upload_routes(app, service)
    live_audio = LiveAudioStore(app, service)
    close_routes(app)
    mount(app, build_page(synthesizer, live_audio), service, TEXTS)
    return app


def main() -> None:
    run_app(build_app, lambda settings: settings.tts_port)


if __name__ == "__main__":
    main()
