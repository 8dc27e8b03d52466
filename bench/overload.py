"""Ten times more callers than the service can serve: what it still gets done, how fast it says no, and who waits.

The real app and real processes, on an engine whose batches take a known time (testing/timed_synthesizer.py), so that the
device and not this machine is the bottleneck. Prints a table and one JSON line. `make bench-overload`.

- capacity: as many callers as have a place, each asking again when answered.
- overload: arrivals at ten times that rate, by a clock and not by answers (open loop). A caller who is refused comes back once,
  after the seconds that it was told, if that is within the minute after the overload.
- fairness: a short clip every second beside ten jobs of one hour each, straight on the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.engine.batch_budget import Budget  # noqa: E402
from steadyvoice.engine.engine_thread import Engine  # noqa: E402
from steadyvoice.engine.scheduler import Limits  # noqa: E402
from steadyvoice.engine.tickets import Task  # noqa: E402
from steadyvoice.engine.worker_process import WorkerSpec  # noqa: E402
from steadyvoice.protocol import Payload  # noqa: E402
from steadyvoice.testing.running_apps import RunningApp, running  # noqa: E402
from steadyvoice.testing.timed_app import BATCH_ITEMS, BATCH_S, ENGINE  # noqa: E402

PLACES = {"CONCURRENCY": "8", "QUEUE_SIZE": "8", "RESULT_CACHE_MB": "0"}  # every caller asks for the same
CALLERS = 16  # as many as have a place
AFTERWARDS_S = 60.0  # of those who were told to come back then
HOUR_SEGMENTS, SEGMENT_S = 360, 10.0
Row = dict[str, Any]


@dataclass
class Seen:
    """What the callers saw."""

    answered: int = 0
    refused_ms: list[float] = field(default_factory=list)
    retry_after_s: list[float] = field(default_factory=list)
    came_back: int = 0
    came_back_answered: int = 0
    other: list[int] = field(default_factory=list)


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/synthesize", json={"text": "Ten times more than there is room for."})


async def capacity(url: str, seconds: float) -> float:
    """Answers per second when nobody is refused."""
    done = 0
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        (await ask(client)).raise_for_status()
        until = time.monotonic() + seconds

        async def caller() -> None:
            nonlocal done
            while time.monotonic() < until:
                (await ask(client)).raise_for_status()
                done += 1

        began = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return done / (time.monotonic() - began)


async def overload(url: str, rate: float, seconds: float) -> Seen:
    seen = Seen()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        until = time.monotonic() + seconds

        async def arrive(again: bool) -> None:
            began = time.monotonic()
            answer = await ask(client)
            inside = time.monotonic() <= until
            if answer.status_code == 200:
                seen.answered += inside
                seen.came_back_answered += again
            elif answer.status_code == 429:
                seen.refused_ms.append((time.monotonic() - began) * 1_000)
                wait = float(answer.headers["retry-after"])
                seen.retry_after_s.append(wait)
                if (
                    not again and 0 < time.monotonic() + wait - until < AFTERWARDS_S
                ):  # once it is over, what was promised must hold
                    await asyncio.sleep(wait)
                    seen.came_back += 1
                    await arrive(again=True)
            else:
                seen.other.append(answer.status_code)

        arrivals, tasks = random.Random(1), []
        due = time.monotonic()
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(arrive(again=False)))
            due += arrivals.expovariate(rate)
        await asyncio.gather(*tasks)
    return seen


def fairness(seconds: float) -> Row:
    """How long a clip waits beside ten meetings, in batches of ten seconds' segments."""
    spec = WorkerSpec(ENGINE, {"batch_s": BATCH_S, "max_batch_items": BATCH_ITEMS})
    waits: list[float] = []
    with Engine(spec, Limits(Budget(BATCH_ITEMS * SEGMENT_S), 1e9)) as engine:
        engine.load().result(60)
        segments = [Task(Payload({"segment": number}), SEGMENT_S) for number in range(HOUR_SEGMENTS)]
        meetings = [engine.submit(segments, caller=f"meeting {number}") for number in range(10)]
        pause, count = threading.Event(), 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            count += 1
            job = engine.submit([Task(Payload({"clip": count}), 2.0)], caller=f"caller {count}")
            waits.append(job.tickets[0].result(60).queue_s)
            pause.wait(0.3)
        for meeting in meetings:
            engine.cancel(meeting)
    return {
        "what": "clip_beside_ten_hours",
        "clips": len(waits),
        "wait_p95_s": p95(waits),
        "wait_p95_batches": p95(waits) / BATCH_S,
    }


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else float("nan")


def measure(app: RunningApp, options: argparse.Namespace) -> list[Row]:
    before = asyncio.run(capacity(app.url, options.capacity_seconds))
    seen = asyncio.run(overload(app.url, options.times * before, options.seconds))
    after = asyncio.run(capacity(app.url, options.capacity_seconds))
    unloaded = statistics.fmean([before, after])
    return [
        {"what": "capacity", "per_s_before": before, "per_s_after": after, "per_s_ideal": BATCH_ITEMS / BATCH_S},
        {
            "what": "overload",
            "times": options.times,
            "offered_per_s": options.times * before,
            "goodput_per_s": seen.answered / options.seconds,
            "goodput_share": seen.answered / options.seconds / unloaded,
            "refused": len(seen.refused_ms),
            "refused_p95_ms": p95(seen.refused_ms),
            "retry_after_p50_s": statistics.median(seen.retry_after_s),
            "came_back": seen.came_back,
            "came_back_answered": seen.came_back_answered,
            "neither": len(seen.other),
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="more callers than there is room for")
    parser.add_argument("--seconds", type=float, default=180.0, help="of overload")
    parser.add_argument("--capacity-seconds", type=float, default=20.0)
    parser.add_argument("--times", type=float, default=10.0, help="of the capacity")
    options = parser.parse_args()
    with running("steadyvoice/testing/timed_app.py", **PLACES) as app:
        rows = measure(app, options)
    rows.append(fairness(min(60.0, options.seconds)))
    for row in rows:
        print(row["what"])
        for name, value in row.items():
            if name != "what":
                print(f"    {name:<22} {value:.3f}" if isinstance(value, float) else f"    {name:<22} {value}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    ratios = {"overload_goodput": round(rows[1]["goodput_share"], 3)}
    rounded = [{name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()} for row in rows]
    print(json.dumps({"bench": "overload", "commit": commit, "machine": machine, "rows": rounded, "ratios": ratios}))


if __name__ == "__main__":
    main()
