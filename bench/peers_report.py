"""What is said about the rows that bench/recognition.py measured: ratios, tables, sentences."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from peers_engines import CORES
from peers_hour import PIECES
from peers_servers import CALLERS
from peers_setup import Setup
from peers_speech import AMOUNTS, seconds_of, work

TITLES = {
    "funasr-default": "FunASR, as its README",
    "funasr-best": "FunASR, tuned",
    "sherpa-fp32": "sherpa-onnx, fp32",
    "sherpa-int8": "sherpa-onnx, int8",
    "server-ours": "steadyvoice",
    "server-funasr": "funasr-server",
}
NOTES = """\
FunASR, as its README: AutoModel(model, device).generate(array, language="auto", use_itn=True); four threads and dither.
FunASR, tuned: a thread per core, no dither, no progress bar, the fastest batch tried; its bf16 and fp16 fail on this model.
sherpa-onnx: a thread per core, the fastest batch tried; exported from the same weights, int8 as in its published models.
cores: CPU time over time, while the throughput was measured; where it differs between contenders, others were at work as well.
batch: clips of similar length handed over at once; 0: all, the recogniser groups them itself.
tokens: 1 - edit distance to the tokens of FunASR in fp32 without dither / their number. Random weights leave many tokens nearly
tied, so with them it is a lower bound.
of peak: GFLOP/s of the linear layers over what four of them reach alone (matmul)."""

Row = dict[str, Any]


def ratios_of(rows: Sequence[Row], best: str) -> dict[str, float]:
    """Ours over theirs in the direction in which larger is better; only of what was measured on both sides."""
    known = {row["what"]: row for row in rows if "problem" not in row}
    found: dict[str, float] = {}

    def add(name: str, ours: str, theirs: str, figure: str, less_is_better: bool = False) -> None:
        one, other = known.get(ours, {}).get(figure), known.get(theirs, {}).get(figure)
        if one and other:
            found[name] = round(other / one if less_is_better else one / other, 2)

    peers = {"funasr": "funasr-best", "funasr_default": "funasr-default"}
    peers |= {"sherpa_int8": "sherpa-int8", "sherpa_fp32": "sherpa-fp32"}
    for name, peer in peers.items():
        add(f"{name}_throughput", best, peer, "audio_s_per_s")
        add(f"{name}_latency", best, peer, "latency_ms", less_is_better=True)
        add(f"{name}_first_transcript", best, peer, "first_transcript_s", less_is_better=True)
        add(f"{name}_peak_rss", best, peer, "peak_rss_mb", less_is_better=True)
        add(f"{name}_peak_vram", best, peer, "peak_vram_mb", less_is_better=True)
    for name in ("funasr", "sherpa_fp32"):  # in the same precision
        add(f"fp32_{name}_throughput", "ours-fp32", peers[name], "audio_s_per_s")
    for callers in CALLERS:
        add(f"server_throughput_{callers}", "server-ours", "server-funasr", f"audio_s_per_s_{callers}")
        add(f"server_latency_{callers}", "server-ours", "server-funasr", f"latency_ms_{callers}", less_is_better=True)
    add("server_first_transcript", "server-ours", "server-funasr", "first_transcript_s", less_is_better=True)
    add("server_peak_rss", "server-ours", "server-funasr", "peak_rss_mb", less_is_better=True)
    return found


COLUMNS = {  # heading -> figure, decimals
    "audio-s/s": ("audio_s_per_s", 1),
    "10 s in ms": ("latency_ms", 0),
    "first text s": ("first_transcript_s", 2),
    "peak RSS MB": ("peak_rss_mb", 0),
    "VRAM MB": ("peak_vram_mb", 0),
    "tokens": ("agreement", 4),
    "GFLOP/s": ("gflops", 0),
    "of peak": ("of_peak", 2),
    "cores": ("cores_busy", 2),
    "batch": ("batch", 0),
}
SERVER_COLUMNS = {
    **{f"audio-s/s, {callers}": (f"audio_s_per_s_{callers}", 1) for callers in CALLERS},
    **{f"10 s in ms, {callers}": (f"latency_ms_{callers}", 0) for callers in CALLERS},
    "first text s": ("first_transcript_s", 2),
    "peak RSS MB": ("peak_rss_mb", 0),
}
SWEEP_COLUMNS = {"items": ("items", 0)} | {name: COLUMNS[name] for name in ("audio-s/s", "of peak", "peak RSS MB", "VRAM MB")}


def print_table(rows: Sequence[Row], columns: dict[str, tuple[str, int]]) -> None:
    shown = {heading: figure for heading, figure in columns.items() if any(figure[0] in row for row in rows)}
    print(f"{'':24}" + "".join(f"{heading:>15}" for heading in shown))
    for row in rows:
        title = TITLES.get(row["what"], row["what"].replace("ours-", "steadyvoice, "))
        if "problem" in row:
            print(f"{title:24}   *** not measured: {row['problem']} ***")
            continue
        cells = (f"{row[name]:.{decimals}f}" if name in row else "-" for name, decimals in shown.values())
        print(f"{title:24}" + "".join(f"{cell:>15}" for cell in cells))
    print()


def print_report(setup: Setup, rows: Sequence[Row]) -> None:
    amount = AMOUNTS[setup.device][setup.amount]
    print(f"weights: {setup.release.description}; {setup.release.gflop_per_audio_s:.2f} GFLOP per second of audio")
    print(
        f"speech: {amount.clips} clips of 10 s and {amount.varied} segments of 2 to 30 s cut from tests/data, "
        f"{seconds_of(work(amount)):.0f} s together; {machine(setup)}; medians of {setup.rounds} rounds"
    )
    if engines := [row for row in rows if row["what"].startswith(("ours-", "funasr-", "sherpa-", "matmul-"))]:
        print(f"\nEngines; where nobody chooses a precision: {setup.best.replace('ours-', 'steadyvoice, ')}")
        print_table(engines, COLUMNS)
        print(NOTES + "\n")
    parts = {row["what"]: row for row in rows}
    if servers := [row for row in rows if row["what"].startswith("server-")]:
        print(
            "Servers over HTTP, 10 s uploads, with 1 and with 8 callers at once; ours finds speech first, funasr-server does not"
        )
        print_table(servers, SERVER_COLUMNS)
    if sweep := [row for row in rows if row["what"].startswith("sweep-")]:
        print("Clips of 10 s in one forward pass; peak RSS is that of the process so far")
        print_table(sweep, SWEEP_COLUMNS)
    for name, told in (("one_hour", tell_hour), ("equality", tell_equality)):
        if row := parts.get(name):
            print(f"{name}: " + (f"*** not measured: {row['problem']} ***" if "problem" in row else told(row)) + "\n")


def tell_hour(row: Row) -> str:
    return (
        f"{row['minutes']:g} minutes in one request at {row['audio_s_per_s']:.1f} times real time; peak RSS of app and worker "
        f"{row['peak_mb']:.0f} MB against {row['peak_minute_mb']:.0f} MB for one minute: {row['beyond_audio_mb']:.0f} MB more "
        f"beyond the {row['more_audio_mb']:.0f} MB of decoded audio; {row['beyond_minutes_mb']:.0f} MB more than the "
        f"{row['peak_minutes_mb']:.0f} MB that its own minutes come to, one at a time.\n"
        f"Of its {row['segments']} segments {row['equal_alone']} say what the recogniser says on their samples alone.\n"
        f"In {PIECES} pieces the detector finds {row['speech_in_both']:.2%} of the same speech; {row['equal_times']} segments "
        f"begin and end at the same samples, and {row['equal_in_pieces']} of these have the same text."
    )


def tell_equality(row: Row) -> str:
    return (
        f"our fp32 against FunASR's on {row['segments']} random segments ({row['audio_s']:.0f} s, {row['token_rows']} tokens and "
        f"blanks): {row['different']['alone']} segments differ alone, {row['different']['in_batches']} in mixed batches; largest "
        f"difference of a logit {row['max_logit_difference']:.2g}"
    )


def machine(setup: Setup) -> str:
    """Processor, cores, GPU, Python."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    gpu = f", {torch.cuda.get_device_name()}" if setup.device == "cuda" else ""
    return f"{platform.machine()}, {model}, {CORES} cores{gpu}, Python {platform.python_version()}"


def rounded(value: Any) -> Any:
    """Four significant digits for whatever was measured."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value
