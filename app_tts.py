"""The text-to-speech app: its page, its endpoint for the Gradio client, and main(). Port 7860.

The work is done by `steadyvoice.serving`; this file says what people see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from steadyvoice.catalogue import EMOTIONS, SPEECH_LANGUAGES
from steadyvoice.errors import SteadyvoiceError
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.serving import page as ui
from steadyvoice.serving.http import close_routes, create_app, new_request_id
from steadyvoice.serving.live_audio import LiveAudioShelf
from steadyvoice.serving.run import run_app
from steadyvoice.serving.service import Service
from steadyvoice.serving.speech_request import SpeakOptions
from steadyvoice.serving.spoken import Spoken, SpokenPiece
from steadyvoice.serving.synthesis import Synthesizer
from steadyvoice.serving.synthesis_routes import add_synthesis_routes
from steadyvoice.serving.voice_routes import add_voice_routes
from steadyvoice.serving.voices import VoiceStore
from steadyvoice.settings import Settings

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
    "refused": (
        "⚠ That did not work: too many people are waiting. Try again in a moment.",
        "⚠ 未能开始：排队人数已满，请稍后再试。",
    ),
    "stopped": ("Stopped.", "已停止。"),
}
LANGUAGE_NAMES = {"auto": "Auto 自动", "zh": "中文", "yue": "粤语", "en": "English", "ja": "日本語", "ko": "한국어"}
EMOTION_NAMES = dict(zip(EMOTIONS, ("自然", "开心", "愤怒", "悲伤", "恐惧", "厌恶", "忧郁", "惊讶", "平静"), strict=True))


class SpeakPage(ui.JobPage):
    """The page's components, and what they do."""

    texts = TEXTS

    def __init__(self, synthesizer: Synthesizer, shelf: LiveAudioShelf) -> None:
        self._synthesizer = synthesizer
        self._service = synthesizer.service
        self._shelf = shelf
        super().__init__()
        with gr.Row():
            with gr.Column(min_width=280):
                self._lay_out_inputs()
            with gr.Column(min_width=280):
                self.status = gr.HTML(elem_id="sv-status", elem_classes="sv-status")
                self._player = gr.HTML(elem_id="sv-player", elem_classes="sv-player")
                self._result = gr.Audio(label=ui.t("result"), interactive=False, elem_id="sv-result", buttons=[])
                self._download = gr.DownloadButton(ui.t("download"), size="sm", interactive=False, elem_id="sv-download")
        self.outputs = [self.status, self._player, self._result, self._download]

    def _lay_out_inputs(self) -> None:
        card, settings = self._service.card, self._service.settings

        def choice(key: str, choices: list[tuple[str, str]], value: str | None) -> gr.Dropdown:
            return gr.Dropdown(choices, value=value, label=ui.t(key), min_width=120, elem_id=f"sv-{key}")

        def amount(key: str, low: float, high: float, value: float) -> gr.Slider:
            return gr.Slider(low, high, value, step=0.05, label=ui.t(key), min_width=120)

        text = gr.Textbox(
            label=ui.t("text"),
            placeholder=ui.t("placeholder"),
            lines=6,
            max_length=settings.max_text_chars,
            elem_id="sv-input",
        )
        with gr.Row():
            spoken = [(LANGUAGE_NAMES[name], name) for name in SPEECH_LANGUAGES if name in card.languages]
            language = choice("language", spoken, "auto")
            speakers = [(f"{index} · {name}", name) for index, name in enumerate(card.speakers)]
            speaker = choice("speaker", speakers, next(iter(card.speakers), None))
        with gr.Row():
            emotion = choice("emotion", [(f"{name} {EMOTION_NAMES[name]}", name) for name in EMOTIONS], "neutral")
            strength = amount("strength", 0, 1, 0.6)
        with gr.Row():
            speed = amount("speed", MIN_SPEED, MAX_SPEED, 1.0)
            file_format = choice("format", [(name, name) for name in AUDIO_FORMATS], "wav")
        with gr.Row():
            self.start = gr.Button(ui.t("speak"), variant="primary", elem_id="sv-start", min_width=120)
            self.stop = gr.Button(ui.t("stop"), variant="stop", elem_id="sv-stop", min_width=120)
        self.inputs = [text, language, emotion, strength, speaker, speed, file_format]

    def cleared(self) -> dict[Any, Any]:
        return {self._player: "", self._result: None, self._download: gr.DownloadButton(interactive=False)}

    def silenced(self) -> dict[Any, Any]:
        return {self._player: ""}  # without its element the player falls silent

    async def run(
        self,
        text: str | None,
        language: str,
        emotion: str,
        strength: float,
        speaker: str,
        speed: float,
        file_format: str,
        request: gr.Request,
    ) -> AsyncIterator[dict[Any, Any]]:
        new_request_id()
        synthesizer = self._synthesizer
        options = SpeakOptions(text or "", language, emotion, strength, speaker, speed, file_format)
        pieces: list[SpokenPiece] = []
        live = self._shelf.new()
        try:
            checked = await synthesizer.check(options)
            with self._service.door.enter(ui.caller_of(request)):
                async with aclosing(synthesizer.pieces(checked, ui.caller_of(request))) as stream:
                    async for piece in stream:
                        if self.turns.is_stopped(request):
                            yield self.stopped(request)
                            return
                        pieces.append(piece)
                        await live.add(piece.speech)
                        said = ui.say(TEXTS, request, "speaking", done=piece.index + 1, total=piece.total)
                        # Set once: a player that is drawn again starts again.
                        yield {self.status: said} | ({self._player: live_player(live.token)} if piece.index == 0 else {})
                await live.finish()
                spoken = await synthesizer.join(pieces, checked.format)
            file = write_file(spoken)
            yield {
                self.status: summary(spoken, len(pieces), self._service, request),
                # Raw PCM has no header, so no browser plays it: it is for download only.
                self._result: None if spoken.format.name == "pcm" else str(file),
                self._download: gr.DownloadButton(value=str(file), interactive=True),
            }
        except SteadyvoiceError as error:
            yield {self.status: ui.explain(error, request)}
        finally:
            await live.finish()


def build_page(synthesizer: Synthesizer, shelf: LiveAudioShelf) -> gr.Blocks:
    """The page and the /synthesize endpoint."""
    with ui.blocks("steadyvoice · 文字转语音 · Text to speech") as page:
        ui.add_heading(page, synthesizer.service)
        ui.connect(page, SpeakPage(synthesizer, shelf))
        ui.add_memory_plot(synthesizer.service)
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
            checked = await synthesizer.check(SpeakOptions(text, language, emotion, emotion_strength, speaker_id, speed, format))
            with service.door.enter(ui.caller_of(request)):
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
    voices = VoiceStore(settings.cache_hub / "voices", service.examples) if service.card.clones else None
    synthesizer = Synthesizer(service, voices)
    add_synthesis_routes(app, synthesizer)
    add_voice_routes(app, service, voices)
    shelf = LiveAudioShelf(app, service)
    close_routes(app)
    ui.mount(app, build_page(synthesizer, shelf), service, TEXTS)
    return app


def main() -> None:
    run_app(build_app, lambda settings: settings.tts_port)


if __name__ == "__main__":
    main()
