"""What this machine has: GPUs, memory, disk. Asks NVML and the system; loads no model and imports no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from steadyvoice.serving.gpus import Gpu, gpus

__all__ = ["Admission", "Gpu", "admission", "free_disk_bytes", "gpus", "ram_bytes"]

LARGE_CARD_BYTES = 20e9  # a "24 GB" card shows a little less than that
QUEUE_SIZE = 5
CONCURRENCY_LARGE, CONCURRENCY_SMALL = 2, 1


@dataclass(frozen=True)
class Admission:
    """How many requests are worked on at once, and how many more may wait."""

    concurrency: int
    queue_size: int

    @property
    def capacity(self) -> int:
        return self.concurrency + self.queue_size


def admission(queue_size: int | None, concurrency: int | None, gpu_memory_gb: float | None, cards: list[Gpu]) -> Admission:
    """5 waiting and 2 at work on a 24 GB card and on a machine without one; 1 at work on a smaller card. Settings win."""
    memory = cards[0].total if cards else None
    if gpu_memory_gb is not None:
        memory = min(memory or float("inf"), gpu_memory_gb * 1e9)  # type: ignore[assignment]
    small = memory is not None and memory < LARGE_CARD_BYTES
    return Admission(
        concurrency=concurrency or (CONCURRENCY_SMALL if small else CONCURRENCY_LARGE),
        queue_size=QUEUE_SIZE if queue_size is None else queue_size,
    )


def ram_bytes() -> tuple[int, int]:
    """(total, available)."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def free_disk_bytes(folder: Path) -> int:
    """Free space where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
