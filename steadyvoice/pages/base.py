"""What both pages share: language by the browser, look, uploads that never fetch, the memory plot. Knows Gradio, no engine."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from cachetools import LRUCache
from fastapi import FastAPI
from gradio.i18n import I18nData
from starlette.routing import Mount

from steadyvoice.admission.identity import caller_of
from steadyvoice.api.errors import add_page_error_handlers
from steadyvoice.errors import SteadyvoiceError
from steadyvoice.memory import MemorySample
from steadyvoice.pages.gradio_queue import MAX_SESSIONS, PageQueue
from steadyvoice.pages.gradio_routes import page_router
from steadyvoice.pages.input_guard import GuardedBlocks, accept_upload
from steadyvoice.service.service import Service

Texts = Mapping[str, tuple[str, str]]  # key -> (English, Chinese)

KEY_PREFIX = "sv_"  # of the page's texts, apart from Gradio's own
MAX_VISITORS = 10_000  # whose last button is remembered
# Gradio matches a browser's language to these letter by letter.
CHINESE_LOCALES = ("zh-CN", "zh-TW", "zh-HK", "zh-MO", "zh-SG", "zh-Hans", "zh-Hant", "zh-Hans-CN", "zh-Hant-TW", "zh-Hant-HK")
PLOT_SECONDS = 5  # between two looks at the memory
FONTS = ["system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"]
)
CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto; padding: 12px !important; }
.sv-head h1 { margin: 4px 0; }
.sv-note { opacity: .85; font-size: .9rem; border-left: 3px solid #14b8a6; padding: 2px 10px; }
.sv-status { min-height: 1.6em; font-weight: 600; }
/* Gradio's own line with the place in the queue, which it would hide in so small a block. */
#sv-status .wrap { position: static !important; height: auto; max-height: none; overflow: visible;
  display: block; padding: 4px 12px 0; }
#sv-status .wrap.hide { display: none; }
#sv-status .progress-text { justify-content: flex-start; position: static;
  transform: none; padding: 0; line-height: 1.6; text-align: left; }
#sv-status .pending { opacity: 1 !important; }
.sv-table { overflow-x: auto; }
.sv-table table { width: 100%; border-collapse: collapse; border: 0 !important; font-size: .9rem; }
.sv-table thead, .sv-table tbody, .sv-table tr { border: 0 !important; }
.sv-table th, .sv-table td { text-align: left; vertical-align: top; white-space: nowrap; padding: 4px 8px !important;
  border: 0 !important; border-bottom: 1px solid #8884 !important; }
.sv-table td.sv-text { min-width: 9em; white-space: pre-line; overflow-wrap: anywhere; width: 100%; }
@media (max-width: 640px) {
  .sv-table { max-width: calc(100vw - 56px); }
  .sv-table table { font-size: .75rem; }
  .sv-table td.sv-text { min-width: 6em; }
  .sv-table th, .sv-table td { white-space: normal; padding: 4px !important; }
}
.sv-plot { font-size: .8rem; opacity: .9; }
.sv-plot svg { width: 100%; height: 56px; display: block; }
.sv-player audio { width: 100%; }
.sv-part .head { flex-wrap: wrap; }
.sv-part .head label { white-space: nowrap; }
.sv-caption { font-size: .85rem; opacity: .85; margin: 4px 0; }
.sv-more { font-size: .85rem; opacity: .85; padding: 4px 8px; }
/* The class is on the block too, which must not scroll as well. */
.prose.sv-scroll { max-height: 340px; overflow-y: auto; }
.sv-history { list-style: none; margin: 0; padding: 0; font-size: .85rem; }
.sv-history li { border-bottom: 1px solid #8884; padding: 6px 0; overflow-wrap: anywhere; }
.sv-history audio { width: 100%; height: 32px; margin-top: 4px; }
"""
# For what is around the components, which Gradio keeps `CSS` away from on a phone.
HEAD = """<style>@media (max-width: 640px) { .gradio-container > .app { padding: 8px 4px !important; } }</style>
"""


def uploaded_audio(**options: Any) -> gr.Audio:
    """An audio input that takes uploads and recordings."""
    return accept_upload(gr.Audio(type="filepath", buttons=["download"], **options))


def blocks(title: str, files: Path) -> gr.Blocks:
    """An empty page without analytics, whose inputs are checked. Its components, made after this, keep their files in `files`."""
    os.environ["GRADIO_TEMP_DIR"] = str(files)
    return GuardedBlocks(title=title, analytics_enabled=False)


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


QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class StoppedTabs:
    """Which visitors have pressed Stop since they last pressed Start.

    Gradio's own cancel knows only jobs that have begun; a Stop in the moment before would be lost.
    """

    def __init__(self) -> None:
        self._stopped: LRUCache[str, bool] = LRUCache(MAX_VISITORS)

    def begin(self, request: gr.Request) -> None:
        self._stopped.pop(_tab_of(request), None)

    def stop(self, request: gr.Request) -> None:
        self._stopped[_tab_of(request)] = True

    def is_stopped(self, request: gr.Request) -> bool:
        return _tab_of(request) in self._stopped


