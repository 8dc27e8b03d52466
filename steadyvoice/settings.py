"""The environment, read once into one frozen object.

Every setting is `STEADYVOICE_<NAME>` in the environment or in `.env` (the environment wins). A value that is not allowed stops
the start with its name, the value and what is allowed; so does an unknown name, since a typing error that is silently
ignored costs more than a refused start. Knows nothing of what the settings are used for.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "STEADYVOICE_"
ROOT = Path(__file__).resolve().parent.parent

# For start_app.sh alone; may stand in the same .env.
FOR_THE_LAUNCHER = frozenset({"PYTHON"})

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
SERVICE_LINK = re.compile(
    r"(?P<service>STEADYVOICE(_[A-Z0-9_]+?)??)_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|(?P<url>PORT)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

MULTIPART_MB = 1.0  # of boundaries and other fields beside the file of an upload
STORED_MB = 100.0  # at least, unless MAX_STORED_MB says otherwise: what the pages offer for download is stored there too

Port = Annotated[int, Field(ge=1, le=65_535)]
# A relative path means the same folder from wherever the app is started. Links stay: an environment's `python` is one, and what
# it leads to is another interpreter.
RootedPath = Annotated[Path, AfterValidator(lambda path: ROOT / path.expanduser())]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _host_name(name: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9a-fA-F:.]+\]?", name):
        raise ValueError(f"{name!r} is no host name: without scheme and port, as speech.example.com or *.example.com")
    return name.lower()


def _origin(origin: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@*]+", origin):
        raise ValueError(f"{origin!r} is no origin: scheme, host and port only, as https://example.com or http://localhost:3000")
    return origin.lower()


def _network(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise ValueError(f"{network!r} is neither an address nor a network: {error}") from None


HostNames = Annotated[tuple[Annotated[str, AfterValidator(_host_name)], ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]


class SettingsError(Exception):
    """A setting has a value that is not allowed. The message is one line per setting, ready to print."""


class Settings(BaseSettings):
    """All settings, with defaults that are right for one workstation. Each description says when to change it."""

    # An empty value means "as if not set": that is how .env and compose files leave a choice open.
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 only behind a firewall or nginx")
    allowed_hosts: HostNames = Field(
        (), description="further names by which clients reach the server, comma-separated; *.example.com, or * for any"
    )
    cors_origins: Origins = Field(
        (), description="web pages of other origins that may use the API, comma-separated, as https://example.com; * for any"
    )
    trusted_proxies: Networks = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For is believed, comma-separated"
    )
    asr_port: Port = Field(6006, description="port of the speech-to-text app")
    tts_port: Port = Field(7860, description="port of the text-to-speech app")
    asr_engine: Literal["auto", "sensevoice", "funasr", "pocketsphinx"] = Field(
        "auto", description="recogniser; auto takes the first that can work"
    )
    tts_engine: Literal["auto", "indextts2", "espeak"] = Field(
        "auto", description="synthesiser; auto takes the first that can work"
    )
    cache_hub: RootedPath = Field(ROOT / "cache_hub", description="folder of weights and voices; move it to a larger disk")
    hub: Literal["modelscope", "huggingface", "none"] = Field(
        "modelscope", description="where start_app.sh fetches SenseVoiceSmall from; none fetches nothing"
    )
    sensevoice_dir: RootedPath | None = Field(None, description="release directory of your own; nothing is fetched then")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto", description="arithmetic of engine sensevoice; auto is the fastest that keeps the text"
    )
    funasr_model: str | None = Field(
        None,
        max_length=500,
        description="for engine funasr: another model than SenseVoiceSmall, by FunASR's name or as a directory",
    )
    indextts_python: RootedPath | None = Field(
        None, description="interpreter of your own IndexTTS2 environment; nothing is fetched then"
    )
    preload: bool = Field(False, description="load the model at start instead of at the first request")
    queue_size: int | None = Field(None, ge=0, le=10_000, description="requests that may wait; empty: 5")
    concurrency: int | None = Field(
        None, ge=1, le=256, description="requests worked on at once; empty: 2, or 1 on a card under 20 GB"
    )
    gpu_memory_gb: float | None = Field(
        None,
        gt=0,
        description="the model and its batches may take so much of the card, or of RAM without one; empty: what is free",
    )
    trim: Literal["always", "pressure", "never"] = Field(
        "pressure", description="when cached memory is given back: after every batch, when memory is short, or never"
    )
    idle_unload_s: float = Field(
        600.0, ge=0, description="seconds without a request after which the model leaves memory until the next one; 0: it stays"
    )
    batch_size_s: float = Field(30.0, ge=1, le=36_000, description="padded seconds in one batch; raise it on a large card")
    merge_length_s: float = Field(10.0, ge=0, le=3_600, description="join neighbouring speech up to this many seconds")
    max_segment_s: float = Field(30.0, ge=1, le=600, description="no segment is longer, pause or no pause")
    max_upload_mb: float = Field(200.0, gt=0, le=10_000, description="largest upload")
    max_stored_mb: float | None = Field(
        None, gt=0, le=1_000_000, description="uploads and downloads of the page that are kept; empty: ten of the largest uploads"
    )
    max_audio_s: float = Field(4 * 3_600.0, gt=0, le=86_400, description="longest decoded audio")
    max_text_chars: int = Field(5_000, ge=1, le=1_000_000, description="longest text to speak")
    max_backlog_s: float = Field(8 * 3_600.0, gt=0, description="audio seconds that may wait in total before 429")
    request_timeout_s: float = Field(3_600.0, gt=0, description="a request that takes longer gets 504")
    progress_timeout_s: float = Field(
        30.0,
        ge=0.1,
        le=3_600,
        description="time without progress, while a body is sent or an answer is read, after which a connection is cut",
    )
    drain_s: float = Field(30.0, ge=0, le=3_600, description="after SIGTERM, how long running requests may take to finish")
    result_cache_mb: float = Field(64.0, ge=0, description="memory for finished transcripts and speech; 0 keeps none")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line in the log")

    @model_validator(mode="after")
    def _lengths_fit_one_another(self) -> Settings:
        if self.batch_size_s < self.max_segment_s:
            raise ValueError(
                f"{PREFIX}BATCH_SIZE_S={self.batch_size_s:g} is smaller than "
                f"{PREFIX}MAX_SEGMENT_S={self.max_segment_s:g}: one segment must fit into a batch"
            )
        if "merge_length_s" in self.model_fields_set and self.merge_length_s > self.max_segment_s:
            raise ValueError(
                f"{PREFIX}MERGE_LENGTH_S={self.merge_length_s:g} is over "
                f"{PREFIX}MAX_SEGMENT_S={self.max_segment_s:g}: what was joined would be cut again"
            )
        if self.max_stored_mb is not None and self.max_stored_mb < self.max_upload_mb + MULTIPART_MB:
            raise ValueError(
                f"{PREFIX}MAX_STORED_MB={self.max_stored_mb:g} has no room for one upload of "
                f"{PREFIX}MAX_UPLOAD_MB={self.max_upload_mb:g} and {MULTIPART_MB:g} MB of form around it"
            )
        return self

    @property
    def default_merge_length_s(self) -> float:
        """`merge_length_s`, which as a default gives way to a shorter `max_segment_s`."""
        return min(self.merge_length_s, self.max_segment_s)

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1_000_000)

    @property
    def max_stored_bytes(self) -> int:
        """`max_stored_mb`, which as a default follows `max_upload_mb`."""
        return int((self.max_stored_mb or max(STORED_MB, 10 * (self.max_upload_mb + MULTIPART_MB))) * 1_000_000)


def load_settings(env_file: Path | None = ROOT / ".env") -> Settings:
    """Read the environment and, beneath it, `env_file`.

    Raises:
        SettingsError: a value is not allowed, or a `STEADYVOICE_` name is unknown.
    """
    try:
        in_file = dotenv_values(env_file) if env_file and env_file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from error
    environment = {**in_file, **os.environ}
    injected = {name for name, value in environment.items() if _is_injected(name, value or "")}
    problems = _explain_injected(injected, environment)
    problems += _unknown_names({name: value for name, value in environment.items() if name not in injected})
    try:
        settings = Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        known = {name.upper().removeprefix(PREFIX).lower() for name in injected}
        problems += [_explain(problem) for problem in error.errors() if not known.intersection(problem["loc"])]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _is_injected(name: str, value: str) -> bool:
    """Whether Kubernetes has set this variable, to tell a pod where a Service is."""
    named = SERVICE_LINK.fullmatch(name.upper())
    return bool(named and value and (not named["url"] or SERVICE_URL.match(value)))


def _explain_injected(names: set[str], environment: Mapping[str, str | None]) -> list[str]:
    """One line for each Service, which names the first of its variables."""
    first: dict[str, str] = {}
    for name in sorted(names):
        named = SERVICE_LINK.fullmatch(name.upper())
        assert named is not None
        first.setdefault(named["service"].replace("_", "-").lower(), name)
    return [
        f"{name}={environment[name]!r}: Kubernetes sets this in every pod for a Service named {service}; "
        f"set `enableServiceLinks: false` in the pod's spec, or give the Service another name"
        for service, name in first.items()
    ]


def _unknown_names(environment: Mapping[str, str | None]) -> list[str]:
    known = {name.upper() for name in Settings.model_fields}
    problems = []
    for name, value in sorted(environment.items()):
        short = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or short in known | FOR_THE_LAUNCHER or not value:
            continue
        close = difflib.get_close_matches(short, known, n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"
        problems.append(f"{name}={value!r}: no such setting; {hint}")
    return problems


def _explain(problem: ErrorDetails) -> str:
    """One line: name, value, what is allowed."""
    if not problem["loc"]:  # a rule about two settings, which names them itself
        return str(problem.get("ctx", {}).get("error", problem["msg"]))
    field = str(problem["loc"][0])
    allowed = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{PREFIX}{field.upper()}={problem['input']!r}: {allowed} ({Settings.model_fields[field].description})"
