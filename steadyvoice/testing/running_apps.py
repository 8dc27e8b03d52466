"""The real apps as real processes on free ports, for tests that look from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from steadyvoice.testing.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CLIPS = sorted(DATA.glob("*.wav"))
START_S = 60  # a loaded machine is slow; the promise of 10 s is measured elsewhere


@dataclass
class RunningApp:
    """One app's process, its address and everything it wrote."""

    process: subprocess.Popen[str]
    url: str
    files: Path  # where the page keeps uploads and downloads
    log: list[str]

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def worker_pid(self) -> int | None:
        pid: int | None = httpx.get(f"{self.url}/memory", timeout=30).json()["worker"]["pid"]
        return pid

    def worker(self) -> psutil.Process:
        pid = self.worker_pid()
        assert pid is not None, "no worker is running"
        return psutil.Process(pid)


def wait_ready(app: RunningApp) -> None:
    """Until /ready answers 200; fails at once when the process ends."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            assert httpx.get(f"{app.url}/ready", timeout=30).status_code == 200
            return
        except httpx.ConnectError:
            with suppress(subprocess.TimeoutExpired):
                app.process.wait(0.05)
                raise AssertionError("the app ended: " + "".join(app.log)) from None
    raise AssertionError("the app did not start in time")


@contextmanager
def running(script: str, open_files: int | None = None, files: Path | None = None, **settings: str) -> Iterator[RunningApp]:
    """Start `app_sensevoice.py` or `app_tts.py` and wait until it is ready; stop it and its worker afterwards.

    `open_files` is the hard limit of file descriptors that the app gets. `files` is where temporary files go; everything else
    that the app writes goes to a folder that is deleted afterwards.
    """
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="steadyvoice-test-") as temporary:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("STEADYVOICE_")}
        environment = clean | {
            "STEADYVOICE_ASR_PORT": port,
            "STEADYVOICE_TTS_PORT": port,
            "STEADYVOICE_CACHE_HUB": temporary,  # weights that lie in the project's own choose no engine here
            "GRADIO_TEMP_DIR": str(files or temporary),
            "PYTHONUNBUFFERED": "1",
            **{f"STEADYVOICE_{name}": value for name, value in settings.items()},
        }
        limit = [] if open_files is None else ["prlimit", f"--nofile={open_files}"]
        command = [*limit, sys.executable, str(ROOT / script)]
        process = subprocess.Popen(command, cwd=temporary, env=environment, stderr=subprocess.PIPE, text=True)
        app = RunningApp(process, f"http://127.0.0.1:{port}", files or Path(temporary), [])

        def read() -> None:
            assert process.stderr is not None
            app.log.extend(process.stderr)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            wait_ready(app)
            yield app
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(10)
