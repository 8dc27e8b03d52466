"""The text-to-speech page and its endpoint for the Gradio client. The work is done by `synthesis`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from steadyvoice.api.middleware import new_request_id
from steadyvoice.api.speech_bodies import MAX_SEED
from steadyvoice.engine_specs import SPEECH_LANGUAGES
from steadyvoice.errors import InvalidInput, SteadyvoiceError
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.media.subtitles import to_srt, to_vtt
from steadyvoice.media.text import Piece
from steadyvoice.pages import base as ui
from steadyvoice.pages.input_guard import typed
from steadyvoice.pages.job_page import JobPage, connect
from steadyvoice.pages.live_audio import LiveAudioStore
from steadyvoice.pages.memory_plot import add_memory_plot
from steadyvoice.pages.page_files import write_downloads
from steadyvoice.pages.speech_panels import EmotionPanel, Values, VoicePanel
from steadyvoice.pages.speech_tables import HistoryEntry, first_words, history_list, remember, sentence_table
from steadyvoice.pages.speech_texts import LANGUAGE_NAMES, TEXTS
from steadyvoice.service.service import Service
from steadyvoice.service.speech.request import SpeechOptions, SpeechRequest, Unnamed, sentences
from steadyvoice.service.speech.result import EncodedSpeech, SpokenSentence
from steadyvoice.service.speech.synthesis import Synthesizer

SUBTITLES = {"srt": to_srt, "vtt": to_vtt}


class SpeechPage(JobPage):
    """The page's components, and what they do. Inputs come as one dictionary: component -> value."""

    texts = TEXTS

    def __init__(self, page: gr.Blocks, synthesizer: Synthesizer, live_audio: LiveAudioStore) -> None:
        """Called inside `with page`."""
        self._synthesizer = synthesizer
        self._service = synthesizer.service
        self._live_audio = live_audio
        super().__init__()
        self._history = gr.State([])
        self._minutes_behind = gr.Number(0, visible=False)  # UTC, of the browser's clock
        with gr.Row():
            with gr.Column(min_width=280):
                self._lay_out_inputs(page)
            with gr.Column(min_width=280):
                self._lay_out_outputs()
        self.inputs = {
            *(self._text, self._voice, self._language, self._speed, self._format, *self._emotion.inputs),
            *(self._history, self._minutes_behind),
            *([self._seed] if self._seed else []),
        }
        self.outputs = [
            *(self.status, self._player, self._result, self._download, *self._subtitles.values()),
            *(self._sentences, self._history, self._history_list),
        ]
        self._connect(page)

    def _lay_out_inputs(self, page: gr.Blocks) -> None:
        spec, settings, voices = self._service.spec, self._service.settings, self._synthesizer.voices
        self._text = gr.Textbox(
            label=ui.t("text"),
            placeholder=ui.t("placeholder"),
            lines=6,
            max_lines=12,
            max_length=settings.max_text_chars,
            elem_id="sv-input",
        )
        if voices is None:
            speakers = [(f"{index} · {name}", name) for index, name in enumerate(spec.speakers)]
            self._voice = gr.Dropdown(speakers, value=spec.speakers[0], label=ui.t("speaker"), elem_id="sv-speaker")
        else:
            self._voice = gr.Dropdown([], label=ui.t("voice"), elem_id="sv-voice")
        with gr.Row():
            self.start = gr.Button(ui.t("speak"), variant="primary", elem_id="sv-start", min_width=120)
            self.stop = gr.Button(ui.t("stop"), variant="stop", elem_id="sv-stop", min_width=120)
        with gr.Accordion(ui.t("more" if voices else "more_plain"), open=False, elem_id="sv-more") as more, gr.Tabs():
            if voices is not None:
                with gr.Tab(ui.t("voices"), elem_id="sv-tab-voices"):
                    panel = VoicePanel(self._service, voices, self._voice)
            with gr.Tab(ui.t("emotion"), elem_id="sv-tab-emotion"):
                self._emotion = EmotionPanel(spec)
            with gr.Tab(ui.t("settings"), elem_id="sv-tab-settings"):
                self._lay_out_settings()
        if voices is not None:
            assert self._emotion.recorded is not None  # an engine that imitates takes an emotion from a recording too
            panel.connect(page, more, self._emotion.recorded)

    def _lay_out_settings(self) -> None:
        spec = self._service.spec
        spoken = [(LANGUAGE_NAMES[name], name) for name in SPEECH_LANGUAGES if name in spec.languages]
        self._language = gr.Dropdown(spoken, value="auto", label=ui.t("language"), elem_id="sv-language")
        self._speed = gr.Slider(MIN_SPEED, MAX_SPEED, 1.0, step=0.05, label=ui.t("speed"), elem_id="sv-speed")
        self._format = gr.Dropdown(list(AUDIO_FORMATS), value="wav", label=ui.t("format"), elem_id="sv-format")
        self._seed = gr.Textbox(label=ui.t("seed"), max_lines=1, max_length=16, elem_id="sv-seed") if spec.seeded else None

    def _lay_out_outputs(self) -> None:
        self.status = gr.HTML(elem_id="sv-status", elem_classes="sv-status")
        self._player = gr.HTML(elem_id="sv-player", elem_classes="sv-player")
        self._sentences = gr.HTML(elem_id="sv-sentences", elem_classes="sv-scroll")
        self._result = gr.Audio(label=ui.t("result"), interactive=False, elem_id="sv-result", buttons=[])
        with gr.Row():
            self._download = _download_button("download", "sv-download")
            self._subtitles = {name: _download_button(f"subtitles_{name}", f"sv-{name}") for name in SUBTITLES}
        self._history_list = gr.HTML(elem_id="sv-history", elem_classes="sv-scroll")

    def _connect(self, page: gr.Blocks) -> None:
        """What happens beside the job."""
        page.load(None, None, self._minutes_behind, js="() => new Date().getTimezoneOffset()")
        planned = {"fn": self.preview, "inputs": [self._text, self._language, self._speed], "outputs": self._sentences}
        # One look at a time, and the last letter counts.
        gr.on(
            [part.change for part in (self._text, self._language, self._speed)], **planned, trigger_mode="always_last", **ui.QUIET
        )
        self.stop.click(**planned, **ui.QUIET)

    def preview(self, text: str | None, language: str, speed: float, request: gr.Request) -> str:
        """The text in sentences, or what is wrong with it."""
        if not (text or "").strip():
            return ""
        try:
            pieces = sentences(typed(SpeechOptions, text=text or "", language=language), self._service)
        except SteadyvoiceError as error:
            return ui.explain(error, request)
        return sentence_table(pieces, (), speed, "planned", request)

    def cleared(self) -> Values:
        buttons = (self._download, *self._subtitles.values())
        return {self._player: "", self._result: None} | {button: gr.DownloadButton(interactive=False) for button in buttons}

    def silenced(self) -> Values:
        return {self._player: ""}  # without its element the player falls silent

    async def run(self, values: Values, request: gr.Request) -> AsyncIterator[Values]:
        new_request_id()
        synthesizer = self._synthesizer
        pieces: list[SpokenSentence] = []
        plan: Sequence[Piece] = ()
        speed = values[self._speed]
        live = self._live_audio.new()
        try:
            checked = await synthesizer.check(self._options(values))
            plan = checked.pieces
            with self._service.admission.admitted(request) as caller:
                yield {self._sentences: sentence_table(plan, pieces, speed, "running", request)}
                async with aclosing(synthesizer.pieces(checked, caller)) as stream:
                    async for piece in stream:
                        if self.stopped_tabs.is_stopped(request):
                            yield self.stopped(request)
                            return
                        pieces.append(piece)
                        await live.add(piece.speech)
                        said = ui.say(TEXTS, request, "speaking", done=piece.index + 1, total=piece.total)
                        table = sentence_table(plan, pieces, speed, "running", request)
                        # Set once: a player that is drawn again starts again.
                        player = {self._player: live_player(live.token)} if piece.index == 0 else {}
                        yield {self.status: said, self._sentences: table, **player}
                await live.finish()
                spoken = await synthesizer.join(pieces, checked.format)
            answered = await self._answered(spoken, checked, values, request)
            yield {self._sentences: sentence_table(plan, pieces, speed, "ended", request)} | answered
        except SteadyvoiceError as error:
            table = sentence_table(plan, pieces, speed, "ended", request) if plan else ""
            yield {self.status: ui.explain(error, request), self._sentences: table}
        finally:
            await live.finish()

    def _options(self, values: Values) -> SpeechOptions:
        """Raises InvalidInput."""
        voice = values[self._voice]
        if voice is None:
            raise InvalidInput("there is no voice yet; upload or record one under “Voices”", param="speaker_id")
        return typed(
            SpeechOptions,
            text=values[self._text] or "",
            language=values[self._language],
            speaker_id=voice,
            speed=values[self._speed],
            format=values[self._format],
            seed=checked_seed(values[self._seed]) if self._seed else None,
            **self._emotion.params(values),
        )

    async def _answered(self, spoken: EncodedSpeech, checked: SpeechRequest, values: Values, request: gr.Request) -> Values:
        """What the page offers when all is spoken. Raises StorageFull."""
        file, *subtitles = await write_downloads(self._service, audio_file(spoken) | subtitle_files(spoken), "the audio")
        playable = spoken.format.name != "pcm"  # raw PCM has no header, so no browser plays it: it is for download only
        entry = HistoryEntry(time.time(), first_words(checked.pieces), checked.speaker, spoken.report.duration_s, file, playable)
        history = remember(values[self._history], entry)
        buttons = zip((self._download, *self._subtitles.values()), (file, *subtitles), strict=True)
        return {
            self.status: summary(spoken, self._service, request),
            self._result: str(file) if playable else None,
            self._history: history,
            self._history_list: history_list(history, values[self._minutes_behind] or 0, request),
            **{button: gr.DownloadButton(value=str(path), interactive=True) for button, path in buttons},
        }


