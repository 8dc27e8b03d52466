"""The parts of the text-to-speech page where a voice and an emotion are chosen. They know Gradio, and no engine."""

from __future__ import annotations

import html
import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from steadyvoice.engine_specs import EMOTIONS, EngineSpec
from steadyvoice.errors import InvalidInput, SteadyvoiceError
from steadyvoice.pages import base as ui
from steadyvoice.pages.page_files import admitted_upload
from steadyvoice.pages.speech_texts import EMOTION_NAMES, TEXTS
from steadyvoice.service.service import Service
from steadyvoice.service.speech.request import MAX_EMOTION_TEXT
from steadyvoice.service.voices.names import MAX_NAME
from steadyvoice.service.voices.store import VoiceStore

Values = dict[Any, Any]  # component -> its value


class EmotionPanel:
    """One emotion, told in one of the ways that the engine has. Only the chosen way is seen."""

    def __init__(self, spec: EngineSpec) -> None:
        ways = ["name"]
        if spec.clones:
            ways += ["vector", "voice"]
        if spec.reads_emotion:
            ways += ["text"]
        self._way = gr.Radio(
            [(ui.t(f"way_{way}"), way) for way in ways],
            value="name",
            label=ui.t("way"),
            visible=len(ways) > 1,
            elem_id="sv-way",
        )
        groups = {way: gr.Column(visible=way == "name") for way in ways}
        with groups["name"]:
            named = [(f"{name} {EMOTION_NAMES[name]}", name) for name in EMOTIONS]
            self._name = gr.Dropdown(named, value="neutral", label=ui.t("emotion"), elem_id="sv-emotion")
        self._parts: list[gr.Slider] = []
        self.recorded: gr.Dropdown | None = None
        self._text: gr.Textbox | None = None
        if "vector" in ways:
            with groups["vector"]:
                for pair in zip(EMOTIONS[1::2], EMOTIONS[2::2], strict=True):
                    with gr.Row():
                        self._parts += [_part(name) for name in pair]
        if "voice" in ways:
            with groups["voice"]:
                self.recorded = gr.Dropdown([], label=ui.t("emotion_voice"), elem_id="sv-emotion-voice")
        if "text" in ways:
            with groups["text"]:
                self._text = gr.Textbox(label=ui.t("emotion_text"), max_length=MAX_EMOTION_TEXT, elem_id="sv-emotion-text")
        self._strength = gr.Slider(0, 1, 0.6, step=0.05, label=ui.t("strength"), elem_id="sv-strength")
        optional = [part for part in (self.recorded, self._text) if part is not None]
        self.inputs: list[Any] = [self._way, self._name, self._strength, *self._parts, *optional]

        def show(way: str) -> Values:
            return {group: gr.Column(visible=name == way) for name, group in groups.items()}

        self._way.change(show, self._way, list(groups.values()), **ui.QUIET)

    def params(self, values: Values) -> dict[str, Any]:
        """As `SpeechOptions` calls them.

        Raises:
            InvalidInput: what belongs to the chosen way is missing.
        """
        params: dict[str, Any] = {"emotion_strength": values[self._strength]}
        match values[self._way]:
            case "vector":
                parts = [values[part] for part in self._parts]
                return params | {"emotion_vector": parts if any(parts) else None}  # none: as the voice has it
            case "voice":
                if values[self.recorded] is None:
                    raise InvalidInput("no voice is chosen for the emotion", param="emotion_voice")
                return params | {"emotion_voice": values[self.recorded]}
            case "text":
                if not values[self._text]:
                    raise InvalidInput("the emotion is to be told in words, and there are none", param="emotion_text")
                return params | {"emotion_text": values[self._text]}
            case _:
                return params | {"emotion": values[self._name]}


