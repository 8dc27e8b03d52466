"""What is said about the rows of bench/memory.py: tables, ratios, plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from memory_rows import CONTENDERS
from memory_speech import DRAWN
from memory_watch import Sample

TITLES = {
    "naive": "a new AutoModel per request",
    "shared": "one shared AutoModel",
    "four-step": "the four-step remedy",
    "ours": "steadyvoice, app and worker",
}
COLOURS = {"naive": "#b3372f", "shared": "#d98b2b", "four-step": "#7a6fae", "ours": "#1f7a4d"}
COLUMNS = {  # heading -> figure, decimals
    "average MB": ("average_mb", 0),
    "peak MB": ("peak_mb", 0),
    "serving MB": ("serving_peak_mb", 0),
    "RSS MB": ("rss_peak_mb", 0),
    "cgroup MB": ("cgroup_peak_mb", 0),
    "torch MB": ("reserved_mb", 0),
    "p50 s": ("p50_s", 1),
    "max s": ("max_s", 1),
    "wall s": ("wall_s", 1),
}
NOTES = """\
average: while requests were served. peak: from the start of the process to its end, loading included, which is what a cap meets;
of a row that was ended by a cap it is where it was ended. serving: the peak from the first request on.
p50, max, wall: of the requests that were answered, from all being sent. failed: requests without a transcript, of all.
=: not run again, since it is known to finish (it did so with less), or to fail (nothing of it could be loaded under this cap)."""

Row = dict[str, Any]


def print_tables(rows: Sequence[Row]) -> None:
    """One for each cap."""
    shown = {heading: figure for heading, figure in COLUMNS.items() if any(figure[0] in row for row in rows)}
    for cap in sorted({row["cap_mb"] for row in rows}):
        print(f"\n{f'Under a hard cap of {cap} MB' if cap else 'Without a cap'}")
        print(f"{'':10}{'':12}" + "".join(f"{heading:>12}" for heading in shown) + f"{'failed':>9}")
        before = None
        for row in (row for row in rows if row["cap_mb"] == cap):
            name, before = "" if row["scenario"] == before else row["scenario"], row["scenario"]
            cells = (f"{row[name]:.{decimals}f}" if name in row else "-" for name, decimals in shown.values())
            failed, known = f"{row['failures']}/{row['requests']}", "=" if "known" in row else " "
            line = f"{name:10}{row['contender']:12}" + "".join(f"{cell:>12}" for cell in cells) + f"{failed:>9} {known}"
            print(f"{line} {row['reason'][:110]}" if "reason" in row else line.rstrip())
    print("\n" + NOTES)


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Their peak memory over ours without a cap, larger is better: in the scenario where it is smallest, and for 5 x 3 min.

    Of a contender that was ended the peak is at least what was seen, and so is the ratio.
    """
    known = {(row["contender"], row["scenario"]): row for row in rows if row["cap_mb"] == 0}
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    found: dict[str, float] = {}
    for contender in CONTENDERS[:-1]:
        for figure in ("peak", "serving_peak"):
            ratios: dict[str, float] = {}
            for scenario in scenarios:
                theirs, ours = (known.get((who, scenario), {}) for who in (contender, "ours"))
                if f"{figure}_mb" in theirs and f"{figure}_mb" in ours and not ours["failures"]:
                    ratios[scenario] = round(theirs[f"{figure}_mb"] / ours[f"{figure}_mb"], 2)
            name = f"{contender.replace('-', '_')}_{figure}_memory"
            if ratios:
                found[name] = min(ratios.values())
            if drawn := drawn_scenario(ratios):
                found[f"{name}_{drawn}"] = ratios[drawn]
    return found


def drawn_scenario(measured: dict[str, Any]) -> str | None:
    return next((name for name in DRAWN if name in measured), None)


