"""`python -m tests.simulation`: see `--help` of each command, and `make simulate`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation import mutations, planning
from tests.simulation.simulation import Outcome, simulate

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS, REQUESTS = 200, 5_000_000  # what is asked for when nothing is said
REPLAYED = 20  # every so manieth seed is run twice, and must be the same to the last event


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="requests with faults, and whether an invariant broke")
    run.add_argument("--seed", type=int, help="this one alone, to replay it")
    run.add_argument("--first", type=int, default=1, help="the first of the seeds")
    run.add_argument("--seeds", type=int, default=SEEDS)
    run.add_argument("--requests", type=int, help="in all; of the one seed where --seed is given")
    run.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    plan = commands.add_parser("plan", help="N cards, a rate, a mix -> p95, refusals, utilisation")
    planning.add_arguments(plan)
    mutants = commands.add_parser("mutants", help="plausible bugs, and what catches each of them")
    mutations.add_arguments(mutants)
    options = parser.parse_args()
    sys.exit({"run": run_seeds, "plan": planning.main, "mutants": mutations.main}[options.command](options))


def run_seeds(options: argparse.Namespace) -> int:
    """Print what happened, a verdict and one JSON line. Returns the exit status."""
    if options.seed is not None:
        seeds, requests = [options.seed], options.requests or REQUESTS // SEEDS
    else:
        seeds = list(range(options.first, options.first + options.seeds))
        requests = -(-(options.requests or REQUESTS) // options.seeds)
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    outcomes: list[Outcome] = []
    with multiprocessing.Pool(min(options.processes, len(seeds))) as pool:
        for outcome in pool.imap_unordered(partial(run_seed, requests=requests, replay_all=options.seed is not None), seeds):
            outcomes.append(outcome)
            counts.update(outcome.counts)
            if outcome.broken:
                pool.terminate()
                break
    seconds = time.perf_counter() - began
    for name, count in sorted(counts.items()):
        print(f"{name:40}{count:>12,}")
    broken = [outcome for outcome in outcomes if outcome.broken]
    for outcome in broken:
        print("", *outcome.history, sep="\n")
        print(f"\nseed {outcome.seed} at {outcome.virtual_s:.6f} s: {outcome.broken}")
        print(f"again: make simulate SEED={outcome.seed} REQUESTS={requests}")
    done = sum(outcome.requests for outcome in outcomes)
    hours = sum(outcome.virtual_s for outcome in outcomes) / 3_600
    print(
        f"\n{'BROKEN' if broken else 'HOLDS'}: {done:,} requests over {len(outcomes)} seeds and "
        f"{hours:,.0f} virtual hours, in {seconds:,.0f} s ({done / seconds:,.0f}/s)"
    )
    print(json.dumps(report(outcomes, counts, seconds, requests)))
    return 1 if broken else 0


def run_seed(seed: int, requests: int, replay_all: bool = False) -> Outcome:
    """Some seeds run twice: a failure would be worth nothing if it did not come again."""
    outcome = simulate(seed, requests)
    if (replay_all or seed % REPLAYED == 0) and not outcome.broken:
        again = simulate(seed, requests)
        if (again.digest, again.events, again.counts) != (outcome.digest, outcome.events, outcome.counts):
            outcome.broken = "the seed does not replay exactly"
    return outcome


def report(outcomes: list[Outcome], counts: Counter[str], seconds: float, requests: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    done = sum(outcome.requests for outcome in outcomes)
    return {
        "bench": "simulation",
        "commit": commit,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "verdict": "broken" if any(outcome.broken for outcome in outcomes) else "holds",
        "rows": [
            {
                "seeds": len(outcomes),
                "requests": done,
                "requests_per_seed": requests,
                "events": sum(outcome.events for outcome in outcomes),
                "virtual_hours": round(sum(outcome.virtual_s for outcome in outcomes) / 3_600, 1),
                "longest_wait_s": round(max(outcome.longest_wait_s for outcome in outcomes), 1),
                "seconds": round(seconds, 1),
                "requests_per_s": round(done / seconds),
                "broken": [{"seed": outcome.seed, "why": outcome.broken} for outcome in outcomes if outcome.broken],
                "counts": dict(sorted(counts.items())),
            }
        ],
        "ratios": {},
    }


if __name__ == "__main__":
    main()
