"""SenseVoiceSmall on the same weights, speech and cores: ours against FunASR, sherpa-onnx and funasr-server.

Every contender has a process of its own. The engines are loaded one after another, stay, and take turns (A B C, A B C), so that
a noisy machine is noisy for all; a figure is the median of its turns. Prints a table and one JSON line. `make bench-recognition`.

Weights are the downloaded ones, those of `--release`, or random ones at full size: these say nothing of words, and everything of
speed, memory and equality. What cannot be had here is named as not measured and has no ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import peers_hour
import peers_servers
from httpx import HTTPError
from peers_report import machine, print_report, ratios_of, rounded
from peers_setup import PARTS, PRECISIONS, ROOT, NotAvailable, Setup, last_line, prepare, say

STARTS = {"full": 2, "quick": 1}  # of each engine; the last stays for its turns
SERVER_ROUNDS = {"full": 2, "quick": 1}
EQUAL_SEGMENTS = {"full": 200, "quick": 12}
HOUR_MINUTES = {"full": 60.0, "quick": 10.0}
SHERPA_HIDDEN = 4  # tokens at the start of a path that sherpa-onnx does not give
TIMEOUT_S = 3_600

Row = dict[str, Any]


# --- Engines
# ----------------------------------------------------------------------------------------------------------------------


def command_of(setup: Setup, python: Path | str, task: str, **arguments: Any) -> list[str]:
    """A process of bench/peers_engines.py, as if it were started now."""
    say(task)
    command: list[Any] = [python, ROOT / "bench" / "peers_engines.py", task, "--release", setup.release.folder]
    command += ["--device", setup.device, "--amount", setup.amount, "--onnx", setup.onnx or ""]
    for name, value in arguments.items():
        command += [f"--{name}", value]
    return [str(part) for part in [*command, "--began", time.monotonic()]]


def run(setup: Setup, python: Path | str, task: str, **arguments: Any) -> Row:
    """One process of bench/peers_engines.py -> its JSON, or the problem that it died of."""
    return spawned(command_of(setup, python, task, **arguments))


class Engine:
    """A contender in a process of its own that measures when it is asked. Constructing it waits for its first transcript."""

    def __init__(self, setup: Setup, name: str, batch: int) -> None:
        self._errors = TemporaryFile("w+")  # noqa: SIM115  `close` closes it
        command = command_of(setup, setup.python_of(name), f"measure:{name}", batch=batch)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.start = self._answer()

    def ask(self, what: str) -> Row:
        """See `measure` in bench/peers_engines.py; or the problem that the process died of."""
        assert self._process.stdin is not None
        try:
            print(what, file=self._process.stdin, flush=True)
        except OSError:
            pass  # it is gone: the answer says why
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        late = Timer(TIMEOUT_S, self._process.kill)
        late.start()
        try:
            found = next((json.loads(line) for line in self._process.stdout if line.startswith("{")), None)
        finally:
            late.cancel()
        if found is None:
            self._errors.seek(0)
            return {"problem": last_line(self._errors.read())}
        return dict(found)


def spawned(command: Sequence[str]) -> Row:
    """The JSON on a process's last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"problem": f"took more than {TIMEOUT_S} s"}
    if done.returncode:
        return {"problem": last_line(done.stderr)}
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_engines(setup: Setup) -> list[Row]:
    """A row for each contender, and what the machine's matrix products reach."""
    names = setup.contenders()
    present = [name for name in names if part_of(name) not in setup.missing]
    batches = {name: batch_of(setup, name) for name in present}
    reference = reference_tokens(setup) if present else None
    rounds: dict[str, list[Row]] = {name: [] for name in (*present, "matmul")}
    starts: dict[str, list[Row]] = {name: [] for name in present}
    tokens: dict[str, Row] = {}
    for _ in range(STARTS[setup.amount] - 1):
        for name in present:
            engine = Engine(setup, name, batches[name])
            starts[name].append(engine.start)
            engine.close()
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in present:
            engines[name] = Engine(setup, name, batches[name])
            stack.callback(engines[name].close)
            starts[name].append(engines[name].start)
        for turn in range(setup.rounds):
            say(f"turn {turn + 1} of {setup.rounds}")
            rounds["matmul"].append(measure_matmul(setup))
            for name, engine in engines.items():
                rounds[name].append(engine.ask("turn"))
        if reference:
            tokens = {name: engine.ask("tokens") for name, engine in engines.items()}
    rates = best_rates(rounds.pop("matmul"))
    rows: list[Row] = []
    for name in names:
        if name in present:
            row = median_of(starts[name]) | median_of(rounds[name]) | {"batch": batches[name]}
            row |= {figure: value for figure, value in rounds[name][-1].items() if figure.startswith("peak_")}  # over all turns
            if reference and "tokens" in tokens[name]:
                hidden = SHERPA_HIDDEN if part_of(name) == "sherpa" else 0
                row["agreement"] = agreement(reference, tokens[name]["tokens"], hidden)
            row |= roofline(setup, row, rates.get(precision_of(name)))
        else:
            row = {"problem": setup.missing[part_of(name)]}
        rows.append({"what": name, **row})
    return [*rows, *({"what": f"matmul-{name}", "gflops": rate} for name, rate in rates.items())]


