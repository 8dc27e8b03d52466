"""The form of /v1/audio/transcriptions: its fields as OpenAI's SDKs send them, with their ranges, checked in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from starlette.datastructures import FormData, UploadFile

from steadyvoice.api.forms import checked, fields_of
from steadyvoice.api.model_routes import check_model
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine_specs import EngineSpec, model_names
from steadyvoice.errors import InvalidInput, TooLarge
from steadyvoice.media.segment import DEFAULT_DETECTION, SpeechDetection
from steadyvoice.service.transcription.result import TranscriptionOptions
from steadyvoice.service.transcription.transcriber import Transcriber
from steadyvoice.settings import Settings

MAX_FIELDS = 32
MAX_FIELD_BYTES = 64_000
MAX_PROMPT = 4_000  # characters
ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]
Granularity = Literal["word", "segment"]


class ServerVad(BaseModel):
    """How speech is told from silence. Values that are left out are OpenAI's."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1, description="Probability of speech at which it begins.")
    prefix_padding_ms: int = Field(300, ge=0, le=5_000, description="Audio that is kept before speech.")
    silence_duration_ms: int = Field(200, ge=0, le=10_000, description="A pause as long as this ends speech.")

    def detection(self) -> SpeechDetection:
        return SpeechDetection(self.threshold, self.prefix_padding_ms / 1000, self.silence_duration_ms / 1000)


def _parsed(value: Any) -> Any:
    """A JSON object in a text field; everything else is left to the check."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


Chunking = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[ServerVad, Tag("server_vad")],
    Discriminator(lambda value: "server_vad" if isinstance(value, dict | ServerVad) else "auto"),
    BeforeValidator(_parsed),
]


class TranscriptionFields(BaseModel):
    """The text fields. A field that is not here is refused: what is ignored in silence might have changed the answer."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", description="One of `GET /v1/models`; left out or empty: the running engine.")
    language: str = Field("auto", description="Of the speech, as ISO 639-1 and with or without a region; `auto` finds it.")
    response_format: ResponseFormat = Field("json", description="`srt` and `vtt` are subtitles, in text/plain.")
    stream: bool = Field(False, description="Server-sent events, one per segment; with `json`, `text` and `verbose_json`.")
    prompt: str = Field("", max_length=MAX_PROMPT, description="No engine here reads one: it cannot change the answer.")
    temperature: float = Field(0, ge=0, le=1, description="The engines here choose the best path and never draw: no effect.")
    timestamp_granularities: list[Granularity] = Field(
        [],
        alias="timestamp_granularities[]",
        description="`verbose_json`: which of `segments` (also by default) and `words` it has. Subtitles: `word` alone gives "
        "one cue per word. Other formats carry no times, and only `segment` is accepted with them.",
    )
    include: list[Literal["logprobs"]] = Field(
        [], alias="include[]", description="`logprobs` of each token, with `json`, where the engine gives them."
    )
    chunking_strategy: Chunking = Field(
        "auto",
        description="Speech is always cut at pauses. `auto` takes this server's values, an object of type `server_vad` its "
        "own; as a JSON object, or in fields such as `chunking_strategy[threshold]`, as OpenAI's SDKs send it.",
    )
    use_itn: bool = Field(True, description="Numbers and dates in digits, where the engine can.")
    merge_length_s: float | None = Field(
        None, description="Neighbouring speech is joined up to this length in seconds; left out: the server's setting."
    )
    service_class: ServiceClass = Field(ServiceClass.INTERACTIVE, description="`batch` lets interactive requests go first.")


LISTS = ("timestamp_granularities[]", "include[]")
# OpenAI's field -> why it is refused, where that is more than an unknown name.
REFUSED = {
    "known_speaker_names[]": "speakers are not told apart here",
    "known_speaker_references[]": "speakers are not told apart here",
}


@dataclass(frozen=True)
class TranscriptionForm:
    """The form, checked."""

    file: BinaryIO
    options: TranscriptionOptions
    format: ResponseFormat
    stream: bool
    granularities: frozenset[Granularity]


def refined(spec: EngineSpec, settings: Settings) -> dict[str, dict[str, Any]]:
    """What the schema of the form says with this engine and these settings: field -> its schema."""
    language = f"^({'|'.join(spec.languages)})([-_][A-Za-z0-9]+)*$"
    include: dict[str, Any] = {"type": "array", "items": {"enum": ["logprobs"]}}
    return {
        "model": {"type": "string", "enum": ["", *model_names(spec)]},
        "language": {"type": "string", "pattern": language},
        "merge_length_s": {"type": "number", "minimum": 0, "maximum": settings.max_segment_s},
        "include[]": include if spec.scores else include | {"maxItems": 0},
    }


def _either(*properties: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"properties": one} for one in properties]}


# What `_check_together` checks, as JSON Schema. Without a response_format it is json.
TOGETHER = (
    _either({"stream": {"const": False}}, {"response_format": {"enum": ["json", "text", "verbose_json"]}}),
    _either({"include[]": {"maxItems": 0}}, {"response_format": {"const": "json"}}),
    {
        "anyOf": [
            {"properties": {"timestamp_granularities[]": {"items": {"const": "segment"}}}},
            {"properties": {"response_format": {"enum": ["verbose_json", "srt", "vtt"]}}, "required": ["response_format"]},
        ]
    },
)


def parse_form(form: FormData, transcriber: Transcriber) -> TranscriptionForm:
    """
    Raises:
        InvalidInput, RequestValidationError: naming field, value and choices.
        ModelNotFound: the model is not the running one.
        TooLarge: the file is over the upload limit.
    """
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidInput("the form has no file in the field 'file'", param="file")
    limit = transcriber.service.settings.max_upload_bytes
    if file.size is not None and file.size > limit:
        raise TooLarge(f"the file has {file.size} bytes; the limit is {limit}", param="file")
    values = fields_of(form, files=("file",), lists=LISTS, nested=("chunking_strategy",))
    for name, reason in REFUSED.items():
        if name in values:
            raise InvalidInput(f"{name}: {reason}", param=name)
    fields = checked(TranscriptionFields, values)
    spec = transcriber.service.spec
    check_model(fields.model, spec)
    _check_together(fields, spec)
    chunking = fields.chunking_strategy
    options = TranscriptionOptions(
        language=fields.language,
        use_itn=fields.use_itn,
        merge_length_s=fields.merge_length_s,
        service_class=fields.service_class,
        logprobs="logprobs" in fields.include,
        detection=chunking.detection() if isinstance(chunking, ServerVad) else DEFAULT_DETECTION,
    )
    return TranscriptionForm(
        file=file.file,
        options=transcriber.check(options),
        format=fields.response_format,
        stream=fields.stream,
        granularities=frozenset(fields.timestamp_granularities),
    )


def _check_together(fields: TranscriptionFields, spec: EngineSpec) -> None:
    """Raises InvalidInput for values that are allowed each, but not with one another or with this engine."""
    chosen = fields.response_format
    if "word" in fields.timestamp_granularities and chosen not in ("verbose_json", "srt", "vtt"):
        raise InvalidInput(
            f"timestamp_granularities word needs response_format verbose_json, srt or vtt, not {chosen}",
            param="timestamp_granularities",
        )
    if fields.stream and chosen in ("srt", "vtt"):
        raise InvalidInput(f"stream gives events, not {chosen}; ask for one of the two", param="stream")
    if fields.include and chosen != "json":
        raise InvalidInput(f"include logprobs needs response_format json, not {chosen}", param="include")
    if fields.include and not spec.scores:
        raise InvalidInput(f"engine {spec.name} gives no log probabilities", param="include")
