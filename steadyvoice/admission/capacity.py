"""How many requests an app takes at once, by the settings or else by its card."""

from __future__ import annotations

from dataclasses import dataclass

LARGE_CARD_BYTES = 20e9  # a "24 GB" card shows a little less than that
QUEUE_SIZE = 5
CONCURRENCY_LARGE, CONCURRENCY_SMALL = 2, 1


@dataclass(frozen=True)
class Capacity:
    """How many requests are worked on at once, and how many more may wait."""

    concurrency: int
    queue_size: int

    @property
    def total(self) -> int:
        return self.concurrency + self.queue_size


def capacity_for(
    queue_size: int | None, concurrency: int | None, gpu_memory_gb: float | None, card_bytes: int | None
) -> Capacity:
    """5 waiting and 2 at work on a 24 GB card and on a machine without one; 1 at work on a smaller card. Settings win.

    `card_bytes` is the memory of the card that the worker uses, None without one.
    """
    memory: float | None = card_bytes
    if gpu_memory_gb is not None:
        memory = min(memory or float("inf"), gpu_memory_gb * 1e9)
    small = memory is not None and memory < LARGE_CARD_BYTES
    return Capacity(
        concurrency=concurrency or (CONCURRENCY_SMALL if small else CONCURRENCY_LARGE),
        queue_size=QUEUE_SIZE if queue_size is None else queue_size,
    )
