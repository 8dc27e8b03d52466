"""What has to be there before anything is measured: weights, the peers' own environment, the weights as sherpa-onnx reads them.

Everything that is made is made once and kept: weights and exports in build/bench, packages in .venv-peers.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steadyvoice.worker.recognizers.sensevoice.weights import choose_precision  # noqa: E402

PARTS = ("ours", "funasr", "sherpa", "servers", "hour", "equality", "sweep")
ROUNDS = {"full": 5, "quick": 1}
PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
CACHE = ROOT / "build" / "bench"
RELEASED = ROOT / "cache_hub" / "SenseVoiceSmall"
PEERS = ROOT / ".venv-peers"
REQUIREMENTS = ROOT / "bench" / "peers.txt"
VOCABULARY = 25_055
FEATURES = 560  # of one row
ROWS_PER_S = 1 / 0.06


class NotAvailable(Exception):
    """A peer cannot be measured here. The message says why."""


@dataclass(frozen=True)
class Release:
    """A release directory and what it takes to compute with it."""

    folder: Path

    @cached_property
    def encoder(self) -> dict[str, Any]:
        """`encoder_conf` of config.yaml."""
        return dict(yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))["encoder_conf"])

    @property
    def gflop_per_audio_s(self) -> float:
        """Of the linear layers, two per multiply-add; attention itself and the memory are a few percent more."""
        size, units = self.encoder["output_size"], self.encoder["linear_units"]
        layers = self.encoder["num_blocks"] + self.encoder["tp_blocks"]
        layer = 3 * size * size + size * size + 2 * size * units
        products = layers * layer + 3 * size * (FEATURES - size) + size * VOCABULARY
        return 2 * products * ROWS_PER_S / 1e9

    @property
    def description(self) -> str:
        blocks = f"{self.encoder['num_blocks']}+{self.encoder['tp_blocks']} layers of {self.encoder['output_size']}"
        megabytes = (self.folder / "model.pt").stat().st_size / 1e6
        kind = "random weights" if CACHE in self.folder.parents else "as released" if self.folder == RELEASED else "as given"
        return f"{self.folder.name} ({kind}; {blocks}, {megabytes:.0f} MB)"


@dataclass(frozen=True)
class Setup:
    """What all parts need to know."""

    release: Release
    device: str
    amount: str
    rounds: int
    parts: tuple[str, ...]
    peers: Path | None  # interpreter
    onnx: Path | None  # folder of the export
    missing: dict[str, str]  # part -> why it cannot be measured

    @property
    def best(self) -> str:
        """Ours as it runs when nobody chooses a precision."""
        return f"ours-{choose_precision('auto', torch.device(self.device))}"

    def python_of(self, contender: str) -> Path:
        """The interpreter that a contender runs under; the peers' must be there."""
        if contender.startswith("ours"):
            return Path(sys.executable)
        assert self.peers is not None
        return self.peers

    def contenders(self) -> list[str]:
        """In the order of their turns: those that are compared with each other follow each other."""
        ours = [f"ours-{precision}" for precision in PRECISIONS[self.device]]
        names = [*ours[:-1], "sherpa-fp32", "sherpa-int8", ours[-1], "funasr-best", "funasr-default"]
        return [name for name in names if name.split("-")[0] in self.parts]


def prepare(options: argparse.Namespace) -> Setup:
    """Weights, packages and export; whatever fails is written down as missing."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the app would take the GPU by itself
    release, missing = find_release(options.release), {}
    parts = PARTS if options.only is None else tuple(options.only.split(","))
    if options.only is None and device == "cpu" and not options.sweep:
        parts = tuple(part for part in PARTS if part != "sweep")
    peers = onnx = None
    if {"funasr", "sherpa", "servers"} & set(parts):
        try:
            peers = peers_python(options.peers)
        except NotAvailable as error:
            missing = dict.fromkeys(("funasr", "sherpa", "servers"), str(error))
    if "sherpa" in parts and device == "cuda":
        missing["sherpa"] = "its wheel computes on CPUs only"
    elif "sherpa" in parts and peers is not None:
        try:
            onnx = exported(release, peers)
        except NotAvailable as error:
            missing["sherpa"] = str(error)
    for folder in (release.folder, onnx):
        if folder is not None:
            read_once(folder)
    amount = "quick" if options.quick else "full"
    return Setup(release, device, amount, options.rounds or ROUNDS[amount], parts, peers, onnx, missing)


def find_release(given: Path | None) -> Release:
    """The one that is given, else the downloaded one, else random weights at full size."""
    if given is not None:
        return Release(given.resolve())
    if (RELEASED / "model.pt").is_file():
        return Release(RELEASED)
    folder = CACHE / "sensevoice-random"
    if not folder.is_dir():
        say("no released weights in cache_hub/SenseVoiceSmall: writing random ones of the same size")
        unfinished = folder.with_suffix(".unfinished")
        command = [sys.executable, ROOT / "tools" / "sensevoice_release.py", unfinished]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        unfinished.rename(folder)
    return Release(folder)


def peers_python(given: Path | None) -> Path:
    """The interpreter that has bench/peers.txt.

    Raises:
        NotAvailable: the packages cannot be installed, most likely for want of a network.
    """
    if given is not None:
        return given.absolute()
    python = PEERS / "bin" / "python"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    # Written last, and named after what was installed: an interrupted or outdated installation is repeated.
    stamp = PEERS / f"installed-{digest}"
    if not stamp.is_file():
        say(f"installing {REQUIREMENTS.relative_to(ROOT)} into {PEERS.name}: some minutes, once")
        venv.create(PEERS, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise NotAvailable(f"bench/peers.txt cannot be installed: {last_line(done.stderr)}")
        for old in PEERS.glob("installed-*"):
            old.unlink()
        stamp.touch()
    return python


def exported(release: Release, python: Path) -> Path:
    """The folder with model.onnx, model.int8.onnx and tokens.txt of that release.

    Raises:
        NotAvailable: the export fails.
    """
    weights, script = release.folder / "model.pt", ROOT / "bench" / "sherpa_export.py"
    made_of = f"{weights}:{weights.stat().st_size}:{weights.stat().st_mtime_ns}:{script.read_text(encoding='utf-8')}"
    folder = CACHE / f"onnx-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        say("exporting the weights for sherpa-onnx: a minute, once")
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        done = subprocess.run([python, script, release.folder, unfinished], capture_output=True, text=True)
        if done.returncode:
            raise NotAvailable(f"the export fails: {last_line(done.stderr)}")
        unfinished.rename(folder)
    return folder


def read_once(folder: Path) -> None:
    """Bring a folder's files into the page cache, so that nobody is the one who waits for the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def say(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)
