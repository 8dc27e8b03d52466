"""How many large request bodies are received at once, so that uploads cannot fill the disk. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from steadyvoice.errors import Overloaded

SMALL_BYTES = 1_048_576  # Starlette keeps a form's file in memory up to this size
RETRY_AFTER_S = 5.0  # for a caller for whose upload there is no slot


class UploadSlots:
    """How many large bodies are received at once. Runs on the event loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0

    @contextmanager
    def slot(self, expected_bytes: int | None) -> Iterator[None]:
        """Hold a slot while a body is received. A body known to be small takes none: it never reaches the disk, and does not
        wait for slow senders of large ones.

        Raises:
            Overloaded: all slots are taken.
        """
        if expected_bytes is not None and expected_bytes <= SMALL_BYTES:
            yield
            return
        if self._taken >= self._slots:
            raise Overloaded(
                f"{self._taken} uploads over {SMALL_BYTES} bytes are being received and that is the limit",
                retry_after_s=RETRY_AFTER_S,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
