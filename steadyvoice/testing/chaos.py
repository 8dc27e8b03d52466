"""Many callers of an app whose engine breaks all the time: each outcome is looked at, and the app's memory.

Memory runs out in one batch of twenty, one request of `POISON_EVERY` is poison (half of them end the worker, the others make the
model raise), and the worker is killed every `kill_every_s`. Shared by tests/end_to_end/test_chaos.py and bench/chaos.py.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from steadyvoice.testing.running_apps import RunningApp

POISON_EVERY = 50
REFUSALS = {500, 503, 422}
# Without the cache of answers, which fills up to its bound: growth is then a leak.
SETTINGS = {"CONCURRENCY": "64", "QUEUE_SIZE": "64", "RESULT_CACHE_MB": "0"}


@dataclass
class Outcome:
    """Of a whole run."""

    requests: int
    wrong: list[str] = field(default_factory=list)  # one line for each answer that must not be
    seconds: float = 0.0
    innocent_s: list[float] = field(default_factory=list)  # how long each took
    poisons_refused: int = 0
    kills: int = 0
    rss: list[int] = field(default_factory=list)  # of the app, in bytes, at even steps
    events: dict[str, int] = field(default_factory=dict)

    @property
    def slope(self) -> float:
        """Bytes per request that the app grew by, over the second half, when everything has been used once."""
        half = self.rss[len(self.rss) // 2 :]
        per_sample = self.requests / max(1, len(self.rss))
        return float(statistics.linear_regression([i * per_sample for i in range(len(half))], half).slope)

    def as_row(self) -> dict[str, Any]:
        times = sorted(self.innocent_s)
        return {
            "requests": self.requests,
            "wrong": len(self.wrong),
            "poisons_refused": self.poisons_refused,
            "kills": self.kills,
            "seconds": round(self.seconds, 1),
            "p50_s": round(times[len(times) // 2], 3),
            "p99_s": round(times[len(times) * 99 // 100], 3),
            "rss_slope_bytes_per_request": round(self.slope, 1),
            "rss_mb": [round(size / 1e6, 1) for size in self.rss[:: max(1, len(self.rss) // 10)]],
            "events": self.events,
        }


def run(app: RunningApp, requests: int, callers: int, kill_every_s: float, seconds: float = 0.0) -> Outcome:
    """All requests as fast as the callers can, or spread over so many seconds."""
    outcome = Outcome(requests)
    process, began = psutil.Process(app.process.pid), time.monotonic()
    numbers, over = itertools.count(1), threading.Event()
    every = max(1, requests // 100)

    def call(client: httpx.Client) -> None:
        while (number := next(numbers)) <= requests:
            poison = number % POISON_EVERY == 0
            over.wait(max(0.0, began + number * seconds / requests - time.monotonic()))
            kind = "deadly poison" if number % (2 * POISON_EVERY) == 0 else "poison" if poison else "number"
            asked = time.monotonic()
            answer = client.post("/synthesize", json={"text": f"{kind} {number}"})
            if poison:
                outcome.poisons_refused += answer.status_code in REFUSALS
            else:
                outcome.innocent_s.append(time.monotonic() - asked)
            if problem := _problem(number, poison, answer):
                outcome.wrong.append(problem)
            if number % every == 0:
                outcome.rss.append(process.memory_info().rss)

    def kill() -> None:
        while not over.wait(kill_every_s):
            pid = app.worker_pid()
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    outcome.kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    clients = [httpx.Client(base_url=app.url, timeout=300) for _ in range(callers)]
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, clients))
    over.set()
    killer.join()
    for client in clients:
        client.close()
    outcome.seconds = time.monotonic() - began
    outcome.events = httpx.get(f"{app.url}/memory", timeout=30).json()["worker"]["events"]
    return outcome


def _problem(number: int, poison: bool, answer: httpx.Response) -> str | None:
    if poison:
        return None if answer.status_code in REFUSALS else f"poison {number} was answered with {answer.status_code}"
    if answer.status_code != 200:
        return f"innocent {number} got {answer.status_code}: {answer.text[:200]}"
    samples, _ = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    said = set(np.unique(np.round(samples * 32_768).astype(int)).tolist())
    return None if said == {number} else f"innocent {number} got the audio of {sorted(said)[:3]}"


def summary(problems: Sequence[str]) -> str:
    return str(Counter(problems).most_common(5))
