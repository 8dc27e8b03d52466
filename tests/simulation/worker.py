"""The model worker: keeps the contract of a worker process (`steadyvoice.worker.__main__`) on the virtual clock.

What it will say is decided when it is told something, and comes out of `receive` when its moment has come. It can do everything
that a process can do to us: take long, fail, die, freeze, talk nonsense, run out of memory, or never come back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from steadyvoice.engine.worker_process import WorkerGone
from steadyvoice.memory import MemorySample
from steadyvoice.protocol import ItemError, ModelInfo, Payload, ProtocolError
from steadyvoice.protocol.messages import (
    HEARTBEAT_S,
    Aborted,
    AskedToLeave,
    Done,
    FromWorker,
    Heartbeat,
    Hello,
    ItemFailed,
    Load,
    Loaded,
    LoadFailed,
    Result,
    ToWorker,
    message_from_worker,
)
from steadyvoice.protocol.model_info import BatchBudget, Failure
from steadyvoice.protocol.wire import Frame
from tests.simulation.traffic import Kind, Piece
from tests.simulation.world import AT_REST_BYTES, Device, Faults

if TYPE_CHECKING:
    from tests.simulation.history import Clock
    from tests.simulation.watch import Watch

HELLO, HEARTBEAT, ASKED_TO_LEAVE = Hello(1), Heartbeat(), AskedToLeave()
FATAL = (Kind.RAISES, Kind.KILLS, Kind.HANGS)
NEVER = math.inf


class ModelWorker:
    """See the module's docstring."""

    connection: Any = None  # of a real pipe; only the engine's thread looks at it

    def __init__(
        self, clock: Clock, random: Random, device: Device, faults: Faults, heartbeat_timeout_s: float, watch: Watch
    ) -> None:
        self.heartbeat_timeout_s = heartbeat_timeout_s
        self.pid = watch.workers
        self._clock = clock
        self._random = random
        self._device = device
        self._faults = faults
        self._watch = watch
        self._outbox: deque[tuple[float, FromWorker | Frame]] = deque()  # with the moment at which it is said
        self._last_beat = self._last_heard = clock.now
        self._dies_at = NEVER
        self._frozen_at = NEVER  # no sign of life from then on
        self._hangs_at = NEVER  # no progress from then on, though it says that it lives
        self._leaked = 0.0
        if faults.kill_every_s < NEVER:
            self._dies_at = clock.now + random.expovariate(1 / faults.kill_every_s)
        self._say(clock.now, HELLO)

    # --- what the engine asks of a worker

    @property
    def hung(self) -> bool:
        return self._clock.now - self._last_heard > self.heartbeat_timeout_s

    def send(self, message: ToWorker) -> None:
        if isinstance(message, Load):
            if self._dies_at <= self._clock.now:
                raise WorkerGone
            self._load()
        else:
            pieces = self._watch.sent(self, message)
            if any(piece.kind is Kind.UNSENDABLE for piece in pieces):
                self._watch.not_sent()
                raise ProtocolError("a dtype that may not cross the pipe")
            if self._dies_at <= self._clock.now:
                self._watch.batch_failed("death")
                raise WorkerGone
            self._run(message.id, pieces)

    def receive(self) -> FromWorker | None:
        now = self._clock.now
        if self._outbox:
            due, message = self._outbox[0]
            if due <= now and due < self._dies_at and due < self._frozen_at:
                self._outbox.popleft()
                self._last_heard = now
                if isinstance(message, Frame):
                    self._watch.heard_nonsense()
                    return message_from_worker(message)
                self._watch.heard(message)
                return message
        if self._dies_at <= now:
            self._watch.died()
            raise WorkerGone
        if self._last_beat + HEARTBEAT_S <= min(now, self._frozen_at):
            self._last_beat = self._last_heard = now
            others_need_memory = self._faults.others_need_memory and self._random.random() < self._faults.others_need_memory
            return ASKED_TO_LEAVE if others_need_memory else HEARTBEAT
        return None

    def stop(self) -> None:
        self._watch.stopped(self)

    def kill(self) -> int:
        self._watch.killed(self)
        return -9

    # --- for the loop of events and the checks

    @property
    def due(self) -> float:
        """When the pipe will next be readable, heartbeats aside."""
        says = self._outbox[0][0] if self._outbox else NEVER
        return self._dies_at if self._dies_at <= says else says if says < self._frozen_at else NEVER

    @property
    def is_well(self) -> bool:
        """It lives, answers and gets on."""
        return min(self._dies_at, self._frozen_at, self._hangs_at) > self._clock.now

    # --- inside

    def _say(self, at: float, message: FromWorker | Frame) -> None:
        self._outbox.append((at, message))

    def _load(self) -> None:
        now, random, faults = self._clock.now, self._random, self._faults
        takes_s = self._device.load_s * random.uniform(0.8, 1.2)
        if random.random() < faults.load_slow:
            takes_s *= 10
        drawn = random.random()
        if drawn < faults.load_fails:
            self._say(now + takes_s, LoadFailed("OSError: model.safetensors is not there"))
            self._dies_at = min(self._dies_at, now + takes_s + 0.1)
        elif drawn < faults.load_fails + faults.load_dies:
            self._dies_at = min(self._dies_at, now + takes_s * random.random())
        else:
            model = ModelInfo("model", "1", self._device.max_batch_items)
            self._say(now + takes_s, Loaded(model, self._memory("load"), self._measured()))

    def _run(self, batch: int, pieces: Sequence[Piece]) -> None:
        random, device, faults = self._random, self._device, self._faults
        longest = max(piece.length for piece in pieces)
        takes_s = device.batch_s(len(pieces) * longest) * (1 + device.jitter * random.random())
        used = device.cost.bytes(len(pieces), longest)
        poison = next((index for index, piece in enumerate(pieces) if piece.kind in FATAL), None)
        drawn = random.random()
        if used > device.memory_bytes or drawn < faults.out_of_memory:
            self._fails(batch, pieces, self._how_many(pieces, poison), takes_s, "oom", used)
        elif poison is not None:
            how = {Kind.RAISES: "error", Kind.KILLS: "death", Kind.HANGS: "hang"}[pieces[poison].kind]
            before = poison if device.streams else self._how_many(pieces, poison)
            self._fails(batch, pieces, before, takes_s, how, used)
        elif drawn < faults.out_of_memory + faults.freeze:
            self._fails(batch, pieces, self._how_many(pieces, poison), takes_s, "freeze", used)
        elif drawn < faults.out_of_memory + faults.freeze + faults.nonsense:
            self._fails(batch, pieces, self._how_many(pieces, poison), takes_s, "nonsense", used)
        else:
            self._answer(batch, pieces, takes_s)
            self._leaked += device.leak_bytes
            self._end(batch, takes_s, used)

    def _how_many(self, pieces: Sequence[Piece], poison: int | None) -> int:
        """Items that have their answers when the batch fails: mostly none, and none after the poison."""
        most = len(pieces) - 1 if poison is None else poison
        return self._random.randint(0, most) if self._random.random() < self._faults.partly else 0

    def _answer(self, batch: int, pieces: Sequence[Piece], takes_s: float) -> None:
        now = self._clock.now
        each_s = takes_s / len(pieces) if pieces else 0.0
        for index, piece in enumerate(pieces):
            at = now + (each_s * (index + 1) if self._device.streams else takes_s)
            if piece.kind is Kind.INVALID:
                self._say(at, ItemFailed(batch, index, ItemError("invalid", "no such voice")))
            else:
                self._say(at, Result(batch, index, takes_s, Payload({"of": piece.id})))

    def _end(self, batch: int, takes_s: float, used: float, failure: Failure | None = None) -> None:
        memory = self._memory("batch")
        done = failure is None
        ended = Done(batch, takes_s, memory, int(used)) if done else Aborted(batch, takes_s, memory, failure, int(used))
        self._say(self._clock.now + takes_s, ended)

    def _fails(self, batch: int, pieces: Sequence[Piece], answered: int, takes_s: float, how: str, used: float) -> None:
        """`answered` of the items have their answers, and then it happens."""
        at = self._clock.now + takes_s
        self._answer(batch, pieces[:answered], takes_s)
        match how:
            case "oom" | "error":
                self._end(batch, takes_s, used, Failure(how))
            case "death":
                self._dies_at = min(self._dies_at, math.nextafter(at, NEVER))  # its answers were read before
            case "freeze":
                self._frozen_at = math.nextafter(at, NEVER)
            case "nonsense":
                self._say(at, self._random.choice(nonsense(batch, answered, self._memory("batch").as_dict())))
            case "hang":
                self._hangs_at = at

    def _measured(self) -> BatchBudget | None:
        """The budget, which depends on how much was free when the model was loaded."""
        measured, free = self._device.measured, self._random.choice((1.0, 0.9, 0.6))
        return None if measured is None else replace(measured, bytes=measured.bytes * free)

    def _memory(self, step: str) -> MemorySample:
        held = int(AT_REST_BYTES + self._leaked)
        return MemorySample(step, "worker", self._clock.now, 10**9, allocated=held, reserved=held, peak=held, free=10**9)


