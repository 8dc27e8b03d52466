"""A page becomes part of its app: queue, look and translations. Knows Gradio, and nothing of what is on the page."""

from __future__ import annotations

import sys
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from steadyvoice.api.errors import add_page_error_handlers
from steadyvoice.pages.base import KEY_PREFIX, Texts
from steadyvoice.pages.gradio_queue import MAX_SESSIONS, PageQueue
from steadyvoice.pages.gradio_routes import page_router
from steadyvoice.service.service import Service

# Gradio matches a browser's language to these letter by letter.
CHINESE_LOCALES = ("zh-CN", "zh-TW", "zh-HK", "zh-MO", "zh-SG", "zh-Hans", "zh-Hant", "zh-Hans-CN", "zh-Hant-TW", "zh-Hant-HK")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"]
)
CSS = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
# For what is around the components, which Gradio keeps `CSS` away from on a phone.
HEAD = """<style>@media (max-width: 640px) { .gradio-container > .app { padding: 8px 4px !important; } }</style>
"""


def mount(app: FastAPI, page: gr.Blocks, service: Service, texts: Texts) -> None:
    """Put the page at / with the queue that the card allows."""
    capacity = service.admission.capacity
    # Gradio takes a size of zero for no limit.
    page.queue(max_size=max(1, capacity.queue_size), default_concurrency_limit=capacity.concurrency, api_open=False)
    page._queue = PageQueue(
        live_updates=True,
        concurrency_count=page.max_threads,
        update_intervals=1,
        max_size=page._queue.max_size,
        blocks=page,
        default_concurrency_limit=capacity.concurrency,
    )
    page.state_session_capacity = MAX_SESSIONS
    # Gradio would make a pandas table of the last 10,000 calls after each call, for a dashboard that is not served.
    page._queue.ANALYTICS_MAX_EVENTS = 1
    page._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    for block in page.blocks.values():
        block.temp_files = _NothingKept()
    english = {KEY_PREFIX + key: english for key, (english, _) in texts.items()}
    chinese = {KEY_PREFIX + key: chinese for key, (_, chinese) in texts.items()}
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=service.settings.host,
        server_port=service.settings.asr_port if service.role == "asr" else service.settings.tts_port,
        show_error=False,
        max_file_size=service.settings.max_upload_bytes,
        theme=THEME,
        css=CSS,
        head=HEAD,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        i18n=gr.I18n(en=english, zh=chinese, **dict.fromkeys(CHINESE_LOCALES, chinese)),
    )
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    assert isinstance(mounted.app, FastAPI)
    add_page_error_handlers(mounted.app)
    mounted.app = page_router(mounted.app, page)


class _NothingKept(set[str]):
    """In place of the names of files that Gradio has handled, which it would keep for ever: we delete the files ourselves."""

    def add(self, _: str) -> None:
        pass
