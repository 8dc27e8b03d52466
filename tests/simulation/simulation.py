"""The loop of events: arrivals, what workers say, timers, cancels; and after each of them the checks."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from steadyvoice import errors
from steadyvoice.engine import tickets
from steadyvoice.engine.tickets import Task
from tests.simulation.card import Card
from tests.simulation.history import ARRIVED, CANCELLED, REFUSED, TURNED, Clock, History
from tests.simulation.traffic import Kind, Piece, Request, Traffic
from tests.simulation.verdicts import Broken, WatchedTicket
from tests.simulation.world import World, world_of

THOROUGH_EVERY = 500  # arrivals between two checks of everything
LONGEST_DRAIN_S = 6 * 3_600.0  # after the last arrival everybody has an answer by then


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    requests: int
    digest: int = 0
    events: int = 0
    virtual_s: float = 0.0
    longest_wait_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    broken: str | None = None
    history: list[str] = field(default_factory=list)


AFFINITIES = ("", "", "low voice", "high voice")  # of pieces, by what is in them


class Simulation:
    """One seed."""

    def __init__(self, seed: int, requests: int, world: World | None = None) -> None:
        self.random = Random(seed)
        self.world = world or world_of(self.random)
        self.clock = Clock()
        self.history = History(self.clock)
        self.cards = [Card(number, self.world, self.clock, self.history, self.random) for number in range(self.world.cards)]
        self.outcome = Outcome(seed, requests)
        self._traffic = Traffic(self.random, self.world.load)
        self._events: list[tuple[float, int, Callable[[Any], None] | None, Any]] = []  # None: a card wakes
        self._others = 0  # events that are no card's waking
        self._order = itertools.count()
        self._to_come = requests
        self._drains_since = math.inf
        self._loads: list[Future[Any]] = []
        self._again: Counter[int] = Counter()  # sound -> how often it came again

    def run(self) -> Outcome:
        """Never raises for a broken invariant: the outcome says it."""
        outcome = self.outcome
        try:
            with tickets_are_watched():
                self._run()
        except Broken as broken:
            outcome.broken = str(broken)
        except Exception as error:
            logging.disable(logging.NOTSET)
            logging.getLogger(__name__).exception("a bug")
            outcome.broken = f"the engine's thread ended by {error!r}"
        if outcome.broken:
            outcome.history = self.history.lines()
        for card in self.cards:
            outcome.counts.update(card.watch.counts)
            outcome.counts["waits out of patience"] += card.watch.fairness.out_of_patience
            outcome.counts.update({f"engine: {name}": count for name, count in card.dispatcher.status().events.items()})
        outcome.longest_wait_s = max(card.watch.fairness.longest_wait_s for card in self.cards)
        outcome.digest, outcome.events, outcome.virtual_s = self.history.digest, self.history.events, self.clock.now
        return outcome

    def _run(self) -> None:
        if self.random.random() < 0.5:
            self._ask_for_a_load(self.cards[0])
        self._at(0.0, self._arrives, None)
        while self._events:
            self.clock.now, _, act, about = heapq.heappop(self._events)
            if act is None:
                self._wakes(about)
            else:
                self._others -= 1
                act(about)
            if not self._others and self._is_at_rest():
                break
        self._close()

    # --- events

    def _at(self, moment: float, act: Callable[[Any], None], about: Any) -> None:
        self._others += 1
        heapq.heappush(self._events, (moment, next(self._order), act, about))

    def _wakes(self, card: Card) -> None:
        if card.wakes_at != self.clock.now:
            return  # it was put off, or has woken before
        card.wakes_at = math.inf
        if card.due <= self.clock.now:
            self.history.note(TURNED, card.number)
            card.wake()
        self._sleep(card)

    def _after(self, card: Card) -> None:
        """Something happened to this card."""
        card.wake()
        self._sleep(card)

    def _sleep(self, card: Card) -> None:
        if card.due < card.wakes_at:
            card.wakes_at = card.due
            heapq.heappush(self._events, (card.due, next(self._order), None, card))

    def _arrives(self, _: None) -> None:
        random = self.random
        self._to_come -= 1
        request = self._traffic.request(self.clock.now)
        card = self._choose_card()
        self._submit(card, request)
        if request.watch is not None:
            if random.random() < self.world.load.cancels:
                self._at(self.clock.now + random.expovariate(1.0) * random.choice((0.05, 1.0, 30.0)), self._cancels, request)
            if random.random() < self.world.load.interruptions:
                card.interruption = partial(self._cancel_ticket, request)
        if random.random() < 0.002:
            self._look_around(card, request)
        self._after(card)
        if self._to_come % THOROUGH_EVERY == 0:
            for each in self.cards:
                each.watch.check_thoroughly()
        if self._to_come:
            self._at(self.clock.now + self._traffic.gap_s(self.clock.now), self._arrives, None)

    def _comes_again(self, piece: Piece) -> None:
        card = self._card_of(piece.request)
        self._submit(card, self._traffic.again(piece, self.clock.now))
        self._after(card)

    def _cancels(self, request: Request) -> None:
        card = self._card_of(request)
        if self.random.random() < 0.5:
            self._cancel_ticket(request)
        elif request.handle is not None:
            self.history.note(CANCELLED, card.number, request.pieces[0].id, 1)
            request.cancelled = min(request.cancelled, card.watch.turns)
            card.dispatcher.cancel(request.handle)
            if request.left:
                raise Broken(f"{request.left} tickets of a cancelled job are not resolved")
        self._after(card)

    # --- what callers do

    def _choose_card(self) -> Card:
        """The one with the least to do, of those that take anything."""
        if len(self.cards) == 1:
            return self.cards[0]
        return min(self.cards, key=lambda card: (card.dispatcher._lifecycle.backing_off, card.load_s))

    def _card_of(self, request: Request) -> Card:
        card: Card = self.cards[request.watch.number]
        return card

    def _submit(self, card: Card, request: Request, at_once: bool = False) -> None:
        self.outcome.counts["pieces"] += len(request.pieces)
        self.history.note(ARRIVED, card.number, len(request.pieces), request.pieces[0].id)
        try:
            request.handle = card.dispatcher.submit(
                [Task(piece.payload, piece.length, AFFINITIES[piece.sound % len(AFFINITIES)]) for piece in request.pieces],
                caller=request.caller,
                service_class=request.service_class,
                timeout_s=request.deadline - request.arrived,
            )
        except errors.SteadyvoiceError as error:
            self.history.note(REFUSED, card.number, error.status)
            card.watch.refused(request, error, at_once)
            return
        self.outcome.counts["requests admitted"] += 1
        card.watch.admitted(request, at_once)
        for piece in request.pieces:
            assert piece.ticket is not None
            piece.ticket.add_done_callback(partial(self._resolved, card, piece))

    def _resolved(self, card: Card, piece: Piece, ticket: Future[Any]) -> None:
        try:
            card.watch.resolved(piece, ticket)
            if piece.kind is not Kind.GOOD and not ticket.cancelled():
                self._insist(card, piece)
        except Exception as error:  # which a future would swallow
            raise Broken(f"the simulation itself is wrong: {error!r}") from error

    def _insist(self, card: Card, piece: Piece) -> None:
        """Whoever sent what failed may send it again: at once from where it heard of it, soon, or after an hour."""
        random, sound = self.random, piece.sound
        if self._again[sound] >= 3 or random.random() < 0.3 or card.watch.verdicts.closing:
            return
        self._again[sound] += 1
        wait_s = random.choice((0.0, 1.0, 60.0, 3_500.0, 3_700.0))
        if wait_s:
            self._at(self.clock.now + wait_s, self._comes_again, piece)
        else:
            self._submit(card, self._traffic.again(piece, self.clock.now), at_once=True)

    def _cancel_ticket(self, request: Request) -> None:
        """As a caller does who knows nothing of jobs."""
        card, piece = self._card_of(request), self.random.choice(request.pieces)
        assert piece.ticket is not None
        self.history.note(CANCELLED, card.number, piece.id, 0)
        before = request.cancelled
        request.cancelled = min(before, card.watch.turns)
        if not piece.ticket.cancel():  # it runs, or is over
            request.cancelled = before

    def _look_around(self, card: Card, request: Request) -> None:
        """What pages and health checks ask for."""
        status = card.dispatcher.status()
        if request.handle is not None and not 0 <= card.dispatcher.place(request.handle) <= status.jobs:
            raise Broken(f"place {card.dispatcher.place(request.handle)} in a queue of {status.jobs}")
        self._ask_for_a_load(card)

    def _ask_for_a_load(self, card: Card) -> None:
        load = card.dispatcher.load()
        if self.random.random() < 0.3:
            load.cancel()
        self._loads.append(load)

    # --- the end

    def _is_at_rest(self) -> bool:
        """Nobody waits, nothing runs, and nothing but timers of workers is to come. Asked when no caller is to come."""
        if any(card.watch.unresolved or card.watch.batch is not None for card in self.cards):
            self._drains_since = min(self._drains_since, self.clock.now)
            if self.clock.now > self._drains_since + LONGEST_DRAIN_S:
                left = sum(card.watch.unresolved for card in self.cards)
                raise Broken(f"{left} tickets are not resolved six hours after the last arrival")
            return False
        self._drains_since = math.inf
        return all(load.done() for load in self._loads)

    def _close(self) -> None:
        for card in self.cards:
            card.watch.check_thoroughly()
            card.watch.check_nothing_leaks()
        for load in self._loads:
            if not load.cancelled() and not isinstance(load.exception(), errors.EngineUnavailable | None):
                raise Broken(f"a load ended as {load!r}")
        for card in self.cards:
            for _ in range(3):
                self._submit(card, self._traffic.request(self.clock.now))
            self._after(card)
            card.watch.verdicts.closing = True
            card.dispatcher.end()
            if card.watch.unresolved or card.watch.worker is not None:
                raise Broken(f"{card.watch.unresolved} tickets and worker {card.watch.worker} outlive their engine")
            late = self._traffic.request(self.clock.now)
            self._submit(card, late)
            if late.watch is not None:
                raise Broken("a closed engine admits a request")


@contextmanager
def tickets_are_watched() -> Iterator[None]:
    """The engine's tickets tell when they are resolved twice; its log is silent, as it would be endless."""
    before, tickets.Ticket = tickets.Ticket, WatchedTicket
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        tickets.Ticket = before


def simulate(seed: int, requests: int) -> Outcome:
    """Run one seed."""
    return Simulation(seed, requests).run()