class VoicePanel:
    """The recorded voices: hear, add and remove them. The list where one is chosen is elsewhere on the page."""

    def __init__(self, service: Service, store: VoiceStore, chosen: gr.Dropdown) -> None:
        """`chosen` is the list of the page, which this fills."""
        self._service = service
        self._store = store
        self._chosen = chosen
        self._sample = gr.HTML(elem_id="sv-sample", elem_classes="sv-player")
        with gr.Row():
            self._refresh = gr.Button(ui.t("refresh"), size="sm", min_width=120, elem_id="sv-refresh")
            self._remove = gr.Button(ui.t("remove"), size="sm", min_width=120, elem_id="sv-remove")
        self._recording = ui.uploaded_audio(
            sources=["upload", "microphone"], label=ui.t("recording"), elem_id="sv-recording", editable=False
        )
        self._name = gr.Textbox(label=ui.t("name"), max_lines=1, max_length=MAX_NAME, elem_id="sv-name")
        self._keep = gr.Button(ui.t("keep"), variant="primary", size="md", elem_id="sv-keep")
        self._status = gr.HTML(elem_id="sv-voice-status", elem_classes="sv-status")

    def connect(self, page: gr.Blocks, opened: gr.Accordion, recorded: gr.Dropdown) -> None:
        """Let the buttons do what they say. Called inside `with page`.

        Args:
            opened: where this panel is, opened while there is no voice.
            recorded: another list of voices to keep up to date.
        """
        self._recorded = recorded
        self._opened = opened
        lists = [self._chosen, recorded]
        changed = [*lists, opened, self._status]
        page.load(self._listed, lists, changed, **ui.QUIET)
        self._refresh.click(self._listed, lists, changed, **ui.QUIET)
        self._chosen.change(self._sampled, self._chosen, self._sample, **ui.QUIET)
        self._keep.click(
            self._add,
            [self._name, self._recording, recorded],
            [*changed, self._name, self._recording],
            show_progress="minimal",
            show_progress_on=self._status,
            api_visibility="private",
            concurrency_id="voices",
        )
        english, chinese = (json.dumps(text, ensure_ascii=False) for text in TEXTS["confirm"])
        asked = f"confirm(navigator.language.startsWith('zh') ? {chinese} : {english})"
        self._remove.click(
            self._removed, lists, changed, js=f"(name, other) => [name && {asked} ? name : null, other]", **ui.QUIET
        )

    async def _listed(self, chosen: str | None, other: str | None, request: gr.Request, said: str = "") -> Values:
        """Both lists as they are now; what was chosen in each stays chosen if it is there."""
        voices = await self._service.threads.run(self._store.voices)
        names = [voice.name for voice in voices]
        choices = [(f"{voice.name} · {voice.seconds:.1f} s", voice.name) for voice in voices]
        changed: Values = {self._status: said}
        for some, value in ((self._chosen, chosen), (self._recorded, other)):
            changed[some] = gr.Dropdown(choices, value=value if value in names else next(iter(names), None))
        if not voices:
            changed |= {self._opened: gr.Accordion(open=True), self._status: said or ui.say(TEXTS, request, "no_voice")}
        return changed

    def _sampled(self, name: str | None, request: gr.Request) -> str:
        if not name:
            return ""
        address = html.escape(f"v1/voices/{quote(name, safe='')}/audio")
        caption = ui.say(TEXTS, request, "heard")
        return f'<div class="sv-caption">{caption}</div><audio controls preload="none" src="{address}"></audio>'

    async def _add(self, name: str | None, path: str | None, other: str | None, request: gr.Request) -> Values:
        try:
            with admitted_upload(self._service, request, path) as file:
                voice = await self._service.threads.run(partial(self._store.add, name or "", file))
        except SteadyvoiceError as error:
            return {self._status: ui.explain(error, request)}
        self._service.files.discard(Path(path or ""))  # the voice has its own copy, and the input is emptied
        said = ui.say(TEXTS, request, "kept", name=html.escape(voice.name), seconds=voice.seconds)
        return await self._listed(voice.name, other, request, said) | {self._name: "", self._recording: None}

    async def _removed(self, name: str | None, other: str | None, request: gr.Request) -> Values:
        if not name:  # it was not confirmed
            return {self._status: ""}
        try:
            await self._service.threads.run(partial(self._store.remove, name))
        except SteadyvoiceError as error:
            return {self._status: ui.explain(error, request)}
        return await self._listed(None, other, request, ui.say(TEXTS, request, "removed", name=html.escape(name)))


def _part(name: str) -> gr.Slider:
    return gr.Slider(0, 1, 0, step=0.05, label=ui.t(name), min_width=110, elem_id=f"sv-{name}", elem_classes="sv-part")
