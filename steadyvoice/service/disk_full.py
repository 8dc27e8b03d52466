"""A full disk as an error of ours. Knows neither what is written nor where."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from steadyvoice.errors import StorageFull

log = logging.getLogger(__name__)

# No space left on the device; the user's quota is used up.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Write files inside the block; `what` names them in the error.

    Raises:
        StorageFull: instead of the OSError of a full disk or an exhausted quota.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        log.error("the disk is full: %s", error)
        raise StorageFull(f"no space left on the server's disk for {what}") from error