def nonsense(batch: int, index: int, memory: dict[str, Any]) -> list[Frame]:
    """Frames that a worker must not send while item `index` of this batch is the first without an answer."""
    answer, error = Payload({"of": -1}), {"kind": "invalid", "message": "?"}
    said = {"batch": batch, "seconds": 1.0, "memory": memory}
    return [
        Frame("gibberish"),
        Frame("loaded", {"model": {"name": "again", "revision": "1", "max_batch_items": 1}, "memory": memory}),
        Frame("load_failed", {"reason": "again"}),
        Frame("result", {"batch": batch, "index": 1_000, "seconds": 1.0}, (answer,)),
        Frame("result", {"batch": batch + 1, "index": index, "seconds": 1.0}, (answer,)),
        Frame("result", {"batch": batch, "index": index, "seconds": "soon"}, (answer,)),
        Frame("result", {"batch": batch, "index": float(index), "seconds": 1.0}, (answer,)),
        Frame("result", {"batch": batch, "index": [index], "seconds": 1.0}, (answer,)),
        Frame("result", {"batch": batch, "index": index, "seconds": 1.0}, (answer, answer)),
        Frame("result", {"batch": batch, "index": index}, (answer,)),
        Frame("failed", {"batch": batch, "index": index, "error": {"kind": "invalid"}}),
        Frame("failed", {"batch": batch, "index": index - 1 if index else -1, "error": error}),
        Frame("done", said),  # with items unanswered
        Frame("done", said | {"seconds": math.nan}),
        Frame("done", said | {"batch": batch + 1}),
        Frame("aborted", said),
        Frame("aborted", said | {"failure": "death"}),
        Frame("aborted", said | {"failure": "boredom"}),
        Frame("aborted", {"batch": batch, "failure": "error", "memory": {"rss": 1}}),
    ]
