"""What a tree of processes takes, 20 times a second, and the hard cap on it.

On a CPU memory is the sum of the resident sets of the tree, pages that two of its processes share counted in both. On a GPU it is
what the card has in use beyond what it had before, by NVML, the CUDA context included.

A cap is hard in one of these ways, and a run says in which:

- `cgroup`: each row gets a group of its own within the one that was named, with the cap as its limit; the kernel kills whoever
  goes beyond. A group is never made or joined without being told where: the one that this process lives in belongs to somebody.
- `watchdog`: the whole tree is killed as soon as its resident sets together, or the kernel's own high-water mark of any one
  process of it, are seen beyond the cap. Stricter than the kernel with a tree, which is killed as a whole; milder with a peak of
  less than 50 ms that several processes make together.

RLIMIT_AS and RLIMIT_DATA are not used: they hold for one process at a time, so they would treat one process and two differently,
and they count what is reserved and never touched.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

PERIOD_S = 0.05
MEMBERS_EVERY = 10  # samples between two looks for new processes; what they took meanwhile shows in their high-water marks
OF_FREE = 0.8  # of the machine's free memory may be taken where no cap is asked for, so that nobody else is killed
KILL_S = 10.0


@dataclass(frozen=True)
class Sample:
    """MB at so many seconds after the watch began."""

    at_s: float
    mb: float


class Card:
    """GPU memory in use beyond what was in use before."""

    def __init__(self) -> None:
        """Raises: pynvml.NVMLError, where NVML or its memory figures are missing."""
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._before = self._used()

    def _used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def mb(self) -> float:
        return max(0, self._used() - self._before) / 1e6


class Group:
    """A cgroup, version 1 or 2, with a limit of bytes, within a group that belongs to the caller."""

    def __init__(self, within: Path, cap_mb: int) -> None:
        """Raises: OSError, where the group cannot be made or limited."""
        second = (within / "cgroup.controllers").is_file()
        if second:
            (within / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        self.folder = within / f"row-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        self._peak = self.folder / ("memory.peak" if second else "memory.max_usage_in_bytes")
        self._kills = self.folder / ("memory.events" if second else "memory.oom_control")
        try:
            if second:
                self._limit("memory.max", cap_mb)
                with contextlib.suppress(OSError):  # there without swap accounting
                    (self.folder / "memory.swap.max").write_text("0", encoding="ascii")
            else:
                self._limit("memory.limit_in_bytes", cap_mb)
                with contextlib.suppress(OSError):
                    self._limit("memory.memsw.limit_in_bytes", cap_mb)
        except OSError:
            self.folder.rmdir()
            raise

    def _limit(self, name: str, cap_mb: int) -> None:
        (self.folder / name).write_text(str(cap_mb * 1_000_000), encoding="ascii")

    def peak_mb(self) -> float | None:
        """As the kernel charged it, page cache included; None where this kernel does not tell."""
        try:
            return int(self._peak.read_text(encoding="ascii")) / 1e6
        except OSError:
            return None

    def kills(self) -> int:
        """How many processes were killed at the limit."""
        with contextlib.suppress(OSError):
            lines = [line.split() for line in self._kills.read_text(encoding="ascii").splitlines()]
            return sum(int(value) for name, value in lines if name == "oom_kill")
        return 0

    def remove(self) -> None:
        """Once all of its processes are gone, which takes the kernel a moment."""
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(PERIOD_S)
        raise OSError(f"{self.folder} still has processes in it")


@dataclass(frozen=True)
class Cap:
    """What a row may take. `mb` 0: nothing is asked for, and only the machine is protected."""

    mb: int
    device: str
    within: Path | None = None  # a cgroup, on a CPU

    @property
    def how(self) -> str:
        if self.device == "cuda":
            return "torch.cuda.set_per_process_memory_fraction"
        return f"cgroup in {self.within}" if self.within else "watchdog, looking every 50 ms at the whole process tree"

    @property
    def name(self) -> str:
        return f"cap of {self.mb} MB" if self.mb else "no cap"

    def rss_limit_mb(self) -> tuple[float, str]:
        """Beyond what the tree is killed from here, and how that is said."""
        if self.mb and self.device == "cpu" and self.within is None:
            return self.mb, f"over the {self.name}"
        free = OF_FREE * psutil.virtual_memory().available / 1e6
        return free, f"over {free:.0f} MB, {OF_FREE:.0%} of what this machine had free"


@dataclass
class Watch:
    """Samples a tree of processes while the block runs, and ends it when it passes its limit or its time."""

    cap: Cap
    timeout_s: float
    card: Card | None = None
    samples: list[Sample] = field(default_factory=list)  # of the card's memory if there is one, else of the resident sets
    rss_peak_mb: float = 0.0
    stopped: str | None = None  # why the tree was killed

    def __post_init__(self) -> None:
        self._root: psutil.Process | None = None
        self._tree: list[psutil.Process] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._limit_mb, self._limit = self.cap.rss_limit_mb()
        self._began = time.monotonic()

    def begin(self, pid: int) -> None:
        """From here on this process and its descendants are watched."""
        self._root = psutil.Process(pid)
        self._began = time.monotonic()
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    def mb(self, since_s: float = 0.0, until_s: float = float("inf")) -> list[float]:
        """What was seen in that time."""
        return [sample.mb for sample in self.samples if since_s <= sample.at_s <= until_s]

    def kill(self, why: str) -> None:
        """The whole tree, its root first so that nothing is started anew."""
        self.stopped = self.stopped or why
        self._find_members()
        for process in self._tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _find_members(self) -> None:
        assert self._root is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._tree = [self._root, *self._root.children(recursive=True)]

    def _watch(self) -> None:
        turn = 0
        while True:
            if turn % MEMBERS_EVERY == 0:
                self._find_members()
            turn += 1
            self._look()
            if self._over.wait(PERIOD_S):
                return

    def _look(self) -> None:
        sets = [found for process in self._tree if (found := resident_mb(process.pid))]
        if not sets:
            return
        now, mark = sum(rss for rss, _ in sets), max(mark for _, mark in sets)
        if mark > self.rss_peak_mb:  # a peak between two looks shows in the mark of the process that made it
            now = max(now, mark)
        self.rss_peak_mb = max(self.rss_peak_mb, now)
        self.samples.append(Sample(self.now_s, self.card.mb() if self.card else now))
        if self.rss_peak_mb > self._limit_mb:
            self.kill(self._limit)
        elif self.now_s > self.timeout_s:
            self.kill(f"over {self.timeout_s:g} s")


def resident_mb(pid: int) -> tuple[float, float] | None:
    """Resident set and its highest so far; None of a process that is no more."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS:", "VmHWM:"))}
    if len(found) < 2:  # it has ended and waits to be collected
        return None
    return int(found["VmRSS"]) * 1_024 / 1e6, int(found["VmHWM"]) * 1_024 / 1e6