def _tab_of(request: gr.Request) -> str:
    """One tab of one visitor. The session hash is the client's choice, so by itself it would reach other visitors' tabs."""
    return f"{caller_of(request)} {request.session_hash}"


class JobPage:
    """A page with one job at a time: what both have in common. Handlers answer with {component: value}.

    A page sets `start`, `stop`, `status`, `inputs` and `outputs`, and says what its job is in `run`, and which of its outputs are
    emptied when a job starts in `cleared`, and when it is stopped in `silenced`.
    """

    texts: Texts
    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    inputs: list[Any] | set[Any]
    outputs: list[Any]

    def __init__(self) -> None:
        self.stopped_tabs = StoppedTabs()

    def run(self, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """The job: takes the values of `inputs`, as one dictionary if it is a set, and the request; yields as it goes."""
        raise TypeError(f"{type(self).__name__} has no job to run")

    def cleared(self) -> dict[Any, Any]:
        return {}

    def silenced(self) -> dict[Any, Any]:
        return {}

    def greet(self, request: gr.Request) -> dict[Any, Any]:
        """When the page is opened."""
        return {self.status: say(self.texts, request, "ready")}

    def begin(self, request: gr.Request) -> dict[Any, Any]:
        """At once when the job is started, even where the queue is long: what was there is no longer the answer."""
        self.stopped_tabs.begin(request)
        return {self.status: say(self.texts, request, "working"), **self.cleared()}

    def stopped(self, request: gr.Request) -> dict[Any, Any]:
        """When the job has been stopped."""
        self.stopped_tabs.stop(request)
        return {self.status: say(self.texts, request, "stopped"), **self.silenced()}

    def refused(self, request: gr.Request) -> dict[Any, Any]:
        """When the job did not even begin, or ended by a bug. A cancelled run counts as a failed one."""
        key = "stopped" if self.stopped_tabs.is_stopped(request) else "refused"
        return {self.status: say(self.texts, request, key)}


def connect(page: gr.Blocks, job: JobPage) -> None:
    """Let the buttons do what they say. Called inside `with page`."""
    page.load(job.greet, None, job.outputs, **QUIET)
    started = job.start.click(job.begin, None, job.outputs, **QUIET)
    running = started.then(
        job.run,
        job.inputs,
        job.outputs,
        show_progress="minimal",
        show_progress_on=job.status,
        api_visibility="private",
    )
    running.failure(job.refused, None, job.outputs, **QUIET)
    job.stop.click(job.stopped, None, job.outputs, cancels=[running], **QUIET)


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


def memory_plot(samples: Sequence[MemorySample], chinese: bool, budget: float | None = None) -> str:
    """Both processes' memory over the last steps, as an inline SVG: resident, or of the card where the worker uses one.

    `budget` are the bytes that one batch may take: a dashed line that much above what the worker held when it had loaded.
    """
    lines, legend = [], []
    at_rest = [_held(sample) for sample in samples if sample.step == "load"]
    limit = at_rest[-1] + budget if at_rest and budget is not None else 0
    top = max([*map(_held, samples), limit, 1])
    for process, colour in (("app", "#14b8a6"), ("worker", "#f59e0b")):
        values = [_held(sample) for sample in samples if sample.process == process]
        if not values:
            continue
        step = 300 / max(1, len(values) - 1)
        points = " ".join(f"{i * step:.1f},{54 - 50 * value / top:.1f}" for i, value in enumerate(values))
        if len(values) == 1:
            points += f" 300,{54 - 50 * values[0] / top:.1f}"
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        )
        name = {"app": "应用进程", "worker": "模型进程"}[process] if chinese else process
        legend.append(f'<span style="color:{colour}">■</span> {name} {values[-1] / 1e6:.0f} MB')
    if limit:
        level = 54 - 50 * limit / top
        lines.append(
            f'<line x1="0" x2="300" y1="{level:.1f}" y2="{level:.1f}" stroke="#ef4444" stroke-dasharray="6 4" '
            'vector-effect="non-scaling-stroke"/>'
        )
        legend.append(f'<span style="color:#ef4444">┅</span> {"预算上限" if chinese else "budget"} {limit / 1e6:.0f} MB')
    title = "内存" if chinese else "Memory"
    if not lines:
        return f'<div class="sv-plot">{title}: {"尚无数据" if chinese else "nothing measured yet"}</div>'
    return (
        f'<div class="sv-plot">{title} &nbsp; {" &nbsp; ".join(legend)}'
        f'<svg viewBox="0 0 300 56" preserveAspectRatio="none" role="img" aria-label="{title}">{"".join(lines)}</svg></div>'
    )


def _held(sample: MemorySample) -> int:
    return sample.rss if sample.reserved is None else sample.reserved


def add_memory_plot(service: Service) -> None:
    """The plot, renewed every few seconds while the page is open."""
    plot = gr.HTML(elem_classes="sv-memory")

    def look(request: gr.Request) -> str:
        return memory_plot(service.memory.samples(), speaks_chinese(request), service.engine.status().budget_bytes)

    timer = gr.Timer(PLOT_SECONDS)
    timer.tick(look, None, plot, **QUIET)


# Gradio asks for consent to nothing: its analytics are off before any of its modules looks at the environment.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
