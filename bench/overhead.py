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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.engine.budget import Budget  # noqa: E402
from steadyvoice.engine.engine import Engine  # noqa: E402
from steadyvoice.engine.scheduler import Limits  # noqa: E402
from steadyvoice.engine.tickets import Task  # noqa: E402
from steadyvoice.engine.worker_handle import WorkerSpec  # noqa: E402
from steadyvoice.protocol import SynthesizeItem  # noqa: E402
from steadyvoice.worker.synthesizers.espeak import EspeakSynthesizer  # noqa: E402
from tests.end_to_end.apps import running  # noqa: E402

SENTENCE = "The weather is nice today, shall we go to the park?"
TARGET_MS = 5.0  # p50 added, on two idle cores


def timed(call: object) -> float:
    began = time.perf_counter()
    call()  # type: ignore[operator]
    return (time.perf_counter() - began) * 1_000


def quantile(values: list[float], q: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(q * 100) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500, help="of each kind, taking turns")
    parser.add_argument("--throughput-requests", type=int, default=1_000)
    parser.add_argument("--callers", type=int, default=6, help="at once, for requests/s; under the limit of seven")
    options = parser.parse_args()

    item = SynthesizeItem(SENTENCE, "en", "f1").to_payload()
    bare = EspeakSynthesizer()
    rows: list[dict[str, object]] = []
    with (
        running("app_tts.py", LOG_LEVEL="info") as app,
        Engine(WorkerSpec("espeak"), Limits(Budget(30.0), 1e6)) as engine,
        httpx.Client(base_url=app.url, timeout=60) as client,
    ):

        def through_engine() -> None:
            engine.submit([Task(item, 3.0)], caller="bench").tickets[0].result()

        def through_http(http: httpx.Client = client) -> None:
            http.post("/synthesize", json={"text": SENTENCE}).raise_for_status()

        sides = {
            "bare engine": lambda: list(bare.run([item])),
            "worker process and queue": through_engine,
            "POST /synthesize": through_http,
        }
        for call in sides.values():  # load, connect, warm up
            for _ in range(20):
                call()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.requests):
            for name, call in sides.items():
                times[name].append(timed(call))
        base = times["bare engine"]
        for name, values in times.items():
            added = [value - reference for value, reference in zip(values, base, strict=True)]
            rows.append(
                {
                    "what": name,
                    "p50_ms": round(quantile(values, 0.50), 3),
                    "p95_ms": round(quantile(values, 0.95), 3),
                    "added_p50_ms": round(quantile(added, 0.50), 3),
                    "added_p95_ms": round(quantile(added, 0.95), 3),
                }
            )

        clients = [httpx.Client(base_url=app.url, timeout=60) for _ in range(options.callers)]
        per_caller = options.throughput_requests // options.callers
        with ThreadPoolExecutor(options.callers) as pool:
            began = time.perf_counter()
            list(pool.map(lambda http: [through_http(http) for _ in range(per_caller)], clients))
            rate = options.callers * per_caller / (time.perf_counter() - began)
        for http in clients:
            http.close()

    print(f"{'':28}{'p50 ms':>9}{'p95 ms':>9}{'added p50':>11}{'added p95':>11}")
    for row in rows:
        print(f"{row['what']:28}{row['p50_ms']:>9}{row['p95_ms']:>9}{row['added_p50_ms']:>11}{row['added_p95_ms']:>11}")
    print(f"{options.callers} callers: {rate:.0f} requests/s on /synthesize ({SENTENCE!r}, client on the same cores)")
    cores = len(os.sched_getaffinity(0))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(
        json.dumps(
            {
                "bench": "overhead",
                "commit": commit,
                "machine": f"{platform.machine()}, {cores} cores, Python {platform.python_version()}",
                "rows": [*rows, {"what": "throughput", "callers": options.callers, "requests_per_s": round(rate, 1)}],
                "ratios": {"added_p50_target": round(TARGET_MS / float(str(rows[-1]["added_p50_ms"])), 2)},
            }
        )
    )


if __name__ == "__main__":
    main()