def finishing(rows: Sequence[Row]) -> list[str]:
    """For each cap, who answered every request of every scenario, in words."""
    said = []
    for cap in sorted({row["cap_mb"] for row in rows}):
        here = [row for row in rows if row["cap_mb"] == cap]
        parts = []
        for contender in dict.fromkeys(row["contender"] for row in here):
            those = [row for row in here if row["contender"] == contender]
            whole = sum(not row["failures"] for row in those)
            parts.append(f"{contender} {whole} of {len(those)}")
        said.append(f"{f'cap of {cap} MB' if cap else 'no cap'}: scenarios without a failure: " + ", ".join(parts))
    return said


def draw(rows: Sequence[Row], curves: dict[tuple[str, str], list[Sample]], what: str, folder: Path) -> list[Path]:
    """The plots as PNG and SVG, of what was measured without a cap (or under the largest)."""
    cap = 0 if any(row["cap_mb"] == 0 for row in rows) else max(row["cap_mb"] for row in rows)
    here = [row for row in rows if row["cap_mb"] == cap]
    caps = sorted({row["cap_mb"] for row in rows} - {0})
    folder.mkdir(parents=True, exist_ok=True)
    made = draw_peaks(here, caps, what, folder)
    if scenario := drawn_scenario({scenario: None for _, scenario in curves}):
        made += draw_curves(
            {who: curve for (who, name), curve in curves.items() if name == scenario}, scenario, caps, what, folder
        )
    return made


def draw_curves(curves: dict[str, list[Sample]], scenario: str, caps: Sequence[int], what: str, folder: Path) -> list[Path]:
    """Memory over time, a line for each contender, from the start of its process."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for contender, curve in curves.items():
        at, mb = [sample.at_s for sample in curve], [sample.mb for sample in curve]
        axes.plot(at, mb, color=COLOURS[contender], label=TITLES[contender], linewidth=1.4)
    draw_caps(axes, caps, max((sample.mb for curve in curves.values() for sample in curve), default=0))
    axes.set(xlabel="seconds since the start of the process", ylabel=f"{what}, MB", title=f"Memory over time, {scenario}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return saved(figure, folder / f"memory-over-time-{scenario}")


def draw_peaks(rows: Sequence[Row], caps: Sequence[int], what: str, folder: Path) -> list[Path]:
    """Peak by scenario, a bar for each contender; hatched where requests failed."""
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    contenders = [name for name in CONTENDERS if any(row["contender"] == name for row in rows)]
    width = 0.8 / max(1, len(contenders))
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for place, contender in enumerate(contenders):
        for row in (row for row in rows if row["contender"] == contender and "peak_mb" in row):
            axes.bar(
                scenarios.index(row["scenario"]) + (place - (len(contenders) - 1) / 2) * width,
                row["peak_mb"],
                width,
                color=COLOURS[contender],
                hatch="//" if row["failures"] else None,
                edgecolor="white",
            )
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in contenders]
    labels = [TITLES[name] for name in contenders]
    if any(row["failures"] for row in rows):
        handles.append(plt.Rectangle((0, 0), 1, 1, facecolor="lightgrey", edgecolor="white", hatch="//"))
        labels.append("requests failed")
    draw_caps(axes, caps, max((row.get("peak_mb", 0) for row in rows), default=0))
    axes.set_xticks(range(len(scenarios)), scenarios)
    axes.set(ylabel=f"peak {what}, MB", title="Peak memory by scenario")
    axes.legend(handles, labels, frameon=False)
    return saved(figure, folder / "peak-by-scenario")


def draw_caps(axes: Any, caps: Sequence[int], top: float) -> None:
    """The caps that were tried, as far as they lie in the picture."""
    for cap in (cap for cap in caps if cap <= top):
        axes.axhline(cap, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"cap {cap}", (1, cap), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color="grey"
        )


def saved(figure: Any, path: Path) -> list[Path]:
    made = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for name in made:
        figure.savefig(name, dpi=150)
    plt.close(figure)
    return made
