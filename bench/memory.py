"""Memory before and after: FunASR as it is used by mistake, as its README has it and as it is remedied, against steadyvoice.

The same weights and the same human speech for all; one, three and five minutes alone, five requests of three minutes at once,
twenty of five minutes at once, and one whole hour. Every contender runs every scenario in a process of its own, so that no peak
leaks from one row into the next, and does so again under each hard cap on memory, which shows who finishes. See
bench/memory_contender.py for what is compared, bench/memory_rows.py for how steadyvoice is run, and bench/memory_watch.py for how
memory is measured and capped. Prints a table for each cap and one JSON line, and draws plots. `make bench-memory`.

What is known is not run again: what finished under a smaller cap finishes under a larger one; FunASR that never came near a cap
finishes under it; and what cannot even be loaded under a cap fails in every scenario. `--all` runs it nevertheless.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from memory_report import draw, finishing, print_tables, ratios_of
from memory_rows import CONTENDERS, Plan, measure
from memory_speech import SCENARIOS, Scenario, recordings, warm_up
from memory_watch import OF_FREE, Cap, Card, Sample
from peers_report import machine, rounded
from peers_setup import CACHE, ROOT, find_release, read_once, say

CAPS = {"cpu": "0,1500,2500,4000", "cuda": "0,2000,4000,8000,16000"}
QUICK_CAPS = {"cpu": "0,1500", "cuda": "0,2000"}
NEAR = 0.9  # of a cap; what stayed below without one is known to finish
# Audio-s/s over HTTP with 8 callers and seconds to the first transcript, on two cores, from the results of bench/recognition.py
# (2026-11-20): only for saying beforehand how long a run may take.
RATES = {"ours": 35.0, "others": 10.9}
FIRST_S = {"ours": 2.5, "others": 8.6}

Row = dict[str, Any]


class Measured:
    """The rows so far, and what follows from them for those to come."""

    def __init__(self, everything: bool) -> None:
        self.rows: list[Row] = []
        self.curves: dict[tuple[str, str], list[Sample]] = {}  # of each contender and scenario, when first measured
        self._everything = everything

    def row(self, plan: Plan, card: Card | None) -> None:
        """Measure one row, or copy what is known."""
        found = None if self._everything else self._known(plan)
        if found is None:
            say(plan.name)
            found, samples = measure(plan, card)
            self.curves.setdefault((plan.contender, plan.scenario.name), samples)
            say(f"    {brief(found)}")
        else:
            say(f"{plan.name}: {found['known']}")
        self.rows.append(found)

    def _known(self, plan: Plan) -> Row | None:
        """A row that need not be run. Ours always is under the smallest cap: that it finishes there is what has to be shown."""
        cap = plan.cap.mb
        if not cap:
            return None
        same = [row for row in self.rows if row["contender"] == plan.contender]
        for row in same:
            smaller = 0 < row["cap_mb"] < cap
            far = row["cap_mb"] == 0 and plan.contender != "ours" and row.get("peak_mb", cap) < NEAR * cap
            if row["scenario"] == plan.scenario.name and not row["failures"] and (smaller or far):
                return row | {"cap_mb": cap, "known": f"finishes: it took {row['peak_mb']:.0f} MB under {cap_name(row)}"}
        for row in same:
            alone = plan.contender != "naive" or row["requests"] == 1  # of several that load at once none may where one would
            if row["cap_mb"] == cap and row["failures"] and not row["loaded"] and alone and plan.contender != "ours":
                why = {
                    "known": f"fails: nothing could be loaded for {row['scenario']}",
                    "reason": row["reason"].split(" x ", 1)[-1],
                }
                figures = {name: row[name] for name in ("contender", "cap_mb", "loaded", "peak_mb") if name in row}
                requests = {"requests": plan.scenario.requests, "failures": plan.scenario.requests}
                return {**figures, "scenario": plan.scenario.name, **requests, **why}
        return None


def cap_name(row: Row) -> str:
    return f"a cap of {row['cap_mb']} MB" if row["cap_mb"] else "no cap"


def brief(row: Row) -> str:
    told = [f"peak {row['peak_mb']:.0f} MB"] if "peak_mb" in row else []
    told += [f"{row['wall_s']:.1f} s"] if "wall_s" in row else []
    told += [f"{row['failures']} of {row['requests']} failed: {row['reason']}"] if row["failures"] else ["all answered"]
    return ", ".join(told)


def expected_s(contenders: Sequence[str], scenarios: Sequence[Scenario]) -> float:
    """Seconds that all of them take without a cap, if this were the machine of the figures above."""
    total = 0.0
    for contender in contenders:
        side = "ours" if contender == "ours" else "others"
        loads = sum(scenario.requests for scenario in scenarios) if contender == "naive" else len(scenarios)
        total += sum(scenario.audio_s for scenario in scenarios) / RATES[side] + loads * FIRST_S[side]
    return total


def choose(options: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[str], list[Scenario], list[int]]:
    """Contenders, scenarios and caps; an unknown name ends the run."""
    scenarios = SCENARIOS["quick" if options.quick else "full"]
    known = {*CONTENDERS, *(scenario.name for scenario in scenarios)}
    wanted = set(options.only.split(",")) if options.only else set(known)
    if unknown := wanted - known:
        parser.error(f"--only: {', '.join(sorted(unknown))}: unknown; known: {', '.join(sorted(known))}")
    contenders = [name for name in CONTENDERS if name in wanted] or list(CONTENDERS)
    chosen = [scenario for scenario in scenarios if scenario.name in wanted] or list(scenarios)
    text = options.caps or (QUICK_CAPS if options.quick else CAPS)[options.device]
    try:
        caps = sorted({int(part) for part in text.split(",")})
    except ValueError:
        parser.error(f"--caps: {text!r} is not a list of whole MB")
    if caps[0] < 0:
        parser.error(f"--caps: {caps[0]} MB is less than nothing")
    return contenders, chosen, caps


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of FunASR as it is used, and of steadyvoice, on the same speech")
    parser.add_argument("--release", type=Path, help="release directory; otherwise the downloaded one, or random weights")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--caps", help=f"MB, 0 for none; otherwise {CAPS['cpu']}, on a GPU {CAPS['cuda']}")
    parser.add_argument(
        "--cgroup", type=Path, help="an empty memory cgroup that is yours to fill: the kernel then holds the caps"
    )
    parser.add_argument("--only", help=f"some of {', '.join(CONTENDERS)} and of the scenarios, with commas")
    parser.add_argument("--timeout", type=float, default=1_800, help="seconds of one row, then it has failed")
    parser.add_argument("--plots", type=Path, default=CACHE / "memory", help="folder for PNG and SVG")
    parser.add_argument("--all", action="store_true", help="run also what is known to finish or to fail")
    parser.add_argument("--quick", action="store_true", help="little audio: to see that everything works")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # by way of whatever ends the contenders
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the app would take the GPU by itself
    contenders, scenarios, caps = choose(options, parser)
    release = find_release(options.release)
    read_once(release.folder)
    say("recordings, and where somebody speaks in them")
    for scenario in scenarios:
        recordings(scenario)
    warm_up()
    if options.device == "cpu":
        minutes = expected_s(contenders, scenarios) / 60
        say(f"about {minutes:.1f} minutes without a cap on two cores, at most as much again for each cap")

    card = Card() if options.device == "cuda" else None
    measured = Measured(options.all)
    for cap in (Cap(mb, options.device, options.cgroup) for mb in caps):
        for scenario in scenarios:
            for contender in contenders:
                measured.row(Plan(contender, scenario, cap, release.folder, options.device, options.timeout), card)

    what = "VRAM" if options.device == "cuda" else "RSS of the process tree"
    how = Cap(0, options.device, options.cgroup).how
    print(f"weights: {release.description}; {machine(options)}; memory is {what}")
    print(f"hard caps by: {how}; without a cap the machine keeps {1 - OF_FREE:.0%} of its free RAM")
    print_tables(measured.rows)
    print("\n" + "\n".join(finishing(measured.rows)))
    for path in draw(measured.rows, measured.curves, what, options.plots):
        print(f"plot: {path}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    report = {
        "bench": "memory",
        "commit": commit,
        "machine": machine(options),
        "weights": release.description,
        "caps_by": how,
        "rows": rounded(measured.rows),
        "ratios": ratios_of(measured.rows),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
