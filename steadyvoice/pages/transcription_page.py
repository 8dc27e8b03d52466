"""The speech-to-text page and its endpoint for the Gradio client. The work is done by `service.transcription`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from steadyvoice.admission.identity import caller_of
from steadyvoice.api.middleware import new_request_id
from steadyvoice.api.transcription_responses import verbose
from steadyvoice.engine_specs import RECOGNITION_LANGUAGES
from steadyvoice.errors import SteadyvoiceError, StorageFull
from steadyvoice.media.rich_text import join_text
from steadyvoice.pages import base as ui
from steadyvoice.pages.input_guard import typed
from steadyvoice.pages.job_page import JobPage, connect
from steadyvoice.pages.memory_plot import add_memory_plot
from steadyvoice.pages.page_files import admitted_upload, write_downloads
from steadyvoice.service.transcription.result import Event, Progress, Transcript, TranscriptionOptions, TranscriptSegment
from steadyvoice.service.transcription.transcriber import Transcriber, finished

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
    "refused": (
        "⚠ That did not work: too many people are waiting. Try again in a moment.",
        "⚠ 未能开始：排队人数已满，请稍后再试。",
    ),
    "stopped": ("Stopped.", "已停止。"),
    "col_time": ("Time", "时间"),
    "col_language": ("Language", "语言"),
    "col_emotion": ("Emotion", "情感"),
    "col_events": ("Events", "事件"),
    "col_text": ("Text", "文本"),
}
DOWNLOADS = ("txt", "srt", "vtt", "json")
LANGUAGE_NAMES = {"auto": "Auto 自动", "zh": "中文", "en": "English", "yue": "粤语", "ja": "日本語", "ko": "한국어"}


class TranscriptionPage(JobPage):
    """The page's components, and what they do."""

    texts = TEXTS

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._service = transcriber.service
        super().__init__()
        with gr.Row():
            with gr.Column(min_width=280):
                self._lay_out_inputs()
            with gr.Column(min_width=280):
                self.status = gr.HTML(elem_id="sv-status", elem_classes="sv-status")
                self._text = gr.Textbox(label=ui.t("text"), lines=8, buttons=["copy"], elem_id="sv-text", interactive=False)
                with gr.Row():
                    self._downloads = {
                        name: gr.DownloadButton(name, size="sm", min_width=60, interactive=False, elem_id=f"sv-{name}")
                        for name in DOWNLOADS
                    }
        self._segments = gr.HTML(elem_id="sv-segments")
        self.outputs = [self.status, self._text, self._segments, *self._downloads.values()]

    def _lay_out_inputs(self) -> None:
        spec, settings = self._service.spec, self._service.settings
        audio = ui.uploaded_audio(sources=["upload", "microphone"], label=ui.t("audio"), elem_id="sv-audio", editable=False)
        language = gr.Dropdown(
            [(LANGUAGE_NAMES[name], name) for name in RECOGNITION_LANGUAGES if name in spec.languages],
            value="auto",
            label=ui.t("language"),
            elem_id="sv-language",
        )
        with gr.Accordion(ui.t("options"), open=False):
            itn = gr.Checkbox(spec.itn, label=ui.t("itn"), interactive=spec.itn)
            merge = gr.Slider(0, settings.max_segment_s, settings.default_merge_length_s, step=1, label=ui.t("merge"))
        with gr.Row():
            self.start = gr.Button(ui.t("transcribe"), variant="primary", elem_id="sv-start", min_width=120)
            self.stop = gr.Button(ui.t("stop"), variant="stop", elem_id="sv-stop", min_width=120)
        self.inputs = [audio, language, itn, merge]

    def cleared(self) -> dict[Any, Any]:
        disabled = {button: gr.DownloadButton(interactive=False) for button in self._downloads.values()}
        return {self._text: "", self._segments: "", **disabled}

    async def run(
        self, path: str | None, language: str, use_itn: bool, merge_length_s: float, request: gr.Request
    ) -> AsyncIterator[dict[Any, Any]]:
        new_request_id()
        parts: list[TranscriptSegment] = []
        try:
            asked = typed(TranscriptionOptions, language=language, use_itn=use_itn, merge_length_s=merge_length_s)
            options = self._transcriber.check(asked)
            with admitted_upload(self._service, request, path) as file:
                events = self._transcriber.transcribe(file, options, caller_of(request))
                async with aclosing(events) as stream:
                    async for event in stream:
                        if self.stopped_tabs.is_stopped(request):
                            yield self.stopped(request)
                            return
                        if isinstance(event, TranscriptSegment):
                            parts.append(event)
                        shown = self._show(event, parts, request)
                        if isinstance(event, Transcript):
                            shown |= await self._offer(event, Path(path or "").stem, request)
                        yield shown
        except SteadyvoiceError as error:
            yield {self.status: ui.explain(error, request)}

    async def _offer(self, transcript: Transcript, stem: str, request: gr.Request) -> dict[Any, Any]:
        """The downloads, named after the upload. The transcript is shown also where the disk has no room for them."""
        try:
            files = await write_downloads(self._service, downloads(transcript, stem), "the downloads")
        except StorageFull as error:
            return {self.status: ui.explain(error, request)}
        buttons = zip(self._downloads.values(), files, strict=True)
        return {button: gr.DownloadButton(value=str(file), interactive=True) for button, file in buttons}

    def _show(self, event: Event, parts: list[TranscriptSegment], request: gr.Request) -> dict[Any, Any]:
        """What changes on the page with one event; `parts` are the segments so far."""
        match event:
            case Progress():
                said = {"place": event.place, "done": event.done, "total": event.total}
                return {self.status: ui.say(TEXTS, request, event.stage, **said)}
            case TranscriptSegment():
                so_far = join_text([(part.text, part.language) for part in parts])
                return {self._text: so_far, self._segments: segment_table(parts, request)}
            case Transcript():
                return {
                    self.status: summary(event, request),
                    self._text: event.page_text,
                    self._segments: segment_table(event.segments, request),
                }


