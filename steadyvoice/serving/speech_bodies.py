"""The bodies of /synthesize and /v1/audio/speech. What depends on the engine is described here, and checked for the page as well
by `speech_request.check`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from steadyvoice.catalogue import EMOTIONS, OPENAI_VOICES, EngineCard, model_names
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.media.text import SPEAKABLE
from steadyvoice.serving.speech_request import EMOTION_PARTS, SpeakOptions, Unnamed
from steadyvoice.settings import Settings

OPENAI_SPEEDS = (0.25, 4.0)
MAX_INSTRUCTIONS = 4_096  # characters
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Kokoro's letter for a language -> ours, of those that are spoken here.
KOKORO_LANGUAGES = {"a": "en", "b": "en", "j": "ja", "z": "zh"}
# What Kokoro does to a text if it is not told otherwise.
KOKORO_NORMALIZATION = {
    "normalize": True,
    "unit_normalization": False,
    "url_normalization": True,
    "email_normalization": True,
    "optional_pluralization_normalization": True,
    "phone_normalization": True,
    "replace_remaining_symbols": True,
}


class Wishes(BaseModel):
    """What both routes take. An unknown field is refused: a typing error must not silently change the voice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    language: str = Field("auto", description="`auto` finds it from the script, for each sentence.")
    emotion: str = Field("neutral", json_schema_extra={"enum": list(EMOTIONS)})
    emotion_strength: float = Field(0.6, json_schema_extra={"minimum": 0, "maximum": 1})
    emotion_vector: list[float] | None = Field(
        None, description=f"{EMOTION_PARTS} numbers from 0 to 1: {', '.join(EMOTIONS[1:])}. With engines that imitate."
    )
    emotion_voice: int | str | None = Field(None, description="A voice that has the emotion. With engines that imitate.")
    emotion_text: str | None = Field(None, description="A description of the emotion. With engines that read one.")
    speed: float = Field(
        1.0, json_schema_extra={"minimum": MIN_SPEED, "maximum": MAX_SPEED}, description="2 takes half the time."
    )
    seed: Seed | None = Field(None, description="The same seed gives the same audio.")
    service_class: Annotated[ServiceClass, Field(strict=False)] = Field(
        ServiceClass.INTERACTIVE, description="`batch` lets interactive requests go first."
    )

    def wishes(self) -> dict[str, Any]:
        """As `SpeakOptions` calls them."""
        return {name: getattr(self, name) for name in Wishes.model_fields}


class SynthesizeBody(Wishes):
    """The body of /synthesize."""

    text: str = Field(description="The text has at least one letter or digit.")
    speaker_id: int | str = Field(
        0, description="Number or name of a voice, see `GET /v1/voices`. Left out: the voice with the lowest number."
    )
    format: str = Field("wav", json_schema_extra={"enum": list(AUDIO_FORMATS)})
    stream: bool | None = Field(None, description="Left out: where the audio will last over a minute.")

    def options(self) -> SpeakOptions:
        # The default is the first voice there is, which need not be number 0: that may have been removed.
        speaker_id = self.speaker_id if "speaker_id" in self.model_fields_set else Unnamed.LOWEST_NUMBER
        return SpeakOptions(self.text, speaker_id=speaker_id, format=self.format, **self.wishes())


