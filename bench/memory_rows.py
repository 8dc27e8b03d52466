"""One contender in one scenario under one cap: started, given its requests, watched, and ended.

FunASR runs in bench/memory_contender.py. steadyvoice is its real app over HTTP, app and worker process together, as it is shipped
but for this: no result is kept, so that every request is computed; the queue has room for all callers of a scenario; and under
a cap it is told so by STEADYVOICE_GPU_MEMORY_GB, as its users would: on a GPU the cap, on a CPU the cap less what the app's own
process takes with an hour of audio. The others have no such setting.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from memory_contender import WAYS
from memory_enter import GROUP
from memory_speech import Scenario, recordings, warm_up
from memory_watch import Cap, Card, Group, Sample, Watch
from peers_servers import CLIENT
from peers_setup import ROOT, last_line

from steadyvoice.testing.running_apps import RunningApp, running

CONTENDERS = (*WAYS, "ours")
APP_MB = 600  # of a CPU's cap is left to the app's own process, which holds the audio
EXIT_S = 60.0  # for a process that has said everything

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What one row is made of."""

    contender: str
    scenario: Scenario
    cap: Cap
    release: Path
    device: str
    timeout_s: float

    @property
    def name(self) -> str:
        return f"{self.contender}, {self.scenario.name}, {self.cap.name}"


@dataclass
class Served:
    """What became of the requests, in seconds of the watch."""

    requests: int
    latencies: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    loaded: bool = False  # a model was there at least once
    ready_s: float | None = None  # when the requests were sent
    over_s: float | None = None  # when the last was answered
    reserved_mb: float | None = None  # by torch, on a GPU

    def take(self, event: dict[str, Any], now_s: float) -> None:
        """One line of bench/memory_contender.py."""
        match event["event"]:
            case "loaded":
                self.loaded = True
            case "ready":
                self.ready_s = now_s
            case "answered":
                self.latencies.append(event["seconds"])
            case "failed":
                self.reasons[event["reason"]] += 1
            case "over":
                self.over_s = now_s
                self.reserved_mb = event.get("reserved_mb")

    def give_up(self, why: str) -> None:
        """Whatever has no outcome yet failed for this."""
        if missing := self.requests - len(self.latencies) - self.reasons.total():
            self.reasons[f"{why} while {'serving' if self.loaded else 'loading'}"] += missing


def measure(plan: Plan, card: Card | None) -> tuple[Row, list[Sample]]:
    """The row, and the memory over time that it was made of."""
    paths = recordings(plan.scenario)
    with in_group(plan.cap) as group, Watch(plan.cap, plan.timeout_s, card) as watch:
        served = Served(plan.scenario.requests)
        run = run_ours if plan.contender == "ours" else run_funasr
        problem = run(plan, group, watch, served, paths)
        ended_s = served.over_s or watch.now_s
        if group is not None and group.kills():
            problem = f"killed at the {plan.cap.name} of its cgroup"
        served.give_up(watch.stopped or problem or "no answer")
        row: Row = {"contender": plan.contender, "scenario": plan.scenario.name, "cap_mb": plan.cap.mb}
        row |= {"requests": served.requests, "failures": served.reasons.total(), "reason": reason_of(served)}
        row |= {"loaded": served.loaded, "peak_mb": max(watch.mb(), default=None)}
        if served.ready_s is not None:
            row |= {"wall_s": ended_s - served.ready_s}
            if while_serving := watch.mb(served.ready_s, ended_s):
                row |= {"average_mb": statistics.fmean(while_serving), "serving_peak_mb": max(while_serving)}
        if served.latencies:
            row |= {"p50_s": statistics.median(served.latencies), "max_s": max(served.latencies)}
        if card is not None:
            row |= {"rss_peak_mb": watch.rss_peak_mb, "reserved_mb": served.reserved_mb}
        if group is not None:
            row |= {"cgroup_peak_mb": group.peak_mb(), "kills": group.kills()}
    return {name: value for name, value in row.items() if value is not None}, watch.samples


def reason_of(served: Served) -> str | None:
    """The reasons of all failures, the most frequent first."""
    return "; ".join(f"{count} x {reason}" for reason, count in served.reasons.most_common()) or None