def build_page(transcriber: Transcriber) -> gr.Blocks:
    """The page and the /transcribe endpoint."""
    with ui.blocks("steadyvoice · 语音转文字 · Speech to text", transcriber.service.files.kept) as page:
        ui.add_heading(page, transcriber.service)
        connect(page, TranscriptionPage(transcriber))
        add_memory_plot(transcriber.service)
        _add_endpoint(transcriber)
    return page


def _add_endpoint(transcriber: Transcriber) -> None:
    """/transcribe for the Gradio client: (audio, language, use_itn, merge_length_s) -> (text, details)."""
    service = transcriber.service

    async def transcribe(
        audio: dict[str, Any] | None, language: str, use_itn: bool, merge_length_s: float, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """The values are as the client sent them, since `preprocess` is off; of `audio` it is known that it was uploaded."""
        new_request_id()
        asked = typed(TranscriptionOptions, language=language, use_itn=use_itn, merge_length_s=merge_length_s)
        options = transcriber.check(asked)
        with admitted_upload(service, request, audio["path"] if audio else None) as file:
            transcript = await finished(transcriber.transcribe(file, options, caller_of(request)))
        return transcript.text, verbose(transcript, frozenset(("segment", "word")))

    settings = service.settings
    with gr.Row(visible=False):
        inputs = [
            ui.uploaded_audio(label="audio"),
            gr.Textbox("auto", label="language"),
            gr.Checkbox(True, label="use_itn"),
            gr.Number(settings.default_merge_length_s, label="merge_length_s"),
        ]
        outputs = [gr.Textbox(label="text"), gr.JSON(label="details")]
        gr.Button().click(transcribe, inputs, outputs, preprocess=False, api_name="transcribe", concurrency_id="api")


# --- what is shown


def segment_table(parts: Sequence[TranscriptSegment], request: gr.Request) -> str:
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


def downloads(transcript: Transcript, stem: str) -> dict[str, bytes]:
    """The files that the page offers, by name and in the order of `DOWNLOADS`."""
    name = "".join(c for c in stem if c.isalnum() or c in "-_ ")[:60] or "transcript"
    details = json.dumps(verbose(transcript, frozenset(("segment", "word"))), ensure_ascii=False, indent=1)
    contents = {"txt": transcript.text + "\n", "srt": transcript.srt, "vtt": transcript.vtt, "json": details}
    return {f"{name}.{suffix}": contents[suffix].encode() for suffix in DOWNLOADS}
