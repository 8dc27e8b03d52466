"""The bodies of /synthesize and /v1/audio/speech. What depends on the engine is described here, and checked for the page as well
by `speech.request.check`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine_specs import EMOTIONS, OPENAI_VOICES, EngineSpec, model_names
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AUDIO_FORMATS, audio_format
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.media.text import HAN, KANA, SPEAKABLE
from steadyvoice.service.speech.request import EMOTION_PARTS, SpeechOptions, Unnamed
from steadyvoice.settings import Settings

OPENAI_SPEEDS = (0.25, 4.0)
MAX_SEED = 2**53 - 1  # up to here every JSON reader keeps whole numbers as they are (RFC 8259, section 6)
MAX_INSTRUCTIONS = 4_096  # characters


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_whole)]
# Kokoro's letter for a language -> ours, of those that are spoken here.
KOKORO_LANGUAGES = {"a": "en", "b": "en", "j": "ja", "z": "zh"}


class SpeechParams(BaseModel):
    """Parameters of both routes. An unknown field is refused: a typing error must not silently change the voice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    language: str = Field("auto", description="`auto` finds it from the script, for each sentence.")
    emotion: str = Field("neutral", json_schema_extra={"enum": list(EMOTIONS)})
    emotion_strength: float = Field(0.6, json_schema_extra={"minimum": 0, "maximum": 1})
    emotion_vector: list[float] | None = Field(
        None, description=f"{EMOTION_PARTS} numbers from 0 to 1: {', '.join(EMOTIONS[1:])}. With engines that imitate."
    )
    emotion_voice: Whole | str | None = Field(None, description="A voice that has the emotion. With engines that imitate.")
    emotion_text: str | None = Field(None, description="A description of the emotion. With engines that read one.")
    speed: float = Field(
        1.0, json_schema_extra={"minimum": MIN_SPEED, "maximum": MAX_SPEED}, description="2 takes half the time."
    )
    seed: Seed | None = Field(None, description="The same seed gives the same audio.")
    service_class: Annotated[ServiceClass, Field(strict=False)] = Field(
        ServiceClass.INTERACTIVE, description="`batch` lets interactive requests go first."
    )

    def params(self) -> dict[str, Any]:
        """By the names of `SpeechOptions`."""
        return {name: getattr(self, name) for name in SpeechParams.model_fields}


class SynthesizeBody(SpeechParams):
    """The body of /synthesize."""

    text: str = Field(description="The text has at least one letter or digit.")
    speaker_id: Whole | str = Field(
        0, description="Number or name of a voice, see `GET /v1/voices`. Left out: the voice with the lowest number."
    )
    format: str = Field("wav", json_schema_extra={"enum": list(AUDIO_FORMATS)})
    stream: bool | None = Field(None, description="Left out: where the audio will last over a minute.")

    def options(self) -> SpeechOptions:
        # The default is the first voice there is, which need not be number 0: that may have been removed.
        speaker_id = self.speaker_id if "speaker_id" in self.model_fields_set else Unnamed.LOWEST_NUMBER
        return SpeechOptions(self.text, speaker_id=speaker_id, format=self.format, **self.params())


class VoiceId(BaseModel):
    """A voice, as OpenAI's SDK names one that was created."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


Yes = Annotated[bool, Field(json_schema_extra={"const": True})]
No = Annotated[bool, Field(json_schema_extra={"const": False})]


class Normalization(BaseModel):
    """Kokoro's options for how a text is read, at the values that Kokoro takes if it is not told otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True)

    normalize: Yes = True
    unit_normalization: No = False
    url_normalization: Yes = True
    email_normalization: Yes = True
    optional_pluralization_normalization: Yes = True
    phone_normalization: Yes = True
    replace_remaining_symbols: Yes = True