class VoiceId(BaseModel):
    """A voice, as OpenAI's SDK names one that was created."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


class SpeechBody(Wishes):
    """The body of /v1/audio/speech as OpenAI's SDK sends it, with the fields that clients of Kokoro-FastAPI add."""

    input: str = Field(description="The text has at least one letter or digit.")
    model: str = Field("", description="One of `GET /v1/models`; left out or empty: the running engine.")
    voice: int | str | VoiceId = Field(0, description="Number or name of a voice, or a name of OpenAI's.")
    instructions: str | None = Field(
        None,
        max_length=MAX_INSTRUCTIONS,
        description="Of no effect, as with OpenAI's tts-1; here `emotion_text` is read.",
    )
    response_format: str = Field("mp3", json_schema_extra={"enum": list(AUDIO_FORMATS)})
    stream_format: Literal["audio", "sse"] = Field("audio", description="`sse`: server-sent events with the audio in base64.")
    speed: float = Field(
        1.0, json_schema_extra={"minimum": OPENAI_SPEEDS[0], "maximum": OPENAI_SPEEDS[1]}, description="2 takes half the time."
    )
    stream: bool | None = Field(
        None, description="false: one whole file. true or left out: sentence by sentence, as each is spoken."
    )
    lang_code: str | None = Field(None, description="Kokoro's letter for `language`; b is spoken as a.")
    download_format: str | None = Field(None, description="Nothing but `response_format`.")
    return_download_link: Literal[False] = Field(False, description="There are no download links.")
    volume_multiplier: float | None = Field(None, ge=1, le=1, description="Nothing but 1.")
    normalization_options: dict[str, bool] | None = Field(
        None, description="Nothing but Kokoro's own defaults: texts are normalised in one way here."
    )

    def options(self) -> SpeakOptions:
        """
        Raises:
            InvalidInput: fields contradict each other, or ask for what is not done here.
        """
        voice = self.voice.id if isinstance(self.voice, VoiceId) else self.voice
        wishes = self.wishes() | {"language": self._language()}
        if self.download_format not in (None, self.response_format):
            raise InvalidInput("download_format is another format than response_format", param="download_format")
        if self.stream is False and self.stream_format == "sse":
            raise InvalidInput("stream is false, and stream_format sse is a stream", param="stream")
        for name, value in (self.normalization_options or {}).items():
            if KOKORO_NORMALIZATION.get(name) is not value:
                raise InvalidInput(
                    f"normalization_options {name[:64]!r} cannot be {str(value).lower()} here", param="normalization_options"
                )
        return SpeakOptions(self.input, speaker_id=voice, format=self.response_format, speeds=OPENAI_SPEEDS, **wishes)

    def _language(self) -> str:
        if self.lang_code is None:
            return self.language
        known = KOKORO_LANGUAGES.get(self.lang_code)
        if known is None:
            raise InvalidInput(
                f"lang_code {self.lang_code[:16]!r} is not spoken here; known: {', '.join(KOKORO_LANGUAGES)}", param="lang_code"
            )
        if self.language not in ("auto", known):
            raise InvalidInput(f"lang_code {self.lang_code!r} is not language {self.language[:16]!r}", param="lang_code")
        return known


def refined(card: EngineCard, settings: Settings) -> dict[str, dict[str, Any]]:
    """What the schemas of both bodies say with this engine and these settings: field -> its schema."""
    text = {"type": "string", "minLength": 1, "pattern": SPEAKABLE}
    limit = f" At most {settings.max_text_chars} characters."
    voice: dict[str, Any] = {"type": ["integer", "string"]}
    if card.speakers:
        numbers = [str(number) for number in range(len(card.speakers))]
        names = {"type": "string", "enum": [*card.speakers, *OPENAI_VOICES, *numbers]}
        voice = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": len(card.speakers) - 1}, names]}
    fields: dict[str, dict[str, Any]] = {
        "text": text | {"description": "At least one letter or digit." + limit, "examples": ["今天天气很好。"]},
        "input": text | {"description": "At least one letter or digit." + limit, "examples": ["Hello there."]},
        "language": {"type": "string", "enum": list(card.languages)},
        "speaker_id": voice,
        "voice": voice if not card.speakers else {"anyOf": [*voice["anyOf"], _voice_object(card)]},
        "model": {"type": "string", "enum": ["", *model_names(card)], "examples": [model_names(card)[1]]},
        "lang_code": {"enum": [None, *KOKORO_LANGUAGES]},
        "download_format": {"enum": [None, *AUDIO_FORMATS]},
    }
    if not card.clones:
        fields |= {name: {"type": "null"} for name in ("emotion_vector", "emotion_voice", "emotion_text")}
    return fields


def _voice_object(card: EngineCard) -> dict[str, Any]:
    names = {"type": "string", "enum": [*card.speakers, *OPENAI_VOICES]}
    return {"type": "object", "properties": {"id": names}, "required": ["id"], "additionalProperties": False}
