"""What a seed stands for: a device, what goes wrong with it, the traffic, and the limits that the engine is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.scheduler import MAX_PADDING_SHARE, Limits
from steadyvoice.engine.worker_policy import NEVER, Policy
from steadyvoice.protocol.cost import CostModel
from steadyvoice.protocol.model_info import BatchBudget

MAX_SEGMENT_S = 30.0
MEGABYTE = 1e6
AT_REST_BYTES = 1_000 * MEGABYTE  # of a loaded model


@dataclass(frozen=True)
class Device:
    """What a worker can do when nothing is wrong with it."""

    speed: float  # seconds of audio per second, padding included
    overhead_s: float  # of every batch
    jitter: float  # a batch takes up to so much longer, as a share
    streams: bool  # answers item by item instead of all at the end
    load_s: float
    max_batch_items: int
    measured: BatchBudget | None  # what the worker says of its memory once it has loaded
    cost: CostModel  # what a batch truly takes
    memory_bytes: float  # what a batch may take
    leak_bytes: float  # held for good after every batch

    def batch_s(self, padded_s: float) -> float:
        """Seconds that a batch takes when nothing disturbs it."""
        return self.overhead_s + padded_s / self.speed


@dataclass(frozen=True)
class Faults:
    """Probabilities, and for the kills the mean time between two."""

    spawn: float = 0.0  # the process cannot be started
    load_fails: float = 0.0
    load_dies: float = 0.0
    load_slow: float = 0.0
    kill_every_s: float = math.inf
    out_of_memory: float = 0.0  # others took the memory, per batch
    freeze: float = 0.0  # stopped, without a sign of life, per batch
    nonsense: float = 0.0  # per batch
    others_need_memory: float = 0.0  # the worker is asked to leave, per sign of life
    partly: float = 0.1  # a batch that fails had answered some of its items before


@dataclass(frozen=True)
class Load:
    """Who comes how often, and with what."""

    rate: float  # requests per second
    burst: float  # times the rate, for a while
    silence: float  # probability per request that nobody comes for a long time after it
    callers: int
    greedy: float  # share of the requests that one caller sends
    batch_class: float  # share of the requests
    long_audio: float  # share of the requests over half a minute
    raises: float  # share of the pieces on which the model raises
    fatal: float  # share of the pieces that kill or hang the worker
    invalid: float  # share of the pieces that the worker refuses by itself
    unsendable: float  # share of the pieces that cannot cross the pipe
    cancels: float  # share of the requests
    deadlines: float  # share of the requests
    interruptions: float  # probability per request that a ticket is cancelled while the engine's thread is at work


@dataclass(frozen=True)
class World:
    """Everything that a seed decides before the first request comes."""

    cards: int
    device: Device
    faults: Faults
    load: Load
    limits: Limits
    policy: Policy
    heartbeat_timeout_s: float


def log_uniform(random: Random, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def world_of(random: Random) -> World:
    """Any world, from a quiet one to one in which everything goes wrong at once."""
    choose, chance = random.choice, random.random
    cards = choose((1, 1, 1, 2, 3))
    budget = Budget(choose((30.0, 60.0, 120.0, 300.0, 600.0)))
    device = _device(random)
    slowest_s = device.batch_s(budget.padded_s) * (1 + device.jitter)
    policy = Policy(
        idle_unload_s=choose((NEVER, NEVER, 2.0, 30.0, 300.0)),
        # A healthy batch is never over the limit, so that a healthy worker that is killed is a bug.
        batch_limit_s=max(5.0, 2 * slowest_s) * choose((1, 1, 4)),
        slowness=choose((2.0, 10.0)),
    )
    faults = Faults(
        spawn=choose((0, 0, 0.02)),
        load_fails=choose((0, 0, 0.05, 0.2)),
        load_dies=choose((0, 0, 0.05, 0.2)),
        load_slow=choose((0, 0.1)),
        kill_every_s=max(choose((math.inf, math.inf, 600.0, 60.0, 20.0)), 10 * device.load_s),
        out_of_memory=choose((0, 0, 0.01, 0.05)),
        freeze=choose((0, 0, 0.000_5)),
        nonsense=choose((0, 0, 0.001)),
        others_need_memory=choose((0, 0, 0.01)),
        partly=choose((0.1, 0.5)),
    )
    # A fatal piece costs several workers: they come so seldom that the device gets on between them.
    rate = cards * _capacity(budget, device) * choose((log_uniform(random, 0.01, 0.3), random.uniform(0.3, 0.9)))
    fatal_every_s = choose(
        (math.inf, 5 * device.load_s + policy.batch_limit_s, 60 + 50 * device.load_s + 20 * policy.batch_limit_s)
    )
    load = Load(
        rate=rate,
        burst=choose((1, 1, 3, 8)),
        silence=choose((0, 0.000_1, 0.001)),
        callers=choose((1, 3, 10)),
        greedy=choose((0, 0.5, 0.9)),
        batch_class=choose((0, 0.2, 0.5)),
        long_audio=choose((0, 0.005, 0.02)),
        raises=choose((0, 0.002, 0.02)),
        fatal=min(0.02, cards / (rate * fatal_every_s)),
        invalid=choose((0, 0.002)),
        unsendable=choose((0, 0, 0.001)),
        cancels=choose((0, 0.02, 0.2)),
        deadlines=choose((0, 0.3, 1.0)),
        interruptions=choose((0, 0.01)) if chance() < 0.5 else 0,
    )
    limits = Limits(budget, max_backlog_s=choose((100.0, 300.0, 1_000.0, 3_000.0)), max_batch_items=choose((64, 64, 8)))
    return World(cards, device, faults, load, limits, policy, heartbeat_timeout_s=choose((5.0, 60.0)))


def _device(random: Random) -> Device:
    cost, measured, memory_bytes = CostModel(), None, math.inf
    if random.random() < 0.6:
        cost = CostModel(
            fixed=random.uniform(0, 50) * MEGABYTE,
            linear=random.uniform(0.5, 5) * MEGABYTE,
            quadratic=random.choice((0.0, random.uniform(0, 0.1))) * MEGABYTE,
        )
        # From a device that does not take the longest segment to one on which the seconds bind first.
        memory_bytes = cost.bytes(1, MAX_SEGMENT_S) * log_uniform(random, 0.7, 20)
        # Measured right, with a margin, or wrongly: as it looks when others take of the memory for good.
        truth = random.choice((1.0, random.uniform(1.0, 2.0), random.uniform(0.3, 1.0)))
        measured = BatchBudget(
            memory_bytes,
            CostModel(truth * cost.fixed, truth * cost.linear, truth * cost.quadratic),
            recycle_bytes=random.choice((math.inf, AT_REST_BYTES + 1_000 * MEGABYTE)),
        )
    return Device(
        speed=log_uniform(random, 10, 600),
        overhead_s=log_uniform(random, 0.02, 0.3),
        jitter=random.choice((0.0, 0.5)),
        streams=random.random() < 0.25,
        load_s=log_uniform(random, 0.3, 20),
        max_batch_items=random.choice((1, 4, 16, 32, 64)),
        measured=measured,
        cost=cost,
        memory_bytes=memory_bytes,
        leak_bytes=random.choice((0, 0, 20 * MEGABYTE)),
    )


def _capacity(budget: Budget, device: Device) -> float:
    """Requests per second that a card carries, roughly: in full batches of the mean length."""
    mean_s = 5.0
    items = max(1, min(device.max_batch_items, int(budget.padded_s / mean_s / (1 + MAX_PADDING_SHARE))))
    return items / device.batch_s(items * mean_s)
