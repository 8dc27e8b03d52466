"""Virtual time, and what happened in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SHOWN = 30  # events that are printed when something is broken

# What is written down. Numbers, since a digest of them is the same in every process.
ARRIVED, REFUSED, SENT, HEARD, RESOLVED, STARTED, ENDED, CANCELLED, TURNED = range(9)
NAMES = (
    "request arrived: card, pieces, first piece",
    "request refused: card, status",
    "batch sent: card, items, first piece",
    "worker said: card, kind, index",
    "ticket resolved: card, piece, status",
    "worker started: card, number",
    "worker ended: card, number, how",
    "cancelled: card, first piece, how",
    "engine turned: card",
)


class Clock:
    """Seconds since the simulation began.

    Whoever asks for the time may be interrupted right there by another thread, which the engine must be able to bear.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._interruption: Callable[[], None] | None = None
        self._asked_before_it = 0

    def __call__(self) -> float:
        if self._interruption is not None:
            self._asked_before_it -= 1
            if self._asked_before_it < 0:
                interruption, self._interruption = self._interruption, None
                interruption()
        return self.now

    def interrupt(self, interruption: Callable[[], None], asked_before_it: int) -> None:
        """Call it when the time has been asked for so many times more."""
        self._interruption, self._asked_before_it = interruption, asked_before_it

    def do_not_interrupt(self) -> None:
        self._interruption = None


class History:
    """The last events, and a digest of all of them."""

    def __init__(self, clock: Clock) -> None:
        self.digest = 0
        self.events = 0
        self._clock = clock
        self._recent: deque[tuple[float, tuple[int, ...]]] = deque(maxlen=SHOWN)

    def note(self, *event: int) -> None:
        self.events += 1
        self.digest = hash((self.digest, self._clock.now, event))
        self._recent.append((self._clock.now, event))

    def lines(self) -> list[str]:
        """The last events, oldest first."""
        return [f"{at:14.6f} s  {NAMES[what]} = {', '.join(map(str, numbers))}" for at, (what, *numbers) in self._recent]
