"""The text-to-speech app: its page, its endpoint for the Gradio client, and main(). Port 7860.

The work is done by `steadyvoice.serving`; this file says what people see.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from steadyvoice.catalogue import EMOTIONS, SPEECH_LANGUAGES
from steadyvoice.errors import SteadyvoiceError
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.serving import page as ui
from steadyvoice.serving.engines import NoEngine
from steadyvoice.serving.http import close_routes, create_app, new_request_id
from steadyvoice.serving.live_audio import LiveAudioShelf
from steadyvoice.serving.run import EXIT_BAD_START, serve, set_up_logging
from steadyvoice.serving.service import Service
from steadyvoice.serving.synthesis import MAX_SPEED, MIN_SPEED, SpeakOptions, Spoken, SpokenPiece, Synthesizer
from steadyvoice.serving.synthesis_routes import add_synthesis_routes
from steadyvoice.settings import Settings, SettingsError, load_settings

log = logging.getLogger("steadyvoice.tts")

TEXTS: ui.Texts = {
    "title": ("# steadyvoice · Text to speech", "# steadyvoice · 文字转语音"),
    "text": ("Text", "文本"),
    "placeholder": ("Type what should be said…", "请输入要朗读的文字…"),
    "language": ("Language", "语言"),
    "emotion": ("Emotion", "情感"),
    "strength": ("Strength of the emotion", "情感强度"),
    "speaker": ("Speaker", "说话人"),
    "speed": ("Speed", "语速"),
    "format": ("File format", "文件格式"),
    "speak": ("Speak", "开始合成"),
    "stop": ("Stop", "停止"),
    "result": ("Whole audio", "完整音频"),
    "download": ("Download", "下载"),
    "ready": ("Type a text, then press Speak.", "请输入文字，然后点击“开始合成”。"),
    "working": (
        "Processing… If others are before you, your place is shown above.",
        "处理中…若前面有人，上方会显示排队位次。",
    ),
    "speaking": ("Speaking: {done} of {total} sentences", "合成中：{done} / {total} 句"),
    "done": (
        "✓ {seconds:.1f} s of audio, sentences: {sentences}, tokens: {tokens}. Engine {engine}; "
        "queue {queue:.2f} s, inference {inference:.2f} s.",
        "✓ 音频 {seconds:.1f} 秒，{sentences} 句，{tokens} 个 token。"
        "引擎 {engine}；排队 {queue:.2f} 秒，推理 {inference:.2f} 秒。",
    ),
    "stopped": ("Stopped.", "已停止。"),
}
LANGUAGE_NAMES = {"auto": "Auto 自动", "zh": "中文", "yue": "粤语", "en": "English", "ja": "日本語", "ko": "한국어"}
EMOTION_NAMES = dict(zip(EMOTIONS, ("自然", "开心", "愤怒", "悲伤", "恐惧", "厌恶", "忧郁", "惊讶", "平静"), strict=True))


def build_page(synthesizer: Synthesizer, shelf: LiveAudioShelf) -> gr.Blocks:
    """The page and the /synthesize endpoint."""
    service = synthesizer.service
    card = service.card
    with ui.blocks("steadyvoice · 文字转语音 · Text to speech") as page:
        gr.Markdown(ui.t("title"), elem_classes="sv-head")
        note = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=280):
                text = gr.Textbox(
                    label=ui.t("text"),
                    placeholder=ui.t("placeholder"),
                    lines=6,
                    max_length=service.settings.max_text_chars,
                    elem_id="sv-input",
                )
                with gr.Row():
                    language = gr.Dropdown(
                        [(LANGUAGE_NAMES[name], name) for name in SPEECH_LANGUAGES if name in card.languages],
                        value="auto",
                        label=ui.t("language"),
                        min_width=120,
                        elem_id="sv-language",
                    )
                    speaker = gr.Dropdown(
                        [(f"{index} · {name}", name) for index, name in enumerate(card.speakers)],
                        value=card.speakers[0],
                        label=ui.t("speaker"),
                        min_width=120,
                        elem_id="sv-speaker",
                    )
                with gr.Row():
                    emotion = gr.Dropdown(
                        [(f"{name} {EMOTION_NAMES[name]}", name) for name in EMOTIONS],
                        value="neutral",
                        label=ui.t("emotion"),
                        min_width=120,
                        elem_id="sv-emotion",
                    )
                    strength = gr.Slider(0, 1, 0.6, step=0.05, label=ui.t("strength"), min_width=120)
                with gr.Row():
                    speed = gr.Slider(MIN_SPEED, MAX_SPEED, 1.0, step=0.05, label=ui.t("speed"), min_width=120)
                    file_format = gr.Dropdown(list(AUDIO_FORMATS), value="wav", label=ui.t("format"), min_width=120)
                with gr.Row():
                    start = gr.Button(ui.t("speak"), variant="primary", elem_id="sv-start", min_width=120)
                    stop = gr.Button(ui.t("stop"), variant="stop", elem_id="sv-stop", min_width=120)
            with gr.Column(min_width=280):
                status = gr.HTML(elem_id="sv-status", elem_classes="sv-status")
                player = gr.HTML(elem_id="sv-player", elem_classes="sv-player")
                result = gr.Audio(label=ui.t("result"), interactive=False, elem_id="sv-result", buttons=[])
                download = gr.DownloadButton(ui.t("download"), size="sm", interactive=False, elem_id="sv-download")
        ui.add_memory_plot(service)

        def greet(request: gr.Request) -> tuple[str, str]:
            return ui.note(service, request), ui.say(TEXTS, request, "ready")

        page.load(greet, None, [note, status], queue=False, show_progress="hidden", api_visibility="private")

        outputs = [status, player, result, download]

        def begin(request: gr.Request) -> dict[Any, Any]:
            """At once, even where the queue is long: what was there is no longer the answer."""
            return {
                status: ui.say(TEXTS, request, "working"),
                player: "",
                result: None,
                download: gr.DownloadButton(interactive=False),
            }

        async def run(
            text: str,
            language: str,
            emotion: str,
            strength: float,
            speaker: str,
            speed: float,
            file_format: str,
            request: gr.Request,
        ) -> AsyncIterator[dict[Any, Any]]:
            options = SpeakOptions(text or "", language, emotion, strength, speaker, speed, file_format)
            spoken_pieces: list[SpokenPiece] = []
            live = shelf.new()
            new_request_id()
            try:
                checked = synthesizer.check(options)
                with service.door.enter():
                    events = synthesizer.pieces(checked, ui.caller_of(request))
                    async with aclosing(events) as stream:
                        async for piece in stream:
                            spoken_pieces.append(piece)
                            await live.add(piece.speech)
                            said = ui.say(TEXTS, request, "speaking", done=piece.index + 1, total=piece.total)
                            # Set once: a player that is drawn again starts again.
                            yield {status: said} | ({player: live_player(live.token)} if piece.index == 0 else {})
                    await live.finish()
                    spoken = await synthesizer.join(spoken_pieces, checked.format)
                    file = write_file(spoken)
                    yield {
                        status: summary(spoken, len(spoken_pieces), service, request),
                        # Raw PCM has no header, so no browser plays it: it is for download only.
                        result: None if spoken.format.name == "pcm" else str(file),
                        download: gr.DownloadButton(value=str(file), interactive=True),
                    }
            except SteadyvoiceError as error:
                yield {status: ui.explain(error, request)}
            finally:
                await live.finish()

        started = start.click(begin, None, outputs, queue=False, show_progress="hidden", api_visibility="private")
        running = started.then(
            run,
            [text, language, emotion, strength, speaker, speed, file_format],
            outputs,
            show_progress="minimal",
            show_progress_on=status,
            api_visibility="private",
        )

        def stopped(request: gr.Request) -> tuple[str, str]:
            return ui.say(TEXTS, request, "stopped"), ""  # without its element the player falls silent

        stop.click(
            stopped,
            None,
            [status, player],
            cancels=[running],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        _add_endpoint(synthesizer)
    return page


def _add_endpoint(synthesizer: Synthesizer) -> None:
    """/synthesize for the Gradio client: (text, language, emotion, …) -> (file, details)."""
    service = synthesizer.service

    async def synthesize(
        text: str,
        language: str,
        emotion: str,
        emotion_strength: float,
        speaker_id: str,
        speed: float,
        format: str,
        request: gr.Request,
    ) -> tuple[str, dict[str, Any]]:
        new_request_id()
        try:
            checked = synthesizer.check(SpeakOptions(text, language, emotion, emotion_strength, speaker_id, speed, format))
            with service.door.enter():
                spoken = await synthesizer.speak(checked, ui.caller_of(request))
        except SteadyvoiceError as error:
            raise gr.Error(error.message, print_exception=False) from None
        details = {
            "audio_seconds": round(spoken.duration_s, 3),
            "tokens": spoken.tokens,
            "sample_rate": spoken.sample_rate,
            "timings": {"queue_s": round(spoken.queue_s, 4), "inference_s": round(spoken.inference_s, 4)},
            "engine": {"name": service.card.name, "revision": service.revision},
        }
        return str(write_file(spoken)), details

    with gr.Row(visible=False):
        inputs = [
            gr.Textbox(label="text"),
            gr.Textbox("auto", label="language"),
            gr.Textbox("neutral", label="emotion"),
            gr.Number(0.6, label="emotion_strength"),
            gr.Textbox("0", label="speaker_id"),
            gr.Number(1.0, label="speed"),
            gr.Textbox("wav", label="format"),
        ]
        outputs = [gr.File(label="audio"), gr.JSON(label="details")]
        gr.Button().click(synthesize, inputs, outputs, api_name="synthesize", concurrency_id="api")


# --- what is shown


def live_player(token: str) -> str:
    return f'<audio controls autoplay src="speech/{token}"></audio>'


def summary(spoken: Spoken, sentences: int, service: Service, request: gr.Request) -> str:
    return ui.say(
        TEXTS,
        request,
        "done",
        seconds=spoken.duration_s,
        sentences=sentences,
        tokens=spoken.tokens,
        engine=f"{service.card.name} {service.revision}",
        queue=spoken.queue_s,
        inference=spoken.inference_s,
    )


def write_file(spoken: Spoken) -> Path:
    file = ui.download_folder() / f"speech{spoken.format.suffix}"
    file.write_bytes(spoken.audio)
    return file


# --- the app


def build_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Everything, ready to serve."""
    service = service or Service(settings, "tts")
    app = create_app(service)
    synthesizer = Synthesizer(service)
    add_synthesis_routes(app, synthesizer)
    shelf = LiveAudioShelf(app, service)
    close_routes(app)
    ui.mount(app, build_page(synthesizer, shelf), service, TEXTS)
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
    serve(app, settings.host, settings.tts_port)


if __name__ == "__main__":
    main()
