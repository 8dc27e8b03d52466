"""What an engine tells of itself: its state now, what happened so far, and each batch as it ends."""

from __future__ import annotations

from dataclasses import dataclass

from steadyvoice.engine.worker_lifecycle import State
from steadyvoice.protocol import ModelInfo


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot for health, metrics and pages."""

    state: State
    model: ModelInfo | None
    worker_pid: int | None
    jobs: int
    backlog_s: float
    loads: int
    restarts: int
    batches: int
    largest_batch: int
    retry_after_s: float
    load_backoff_s: float  # until a load may be tried again after one that failed; 0 where none failed a moment ago
    last_error: str | None
    stalled: bool
    events: dict[str, int]  # what happened how often; see `EVENTS`
    budget_bytes: float | None  # for one batch; None where the model was not measured
    budget_share: float  # of it that is in use
    longest_s: float  # of one item within the budget


# What is counted, and what is meant by it.
EVENTS = {
    "died": "workers that ended by themselves or were killed by others",
    "hung": "workers that were killed because they no longer answered or did not get on",
    "protocol_error": "workers that were killed because they sent an invalid message",
    "recycled": "workers that were replaced because they held too much memory",
    "unloaded": "workers that were stopped because no job needed them",
    "oom_split": "batches that ran out of memory and were tried again in parts",
    "oom_again": "items that ran out of memory alone and were tried once more",
    "oom_refused": "items that ran out of memory alone and were refused",
    "error_split": "batches that the model raised on and that were tried again in parts",
    "quarantined": "items that ended a worker twice",
}


@dataclass(frozen=True)
class BatchReport:
    """One batch that went well."""

    items: int
    padded_s: float
    seconds: float
    predicted_bytes: float | None  # None where the model was not measured
    used_bytes: int | None  # None where the worker cannot tell
