"""FunASR in a process of its own, as it is used in three ways; started by bench/memory.py for one scenario, then over.

- `naive`: every request makes an AutoModel, uses it once and lets it go. The well-known mistake.
- `shared`: one AutoModel for all, called as FunASR's README has it (batch_size_s=60, merge_vad, merge_length_s=15). Callers
  come in from threads, as many as there are.
- `four-step`: the remedy that is passed around: batch_size_s=30, merge_length_s=10, emptied caches after every call, and two
  requests at a time.

All of them go through FunASR's own way of long audio, `inference_with_vad`: its merging, its batches, its order. Only its voice
activity detector is stood in for by stretches of speech that were found beforehand (see bench/memory_speech.py), because random
weights come without one. On a CPU FunASR makes no batches at all and runs every stretch alone; batch_size_s counts on a GPU.
`merge_length_s` is given when AutoModel is made: given to a call, as it usually is, FunASR reads it too late and takes 15 s.

What happens is told on stdout, one JSON line each: `{"event": "loading" | "ready" | "loaded" | "answered" | "failed" | "over"}`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@dataclass(frozen=True)
class Way:
    """How FunASR is used."""

    shared: bool  # one model for all requests
    batch_size_s: int
    merge_length_s: int
    at_once: int | None = None  # requests; None: all that come
    trims: bool = False  # caches after every call


WAYS = {
    "naive": Way(shared=False, batch_size_s=60, merge_length_s=15),
    "shared": Way(shared=True, batch_size_s=60, merge_length_s=15),
    "four-step": Way(shared=True, batch_size_s=30, merge_length_s=10, at_once=2, trims=True),
}


class Teller:
    """Events for whoever started this process. What FunASR prints goes to stderr instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(self, event: str, **fields: Any) -> None:
        with self._lock:
            print(json.dumps({"event": event, **fields}), file=self._out, flush=True)


class Stretches:
    """Stands where FunASR has its voice activity detector, and answers what the calling thread was given."""

    def __init__(self) -> None:
        self._given = threading.local()

    def give(self, stretches: list[list[int]]) -> None:
        self._given.stretches = stretches

    def parameters(self) -> Iterator[Any]:
        import torch

        yield torch.zeros(0)  # FunASR asks on which device the model is

    def inference(self, data_in: list[Any], key: list[str], **_: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        assert len(data_in) == 1
        return [{"key": key[0], "value": [list(stretch) for stretch in self._given.stretches]}], {}


class Contender:
    """One way of using FunASR on one device."""

    def __init__(self, way: Way, options: argparse.Namespace, teller: Teller) -> None:
        self._way = way
        self._options = options
        self._teller = teller
        self._stretches = Stretches()
        self._turns: AbstractContextManager[Any] = threading.Semaphore(way.at_once) if way.at_once else nullcontext()
        self._model = self._new_model() if way.shared else None

    def _new_model(self) -> Any:
        from funasr import AutoModel

        model = AutoModel(
            model=self._options.release,
            device=self._options.device,
            merge_length_s=self._way.merge_length_s,
            disable_update=True,  # its look for a newer version would measure the network
            disable_pbar=True,
            log_level="ERROR",
        )
        model.vad_model = self._stretches
        return model

    def transcribe(self, path: Path) -> int:
        """The number of characters of the transcript.

        Raises:
            RuntimeError: FunASR found no text in speech. Whatever else it raises comes through.
        """
        import soundfile

        with self._turns:
            samples, _ = soundfile.read(path, dtype="float32")
            model = self._model
            if model is None:
                model = self._new_model()
                self._teller.tell("loaded")
            self._stretches.give(json.loads(path.with_suffix(".json").read_text(encoding="ascii")))
            results = model.generate(
                input=samples, cache={}, language="auto", use_itn=True, batch_size_s=self._way.batch_size_s, merge_vad=True
            )
            del model
            if self._way.trims:
                trim(self._options.device)
        if not results or not results[0]["text"]:
            raise RuntimeError("the transcript is empty")
        return len(results[0]["text"])

    def serve(self, number: int, path: Path) -> None:
        """One request, in a thread of its own."""
        began = time.perf_counter()
        try:
            characters = self.transcribe(path)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is a request that failed, and is told
            self._teller.tell("failed", request=number, reason=f"{type(error).__name__}: {str(error)[:200]}")
        else:
            self._teller.tell("answered", request=number, seconds=time.perf_counter() - began, characters=characters)

    def serve_all(self, paths: list[Path]) -> None:
        """All requests at once."""
        threads = [threading.Thread(target=self.serve, args=pair) for pair in enumerate(paths)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def trim(device: str) -> None:
    """The step of the remedy that empties caches; on a CPU its equivalent."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # of glibc
        libc.malloc_trim(0)


def bound(cap_mb: int) -> None:
    """Let torch refuse to reserve more than so many MB of the card."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_mb * 1e6 / total))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--release", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vram-cap-mb", type=int, default=0, help="0: none")
    parser.add_argument("--warm-up", type=Path, required=True)
    parser.add_argument("recordings", type=Path, nargs="+")
    options = parser.parse_args()
    teller = Teller()
    teller.tell("loading")
    import funasr  # noqa: F401 - seconds of imports are not part of anybody's first request

    if options.vram_cap_mb:
        bound(options.vram_cap_mb)
    way = WAYS[options.way]
    contender = Contender(way, options, teller)
    if way.shared:
        teller.tell("loaded")
        contender.transcribe(options.warm_up)
    teller.tell("ready")
    contender.serve_all(options.recordings)
    peak = {}
    if options.device == "cuda":
        import torch

        peak = {"reserved_mb": torch.cuda.max_memory_reserved() / 1e6}
    teller.tell("over", **peak)


if __name__ == "__main__":
    main()
