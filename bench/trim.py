"""What giving cached memory back costs: the same clips with TRIM=always, pressure and never, on the real engine and worker.

The policies take turns, so that a noisy machine is noisy for all. Prints a table and one JSON line. `make bench-trim`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from peers_setup import find_release  # noqa: E402
from peers_speech import FloatArray, seconds_of, varied  # noqa: E402

from steadyvoice.engine.batch_budget import Budget  # noqa: E402
from steadyvoice.engine.engine_thread import Engine  # noqa: E402
from steadyvoice.engine.scheduler import Limits  # noqa: E402
from steadyvoice.engine.tickets import Task  # noqa: E402
from steadyvoice.engine.worker_process import WorkerSpec  # noqa: E402
from steadyvoice.memory import MemoryLog  # noqa: E402
from steadyvoice.protocol import MemoryPlan, RecognizeItem  # noqa: E402

POLICIES = ("always", "pressure", "never")


def run(trim: str, release: Path, clips: list[FloatArray], folder: str) -> dict[str, float]:
    """One worker: every clip as a batch of its own."""
    memory = MemoryLog()
    plan = MemoryPlan(padded_s=30.0, trim=trim, folder=folder)
    with Engine(WorkerSpec("sensevoice", {"directory": str(release)}, memory=plan), Limits(Budget(30.0), 1e6), memory) as engine:
        engine.load().result(300)
        began = time.perf_counter()
        for clip in clips:
            (ticket,) = engine.submit([Task(RecognizeItem(clip).to_payload(), len(clip) / 16_000)], caller="bench").tickets
            ticket.result(300)
        seconds = time.perf_counter() - began
        batches = [sample for sample in memory.samples() if sample.step == "batch"]
    held = [sample.rss if sample.reserved is None else sample.reserved for sample in batches]
    return {"audio_s_per_s": seconds_of(clips) / seconds, "held_mb": statistics.fmean(held) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description="TRIM=always, pressure, never")
    parser.add_argument("--release", type=Path, help="release directory; otherwise the downloaded one, or random weights")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    release = find_release(options.release)
    clips = varied(options.clips, seed=5)
    rounds: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        run("never", release.folder, clips[:2], folder)  # measures the model, once for all
        for _ in range(options.rounds):
            for policy in POLICIES:
                rounds[policy].append(run(policy, release.folder, clips, folder))
    rows: list[dict[str, Any]] = [
        {"what": policy, **{name: round(statistics.median(row[name] for row in found), 2) for name in found[0]}}
        for policy, found in rounds.items()
    ]
    print(f"{'TRIM':<10}{'audio-s/s':>12}{'held MB after a batch':>24}")
    for row in rows:
        print(f"{row['what']:<10}{row['audio_s_per_s']:>12}{row['held_mb']:>24}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    ratios = {"trim_pressure_throughput": round(rows[1]["audio_s_per_s"] / rows[0]["audio_s_per_s"], 3)}
    print(json.dumps({"bench": "trim", "commit": commit, "weights": release.description, "rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
