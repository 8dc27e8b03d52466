"""Requests and their pieces, drawn one by one. A request is one job of the scheduler, a piece one of its works."""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import JobHandle, Ticket
from steadyvoice.protocol import Payload
from tests.simulation.world import MAX_SEGMENT_S, Load, log_uniform

SHORTEST_S = 0.1
MEDIUM_S, LONG_S = (MAX_SEGMENT_S, 300.0), (300.0, 7_200.0)  # what is cut into segments
CANNOT_CROSS = (np.zeros(1, np.float64),)  # of a dtype that the protocol does not carry


class Kind(enum.IntEnum):
    """What a piece does to the worker."""

    GOOD = 0
    RAISES = 1  # the model raises on whatever batch it is in
    KILLS = 2  # the worker dies on it
    HANGS = 3  # the model never comes back, while heartbeats go on
    INVALID = 4  # answered with an error of its own
    UNSENDABLE = 5


class Request:
    """One job, and what the checks remember of it."""

    __slots__ = (
        "ahead", "arrived", "caller", "cancelled", "deadline", "handle", "last_turn", "left", "pieces", "service_class", "watch",
    )  # fmt: skip

    def __init__(self, caller: str, service_class: ServiceClass, timeout_s: float, now: float) -> None:
        self.caller = caller
        self.service_class = service_class
        self.arrived = self.last_turn = now
        self.deadline = now + timeout_s
        self.pieces: list[Piece] = []
        self.left = 0  # pieces whose tickets are not resolved
        self.ahead = 0  # other jobs that were there at the last turn
        self.cancelled = math.inf  # since when
        self.handle: JobHandle | None = None
        self.watch: Any = None


class Piece:
    """One work, and what the checks remember of it."""

    __slots__ = (
        "answered", "dispatched", "dispatches", "half", "half_size", "id", "kind", "length", "lone_failures", "on_device",
        "payload", "request", "resolved", "sound", "ticket",
    )  # fmt: skip

    def __init__(self, id: int, request: Request, length: float, kind: Kind, sound: int) -> None:
        self.id = id
        self.request = request
        self.length = length
        self.kind = kind
        self.sound = sound  # what it contains: the same when somebody comes again with the same file
        self.payload = Sound({"sound": sound}, CANNOT_CROSS if kind is Kind.UNSENDABLE else (), self)
        self.ticket: Ticket | None = None
        self.resolved = self.on_device = self.answered = False
        self.dispatches = 0
        self.lone_failures: Counter[str] = Counter()  # by kind: oom, error, death
        self.dispatched = 0.0  # when last
        self.half = 0  # number of the failure that made it a suspect
        self.half_size = 0  # with so many at the most it may run


@dataclass(frozen=True)
class Sound(Payload):
    """A payload that the model worker knows by sight. Its `fields` are all that the engine can see."""

    piece: Any = None


class Traffic:
    """Draws what comes next. Knows nothing of the engine."""

    def __init__(self, random: Random, load: Load) -> None:
        self._random = random
        self._load = load
        self._phase_ends = 0.0
        self._intensity = 1.0
        self._clump = 0  # requests of the greedy caller that come at once
        self._pieces = 0
        self._requests = 0
        self._of_kind = self._kinds()

    def gap_s(self, now: float) -> float:
        """Seconds until the next request: Poisson, at a rate that is higher for a while and lower for another."""
        random, load = self._random, self._load
        if self._clump:
            self._clump -= 1
            return 0.0
        if now >= self._phase_ends:
            bursts = load.burst > 1 and self._intensity <= 1
            self._intensity = load.burst if bursts else 1 / load.burst
            self._phase_ends = now + random.expovariate(load.rate / 50)  # some fifty requests
        if load.silence and random.random() < load.silence:
            return random.choice((10.0, 400.0, 4_000.0))
        return random.expovariate(load.rate * self._intensity)

    def request(self, now: float) -> Request:
        """The next request, of anybody."""
        random, load = self._random, self._load
        self._requests += 1
        if random.random() < load.greedy:
            caller = "greedy"
            if not self._clump and random.random() < 0.005:
                self._clump = random.randrange(40)
        elif random.random() < 0.05:
            caller = f"visitor {self._requests}"
        else:
            caller = f"caller {random.randrange(load.callers)}"
        of = ServiceClass.BATCH if random.random() < load.batch_class else ServiceClass.INTERACTIVE
        request = Request(caller, of, self._timeout_s(), now)
        for length in self._lengths():
            self.add_piece(request, length, self._kind())
        return request

    def again(self, piece: Piece, now: float) -> Request:
        """Somebody sends the same piece once more, as a request of its own."""
        request = Request(piece.request.caller, piece.request.service_class, math.inf, now)
        self.add_piece(request, piece.length, piece.kind, piece.sound)
        return request

    def add_piece(self, request: Request, length: float, kind: Kind, sound: int | None = None) -> None:
        self._pieces += 1
        request.pieces.append(Piece(self._pieces, request, length, kind, self._pieces if sound is None else sound))

    def _lengths(self) -> list[float]:
        random, load = self._random, self._load
        if random.random() >= load.long_audio:
            if random.random() < 0.1:
                return [log_uniform(random, 10, MAX_SEGMENT_S)]
            return [log_uniform(random, SHORTEST_S, 10)]
        whole = log_uniform(random, *(MEDIUM_S if random.random() < 0.95 else LONG_S))
        lengths = []
        while whole > MAX_SEGMENT_S:
            lengths.append(random.uniform(5, MAX_SEGMENT_S))
            whole -= lengths[-1]
        return [*lengths, max(whole, SHORTEST_S)]

    def _timeout_s(self) -> float:
        random = self._random
        if random.random() >= self._load.deadlines:
            return math.inf
        return log_uniform(random, 0.2, 10) if random.random() < 0.1 else random.uniform(30, 300)

    def _kind(self) -> Kind:
        drawn = self._random.random()
        for kind, up_to in self._of_kind:
            if drawn < up_to:
                return kind
        return Kind.GOOD

    def _kinds(self) -> list[tuple[Kind, float]]:
        load, up_to, kinds = self._load, 0.0, []
        shares = {Kind.RAISES: load.raises, Kind.KILLS: load.fatal / 2, Kind.HANGS: load.fatal / 2}
        for kind, share in (shares | {Kind.INVALID: load.invalid, Kind.UNSENDABLE: load.unsendable}).items():
            up_to += share
            kinds.append((kind, up_to))
        return [(kind, up_to) for kind, up_to in kinds if up_to]
