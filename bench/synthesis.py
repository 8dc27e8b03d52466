"""First audio, speed and fairness of speech at 1, 5, 20 and 40 callers who come at once: ours against one lock around the model.

`make bench-synthesis`. Two engines: espeak, and the stand-in of IndexTTS2 (steadyvoice/testing), which takes the time that
was reported of the real one (a third of the audio, 2.0 on a 4090) and memory for its cache; its figures say what scheduling does
and nothing of IndexTTS2's own speed. Every caller wants a text of its own in one of three voices. Both sides run as servers, one
after the other, on the same machine. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.testing.indextts2_standin import RATE, write_checkout  # noqa: E402
from steadyvoice.testing.ports import free_port  # noqa: E402
from steadyvoice.testing.running_apps import CLIPS, running  # noqa: E402

CALLERS = (1, 5, 20, 40)
SENTENCES = 3
RTF, VOICE_S = 0.33, 0.3  # as reported; and to listen to another voice, a guess
WAV_HEADER = 44  # bytes
Row = dict[str, Any]
Ask = Callable[[httpx.AsyncClient, int], "asyncio.Future[Heard]"]


@dataclass(frozen=True)
class Heard:
    """What one caller got. Seconds from asking."""

    first_audio_s: float
    whole_s: float
    audio_s: float


def text_of(caller: int) -> str:
    return " ".join(f"Caller {caller} says part {part}." for part in range(1, SENTENCES + 1))


async def ask(client: httpx.AsyncClient, body: dict[str, object]) -> Heard:
    """POST /synthesize and read the WAV as it comes."""
    began, first, size = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/synthesize", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()[:300]}")
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if not first and size > WAV_HEADER:
                first = time.perf_counter() - began
    return Heard(first, time.perf_counter() - began, (size - WAV_HEADER) / 2 / RATE)


async def at_once(url: str, callers: int, body_of: Callable[[int], dict[str, object]]) -> tuple[list[Heard], float]:
    limits = httpx.Limits(max_connections=callers)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began = time.perf_counter()
        heard = await asyncio.gather(*(ask(client, body_of(caller)) for caller in range(callers)))
        return list(heard), time.perf_counter() - began


def row_of(side: str, engine: str, heard: list[Heard], wall_s: float, rss_mb: float) -> Row:
    first = sorted(one.first_audio_s for one in heard)
    paces = [one.audio_s / one.whole_s for one in heard]
    return {
        "engine": engine,
        "side": side,
        "callers": len(heard),
        "first_audio_mean_s": statistics.fmean(first),
        "first_audio_max_s": first[-1],
        "whole_mean_s": statistics.fmean(one.whole_s for one in heard),
        "requests_per_s": len(heard) / wall_s,
        "rtf": wall_s / sum(one.audio_s for one in heard),
        # Jain's index of the callers' paces: 1 if all go equally fast, 1/n if one gets everything.
        "fairness": sum(paces) ** 2 / (len(paces) * sum(pace**2 for pace in paces)),
        "rss_mb": rss_mb,
    }


def first_of_ten(url: str, body_of: Callable[[int], dict[str, object]], seconds: float = 8.0) -> tuple[float, float]:
    """Median seconds to the first audio of one sentence alone, and of a text of ten that begins with it, by turns on one
    connection."""
    sentences = [f"One caller says part {part}." for part in range(1, 11)]

    async def pairs() -> list[tuple[float, float]]:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            found, end = [], time.perf_counter() + seconds
            while time.perf_counter() < end or len(found) < 5:
                one, ten = [
                    (await ask(client, body_of(0) | {"text": text})).first_audio_s for text in (sentences[0], " ".join(sentences))
                ]
                found.append((one, ten))
            return found

    found = asyncio.run(pairs())
    return statistics.median(one for one, _ in found), statistics.median(ten for _, ten in found)


def measure(
    side: str, engine: str, url: str, pid: int, counts: list[int], body_of: Callable[[int], dict[str, object]]
) -> list[Row]:
    asyncio.run(at_once(url, 1, body_of))  # loads the model
    rows = []
    for callers in counts:
        heard, wall_s = asyncio.run(at_once(url, callers, body_of))
        process = psutil.Process(pid)
        rss = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
        rows.append(row_of(side, engine, heard, wall_s, rss / 1e6))
        print_row(rows[-1])
    return rows


@contextmanager
def one_lock(engine: str, *checkout: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    command = [sys.executable, str(ROOT / "bench" / "one_lock_server.py"), engine, str(port), *checkout]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{url}/ready")
                break
            except httpx.ConnectError:
                if process.poll() is not None:
                    raise RuntimeError("the server with one lock did not start") from None
                time.sleep(0.05)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def compare(engine: str, folder: Path, counts: list[int]) -> tuple[list[Row], Row]:
    """The rows of both sides, and what ten sentences are against one."""
    places = {"CONCURRENCY": "40", "QUEUE_SIZE": "40", "RESULT_CACHE_MB": "0", "TTS_ENGINE": engine}
    checkout: tuple[str, ...] = ()
    voices = ["f1", "m1", "Annie"]
    paths = voices
    if engine == "indextts2":
        root = folder / "index-tts"
        told = {"rtf": RTF, "voice_s": VOICE_S, "memory": True}
        python = write_checkout(root, "2.0", sys.executable, [sysconfig.get_path("purelib")], **told)
        places |= {"INDEXTTS_PYTHON": str(python), "CACHE_HUB": str(folder / "hub")}
        (folder / "hub" / "voices").mkdir(parents=True)
        voices = [clip.stem for clip in CLIPS[:3]]
        paths = [str(shutil.copy(clip, folder / "hub" / "voices")) for clip in CLIPS[:3]]
        checkout = (str(root),)
    with one_lock(engine, *checkout) as (url, pid):
        rows = measure("one lock", engine, url, pid, counts, lambda n: {"text": text_of(n), "voice": paths[n % 3]})
    with running("app_tts.py", **places) as app:

        def body_of(caller: int) -> dict[str, object]:
            return {"text": text_of(caller), "speaker_id": voices[caller % 3], "stream": True}

        rows += measure("steadyvoice", engine, app.url, app.process.pid, counts, body_of)
        alone_s, first_s = first_of_ten(app.url, body_of)
    print(f"  {engine}: first audio of one sentence after {alone_s:.3f} s, of ten after {first_s:.3f} s", flush=True)
    return rows, {"engine": engine, "one_sentence_first_audio_s": alone_s, "ten_sentences_first_audio_s": first_s}


COLUMNS = ("engine", "side", "callers", "first_audio_mean_s", "first_audio_max_s", "whole_mean_s", "requests_per_s", "rtf")
COLUMNS += ("fairness", "rss_mb")


def print_row(row: Row) -> None:
    print(
        "  ".join(f"{row[name]:>12.3f}" if isinstance(row[name], float) else f"{row[name]!s:>12}" for name in COLUMNS), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="speech for many callers at once")
    parser.add_argument("--callers", type=int, nargs="+", default=list(CALLERS))
    parser.add_argument("--engines", nargs="+", default=["espeak", "indextts2"], choices=["espeak", "indextts2"])
    options = parser.parse_args()
    print("  ".join(f"{name.removesuffix('_s')[-12:]:>12}" for name in COLUMNS))
    rows: list[Row] = []
    tens: list[Row] = []
    for engine in options.engines:
        with tempfile.TemporaryDirectory(prefix="steadyvoice-bench-") as folder:
            found, ten = compare(engine, Path(folder), options.callers)
        rows += found
        tens.append(ten)
    figures = {(row["engine"], row["side"], row["callers"]): row["first_audio_mean_s"] for row in rows}
    ratios = {
        f"one_lock_first_audio_{callers}" + ("_espeak" if engine == "espeak" else ""): round(
            figures[engine, "one lock", callers] / figures[engine, "steadyvoice", callers], 2
        )
        for engine in options.engines
        for callers in options.callers
    }
    for ten in tens:
        pair = ten["one_sentence_first_audio_s"], ten["ten_sentences_first_audio_s"]
        ratios[f"one_of_ten_sentences_{ten['engine']}"] = round(pair[0] / pair[1], 2)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    rounded = [{name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()} for row in rows + tens]
    print(json.dumps({"bench": "synthesis", "commit": commit, "machine": machine, "rows": rounded, "ratios": ratios}))


if __name__ == "__main__":
    main()
