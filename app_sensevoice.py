"""The speech-to-text app: its page, its endpoint for the Gradio client, and main(). Port 6006.

The work is done by `steadyvoice.serving`; this file says what people see.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from steadyvoice.catalogue import RECOGNITION_LANGUAGES
from steadyvoice.errors import SteadyvoiceError
from steadyvoice.media.rich_text import join_text
from steadyvoice.serving import page as ui
from steadyvoice.serving.engines import NoEngine
from steadyvoice.serving.http import close_routes, create_app, new_request_id
from steadyvoice.serving.run import EXIT_BAD_START, serve, set_up_logging
from steadyvoice.serving.service import Service
from steadyvoice.serving.transcription import (
    Progress,
    TranscribeOptions,
    Transcriber,
    Transcript,
    TranscriptSegment,
    finished,
)
from steadyvoice.serving.transcription_routes import add_transcription_routes, verbose
from steadyvoice.settings import Settings, SettingsError, load_settings

log = logging.getLogger("steadyvoice.asr")

TEXTS: ui.Texts = {
    "title": ("# steadyvoice · Speech to text", "# steadyvoice · 语音转文字"),
    "audio": ("Audio", "音频"),
    "language": ("Language", "语言"),
    "options": ("Options", "选项"),
    "itn": ("Write numbers and dates as digits (ITN)", "数字、日期规整（ITN）"),
    "merge": ("Join neighbouring speech up to (seconds)", "合并相邻语音的最长时长（秒）"),
    "transcribe": ("Transcribe", "开始识别"),
    "stop": ("Stop", "停止"),
    "text": ("Text", "文本"),
    "ready": ("Upload or record audio, then press Transcribe.", "请上传或录制音频，然后点击“开始识别”。"),
    "working": (
        "Processing… If others are before you, your place is shown above.",
        "处理中…若前面有人，上方会显示排队位次。",
    ),
    "decoding": ("Processing: reading the audio…", "处理中：读取音频…"),
    "segmenting": ("Processing: finding speech…", "处理中：检测语音…"),
    "waiting": ("Waiting: place {place} in the queue", "排队中：第 {place} 位"),
    "recognizing": ("Recognising: {done} of {total} segments", "识别中：{done} / {total} 段"),
    "finishing": ("Processing: finishing…", "处理中：整理结果…"),
    "done": (
        "✓ {seconds:.1f} s of audio, segments: {segments}, tokens: {tokens}. Engine {engine}; "
        "queue {queue:.2f} s, inference {inference:.2f} s{cached}.",
        "✓ 音频 {seconds:.1f} 秒，{segments} 段，{tokens} 个 token。"
        "引擎 {engine}；排队 {queue:.2f} 秒，推理 {inference:.2f} 秒{cached}。",
    ),
    "cached": (", from the cache", "，来自缓存"),
    "no_speech": ("✓ No speech found in {seconds:.1f} s of audio.", "✓ 在 {seconds:.1f} 秒音频中未检测到语音。"),
    "stopped": ("Stopped.", "已停止。"),
    "col_time": ("Time", "时间"),
    "col_language": ("Language", "语言"),
    "col_emotion": ("Emotion", "情感"),
    "col_events": ("Events", "事件"),
    "col_text": ("Text", "文本"),
}
DOWNLOADS = ("txt", "srt", "vtt", "json")
LANGUAGE_NAMES = {"auto": "Auto 自动", "zh": "中文", "en": "English", "yue": "粤语", "ja": "日本語", "ko": "한국어"}


def build_page(transcriber: Transcriber) -> gr.Blocks:
    """The page and the /transcribe endpoint."""
    service = transcriber.service
    card, settings = service.card, service.settings
    with ui.blocks("steadyvoice · 语音转文字 · Speech to text") as page:
        gr.Markdown(ui.t("title"), elem_classes="sv-head")
        note = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=280):
                audio = ui.uploaded_audio(
                    sources=["upload", "microphone"], label=ui.t("audio"), elem_id="sv-audio", editable=False
                )
                language = gr.Dropdown(
                    [(LANGUAGE_NAMES[name], name) for name in RECOGNITION_LANGUAGES if name in card.languages],
                    value="auto",
                    label=ui.t("language"),
                    elem_id="sv-language",
                )
                with gr.Accordion(ui.t("options"), open=False):
                    itn = gr.Checkbox(card.itn, label=ui.t("itn"), interactive=card.itn)
                    merge = gr.Slider(0, settings.max_segment_s, settings.merge_length_s, step=1, label=ui.t("merge"))
                with gr.Row():
                    start = gr.Button(ui.t("transcribe"), variant="primary", elem_id="sv-start", min_width=120)
                    stop = gr.Button(ui.t("stop"), variant="stop", elem_id="sv-stop", min_width=120)
            with gr.Column(min_width=280):
                status = gr.HTML(elem_id="sv-status", elem_classes="sv-status")
                text = gr.Textbox(label=ui.t("text"), lines=8, buttons=["copy"], elem_id="sv-text", interactive=False)
                with gr.Row():
                    downloads = {
                        name: gr.DownloadButton(name, size="sm", min_width=60, interactive=False, elem_id=f"sv-{name}")
                        for name in DOWNLOADS
                    }
        segments = gr.HTML(elem_id="sv-segments")
        ui.add_memory_plot(service)

        def greet(request: gr.Request) -> tuple[str, str]:
            return ui.note(service, request), ui.say(TEXTS, request, "ready")

        page.load(greet, None, [note, status], queue=False, show_progress="hidden", api_visibility="private")

        outputs = [status, text, segments, *downloads.values()]

        def begin(request: gr.Request) -> dict[Any, Any]:
            """At once, even where the queue is long: what was there is no longer the answer."""
            return {
                status: ui.say(TEXTS, request, "working"),
                text: "",
                segments: "",
                **{button: gr.DownloadButton(interactive=False) for button in downloads.values()},
            }

        async def run(
            path: str | None, language: str, use_itn: bool, merge_length_s: float, request: gr.Request
        ) -> AsyncIterator[dict[Any, Any]]:
            parts: list[TranscriptSegment] = []
            new_request_id()
            try:
                options = transcriber.check(TranscribeOptions(language, use_itn, merge_length_s))
                with service.door.enter(), ui.upload_path(path).open("rb") as file:
                    events = transcriber.transcribe(file, options, ui.caller_of(request))
                    async with aclosing(events) as stream:
                        async for event in stream:
                            match event:
                                case Progress():
                                    said = {"place": event.place, "done": event.done, "total": event.total}
                                    yield {status: ui.say(TEXTS, request, event.stage, **said)}
                                case TranscriptSegment():
                                    parts.append(event)
                                    yield {text: joined(parts), segments: segment_table(parts, request)}
                                case Transcript():
                                    files = write_downloads(event, Path(path or "").stem)
                                    yield {
                                        status: summary(event, request),
                                        text: event.rich_text,
                                        segments: segment_table(event.segments, request),
                                        **{
                                            downloads[name]: gr.DownloadButton(value=str(file_path), interactive=True)
                                            for name, file_path in files.items()
                                        },
                                    }
            except SteadyvoiceError as error:
                yield {status: ui.explain(error, request)}

        started = start.click(begin, None, outputs, queue=False, show_progress="hidden", api_visibility="private")
        running = started.then(
            run,
            [audio, language, itn, merge],
            outputs,
            show_progress="minimal",
            show_progress_on=status,
            api_visibility="private",
        )

        def stopped(request: gr.Request) -> str:
            return ui.say(TEXTS, request, "stopped")

        stop.click(
            stopped,
            None,
            status,
            cancels=[running],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        _add_endpoint(transcriber)
    return page


def _add_endpoint(transcriber: Transcriber) -> None:
    """/transcribe for the Gradio client: (audio, language, use_itn, merge_length_s) -> (text, details)."""
    service = transcriber.service

    async def transcribe(
        audio: str, language: str, use_itn: bool, merge_length_s: float, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        new_request_id()
        try:
            options = transcriber.check(TranscribeOptions(language, use_itn, merge_length_s))
            with service.door.enter(), ui.upload_path(audio).open("rb") as file:
                events = transcriber.transcribe(file, options, ui.caller_of(request))
                transcript = await finished(events)
        except SteadyvoiceError as error:
            raise gr.Error(error.message, print_exception=False) from None
        return transcript.text, verbose(transcript, frozenset(("segment", "word")))

    settings = service.settings
    with gr.Row(visible=False):
        inputs = [
            ui.uploaded_audio(label="audio"),
            gr.Textbox("auto", label="language"),
            gr.Checkbox(True, label="use_itn"),
            gr.Number(settings.merge_length_s, label="merge_length_s"),
        ]
        gr.Button().click(
            transcribe, inputs, [gr.Textbox(label="text"), gr.JSON(label="details")], api_name="transcribe", concurrency_id="api"
        )


# --- what is shown


def joined(parts: list[TranscriptSegment]) -> str:
    """The text so far."""
    return join_text([(part.text, part.language) for part in parts])


def segment_table(parts: list[TranscriptSegment] | tuple[TranscriptSegment, ...], request: gr.Request) -> str:
    headers = [ui.say(TEXTS, request, f"col_{name}") for name in ("time", "text", "language", "emotion", "events")]
    rows = [
        (f"{clock(s.start)} – {clock(s.end)}", s.text, s.language, s.emotion or "–", ", ".join(s.events) or "–") for s in parts
    ]
    return ui.table(headers, rows, wide=1)


def clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def summary(transcript: Transcript, request: gr.Request) -> str:
    if transcript.no_speech:
        return ui.say(TEXTS, request, "no_speech", seconds=transcript.duration)
    return ui.say(
        TEXTS,
        request,
        "done",
        seconds=transcript.duration,
        segments=len(transcript.segments),
        tokens=transcript.tokens,
        engine=f"{transcript.engine} {transcript.revision}",
        queue=transcript.queue_s,
        inference=transcript.inference_s,
        cached=ui.say(TEXTS, request, "cached") if transcript.cached else "",
    )


def write_downloads(transcript: Transcript, stem: str) -> dict[str, Path]:
    """The four files that the page offers, named after the upload."""
    folder = ui.download_folder()
    name = "".join(c for c in stem if c.isalnum() or c in "-_ ")[:60] or "transcript"
    details = json.dumps(verbose(transcript, frozenset(("segment", "word"))), ensure_ascii=False, indent=1)
    contents = {"txt": transcript.text + "\n", "srt": transcript.srt, "vtt": transcript.vtt, "json": details}
    files = {suffix: folder / f"{name}.{suffix}" for suffix in DOWNLOADS}
    for suffix, file in files.items():
        file.write_text(contents[suffix], encoding="utf-8")
    return files


# --- the app


def build_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Everything, ready to serve."""
    service = service or Service(settings, "asr")
    app = create_app(service)
    transcriber = Transcriber(service)
    add_transcription_routes(app, transcriber)
    close_routes(app)
    ui.mount(app, build_page(transcriber), service, TEXTS)
    return app


def main() -> None:
    set_up_logging("info")
    try:
        settings = load_settings()
        set_up_logging(settings.log_level)
        app = build_app(settings)
    except (SettingsError, NoEngine) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the log may be the thing that is set wrongly
        raise SystemExit(EXIT_BAD_START) from None
    serve(app, settings.host, settings.asr_port)


if __name__ == "__main__":
    main()
