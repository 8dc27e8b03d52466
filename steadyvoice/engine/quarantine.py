"""Inputs that ended the worker more than once, refused for a while when they come again. Pure bookkeeping.

Callers try again what failed. Without this, one poisonous file sent in a loop would cost everybody a worker each time.
"""

from __future__ import annotations

import hashlib
import json

from steadyvoice.protocol import Payload

QUARANTINE_S = 3_600.0
MOST = 1_000  # inputs remembered; the oldest are forgotten first


class Quarantine:
    """Known by what they contain, not by who sent them. Not thread-safe."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # digest -> seconds on the caller's clock, oldest first

    def __len__(self) -> int:
        return len(self._until)

    def add(self, payload: Payload, now: float) -> None:
        self._until.pop(digest := digest_of(payload), None)
        self._until[digest] = now + QUARANTINE_S
        while len(self._until) > MOST:
            del self._until[next(iter(self._until))]

    def seconds_left(self, payload: Payload, now: float) -> float:
        """0 for what is free to come in. Reads the payload only while anything at all is in quarantine."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        return self._until.get(digest_of(payload), now) - now if self._until else 0.0


def digest_of(payload: Payload) -> bytes:
    """The same for the same fields and arrays. A field that is not JSON counts by what it prints: it will not be sent anyway."""
    fields = json.dumps(payload.fields, sort_keys=True, default=repr).encode(errors="surrogatepass")
    digest = hashlib.blake2b(fields, digest_size=16)
    for array in payload.arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