class SpeechBody(SpeechParams):
    """The body of /v1/audio/speech as OpenAI's SDK sends it, with the fields that clients of Kokoro-FastAPI add."""

    input: str = Field(description="The text has at least one letter or digit.")
    model: str = Field("", description="One of `GET /v1/models`; left out or empty: the running engine.")
    voice: Whole | str | VoiceId = Field(0, description="Number or name of a voice, or a name of OpenAI's.")
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
        None, description="false: one whole file. true or left out, and with sse: sentence by sentence, as each is spoken."
    )
    lang_code: str | None = Field(None, description="Kokoro's letter for the language, where `language` is auto; b is read as a.")
    return_download_link: No = Field(False, description="Nothing but false: there are no download links.")
    download_format: str | None = Field(None, description="Of the download link, so without effect.")
    volume_multiplier: float | None = Field(None, ge=1, le=1, description="Nothing but 1.")
    normalization_options: Normalization | None = Field(None, description="Texts are normalised in one way here.")

    def options(self) -> SpeechOptions:
        """
        Raises:
            InvalidInput: it asks for what is not done here.
        """
        voice = self.voice.id if isinstance(self.voice, VoiceId) else self.voice
        params = self.params() | {"language": self._language()}
        if self.return_download_link:
            raise InvalidInput("there are no download links: the answer is the audio", param="return_download_link")
        if self.download_format is not None:
            audio_format(self.download_format, "download_format")
        for name, default in Normalization() if self.normalization_options else ():
            if getattr(self.normalization_options, name) is not default:
                raise InvalidInput(
                    f"normalization_options {name} is only {str(default).lower()} here", param="normalization_options"
                )
        return SpeechOptions(self.input, speaker_id=voice, format=self.response_format, speeds=OPENAI_SPEEDS, **params)

    def _language(self) -> str:
        if self.lang_code is None:
            return self.language
        known = KOKORO_LANGUAGES.get(self.lang_code)
        if known is None:
            raise InvalidInput(
                f"lang_code {self.lang_code[:16]!r} is not spoken here; known: {', '.join(KOKORO_LANGUAGES)}", param="lang_code"
            )
        return known if self.language == "auto" else self.language


def refined(spec: EngineSpec, settings: Settings) -> dict[str, dict[str, Any]]:
    """What the schemas of both bodies say with this engine and these settings: field -> its schema."""
    text = {"type": "string", "minLength": 1, "pattern": SPEAKABLE}
    limit = f" At most {settings.max_text_chars} characters."
    voice: dict[str, Any] = {"type": ["integer", "string"]}
    if spec.speakers:
        numbers = [str(number) for number in range(len(spec.speakers))]
        names = {"type": "string", "enum": [*spec.speakers, *OPENAI_VOICES, *numbers]}
        voice = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": len(spec.speakers) - 1}, names]}
    fields: dict[str, dict[str, Any]] = {
        "text": text | {"description": "At least one letter or digit." + limit, "examples": ["今天天气很好。"]},
        "input": text | {"description": "At least one letter or digit." + limit, "examples": ["Hello there."]},
        "language": {"type": "string", "enum": list(spec.languages)},
        "speaker_id": voice,
        "voice": voice if not spec.speakers else {"anyOf": [*voice["anyOf"], _voice_object(spec)]},
        "model": {"type": "string", "enum": ["", *model_names(spec)], "examples": [model_names(spec)[1]]},
        "lang_code": {"enum": [None, *KOKORO_LANGUAGES]},
        "download_format": {"enum": [None, *AUDIO_FORMATS]},
    }
    if not spec.clones:
        fields |= {name: {"type": "null"} for name in ("emotion_vector", "emotion_voice", "emotion_text")}
    return fields


def _voice_object(spec: EngineSpec) -> dict[str, Any]:
    names = {"type": "string", "enum": [*spec.speakers, *OPENAI_VOICES]}
    return {"type": "object", "properties": {"id": names}, "required": ["id"], "additionalProperties": False}


def together(spec: EngineSpec, text: str) -> list[dict[str, Any]]:
    """What the text, in the field of that name, may be in a language: an engine may read Japanese in kana only."""
    if spec.reads_kanji:
        return []
    # The letters themselves: JSON Schema has no escape for those beyond U+FFFF.
    letters = [script.pattern[1:-1].encode().decode("unicode_escape") for script in (HAN, KANA)]
    no_han, no_kana = ({text: {"pattern": f"^[^{some}]*$"}} for some in letters)
    other = [{"language": {"enum": [name for name in spec.languages if name != given]}} for given in ("ja", "auto")]
    given = {"required": ["language"]}  # or it is auto
    return [
        {"anyOf": [{"properties": other[0]}, {"properties": no_han}]},
        {"anyOf": [{"properties": other[1], **given}, {"properties": no_han}, {"properties": no_kana}]},
        {"anyOf": [{"properties": {"lang_code": {"enum": [None, "a", "b", "z"]}}}, {"properties": no_han}]},
    ]
