"""What the service adds to the bare engine: the same sentences through the engine in this process, and through POST /synthesize.

Both sides in one run, taking turns, so that a noisy machine is noisy for both. The bare side calls the synthesiser
itself: no worker process, no queue, no HTTP. Prints a table and one JSON line. `make bench-overhead`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from steadyvoice.protocol import SynthesizeItem  # noqa: E402
from steadyvoice.testing.running_apps import RunningApp, running  # noqa: E402
from steadyvoice.worker.synthesizers.espeak import EspeakSynthesizer  # noqa: E402

SENTENCE = "The weather is nice today, shall we go to the park?"
TARGET_MS = 5.0  # p50 added, on two idle cores
WARM_UP = 20  # calls of each kind

Row = dict[str, Any]


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1_000


def quantile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 3)


def latencies(app: RunningApp, requests: int) -> list[Row]:
    """The same sentence through each layer in turn; what each adds is taken against the bare engine's time just before."""
    item = SynthesizeItem(SENTENCE, "en", "f1").to_payload()
    bare = EspeakSynthesizer()
    with (
        Engine(WorkerSpec("espeak"), Limits(Budget(30.0), 1e6)) as engine,
        httpx.Client(base_url=app.url, timeout=60) as client,
    ):
        sides: dict[str, Callable[[], object]] = {
            "bare engine": lambda: list(bare.run([item])),
            "worker process and queue": lambda: engine.submit([Task(item, 3.0)], caller="bench").tickets[0].result(),
            "POST /synthesize": lambda: client.post("/synthesize", json={"text": SENTENCE}).raise_for_status(),
        }
        for call in sides.values():  # load, connect, warm up
            for _ in range(WARM_UP):
                call()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(requests):
            for name, call in sides.items():
                times[name].append(timed(call))
    base = times["bare engine"]
    rows: list[Row] = []
    for name, values in times.items():
        added = [value - reference for value, reference in zip(values, base, strict=True)]
        figures = {"p50_ms": quantile(values, 50), "p95_ms": quantile(values, 95)}
        rows.append({"what": name, **figures, "added_p50_ms": quantile(added, 50), "added_p95_ms": quantile(added, 95)})
    return rows


def throughput(app: RunningApp, callers: int, requests: int) -> float:
    """Requests per second with so many callers at once, each on a connection of its own."""

    def call(client: httpx.Client) -> None:
        for _ in range(requests // callers):
            client.post("/synthesize", json={"text": SENTENCE}).raise_for_status()

    clients = [httpx.Client(base_url=app.url, timeout=60) for _ in range(callers)]
    with ThreadPoolExecutor(callers) as pool:
        began = time.perf_counter()
        list(pool.map(call, clients))
        rate = requests // callers * callers / (time.perf_counter() - began)
    for client in clients:
        client.close()
    return round(rate, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="what the service adds to the bare engine")
    parser.add_argument("--requests", type=int, default=500, help="of each kind, taking turns")
    parser.add_argument("--throughput-requests", type=int, default=1_200)
    parser.add_argument("--callers", type=int, default=6, help="at once, for requests/s; under the limit of seven")
    options = parser.parse_args()
    with running("app_tts.py", RESULT_CACHE_MB="0") as app:
        rows = latencies(app, options.requests)
        rate = throughput(app, options.callers, options.throughput_requests)

    print(f"sentence: {SENTENCE!r}; {options.requests} requests of each kind")
    print(f"{'':28}{'p50 ms':>9}{'p95 ms':>9}{'added p50':>11}{'added p95':>11}")
    for row in rows:
        print(f"{row['what']:28}{row['p50_ms']:>9}{row['p95_ms']:>9}{row['added_p50_ms']:>11}{row['added_p95_ms']:>11}")
    print(f"{options.callers} callers, client on the same cores: {rate:.0f} requests/s")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    report = {
        "bench": "overhead",
        "commit": commit,
        "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}",
        "rows": [*rows, {"what": "throughput", "callers": options.callers, "requests_per_s": rate}],
        "ratios": {"added_p50_target": round(TARGET_MS / float(rows[-1]["added_p50_ms"]), 2)},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