def build_page(synthesizer: Synthesizer, live_audio: LiveAudioStore) -> gr.Blocks:
    """The page and the /synthesize endpoint."""
    with ui.blocks("steadyvoice · 文字转语音 · Text to speech", synthesizer.service.files.kept) as page:
        ui.add_heading(page, synthesizer.service)
        connect(page, SpeechPage(page, synthesizer, live_audio))
        add_memory_plot(synthesizer.service)
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
        speaker_id: str | int,
        speed: float,
        format: str,
        request: gr.Request,
        emotion_vector: list[float] | None = None,
        emotion_voice: str | int | None = None,
        emotion_text: str | None = None,
        seed: float | str | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """The values are as the client sent them, since `preprocess` is off."""
        new_request_id()
        options = typed(
            SpeechOptions,
            text=text,
            language=language,
            emotion=emotion,
            emotion_strength=emotion_strength,
            speaker_id=Unnamed.LOWEST_NUMBER if speaker_id == "" else speaker_id,
            speed=speed,
            format=format,
            seed=checked_seed(seed),
            emotion_vector=emotion_vector,
            emotion_voice=None if emotion_voice == "" else emotion_voice,
            emotion_text=emotion_text or None,
        )
        checked = await synthesizer.check(options)
        with service.admission.admitted(request) as caller:
            spoken = await synthesizer.speak(checked, caller)
        (file,) = await write_downloads(service, audio_file(spoken), "the audio")
        return str(file), details(spoken, service)

    with gr.Row(visible=False):
        inputs = [
            gr.Textbox(label="text"),
            gr.Textbox("auto", label="language"),
            gr.Textbox("neutral", label="emotion"),
            gr.Number(0.6, label="emotion_strength"),
            gr.Textbox("", label="speaker_id: empty for the voice with the lowest number"),
            gr.Number(1.0, label="speed"),
            gr.Textbox("wav", label="format"),
            gr.JSON(label="emotion_vector: eight numbers from 0 to 1, happy to calm"),
            gr.Textbox(label="emotion_voice: the voice whose recording has the emotion"),
            gr.Textbox(label="emotion_text: a description of the emotion"),
            gr.Number(label="seed: for the same answer again", precision=0),
        ]
        outputs = [gr.File(label="audio"), gr.JSON(label="details")]
        gr.Button().click(synthesize, inputs, outputs, preprocess=False, api_name="synthesize", concurrency_id="api")


