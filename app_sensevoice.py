"""The speech-to-text app: its parts put together, and main(). Port 6006."""

from __future__ import annotations

from fastapi import FastAPI

from steadyvoice.api.app import close_routes, create_app
from steadyvoice.api.transcription_routes import add_transcription_routes
from steadyvoice.pages.mount import mount
from steadyvoice.pages.transcription_page import TEXTS, build_page
from steadyvoice.pages.uploads import add_upload_routes
from steadyvoice.provision.service_factory import create_service
from steadyvoice.server.run import run_app
from steadyvoice.service.service import Service
from steadyvoice.service.transcription.transcriber import Transcriber
from steadyvoice.settings import Settings


def build_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Everything, ready to serve."""
    service = service or create_service(settings, "asr")
    app = create_app(service)
    transcriber = Transcriber(service)
    add_transcription_routes(app, transcriber)
    add_upload_routes(app, service)
    close_routes(app)
    mount(app, build_page(transcriber), service, TEXTS)
    return app


def main() -> None:
    run_app(build_app, lambda settings: settings.asr_port)


if __name__ == "__main__":
    main()
