"""What the app process and the worker process say to each other, and how it looks on the pipe.

A frame is a JSON header and raw numpy arrays: nothing that comes from the child is ever unpickled, so a compromised or
confused worker can send wrong data but cannot run code in the app. Imports only the standard library and numpy and runs on
Python 3.10, because a worker may live under another interpreter. Knows nothing of scheduling, HTTP or models.

    app -> worker   load                      worker -> app   hello, loaded | load_failed
                    batch [item, item, …]                     result | failed (one per item, as they finish),
                                                              done | aborted (what is unanswered failed as a whole)
                    (end of file: exit)                       heartbeat, asked_to_leave
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<I")  # bytes of the JSON header
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "int16": np.dtype("<i2")}  # what may cross the pipe
HEARTBEAT_S = 1.0  # a live worker says something at least this often
EXIT_OUT_OF_MEMORY = 76  # status of a worker that had not the memory to read or to say something

FloatArray = NDArray[np.float32]
PcmArray = NDArray[np.int16]


class ProtocolError(Exception):
    """The other side sent something that is not a frame."""


@dataclass(frozen=True)
class Payload:
    """What one item or one answer carries: plain JSON fields and at most a few arrays. The engine passes it on unread."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Message:
    """One frame. `items` carries the payloads of a batch, or the single payload of a result."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[Payload, ...] = ()


def encode(message: Message) -> bytes:
    """Message -> bytes of one frame.

    Raises:
        ProtocolError: an array has a dtype that may not cross the pipe, or a field is not JSON.
    """
    arrays: list[NDArray[Any]] = []
    items = []
    for item in message.items:
        shapes = []
        for array in item.arrays:
            if array.dtype.name not in DTYPES:
                raise ProtocolError(f"dtype {array.dtype.name} may not cross the pipe; allowed: {', '.join(DTYPES)}")
            shapes.append([array.dtype.name, list(array.shape)])
            arrays.append(np.ascontiguousarray(array, dtype=DTYPES[array.dtype.name]))
        items.append({"fields": item.fields, "arrays": shapes})
    try:
        header = json.dumps({"kind": message.kind, "fields": message.fields, "items": items}, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError too
        raise ProtocolError(f"a field is not JSON: {type(error).__name__}") from error
    return b"".join([LENGTH.pack(len(header)), header, *(array.data.cast("B") for array in arrays if array.size)])


def can_be_sent(payload: Payload) -> bool:
    """Whether `encode` takes it."""
    try:
        encode(Message("batch", {}, (payload,)))
    except ProtocolError:
        return False
    return True


def decode(frame: bytes) -> Message:
    """Bytes of one frame -> message. Arrays are read-only views into `frame`.

    Raises:
        ProtocolError: the frame is malformed.
    """
    try:
        (size,) = LENGTH.unpack_from(frame)
        header = json.loads(frame[LENGTH.size : LENGTH.size + size])
        offset = LENGTH.size + size
        items = []
        for item in header["items"]:
            arrays = []
            for name, shape in item["arrays"]:
                if not all(isinstance(side, int) and side >= 0 for side in shape):
                    raise ValueError("a side of a shape is not a number")
                count = math.prod(shape)
                arrays.append(np.frombuffer(frame, DTYPES[name], count, offset).reshape(shape))
                offset += count * DTYPES[name].itemsize
            items.append(Payload(item["fields"], tuple(arrays)))
        if not isinstance(header["fields"], dict):
            raise TypeError("fields are not an object")
        return Message(str(header["kind"]), header["fields"], tuple(items))
    except (struct.error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"malformed frame of {len(frame)} bytes: {error}") from error


# --- What a recogniser is asked and what it answers
# ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)  # an hour has tens of thousands
class Word:
    """One word with its place in the segment, in seconds from the segment's start."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of the text: what it reads as, and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Scores:
    """How sure an engine is of one segment. The defaults stand for an engine that cannot tell."""

    tokens: tuple[int, ...] = ()  # ids in the engine's own vocabulary
    avg_logprob: float = 0.0  # mean log probability of the tokens
    no_speech_prob: float = 0.0
    logprobs: tuple[TokenScore, ...] = ()  # of each token, if the item asked for them

    @property
    def bytes(self) -> int:
        """Of memory, roughly and rather too much."""
        return 40 * len(self.tokens) + 200 * len(self.logprobs)


