"""The two servers over HTTP: our app and funasr-server, the same uploads to either.

Each as it is shipped. Ours finds speech in every upload, cuts it and lets requests share batches. funasr-server with
`--model-path` has no voice activity detection: it runs one whole upload at a time through AutoModel, on the event loop, without
ITN and on four threads, however many cores there are; it has no option for that.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from peers_engines import peak_rss_mb
from peers_setup import NotAvailable, last_line
from peers_speech import CLIP_S, clips, wav_bytes

from steadyvoice.testing.ports import free_port
from steadyvoice.testing.running_apps import running

CALLERS = (1, 8)
REQUESTS = {"full": {1: 12, 8: 48}, "quick": {1: 3, 8: 16}}
MORE_ON_A_GPU = 8
WARM_UP = 8  # requests, by as many callers
START_S = 180.0
REQUEST_S = 3_600.0

# One for all callers: making a client takes 25 ms of the cores that the servers are measured on.
CLIENT = httpx.Client(timeout=REQUEST_S, limits=httpx.Limits(max_connections=None))

Row = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A server that answers: where, with which form fields, and its process."""

    url: str
    fields: dict[str, str]
    process: psutil.Process
    began: float  # time.monotonic() at its start


@contextmanager
def our_server(release: Path) -> Iterator[Server]:
    """The app with its own defaults, but room for the callers and no cache of results."""
    began = time.monotonic()
    settings = {
        "ASR_ENGINE": "sensevoice",
        "SENSEVOICE_DIR": str(release),
        "HUB": "none",
        "QUEUE_SIZE": "64",
        "CONCURRENCY": str(max(CALLERS)),
        "RESULT_CACHE_MB": "0",
    }
    with running("app_sensevoice.py", **settings) as app:
        yield Server(app.url, {}, psutil.Process(app.process.pid), began)


@contextmanager
def funasr_server(python: Path, release: Path, device: str) -> Iterator[Server]:
    """`funasr-server`, as the package installs it.

    Raises:
        NotAvailable: it does not start.
    """
    began, port = time.monotonic(), free_port()
    command = [python, "-m", "funasr.bin.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", device, "--model-path", str(release)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(f"{url}/health"):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    log.seek(0)
                    raise NotAvailable(f"funasr-server does not start: {last_line(log.read())}")
                time.sleep(0.05)
            # The name that stands for the model which the server was started with.
            yield Server(url, {"model": "whisper-1"}, psutil.Process(process.pid), began)
        finally:
            process.terminate()
            process.wait(30)


def measure(server: Server, amount: str, device: str) -> Row:
    """First transcript since the start, then throughput and latency of 10 s clips with one and with several callers at once."""
    uploads = [wav_bytes(clip) for clip in clips(1 + WARM_UP, seed=5)]
    transcribe(server, uploads[0])
    row: Row = {"first_transcript_s": time.monotonic() - server.began}
    load(server, uploads[1:], callers=WARM_UP)
    for callers in CALLERS:
        count = REQUESTS[amount][callers] * (MORE_ON_A_GPU if device == "cuda" else 1)
        uploads = [wav_bytes(clip) for clip in clips(count, seed=10 + callers)]
        seconds, latencies = load(server, uploads, callers)
        row[f"audio_s_per_s_{callers}"] = count * CLIP_S / seconds
        row[f"latency_ms_{callers}"] = statistics.median(latencies) * 1_000
    row["peak_rss_mb"] = sum(peak_rss_mb(process.pid) for process in family(server))
    return row


def transcribe(server: Server, upload: bytes, **fields: str) -> httpx.Response:
    files = {"file": ("clip.wav", upload, "audio/wav")}
    data = {**server.fields, **fields}
    return CLIENT.post(f"{server.url}/v1/audio/transcriptions", files=files, data=data).raise_for_status()


def load(server: Server, uploads: Sequence[bytes], callers: int) -> tuple[float, list[float]]:
    """Seconds for all uploads with so many callers at once, and the seconds of each."""

    def call(upload: bytes) -> float:
        began = time.perf_counter()
        transcribe(server, upload)
        return time.perf_counter() - began

    with ThreadPoolExecutor(callers) as pool:
        began = time.perf_counter()
        latencies = list(pool.map(call, uploads))
        return time.perf_counter() - began, latencies


def family(server: Server) -> list[psutil.Process]:
    """The server's process and its children."""
    return [server.process, *server.process.children(recursive=True)]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