@contextlib.contextmanager
def in_group(cap: Cap) -> Iterator[Group | None]:
    """The row's own cgroup, where one was asked for and there is a cap; removed afterwards."""
    group = Group(cap.within, cap.mb) if cap.within and cap.mb else None
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def run_funasr(plan: Plan, group: Group | None, watch: Watch, served: Served, paths: list[Path]) -> str | None:
    """Take a contender's events until it ends -> what it died of, if it did."""
    script = [ROOT / "bench" / "memory_contender.py", plan.contender, "--release", plan.release, "--device", plan.device]
    script += ["--vram-cap-mb", plan.cap.mb if plan.device == "cuda" else 0, "--warm-up", warm_up(), *paths]
    command: list[Any] = [sys.executable, *([ROOT / "bench" / "memory_enter.py"] if group else []), *script]
    environment = {**os.environ, **({GROUP: str(group.folder)} if group else {})}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        watch.begin(process.pid)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                served.take(json.loads(line), watch.now_s)
            code = process.wait(EXIT_S)
        finally:
            if process.poll() is None:
                watch.kill("interrupted")
                process.wait()
        log.seek(0)
        return f"died with {code}: {last_line(log.read())}" if code else None


def run_ours(plan: Plan, group: Group | None, watch: Watch, served: Served, paths: list[Path]) -> str | None:
    """Send the uploads to the app -> what it died of, if it did."""
    try:
        with app(plan, group) as server:
            watch.begin(server.process.pid)
            if isinstance(problem := outcome_of(server, warm_up()), str):
                return problem
            served.loaded, served.ready_s = True, watch.now_s
            with ThreadPoolExecutor(len(paths)) as pool:
                try:
                    outcomes = list(pool.map(lambda path: outcome_of(server, path), paths))
                except (KeyboardInterrupt, SystemExit):
                    watch.kill("interrupted")  # or the requests under way would be waited for
                    raise
            served.over_s = watch.now_s
            served.latencies = [outcome for outcome in outcomes if isinstance(outcome, float)]
            if watch.stopped is None:  # else that is the reason
                served.reasons.update(outcome for outcome in outcomes if isinstance(outcome, str))
                served.reserved_mb = reserved_mb(server) if plan.device == "cuda" else None
    except (AssertionError, OSError, httpx.HTTPError) as error:
        return f"{type(error).__name__}: {last_line(str(error))}"
    return None


@contextlib.contextmanager
def app(plan: Plan, group: Group | None) -> Iterator[RunningApp]:
    """The speech-to-text app, ready for requests, its model not yet loaded."""
    settings = {"ASR_ENGINE": "sensevoice", "SENSEVOICE_DIR": str(plan.release), "HUB": "none"}
    settings |= {"QUEUE_SIZE": "64", "RESULT_CACHE_MB": "0"}
    if plan.cap.mb:
        settings["GPU_MEMORY_GB"] = f"{(plan.cap.mb - (0 if plan.device == 'cuda' else APP_MB)) / 1_000:g}"
    if group is not None:
        os.environ[GROUP] = str(group.folder)  # the app's environment is made of this process's
    try:
        with running("bench/memory_enter.py" if group else "app_sensevoice.py", **settings) as started:
            yield started
    finally:
        os.environ.pop(GROUP, None)


def answer_s(server: RunningApp, path: Path) -> float:
    """Seconds until the transcript of an upload, which is read from the disk while it is sent.

    Raises:
        httpx.HTTPError: refused, failed or broken off.
        OSError: the transcript is empty.
    """
    began = time.perf_counter()
    with path.open("rb") as file:
        answer = CLIENT.post(f"{server.url}/v1/audio/transcriptions", files={"file": (path.name, file, "audio/wav")})
    if not answer.raise_for_status().json()["text"]:
        raise OSError("the transcript is empty")
    return time.perf_counter() - began


def outcome_of(server: RunningApp, path: Path) -> float | str:
    """Seconds, or why there is no transcript."""
    try:
        return answer_s(server, path)
    except httpx.HTTPStatusError as error:
        return f"HTTP {error.response.status_code}: {error.response.text[:200]}"
    except (httpx.HTTPError, OSError) as error:
        return f"{type(error).__name__}: {last_line(str(error))}"


def reserved_mb(server: RunningApp) -> float | None:
    """The most that the worker's torch had reserved after any step."""
    samples = httpx.get(f"{server.url}/memory", timeout=30).raise_for_status().json()["samples"]
    return max((sample["reserved"] / 1e6 for sample in samples if sample.get("reserved")), default=None)
