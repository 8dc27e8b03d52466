"""What both pages share: an empty page, texts in the browser's language, the heading, tables. Knows Gradio, no engine."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from steadyvoice.errors import SteadyvoiceError
from steadyvoice.pages.input_guard import GuardedBlocks, accept_upload
from steadyvoice.service.service import Service

Texts = Mapping[str, tuple[str, str]]  # key -> (English, Chinese)

KEY_PREFIX = "sv_"  # of the page's texts, apart from Gradio's own


def uploaded_audio(**options: Any) -> gr.Audio:
    """An audio input that takes uploads and recordings."""
    return accept_upload(gr.Audio(type="filepath", buttons=["download"], **options))


def blocks(title: str, files: Path) -> gr.Blocks:
    """An empty page without analytics, whose inputs are checked. Its components, made after this, keep their files in `files`."""
    os.environ["GRADIO_TEMP_DIR"] = str(files)
    return GuardedBlocks(title=title, analytics_enabled=False)


QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


# --- language


def t(key: str) -> I18nData:
    """A text of the page that the browser translates."""
    return I18nData(KEY_PREFIX + key)


def speaks_chinese(request: gr.Request) -> bool:
    """Whether the browser prefers Chinese: the first language in Accept-Language, which is what the page's texts go by."""
    accepted = request.headers.get("accept-language", "") if request.headers else ""
    return accepted.strip().lower().startswith("zh")


def say(texts: Texts, request: gr.Request, key: str, **values: Any) -> str:
    """A text that the server fills in, in the browser's language."""
    english, chinese = texts[key]
    return (chinese if speaks_chinese(request) else english).format(**values)


def explain(error: SteadyvoiceError, request: gr.Request) -> str:
    """An error for the status line. The message names limit and value; it is English, as in the API."""
    prefix = "出错：" if speaks_chinese(request) else "Sorry: "
    wait = ""
    if error.retry_after_s is not None:
        seconds = round(error.retry_after_s)
        wait = f"（请在约 {seconds} 秒后重试）" if speaks_chinese(request) else f" (try again in about {seconds} s)"
    return f"⚠ {prefix}{html.escape(error.message)}{wait}"


# --- pieces of the page


def add_heading(page: gr.Blocks, service: Service) -> None:
    """The title, and what a user should know of the engine. Called inside `with page`."""
    gr.Markdown(t("title"), elem_classes="sv-head")
    note = gr.HTML()

    def tell(request: gr.Request) -> str:
        text = service.spec.note_zh if speaks_chinese(request) else service.spec.note_en
        return f'<div class="sv-note">{html.escape(text)}</div>' if text else ""

    page.load(tell, None, note, **QUIET)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], wide: int) -> str:
    """Rows as an HTML table; everything is escaped. Column `wide` may wrap and takes the room."""
    if not rows:
        return ""

    def line(cells: Sequence[str], tag: str) -> str:
        opening = (f'<{tag} class="sv-text">' if column == wide else f"<{tag}>" for column in range(len(cells)))
        return "<tr>" + "".join(f"{o}{html.escape(c)}</{tag}>" for o, c in zip(opening, cells, strict=True)) + "</tr>"

    head, body = line(headers, "th"), "".join(line(row, "td") for row in rows)
    return f'<div class="sv-table"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


# Gradio asks for consent to nothing: its analytics are off before any of its modules looks at the environment.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
