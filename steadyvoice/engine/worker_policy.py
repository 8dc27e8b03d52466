"""When a healthy worker is stopped, and when one that sends heartbeats counts as hung."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True)
class Policy:
    """See the module's docstring. Seconds."""

    idle_unload_s: float = NEVER  # after so long without work it is stopped, which frees its memory
    batch_limit_s: float = 60.0  # a batch without progress for so long, and `slowness` times its expected time, hangs
    slowness: float = 10.0
    load_limit_s: float = 1_200.0  # a load that takes longer hangs


DEFAULT_POLICY = Policy()
