"""The messages between the app process and its worker, one frozen dataclass per kind, parsed and validated here alone.

app -> worker   Load                      worker -> app   Hello, Loaded | LoadFailed
                Batch [item, item, …]                     Result | ItemFailed (one per item, as they finish),
                                                          Done | Aborted (what is unanswered failed as a whole)
                (end of file: exit)                       Heartbeat, AskedToLeave
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from steadyvoice.memory import MemorySample
from steadyvoice.protocol.fields import parse
from steadyvoice.protocol.model_info import BatchBudget, Failure, ItemError, MemoryPlan, ModelInfo
from steadyvoice.protocol.wire import Frame, Payload, ProtocolError

HEARTBEAT_S = 1.0  # a live worker sends something at least this often
EXIT_OUT_OF_MEMORY = 76  # status of a worker that had not the memory to read or to send


@dataclass(frozen=True)
class WorkerArguments:
    """What a worker is started with, as its one argument on the command line."""

    fd: int  # of its end of the pipe
    parent: int  # process id of the app
    engine: str  # a name that steadyvoice.worker.registry knows, or module:Class
    options: dict[str, Any]  # of the engine's constructor
    memory: MemoryPlan

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerArguments:
        return parse(cls, json.loads(text))


M = TypeVar("M")


# --- app -> worker


@dataclass(frozen=True)
class Load:
    """Load the model."""

    kind: ClassVar[str] = "load"


@dataclass(frozen=True)
class Batch:
    """Run these items together."""

    kind: ClassVar[str] = "batch"
    id: int
    last_try: bool  # if memory runs out once more, the item has failed
    items: tuple[Payload, ...]


# --- worker -> app


@dataclass(frozen=True)
class Hello:
    """The process runs and reads its pipe."""

    kind: ClassVar[str] = "hello"
    pid: int


@dataclass(frozen=True)
class Loaded:
    """The model is ready. `budget` is None where its memory was not measured."""

    kind: ClassVar[str] = "loaded"
    model: ModelInfo
    memory: MemorySample
    budget: BatchBudget | None = None


@dataclass(frozen=True)
class LoadFailed:
    """The model could not be loaded; the worker ends."""

    kind: ClassVar[str] = "load_failed"
    reason: str


@dataclass(frozen=True)
class Result:
    """The answer to item `index` of the batch."""

    kind: ClassVar[str] = "result"
    batch: int
    index: int
    seconds: float  # since the answer before it
    payload: Payload

    def __post_init__(self) -> None:
        _check_seconds(self.seconds)


@dataclass(frozen=True)
class ItemFailed:
    """Item `index` of the batch has no answer; its neighbours may have theirs."""

    kind: ClassVar[str] = "failed"
    batch: int
    index: int
    error: ItemError


@dataclass(frozen=True)
class Done:
    """The batch is over and every item was answered. `used` are the most bytes that it held."""

    kind: ClassVar[str] = "done"
    batch: int
    seconds: float
    memory: MemorySample
    used: int | None = None  # None where the worker cannot tell

    def __post_init__(self) -> None:
        _check_seconds(self.seconds)


@dataclass(frozen=True)
class Aborted:
    """The batch is over, and the items that were not answered failed together. The worker lives."""

    kind: ClassVar[str] = "aborted"
    batch: int
    seconds: float
    memory: MemorySample
    failure: Failure
    used: int | None = None

    def __post_init__(self) -> None:
        _check_seconds(self.seconds)
        if self.failure is Failure.DEATH:
            raise ValueError("a worker cannot report its own death")


@dataclass(frozen=True)
class Heartbeat:
    """The process is alive."""

    kind: ClassVar[str] = "heartbeat"


@dataclass(frozen=True)
class AskedToLeave:
    """Alive, and another worker has asked for the memory of the device."""

    kind: ClassVar[str] = "asked_to_leave"


ToWorker = Load | Batch
FromWorker = Hello | Loaded | LoadFailed | Result | ItemFailed | Done | Aborted | Heartbeat | AskedToLeave
TO_WORKER: dict[str, type[ToWorker]] = {cls.kind: cls for cls in (Load, Batch)}
FROM_WORKER: dict[str, type[FromWorker]] = {
    cls.kind: cls for cls in (Hello, Loaded, LoadFailed, Result, ItemFailed, Done, Aborted, Heartbeat, AskedToLeave)
}


def to_frame(message: ToWorker | FromWorker) -> Frame:
    """The message as it is encoded."""
    items = message.items if isinstance(message, Batch) else (message.payload,) if isinstance(message, Result) else ()
    return Frame(message.kind, {k: _json(v) for k, v in vars(message).items() if k not in ("items", "payload")}, items)


def message_to_worker(frame: Frame) -> ToWorker:
    """What the app asks. Raises ProtocolError."""
    return _message(TO_WORKER, frame)


def message_from_worker(frame: Frame) -> FromWorker:
    """What the worker reports. Raises ProtocolError."""
    return _message(FROM_WORKER, frame)


def _message(kinds: dict[str, type[M]], frame: Frame) -> M:
    cls = kinds.get(frame.kind)
    if cls is None:
        raise ProtocolError(f"message {frame.kind!r:.80} is unknown")
    if cls is Batch:
        return parse(cls, frame.fields, items=frame.items)
    if len(frame.items) != (cls is Result):
        raise ProtocolError(f"message {frame.kind!r} with {len(frame.items)} items")
    return parse(cls, frame.fields, **({"payload": frame.items[0]} if frame.items else {}))


def _json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds < float("inf"):  # also refuses NaN, with which a rate would never again tell that a batch hangs
        raise ValueError(f"{seconds} seconds")