def batch_of(setup: Setup, name: str) -> int:
    """How many clips to hand over at once: on a CPU all to ours, which groups them, and one to FunASR as its README has it."""
    if setup.device == "cpu" and part_of(name) == "ours":
        return 0
    if name == "funasr-default":
        return 1
    tried = run(setup, setup.python_of(name), f"tune:{name}")
    if "problem" in tried:
        say(f"{name}: no batch could be tried: {tried['problem']}")
    return int(tried.get("batch", 1))


def reference_tokens(setup: Setup) -> list[list[int]] | None:
    """FunASR's, in fp32 and without dither; None where there is no FunASR."""
    if setup.peers is None:
        return None
    found = run(setup, setup.peers, "reference")
    if "problem" in found:
        say(f"tokens cannot be compared: {found['problem']}")
    return found.get("tokens")


def roofline(setup: Setup, row: Row, rate: float | None) -> Row:
    """GFLOP/s of a measured throughput, and their part of `rate`."""
    if "audio_s_per_s" not in row:
        return {}
    reached = row["audio_s_per_s"] * setup.release.gflop_per_audio_s
    return {"gflops": reached} | ({"of_peak": reached / rate} if rate else {})


def measure_matmul(setup: Setup) -> Row:
    encoder = setup.release.encoder
    sizes = {"size": encoder["output_size"], "units": encoder["linear_units"]}
    return run(setup, sys.executable, "matmul", precisions=",".join(PRECISIONS[setup.device]), **sizes)


def best_rates(rounds: Sequence[Row]) -> dict[str, float]:
    """GFLOP/s by precision: a ceiling is the best that was seen."""
    found: dict[str, float] = {}
    for row in rounds:
        for precision, rate in row.get("gflops", {}).items():
            found[precision] = max(rate, found.get(precision, 0.0))
    return found


def part_of(name: str) -> str:
    return name.split("-")[0]


def precision_of(name: str) -> str:
    """The one that a contender computes in."""
    kind = name.split("-")[1]
    return "fp32" if kind in ("default", "best") else kind


def median_of(rounds: Sequence[Row]) -> Row:
    """Of every figure; the throughput of each round stays beside it. A problem in any round is a problem."""
    for row in rounds:
        if "problem" in row:
            return {"problem": row["problem"]}
    merged: Row = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    for name in [name for name in merged if name.startswith("audio_s_per_s")]:
        merged[f"{name}_rounds"] = [row[name] for row in rounds]
    return merged


