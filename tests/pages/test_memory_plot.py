from __future__ import annotations

from steadyvoice.memory import MemorySample
from steadyvoice.pages.memory_plot import memory_plot


def test_the_memory_plot_draws_a_line_for_each_process() -> None:
    samples = [MemorySample("batch", process, 0.0, rss) for process in ("app", "worker") for rss in (1_000_000, 2_000_000)]
    drawn = memory_plot(samples, chinese=False)
    assert drawn.count("<polyline") == 2
    assert "worker 2 MB" in drawn
    assert "模型进程 2 MB" in memory_plot(samples, chinese=True)
    assert "nothing measured yet" in memory_plot([], chinese=False)
