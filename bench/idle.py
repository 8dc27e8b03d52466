"""What idle apps take of a core: without a worker, with one, and with an open page. Shows whatever polls. `make bench-idle`.

A wake-up is a voluntary context switch of a process, over all its threads. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.testing.browser import ARGUMENTS, CHROMIUM  # noqa: E402
from steadyvoice.testing.running_apps import CLIPS, RunningApp, running  # noqa: E402

TARGET_PERCENT = 0.2  # of one core, app and worker together
SETTLE_S = 3.0

Row = dict[str, Any]


def measure(app: RunningApp, what: str, seconds: float) -> Row:
    """CPU time and wake-ups of an app, and of its worker if there is one."""
    pids = [app.process.pid, *([worker] if (worker := app.worker_pid()) else [])]
    processes = [psutil.Process(pid) for pid in pids]
    time.sleep(SETTLE_S)

    cpu = [-sum(process.cpu_times()[:2]) for process in processes]
    began, before = time.monotonic(), switches(pids)
    time.sleep(seconds)
    passed, after = time.monotonic() - began, switches(pids)
    used = sum(cpu) + sum(sum(process.cpu_times()[:2]) for process in processes)
    woken = sum(count - before.get(thread, 0) for thread, count in after.items())
    return {"what": what, "cpu_percent": round(100 * used / passed, 3), "wakeups_per_s": round(woken / passed, 1)}


def switches(pids: list[int]) -> dict[str, int]:
    """Voluntary context switches of every thread that is there."""
    counts = {}
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/status"):
            (line,) = (line for line in file.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
            counts[file.parent.name] = int(line.split()[1])
    return counts


def load(app: RunningApp, role: str) -> None:
    """Let the model load, by a first request."""
    if role == "asr":
        answer = httpx.post(f"{app.url}/v1/audio/transcriptions", files={"file": CLIPS[0].read_bytes()}, timeout=120)
    else:
        answer = httpx.post(f"{app.url}/synthesize", json={"text": "Hello."}, timeout=120)
    answer.raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description="what idle apps take of a core")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement; CPU time is counted in 10 ms")
    options = parser.parse_args()
    rows: list[Row] = []
    for role, script in (("asr", "app_sensevoice.py"), ("tts", "app_tts.py")):
        with running(script) as app, sync_playwright() as playwright:
            rows.append(measure(app, f"{role}, no worker", options.seconds))
            load(app, role)
            rows.append(measure(app, f"{role}, worker", options.seconds))
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            browser.new_page().goto(app.url, wait_until="load")
            rows.append(measure(app, f"{role}, worker and open page", options.seconds))
            browser.close()
    print(f"{'':32}{'% of a core':>12}{'wake-ups/s':>12}")
    for row in rows:
        print(f"{row['what']:32}{row['cpu_percent']:>12}{row['wakeups_per_s']:>12}")
    worst = max(row["cpu_percent"] for row in rows if "page" not in row["what"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    ratios = {"idle_cpu_target": round(TARGET_PERCENT / max(worst, 0.001), 2)}
    print(json.dumps({"bench": "idle", "commit": commit, "machine": machine, "rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