def agreement(reference: list[list[int]], tokens: list[list[int]], hidden: int) -> float:
    """1 - edit distance / number of tokens, over all clips."""
    pairs = [(expected[hidden:], found) for expected, found in zip(reference, tokens, strict=True)]
    return 1 - sum(edit_distance(*pair) for pair in pairs) / max(1, sum(len(expected) for expected, _ in pairs))


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Fewest insertions, deletions and replacements."""
    row = list(range(len(other) + 1))
    for number, token in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for place, against in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (token != against))
    return row[-1]


def measure_sweep(setup: Setup, rows: Sequence[Row]) -> list[Row]:
    """Clips of 10 s per forward pass, in the precision that nobody has to choose."""
    precision = setup.best.removeprefix("ours-")
    found = run(setup, sys.executable, f"sweep:{precision}")
    rate = next((row["gflops"] for row in rows if row["what"] == f"matmul-{precision}"), None)
    sizes = found.get("sweep", [found])  # or the problem
    return [{"what": f"sweep-{precision}", **row, **roofline(setup, row, rate)} for row in sizes]


# --- Servers, one hour, equality
# ----------------------------------------------------------------------------------------------------------------------


def measure_servers(setup: Setup) -> list[Row]:
    """Our app and funasr-server, taking turns; each round starts them afresh."""
    folder, python = setup.release.folder, setup.peers
    servers: dict[str, Callable[[], AbstractContextManager[peers_servers.Server]]] = {
        "server-ours": lambda: peers_servers.our_server(folder)
    }
    if python is not None:
        servers["server-funasr"] = lambda: peers_servers.funasr_server(python, folder, setup.device)
    rounds: dict[str, list[Row]] = {name: [] for name in servers}
    for _ in range(min(setup.rounds, SERVER_ROUNDS[setup.amount])):
        for name, start in servers.items():
            say(name)
            rounds[name].append(guarded(start, lambda server: peers_servers.measure(server, setup.amount, setup.device)))
    rows = [{"what": name, **median_of(those)} for name, those in rounds.items()]
    if python is None:
        rows.append({"what": "server-funasr", "problem": setup.missing["servers"]})
    return rows


def measure_hour(setup: Setup, minutes: float) -> Row:
    say(f"one request of {minutes:g} minutes")
    start = lambda: peers_servers.our_server(setup.release.folder)  # noqa: E731
    return {"what": "one_hour", **guarded(start, lambda server: peers_hour.measure(server, setup.release.folder, minutes))}


def guarded(
    start: Callable[[], AbstractContextManager[peers_servers.Server]], measure: Callable[[peers_servers.Server], Row]
) -> Row:
    """A server that fails costs its own row and not the run."""
    try:
        with start() as server:
            return measure(server)
    except (NotAvailable, AssertionError, OSError, HTTPError) as error:
        return {"problem": f"{type(error).__name__}: {last_line(str(error))}"}


def measure_equality(setup: Setup) -> Row:
    count = EQUAL_SEGMENTS[setup.amount]
    say(f"equality on {count} segments")
    return {
        "what": "equality",
        **spawned([sys.executable, *map(str, (ROOT / "bench" / "peers_equality.py", setup.release.folder, count))]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="SenseVoiceSmall: ours against FunASR, sherpa-onnx and funasr-server")
    parser.add_argument("--release", type=Path, help="release directory; otherwise the downloaded one, or random weights")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="little audio, one round: to see that everything works")
    parser.add_argument("--only", help=f"some of {', '.join(PARTS)}; otherwise all, the sweep on a GPU only")
    parser.add_argument("--sweep", action="store_true", help="the sweep of batch sizes on a CPU too")
    parser.add_argument("--rounds", type=int, help="turns of the engines; otherwise 5, quick 1")
    parser.add_argument("--hour-minutes", type=float, help="length of the long request; otherwise 60, quick 10")
    parser.add_argument("--peers", type=Path, help="an interpreter that has bench/peers.txt; otherwise .venv-peers is made")
    options = parser.parse_args()
    if unknown := set((options.only or "ours").split(",")) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: unknown; known: {', '.join(PARTS)}")
    setup = prepare(options)
    rows = measure_engines(setup) if {"ours", "funasr", "sherpa", "sweep"} & set(setup.parts) else []
    if "sweep" in setup.parts:
        rows += measure_sweep(setup, rows)
    if "servers" in setup.parts:
        rows += measure_servers(setup)
    if "hour" in setup.parts:
        rows.append(measure_hour(setup, options.hour_minutes or HOUR_MINUTES[setup.amount]))
    if "equality" in setup.parts:
        rows.append(measure_equality(setup))

    print_report(setup, rows)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    report = {
        "bench": "recognition",
        "commit": commit,
        "machine": machine(setup),
        "weights": setup.release.description,
        "rows": rounded(rows),
        "ratios": ratios_of(rows, setup.best),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
