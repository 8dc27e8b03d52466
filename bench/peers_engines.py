"""One recogniser in a process of its own: load it, time it, print lines of JSON. Started by bench/recognition.py.

Runs under steadyvoice's own interpreter for ours and under the peers' (bench/peers.txt) for the others. What a contender needs
is imported when it is made, so that nobody waits for another's imports and nobody's memory holds them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from peers_speech import AMOUNTS, FloatArray, clips, seconds_of, varied, work  # noqa: E402

CORES = len(os.sched_getaffinity(0))
LATENCY_CALLS = 5
TRIED_SEGMENTS, TRIED_LONGEST_S = 8, 10.0  # what the batch size is chosen on
TRIALS = {"full": 3, "quick": 1}
SWEEP_ITEMS = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
SWEEP_S = 1.0  # each size is repeated for at least so long
MATMUL_ROWS = {"cpu": 171, "cuda": 171 * 64}  # one clip of 10 s with its queries; enough of them to fill a GPU
MATMUL_S = 0.5  # for each shape and precision

Row = dict[str, Any]


class Contender:
    """A loaded recogniser. Constructing it is loading it."""

    # Clips of similar length to hand over at once: the fastest is found before the rounds. 0: all, it groups them itself.
    batches: Sequence[int] = (1,)

    def run(self, batch: Sequence[FloatArray]) -> None:
        """Transcribe all of them, up to the text."""
        raise NotImplementedError

    def tokens(self, clip: FloatArray) -> list[Any]:
        """The collapsed greedy path of one clip, as ids."""
        raise NotImplementedError


class Ours(Contender):
    """The recogniser that the worker would have, and nothing around it: no process of its own, no queue, no HTTP."""

    def __init__(self, precision: str, options: argparse.Namespace) -> None:
        from steadyvoice.engine.worker_process import WORKER_ENVIRONMENT

        os.environ.update(WORKER_ENVIRONMENT | os.environ)
        from steadyvoice.protocol import RecognizeItem
        from steadyvoice.worker.registry import load_model

        release = {"directory": options.release, "precision": precision, "device": options.device}
        self._recognizer: Any = load_model("sensevoice", release)  # as the worker loads it
        self._item = RecognizeItem
        self.batches = (0,) if options.device == "cpu" else (32, 128, 256)

    def run(self, batch: Sequence[FloatArray]) -> None:
        outcomes = list(self._recognizer.run([self._item(clip).to_payload() for clip in batch]))
        assert all("text" in outcome.fields for outcome in outcomes), outcomes

    def tokens(self, clip: FloatArray) -> list[int]:
        from steadyvoice.worker.recognizers.sensevoice.recognizer import collapse

        (path,) = self._recognizer.token_paths([self._item(clip)])
        return [token.id for token in collapse(path)]


class Funasr(Contender):
    """AutoModel: as its README calls it, or with what makes it fastest; fp32 both, as its bf16 and fp16 fail on this model."""

    def __init__(self, best: bool, options: argparse.Namespace) -> None:
        from funasr import AutoModel

        settings: dict[str, Any] = {}
        if best:
            settings = {"ncpu": CORES, "frontend_conf": {"dither": 0.0}, "disable_pbar": True, "log_level": "ERROR"}
            self.batches = (1, 4, 8) if options.device == "cpu" else (1, 8, 32, 128)
        # Its look for a newer version at every start would measure the network.
        self._model = AutoModel(model=options.release, device=options.device, disable_update=True, **settings)

    def run(self, batch: Sequence[FloatArray]) -> None:
        given: Any = batch[0] if len(batch) == 1 else list(batch)
        extra = {} if len(batch) == 1 else {"batch_size": len(batch)}
        results = self._model.generate(input=given, language="auto", use_itn=True, **extra)
        assert len(results) == len(batch)

    def tokens(self, clip: FloatArray) -> list[int]:
        """What it hands to its own tokenizer."""
        kind = type(self._model.kwargs["tokenizer"])  # of the class, as every call works on a copy of the tokenizer
        decode, seen = kind.decode, []
        with mock.patch.object(kind, "decode", lambda self, ids: seen.append(list(ids)) or decode(self, ids)):
            self.run([clip])
        return seen[0]


class Sherpa(Contender):
    """sherpa-onnx's offline recogniser on the exported release, on a CPU."""

    batches = (1, 4, 8)
    HIDDEN = 4  # tokens at the start that it keeps to itself

    def __init__(self, model: str, options: argparse.Namespace) -> None:
        from sherpa_onnx import OfflineRecognizer

        tokens = f"{options.onnx}/tokens.txt"
        self._recognizer = OfflineRecognizer.from_sense_voice(
            model=f"{options.onnx}/{model}", tokens=tokens, num_threads=CORES, language="auto", use_itn=True
        )
        self._tokens_file = Path(tokens)

    def _decoded(self, batch: Sequence[FloatArray]) -> list[Any]:
        streams = [self._recognizer.create_stream() for _ in batch]
        for stream, clip in zip(streams, batch, strict=True):
            stream.accept_waveform(16_000, clip)
        self._recognizer.decode_streams(streams)
        return [stream.result for stream in streams]

    def run(self, batch: Sequence[FloatArray]) -> None:
        assert len([result.text for result in self._decoded(batch)]) == len(batch)

    def tokens(self, clip: FloatArray) -> list[int]:
        """Without the first HIDDEN."""
        ids = dict(line.rsplit(" ", 1) for line in self._tokens_file.read_text(encoding="utf-8").splitlines())
        (result,) = self._decoded([clip])
        return [int(ids.get(piece.replace(" ", "▁"), -1)) for piece in result.tokens]