NO_SCORES = Scores()


@dataclass(frozen=True)
class RecognizeItem:
    """One segment: samples float32 [n] at 16 kHz in -1..1, and the options of the caller it belongs to."""

    samples: FloatArray
    language: str = "auto"
    use_itn: bool = True
    logprobs: bool = False

    def to_payload(self) -> Payload:
        fields = {"language": self.language, "use_itn": self.use_itn, "logprobs": self.logprobs}
        return Payload(fields, (self.samples,))

    @classmethod
    def from_payload(cls, payload: Payload) -> RecognizeItem:
        return cls(samples=payload.arrays[0], **payload.fields)


@dataclass(frozen=True)
class Recognition:
    """The answer for one segment. Emotion and events are None and empty where the engine cannot tell them."""

    text: str
    language: str
    emotion: str | None = None
    events: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    scores: Scores = NO_SCORES

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> Recognition:
        fields = dict(payload.fields)
        words = tuple(Word(**word) for word in fields.pop("words"))
        told = fields.pop("scores")
        scores = Scores(
            **{**told, "tokens": tuple(told["tokens"]), "logprobs": tuple(TokenScore(**token) for token in told["logprobs"])}
        )
        return cls(**{**fields, "events": tuple(fields["events"])}, words=words, scores=scores)


# --- What a synthesiser is asked and what it answers
# -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SynthesizeItem:
    """One piece of text, cleaned and bounded, and how to say it."""

    text: str
    language: str  # zh, yue, en, ja, ko
    speaker: str  # the engine's own, or the name of the voice that `reference` holds
    emotion: str = "neutral"
    emotion_strength: float = 0.6  # 0..1
    speed: float = 1.0  # 2.0 takes half the time
    seed: int | None = None
    expected_s: float = 0.0  # a rough estimate of its length at speed 1; 0: none
    # For engines that imitate. Files are named after what is in them and are there until the answer has come.
    reference: str | None = None  # WAV file with the voice to speak in
    emotion_reference: str | None = None  # WAV file with the emotion to speak with
    emotion_vector: Sequence[float] | None = None  # eight parts, in the order of `engine_specs.EMOTIONS` without neutral
    emotion_text: str | None = None  # a description of it

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> SynthesizeItem:
        return cls(**payload.fields)


@dataclass(frozen=True)
class Speech:
    """Samples int16 [n], mono, at `sample_rate` Hz."""

    samples: PcmArray
    sample_rate: int
    speed: float = 1.0  # at which it was spoken; what it falls short of the caller's is left to time-stretching
    defect: str | None = None  # what is wrong with it after a second try: silent, cut_off, too_short
    retried: bool = False  # the first try had a defect
    reduced: bool = False  # memory was short, and it was made with a simpler search

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    def to_payload(self) -> Payload:
        fields = {name: value for name, value in vars(self).items() if name != "samples"}
        return Payload(fields, (self.samples,))

    @classmethod
    def from_payload(cls, payload: Payload) -> Speech:
        return cls(samples=payload.arrays[0], **payload.fields)


# --- The worker's contract with its engine
# ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """What a model says of itself once it is loaded."""

    name: str
    revision: str
    max_batch_items: int  # more than this in one batch gains nothing


@dataclass(frozen=True)
class MemoryPlan:
    """What the app tells its worker about memory. Bytes."""

    padded_s: float = 0.0  # the most that one batch will hold, in padded seconds; 0: nothing is measured
    longest_s: float = 30.0  # of one item
    limit: int | None = None  # the model and its batches may take so much of the device; None: what is free
    reserve: int = 0  # of the device, to stay free for others
    trim: str = "pressure"  # always, pressure, never
    folder: str | None = None  # of measurements and claims; None: nothing is kept, and the device is not shared


@dataclass(frozen=True)
class BatchBudget:
    """What a loaded worker says of memory: bytes, and bytes per second of audio and per its square."""

    bytes: float  # for one batch, beyond what the model takes at rest
    fixed: float
    linear: float
    quadratic: float
    recycle_bytes: float  # a worker that holds more than this is better replaced


@dataclass(frozen=True)
class ItemError:
    """Why one item of a batch has no answer. `kind` is invalid (the caller's fault), oom, or error."""

    kind: str
    message: str


Outcome = Payload | ItemError
Items = Sequence[Payload]
