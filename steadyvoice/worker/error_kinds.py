"""What an exception of a model means for its worker. Knows torch's errors by name and imports nothing of it."""

from __future__ import annotations

from steadyvoice.protocol.model_info import Failure

# Of CUDA: after one of these every later call on the device fails too, or worse, answers with garbage.
STICKY = (
    *("device-side assert", "illegal memory access", "unspecified launch failure", "illegal instruction", "misaligned address"),
    *("hardware stack error", "uncorrectable", "device is lost", "gpu is lost", "launch timed out"),
)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed")


def failure_of(error: BaseException) -> Failure:
    """By type where it tells, else by the message. DEATH: the device is lost to this process, and only a new one can go on."""
    text = str(error).lower()
    if any(sign in text for sign in STICKY):
        return Failure.DEATH
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or any(sign in text for sign in OUT_OF_MEMORY):
        return Failure.OUT_OF_MEMORY
    return Failure.ERROR