def make(name: str, options: argparse.Namespace) -> Contender:
    match name.split("-"):
        case ["ours", precision]:
            return Ours(precision, options)
        case ["funasr", kind]:
            return Funasr(kind == "best", options)
        case ["sherpa", "fp32"]:
            return Sherpa("model.onnx", options)
        case ["sherpa", "int8"]:
            return Sherpa("model.int8.onnx", options)
    raise ValueError(f"contender {name!r} is unknown")


# --- Measuring
# ----------------------------------------------------------------------------------------------------------------------


def timed(contender: Contender, pieces: Sequence[FloatArray], batch: int) -> float:
    """Seconds for all pieces, similar lengths together."""
    groups = list(grouped(pieces, batch))
    began = time.perf_counter()
    for group in groups:
        contender.run(group)
    return time.perf_counter() - began


def grouped(pieces: Sequence[FloatArray], batch: int) -> Iterator[list[FloatArray]]:
    if batch == 0:
        yield list(pieces)
        return
    ordered = sorted(pieces, key=len, reverse=True)
    yield from (ordered[first : first + batch] for first in range(0, len(ordered), batch))


def tune(name: str, options: argparse.Namespace) -> Row:
    """The fastest of the batches that a contender offers; one that does not fit into memory is none.

    In a process of its own, since what is tried and found worse may take more memory.
    """
    contender = make(name, options)
    count = TRIED_SEGMENTS if options.device == "cpu" else 2 * max(contender.batches)
    pieces = varied(count, seed=3, longest=TRIED_LONGEST_S)
    times: dict[int, float] = {}
    for _ in range(TRIALS[options.amount]):  # taking turns; the fastest of the trials counts
        for batch in contender.batches:
            try:
                times[batch] = min(times.get(batch, float("inf")), timed(contender, pieces, batch))
            except RuntimeError as error:
                print(f"batch of {batch}: {error}", file=sys.stderr)
    return {"batch": min(times, key=times.__getitem__), "seconds": times}


