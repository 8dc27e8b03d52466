"""The text-to-speech app: its parts put together, and main(). Port 7860.

The work is done by `steadyvoice.serving`; what people see is `steadyvoice.serving.speech_page`.
"""

from __future__ import annotations

from fastapi import FastAPI

from steadyvoice.serving import page as ui
from steadyvoice.serving.http import close_routes, create_app
from steadyvoice.serving.live_audio import LiveAudioShelf
from steadyvoice.serving.page_uploads import add_upload_routes
from steadyvoice.serving.run import run_app
from steadyvoice.serving.service import Service
from steadyvoice.serving.speech_page import build_page
from steadyvoice.serving.speech_texts import TEXTS
from steadyvoice.serving.synthesis import Synthesizer
from steadyvoice.serving.synthesis_routes import add_synthesis_routes
from steadyvoice.serving.voice_routes import add_voice_routes
from steadyvoice.serving.voices import VoiceStore
from steadyvoice.settings import Settings


def build_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Everything, ready to serve."""
    service = service or Service(settings, "tts")
    app = create_app(service)
    voices = VoiceStore(settings.cache_hub / "voices", service.examples) if service.card.clones else None
    synthesizer = Synthesizer(service, voices)
    add_synthesis_routes(app, synthesizer)
    add_voice_routes(app, service, voices)
    add_upload_routes(app, service)
    shelf = LiveAudioShelf(app, service)
    close_routes(app)
    ui.mount(app, build_page(synthesizer, shelf), service, TEXTS)
    return app


def main() -> None:
    run_app(build_app, lambda settings: settings.tts_port)


if __name__ == "__main__":
    main()
