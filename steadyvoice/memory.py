"""Where the memory is, step by step: one sample, one log line, one ring-buffer entry.

Runs in both processes, so it needs the standard library only; torch is asked only where the process has imported it already.
Knows nothing of engines or pages.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger(__name__)

RING_SIZE = 512  # samples kept for /memory and the plot
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory after one step. Bytes throughout; the four GPU figures are None where the process uses no GPU."""

    step: str  # load, decode, segment, queue, batch, post-process
    process: str  # app or worker
    at: float  # seconds since the epoch
    rss: int
    allocated: int | None = None  # held by live tensors
    reserved: int | None = None  # held by the caching allocator
    peak: int | None = None  # highest `allocated` so far
    free: int | None = None  # left on the GPU, for all processes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rss_bytes() -> int:
    """Resident set size of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * PAGE_BYTES


def oom_kills() -> int:
    """Processes that the kernel has ended since the machine's start because memory ran out; 0 where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as vmstat:
            return next((int(line.split()[1]) for line in vmstat if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError):
        return 0


def sample(step: str, process: str) -> MemorySample:
    """Measure this process now."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return MemorySample(
            step=step,
            process=process,
            at=time.time(),
            rss=rss_bytes(),
            allocated=torch.cuda.memory_allocated(),
            reserved=torch.cuda.memory_reserved(),
            peak=torch.cuda.max_memory_allocated(),
            free=torch.cuda.mem_get_info()[0],
        )
    return MemorySample(step=step, process=process, at=time.time(), rss=rss_bytes())


class MemoryLog:
    """The last `RING_SIZE` samples of both processes. Thread-safe.

    `observe` is called with every sample, for metrics.
    """

    def __init__(self, observe: Callable[[MemorySample], None] = lambda _: None) -> None:
        self._ring: deque[MemorySample] = deque(maxlen=RING_SIZE)
        self._lock = threading.Lock()
        self._observe = observe

    def record(self, sample: MemorySample) -> None:
        with self._lock:
            self._ring.append(sample)
        try:
            self._observe(sample)
        except Exception:
            log.exception("an observer of memory failed")
        log.info(
            "memory step=%s process=%s rss=%.0fMB allocated=%s reserved=%s peak=%s free=%s",
            sample.step,
            sample.process,
            sample.rss / 1e6,
            *(_megabytes(value) for value in (sample.allocated, sample.reserved, sample.peak, sample.free)),
        )

    def step(self, step: str) -> None:
        """Measure the app process after `step`."""
        self.record(sample(step, "app"))

    def samples(self) -> list[MemorySample]:
        """Oldest first."""
        with self._lock:
            return list(self._ring)


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}MB"
