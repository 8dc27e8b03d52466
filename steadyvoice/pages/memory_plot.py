"""The plot of both processes' memory at the foot of a page."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from steadyvoice.memory import MemorySample
from steadyvoice.pages.base import QUIET, speaks_chinese
from steadyvoice.service.service import Service

PLOT_SECONDS = 5  # between two updates


def memory_plot(samples: Sequence[MemorySample], chinese: bool, budget: float | None = None) -> str:
    """Both processes' memory over the last steps, as an inline SVG: resident, or of the card where the worker uses one.

    `budget` are the bytes that one batch may take: a dashed line that much above what the worker held when it had loaded.
    """
    lines, legend = [], []
    at_rest = [_held(sample) for sample in samples if sample.step == "load"]
    limit = at_rest[-1] + budget if at_rest and budget is not None else 0
    top = max([*map(_held, samples), limit, 1])
    for process, colour in (("app", "#14b8a6"), ("worker", "#f59e0b")):
        values = [_held(sample) for sample in samples if sample.process == process]
        if not values:
            continue
        step = 300 / max(1, len(values) - 1)
        points = " ".join(f"{i * step:.1f},{54 - 50 * value / top:.1f}" for i, value in enumerate(values))
        if len(values) == 1:
            points += f" 300,{54 - 50 * values[0] / top:.1f}"
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        )
        name = {"app": "应用进程", "worker": "模型进程"}[process] if chinese else process
        legend.append(f'<span style="color:{colour}">■</span> {name} {values[-1] / 1e6:.0f} MB')
    if limit:
        level = 54 - 50 * limit / top
        lines.append(
            f'<line x1="0" x2="300" y1="{level:.1f}" y2="{level:.1f}" stroke="#ef4444" stroke-dasharray="6 4" '
            'vector-effect="non-scaling-stroke"/>'
        )
        legend.append(f'<span style="color:#ef4444">┅</span> {"预算上限" if chinese else "budget"} {limit / 1e6:.0f} MB')
    title = "内存" if chinese else "Memory"
    if not lines:
        return f'<div class="sv-plot">{title}: {"尚无数据" if chinese else "nothing measured yet"}</div>'
    return (
        f'<div class="sv-plot">{title} &nbsp; {" &nbsp; ".join(legend)}'
        f'<svg viewBox="0 0 300 56" preserveAspectRatio="none" role="img" aria-label="{title}">{"".join(lines)}</svg></div>'
    )


def _held(sample: MemorySample) -> int:
    return sample.rss if sample.reserved is None else sample.reserved


def add_memory_plot(service: Service) -> None:
    """The plot, renewed every few seconds while the page is open."""
    plot = gr.HTML(elem_classes="sv-memory")

    def look(request: gr.Request) -> str:
        return memory_plot(service.memory.samples(), speaks_chinese(request), service.engine.status().budget_bytes)

    timer = gr.Timer(PLOT_SECONDS)
    timer.tick(look, None, plot, **QUIET)
