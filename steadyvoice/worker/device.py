"""The memory of the device that the model is on, as its process sees it: measured, bounded, trimmed.

A GPU where torch has been brought to use one, else RAM. Imports the standard library only; torch is asked only where the engine
has imported it already.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steadyvoice.memory import rss_bytes

CACHE_RATIO = 2.0  # of what is reserved over what the last batch came to, from which on a cache is worth emptying
CLEAR_PEAK = "5"  # /proc/PID/clear_refs: the highest resident set counts from here on


class Device:
    """What the worker measures and gives back. `reserve` bytes of the device are to stay free."""

    def __init__(self, trim: str = "pressure", reserve: int = 0) -> None:
        """`trim`: when cached memory is given back: always (after every batch), pressure (when memory is short; on a CPU what
        malloc has over after every batch as well), or never."""
        self._trim = trim
        self._reserve = reserve
        self._at_rest = 0

    @property
    def name(self) -> str:
        """The card, or cpu: what a measurement belongs to, and a claim."""
        torch = cuda()
        if not torch:
            return "cpu"
        return f"{torch.cuda.get_device_name()} {getattr(torch.cuda.get_device_properties(0), 'uuid', '')}".strip()

    def held(self) -> int:
        """Bytes of live tensors; on a CPU the resident set."""
        torch = cuda()
        return int(torch.cuda.memory_allocated()) if torch else rss_bytes()

    def free(self) -> int:
        """Bytes that this process could still have: what no process holds and what its own cache holds idle."""
        torch = cuda()
        if torch:
            return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
        return free_ram()

    def at_rest(self) -> None:
        """The model has loaded, and nothing runs: what is held from now on beyond this is what batches take."""
        self._at_rest = self.held()

    def start_measuring(self) -> None:
        torch = cuda()
        if torch:
            torch.cuda.reset_peak_memory_stats()
        else:
            _write("/proc/self/clear_refs", CLEAR_PEAK)

    def used(self) -> int:
        """The most that was held at a time since `start_measuring`, beyond what is held at rest.

        On a CPU that counts what earlier batches left behind, as far as it was not given back.
        """
        torch = cuda()
        peak = int(torch.cuda.max_memory_allocated()) if torch else peak_rss()
        return max(0, peak - self._at_rest)

    def bound(self, limit: int) -> None:
        """Let torch refuse to reserve more than `limit` bytes of a card in all."""
        torch = cuda()
        if torch:
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))

    def after_batch(self) -> None:
        """Give back what the policy says."""
        if self._trim == "always" or (self._trim == "pressure" and self._under_pressure()):
            self.trim()
        elif self._trim == "pressure" and not cuda():
            _malloc_trim()  # takes little, and batches of every shape leave the heap in ever smaller pieces

    def trim(self) -> None:
        """Give back everything that no live object holds."""
        gc.collect()
        torch = cuda()
        if torch:
            torch.cuda.empty_cache()
        _malloc_trim()

    def _under_pressure(self) -> bool:
        torch = cuda()
        if torch:
            reserved, peak = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()  # of this batch
            return bool(torch.cuda.mem_get_info()[0] < self._reserve or reserved > CACHE_RATIO * peak)
        return free_ram() < self._reserve


def cuda() -> Any:
    """The torch module if this process has used a GPU with it, else None."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch
    return None


def free_ram() -> int:
    """Bytes that could be had without swapping: what the kernel says, or less where a cgroup (version 2) allows less."""
    available = 1_024 * int(_search(r"MemAvailable:\s+(\d+)", "/proc/meminfo") or 0)
    own = _search(r"^0::(/.*)$", "/proc/self/cgroup") or "/"
    for folder in {f"/sys/fs/cgroup{own.rstrip('/')}", "/sys/fs/cgroup"}:
        limit, used = (_search(r"^(\d+)", f"{folder}/memory.{name}") for name in ("max", "current"))
        if limit and used:
            # The page cache counts as used and is let go of when it is needed: above all the weights, just read.
            cached = sum(int(_search(rf"^{kind}_file (\d+)", f"{folder}/memory.stat") or 0) for kind in ("active", "inactive"))
            available = min(available, max(0, int(limit) - int(used) + cached))
    return available


def peak_rss() -> int:
    """Bytes: the highest resident set of this process since its start, or since it was cleared."""
    return 1_024 * int(_search(r"VmHWM:\s+(\d+)", "/proc/self/status") or 0)


def _malloc_trim() -> None:
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _search(pattern: str, path: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError:
        pass  # the peak then counts from the start of the process: too much is better than too little