# --- what comes in


def checked_seed(value: str | float | None) -> int | None:
    """What was typed, or a client's number; empty is none. Raises InvalidInput for what is no seed."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = "" if value is None else str(value).strip()
    if not written:
        return None
    if not written.isascii() or not written.isdigit() or len(written) > len(str(MAX_SEED)) or int(written) > MAX_SEED:
        raise InvalidInput(f"seed is no whole number from 0 to {MAX_SEED}", param="seed")
    return int(written)


# --- what is shown


def live_player(token: str) -> str:
    return f'<audio controls autoplay src="speech/{token}"></audio>'


def summary(spoken: EncodedSpeech, service: Service, request: gr.Request) -> str:
    report = spoken.report
    said = ui.say(
        TEXTS,
        request,
        "done",
        seconds=report.duration_s,
        sentences=len(report.cues),
        tokens=report.tokens,
        engine=f"{service.spec.name} {service.revision}",
        queue=report.queue_s,
        inference=report.inference_s,
    )
    flawed = ", ".join(str(number) for number, _ in report.defects)
    return said + (ui.say(TEXTS, request, "flawed", numbers=flawed) if flawed else "")


def details(spoken: EncodedSpeech, service: Service) -> dict[str, Any]:
    """What the endpoint gives beside the file."""
    report = spoken.report
    return {
        "audio_seconds": round(report.duration_s, 3),
        "tokens": report.tokens,
        "sample_rate": spoken.sample_rate,
        "timings": {"queue_s": round(report.queue_s, 4), "inference_s": round(report.inference_s, 4)},
        "engine": {"name": service.spec.name, "revision": service.revision},
    }


def audio_file(spoken: EncodedSpeech) -> dict[str, bytes]:
    return {f"speech{spoken.format.suffix}": spoken.audio}


def subtitle_files(spoken: EncodedSpeech) -> dict[str, bytes]:
    """By name, in the order of `SUBTITLES`."""
    return {f"speech.{name}": render(spoken.report.cues).encode() for name, render in SUBTITLES.items()}


def _download_button(key: str, elem_id: str) -> gr.DownloadButton:
    return gr.DownloadButton(ui.t(key), size="sm", min_width=90, interactive=False, elem_id=elem_id)
