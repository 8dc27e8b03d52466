"""Inputs that ended the worker more than once, refused for a while when they come again. Pure bookkeeping.

Clients retry what failed. Without this, one input sent in a loop would end a worker, and delay every other request, each time.
"""

from __future__ import annotations

import hashlib
import json

from steadyvoice.protocol import Payload

QUARANTINE_S = 3_600.0
MAX_INPUTS = 1_000  # inputs remembered; the oldest are forgotten first


class Quarantine:
    """Known by what they contain, not by who sent them. Not thread-safe."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # digest -> seconds on the caller's clock, oldest first
        self._sizes: set[int] = set()  # of what was added, so that little has to be read to find it

    def __len__(self) -> int:
        return len(self._until)

    def add(self, payload: Payload, now: float) -> None:
        self._until.pop(digest := digest_of(payload), None)
        self._sizes.add(size_of(payload))
        self._until[digest] = now + QUARANTINE_S
        while len(self._until) > MAX_INPUTS:
            del self._until[next(iter(self._until))]

    def seconds_left(self, payload: Payload, now: float) -> float:
        """0 for what is free to come in. Reads the payload only while something of its size is in quarantine."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        if not self._until:
            self._sizes.clear()
        return self._until.get(digest_of(payload), now) - now if size_of(payload) in self._sizes else 0.0


def size_of(payload: Payload) -> int:
    """Bytes of the arrays."""
    return sum(array.nbytes for array in payload.arrays)


def digest_of(payload: Payload) -> bytes:
    """The same for the same fields and arrays. A field that is not JSON counts by what it prints: it will not be sent anyway."""
    fields = json.dumps(payload.fields, sort_keys=True, default=repr).encode(errors="surrogatepass")
    digest = hashlib.blake2b(fields, digest_size=16)
    for array in payload.arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data.cast("B") if array.flags.c_contiguous and array.size else array.tobytes())
    return digest.digest()
