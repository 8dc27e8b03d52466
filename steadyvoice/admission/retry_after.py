"""When a refused caller should come back: each caller is given a different time, at the rate at which places fall free.

If all were told the same second, nearly all would be refused again. Every `SPACING` release intervals one caller is expected;
the remaining places are left for new callers, and because Retry-After has whole seconds only. A caller that asks again before
its time is scheduled by itself, so that it delays no other caller. Times beyond `LONGEST_WAIT_S` are cut to it, and are then
no longer distinct.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from steadyvoice.errors import LONGEST_WAIT_S

RELEASES_KEPT = 64  # from which the release interval is computed
SPACING = 1.25  # between two scheduled callers, in release intervals
CALLERS_KEPT = 4_096


class RetryAfterSchedule:
    """Not thread-safe: the concurrency limit calls it under its lock."""

    def __init__(self, places: int, soonest_s: Callable[[], float], clock: Callable[[], float]) -> None:
        """`soonest_s` estimates the seconds until the engine has done what it has now; `places` is the concurrency limit."""
        self._places = places
        self._soonest_s = soonest_s
        self._now = clock
        self._releases: deque[float] = deque(maxlen=RELEASES_KEPT)  # times of releases since the limit was last idle
        self._last = 0.0  # the latest time given to a caller that had none
        self._due: dict[str, float] = {}  # the time given to each caller

    def reset(self) -> None:
        """Nothing is in flight: there are places for all scheduled callers."""
        self._releases.clear()
        self._last = 0.0
        self._due.clear()

    def note_release(self) -> None:
        """A place has fallen free."""
        self._releases.append(self._now())

    def wait_s(self, caller: str) -> float:
        """Seconds after which this caller should come back."""
        now, soonest = self._now(), self._soonest_s()
        interval = soonest / self._places
        if len(self._releases) > 1:
            interval = (self._releases[-1] - self._releases[0]) / (len(self._releases) - 1)
        due = self._due.get(caller, 0.0)
        if due > now:
            due += SPACING * interval
        else:
            due = self._last = max(now + soonest, self._last + SPACING * interval)
        due = min(due, now + LONGEST_WAIT_S)
        if len(self._due) >= CALLERS_KEPT:
            self._due = {other: moment for other, moment in self._due.items() if moment > now}
        if len(self._due) < CALLERS_KEPT or caller in self._due:
            self._due[caller] = due
        return due - now
