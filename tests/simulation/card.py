"""One dispatcher with its worker, driven as the engine's thread drives it.

It sleeps until the pipe is readable, somebody rings, or the timer that the dispatcher asked for is due, and then hears and turns.
So a forgotten ring and a timer that comes too late, or again and again, show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from steadyvoice.engine.dispatcher import Dispatcher
from steadyvoice.engine.worker_process import WorkerSpec
from tests.simulation.history import Clock, History
from tests.simulation.verdicts import Broken
from tests.simulation.watch import Watch
from tests.simulation.worker import ModelWorker
from tests.simulation.world import World

SPINS = 5  # turns at one moment without anything to do


class Card:
    """See the module's docstring."""

    def __init__(self, number: int, world: World, clock: Clock, history: History, random: Random) -> None:
        self.number = number
        self.due = math.inf  # when its thread wakes by itself
        self.wakes_at = math.inf  # the earliest of its entries among the events
        self.watch = Watch(number, world, clock, history)
        self.interruption: Callable[[], None] | None = None  # to come when the engine's thread is next at work
        self._rung = False
        self._world = world
        self._clock = clock
        self._history = history
        self._random = random
        self._spins = 0
        self._last_turn = -1.0
        spec = WorkerSpec("model", heartbeat_timeout_s=world.heartbeat_timeout_s)
        self.dispatcher = Dispatcher(spec, world.limits, policy=world.policy, wake=self._ring, clock=clock, spawn=self._spawn)
        self.watch.dispatcher = self.dispatcher

    def _ring(self) -> None:
        self._rung = True

    def _spawn(self, spec: WorkerSpec) -> ModelWorker:
        if self._random.random() < self._world.faults.spawn:
            self.watch.could_not_start()
            raise OSError(12, "Cannot allocate memory")
        worker = ModelWorker(
            self._clock, self._random, self._world.device, self._world.faults, spec.heartbeat_timeout_s, self.watch
        )
        self.watch.started(worker)
        return worker

    @property
    def load_s(self) -> float:
        """Seconds of audio that wait or run."""
        return self.watch.waiting_s + sum(piece.length for piece in self.watch.batch or ())

    def wake(self) -> None:
        """Let the engine's thread run if it would not sleep on, then check everything."""
        now, dispatcher, watch = self._clock.now, self.dispatcher, self.watch
        if self._rung or self.due <= now:
            before, by_timer = self._history.events, not self._rung
            if self.interruption is not None:
                self._clock.interrupt(self.interruption, self._random.randrange(8))
                self.interruption = None
            while True:
                self._rung = False
                watch.turns += 1
                dispatcher.receive()
                dispatcher.step()
                timer_s = dispatcher.next_timer_s()
                if not self._rung:
                    break
            self._clock.do_not_interrupt()
            self.due = min(now + timer_s, watch.worker.due if watch.worker is not None else math.inf)
            self._spins = self._spins + by_timer if before == self._history.events and self._last_turn == now else 0
            self._last_turn = now
            if self._spins > SPINS:
                raise Broken("the engine spins: its timer is due again and again, and there is nothing to do")
        watch.check(asleep=self.due > now)
