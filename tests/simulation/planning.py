"""How many cards does it take? The same engine on the same virtual clock, without faults, for N cards, a rate and a mix.

N dispatchers are independent of each other; a request goes to the card with the least audio waiting and running. The model
workers do so many seconds of audio per second, padding included, as a benchmark of the real model says.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from concurrent.futures import Future
from random import Random
from typing import Any

from steadyvoice.engine.batch_budget import Budget
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.worker_policy import Policy
from steadyvoice.protocol.cost import CostModel
from tests.simulation.card import Card
from tests.simulation.simulation import Simulation
from tests.simulation.traffic import Piece, Request, Traffic
from tests.simulation.world import MAX_SEGMENT_S, Device, Faults, Load, World, log_uniform

# share of meetings among the requests; the others are single clips
MIXES = {"short": 0.0, "meeting": 1.0, "mixed": 0.03}
CLIP_S, MEETING_S = (1.0, 15.0), (600.0, 3_600.0)
MOST_CARDS = 1_000
WARM_UP = 0.25  # of the time, in which everything is emptier than it will be, is left out

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cards", default="4,8,16", help=f"one number or several, up to {MOST_CARDS:,}")
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second, in all")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--speed", type=float, default=100.0, help="seconds of audio per second and card")
    parser.add_argument("--overhead", type=float, default=0.02, help="seconds per batch")
    parser.add_argument("--budget", type=float, default=300.0, help="padded seconds of a batch")
    parser.add_argument("--backlog", type=float, default=3_600.0, help="seconds of audio that may wait per card")
    parser.add_argument("--seconds", type=float, default=400.0, help="for how long requests arrive; meetings want more")
    parser.add_argument("--seed", type=int, default=1)


def main(options: argparse.Namespace) -> int:
    """Print a table and one JSON line."""
    rows = [plan(options, int(cards)) for cards in options.cards.split(",")]
    print(
        f"{options.mix}: {options.rate:g} requests/s, {rows[0]['audio_s']:.1f} s of audio each; "
        f"cards of {options.speed:g} audio-s/s in batches of {options.budget:g} s"
    )
    print(f"{'cards':>6}{'requests':>10}{'p50 s':>9}{'p95 s':>9}{'refused':>9}{'its audio':>11}{'utilised':>10}{'items':>7}")
    for row in rows:
        print(
            f"{row['cards']:>6}{row['requests']:>10}{row['p50_s']:>9.2f}{row['p95_s']:>9.2f}"
            f"{row['refused']:>9.1%}{row['refused_audio']:>11.1%}{row['utilisation']:>10.1%}{row['items_per_batch']:>7.1f}"
        )
    print(json.dumps({"bench": "simulation_plan", "mix": options.mix, "rate": options.rate, "rows": rows}))
    return 0


def plan(options: argparse.Namespace, cards: int) -> Row:
    """What callers of so many cards see."""
    if not 1 <= cards <= MOST_CARDS:
        raise SystemExit(f"{cards} cards are not between 1 and {MOST_CARDS}")
    return Plan(options, cards).row()


class Clips(Traffic):
    """Clips and meetings, at a steady rate."""

    def __init__(self, random: Random, load: Load, meetings: float) -> None:
        super().__init__(random, load)
        self._meetings = meetings

    def _lengths(self) -> list[float]:
        if self._random.random() >= self._meetings:
            return [log_uniform(self._random, *CLIP_S)]
        whole = log_uniform(self._random, *MEETING_S)
        return [MAX_SEGMENT_S] * int(whole / MAX_SEGMENT_S) + [max(0.1, whole % MAX_SEGMENT_S)]


class Plan(Simulation):
    """One number of cards."""

    def __init__(self, options: argparse.Namespace, cards: int) -> None:
        requests = max(1_000, round(options.rate * options.seconds))
        device = Device(
            speed=options.speed,
            overhead_s=options.overhead,
            jitter=0.1,
            streams=False,
            load_s=1e-3,
            max_batch_items=64,
            measured=None,
            cost=CostModel(),
            memory_bytes=math.inf,
            leak_bytes=0.0,
        )
        nothing = dict.fromkeys(("silence", "batch_class", "long_audio", "raises", "fatal", "invalid", "unsendable"), 0.0)
        quiet = dict.fromkeys(("cancels", "deadlines", "interruptions"), 0.0)
        load = Load(rate=options.rate, burst=1.0, callers=100, greedy=0.0, **nothing, **quiet)
        limits = Limits(Budget(options.budget), options.backlog)
        world = World(cards, device, Faults(), load, limits, Policy(batch_limit_s=1e6), heartbeat_timeout_s=60.0)
        super().__init__(options.seed, requests, world)
        self._traffic = Clips(Random(options.seed), load, MIXES[options.mix])
        self._latencies: list[float] = []
        self._busy = [0.0] * cards  # seconds of audio on each
        self._counts_from, self._counts_to = WARM_UP * requests / options.rate, math.inf
        self._counted_s = self._busy_s = 0.0  # of the clock, and of all devices in that time
        self._requests = self._refused = 0
        self._audio_s = self._refused_s = 0.0
        self._at(self._counts_from, self._counts, -1)

    def row(self) -> Row:
        outcome = self.run()
        if outcome.broken:
            raise SystemExit(f"{outcome.broken}\n" + "\n".join(outcome.history))
        quantiles = statistics.quantiles(self._latencies, n=100, method="inclusive")
        counts = outcome.counts
        return {
            "cards": len(self.cards),
            "requests": self._requests,
            "audio_s": round(self._audio_s / self._requests, 2),
            "p50_s": round(quantiles[49], 3),
            "p95_s": round(quantiles[94], 3),
            "refused": round(self._refused / self._requests, 4),
            "refused_audio": round(self._refused_s / self._audio_s, 4),
            "utilisation": round(self._busy_s / (len(self.cards) * self._counted_s), 4),
            "items_per_batch": round(counts["answered"] / counts["batches"], 1),
        }

    def _choose_card(self) -> Card:
        return self.cards[self._busy.index(min(self._busy))]

    def _submit(self, card: Card, request: Request, at_once: bool = False) -> None:
        super()._submit(card, request, at_once)
        if not self._counts_from <= self.clock.now <= self._counts_to:
            return
        length = sum(piece.length for piece in request.pieces)
        self._requests += 1
        self._audio_s += length
        if request.watch is None:
            self._refused += 1
            self._refused_s += length
        if not self._to_come:
            self._counts_to = -math.inf
            self._counts(1)

    def _counts(self, sign: int) -> None:
        """The time that counts begins (-1) or ends (1)."""
        self._counted_s += sign * self.clock.now
        self._busy_s += sign * sum(card.watch.busy_s for card in self.cards)

    def _sleep(self, card: Card) -> None:
        super()._sleep(card)
        self._busy[card.number] = card.load_s

    def _resolved(self, card: Card, piece: Piece, ticket: Future[Any]) -> None:
        super()._resolved(card, piece, ticket)
        if not piece.request.left and piece.request.arrived >= self._counts_from:
            self._latencies.append(self.clock.now - piece.request.arrived)