def measure(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """One contender: at once what its start took, then a turn for each line on stdin; seconds, milliseconds, MB of 1e6 bytes.

    A line "turn" asks for latency and throughput, "tokens" for the tokens of the segments that are compared. Contenders that stay
    loaded take turns within minutes, and what else the machine does then falls on all of them.
    """
    (first,) = clips(1, seed=0)
    contender = make(name, options)
    contender.run([first])
    yield {"first_transcript_s": time.monotonic() - options.began}
    pieces = work(AMOUNTS[options.device][options.amount])
    for line in sys.stdin:
        if line.strip() == "tokens":
            yield {"tokens": [contender.tokens(clip) for clip in compared(options)]}
            continue
        calls = [timed(contender, [first], 1) for _ in range(LATENCY_CALLS)]
        busy = time.process_time()
        seconds = timed(contender, pieces, options.batch)
        yield {
            "latency_ms": statistics.median(calls) * 1_000,
            "audio_s_per_s": seconds_of(pieces) / seconds,
            "cores_busy": (time.process_time() - busy) / seconds,
            **peaks(options.device),
        }


def compared(options: argparse.Namespace) -> list[FloatArray]:
    amount = AMOUNTS[options.device][options.amount]
    return varied(amount.varied, seed=2)[: amount.compared]


def reference(_: str, options: argparse.Namespace) -> Row:
    """FunASR in fp32 without dither, one clip at a time: only its tokens."""
    contender = make("funasr-best", options)
    return {"tokens": [contender.tokens(clip) for clip in compared(options)]}


def peaks(device: str) -> Row:
    """The largest resident set of this process so far; on a GPU also the largest sum of tensors."""
    found: Row = {"peak_rss_mb": peak_rss_mb(os.getpid())}
    if device == "cuda":
        import torch

        found["peak_vram_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def peak_rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024 / 1e6


# --- What the machine can do
# ----------------------------------------------------------------------------------------------------------------------


def matmul(_: str, options: argparse.Namespace) -> Row:
    """GFLOP/s of the four products of one encoder layer in each precision: a ceiling, as its weights stay in the cache."""
    import torch

    size, units = options.size, options.units
    shapes = [(size, 3 * size), (size, size), (size, units), (units, size)]
    rows = MATMUL_ROWS[options.device]
    rates = {}
    for precision in options.precisions.split(","):
        with torch.inference_mode():
            seconds = sum(product_s(rows, *shape, precision, options.device) for shape in shapes)
        rates[precision] = sum(2 * rows * wide * narrow for wide, narrow in shapes) / seconds / 1e9
    return {"gflops": rates}


def product_s(rows: int, width: int, out: int, precision: str, device: str) -> float:
    """Seconds of one product, the fastest of many."""
    import torch

    from steadyvoice.worker.recognizers.sensevoice.encoder import Linear
    from steadyvoice.worker.recognizers.sensevoice.weights import DTYPES, SIGN_BIT, Int8Linear

    if precision == "int8":
        layer = Linear(width, out)
        torch.nn.init.normal_(layer.weight)
        packed = Int8Linear(layer, after_relu=False)
        x = torch.randint(0, 255, (rows, width), dtype=torch.uint8)
        scales = (packed.packed, packed.weight_scale, packed.weight_zero)

        def call() -> None:
            torch.ops.onednn.qlinear_pointwise(
                x, 1.0, SIGN_BIT, *scales, None, 1.0, 0, torch.float32, "none", [], ""
            )  # as Int8Linear does it, without finding scales and rounding
    else:
        dtype = DTYPES[precision]
        x, weight = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, width), (out, width)))

        def call() -> None:
            torch.nn.functional.linear(x, weight)

    return fastest_call_s(call, device, MATMUL_S)


def fastest_call_s(call: Any, device: str, seconds: float) -> float:
    import torch

    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def sweep(precision: str, options: argparse.Namespace) -> Row:
    """Clips of 10 s in one forward pass: speed and memory by how many."""
    import torch

    from steadyvoice.protocol import RecognizeItem
    from steadyvoice.worker.recognizers.sensevoice.recognizer import SenseVoiceRecognizer

    recognizer = SenseVoiceRecognizer(options.release, precision, options.device)
    rows = []
    for count in SWEEP_ITEMS[options.device]:
        items = [RecognizeItem(clip) for clip in clips(count, seed=4)]
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            recognizer.recognize(items)
            seconds = fastest_call_s(lambda items=items: recognizer.recognize(items), options.device, SWEEP_S)
        except torch.OutOfMemoryError:
            rows.append({"items": count, "problem": "out of memory"})
            break
        rate = seconds_of([item.samples for item in items]) / seconds
        rows.append({"items": count, "audio_s_per_s": rate, **peaks(options.device)})
    return {"sweep": rows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", help="measure:NAME, tune:NAME, sweep:PRECISION, reference or matmul")
    parser.add_argument("--began", type=float, required=True, help="time.monotonic() just before this process was started")
    parser.add_argument("--release", required=True)
    parser.add_argument("--onnx", help="folder of the exported release")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amount", default="full")
    parser.add_argument("--batch", type=int, default=1, help="clips handed over at once; 0: all")
    parser.add_argument("--precisions", default="fp32", help="for matmul")
    parser.add_argument("--size", type=int, default=512, help="of the encoder, for matmul")
    parser.add_argument("--units", type=int, default=2_048, help="of its feed-forward layers, for matmul")
    options = parser.parse_args()
    task, _, name = options.task.partition(":")
    once = {"tune": tune, "sweep": sweep, "reference": reference, "matmul": matmul}
    for row in measure(name, options) if task == "measure" else [once[task](name, options)]:
        print("\n" + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
