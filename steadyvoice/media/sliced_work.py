"""Long work in short steps: a generator that yields often, so that others can go between two steps, and returns the result.

Closing the generator between two steps cancels the work. Knows nothing of audio and of threads.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def complete(steps: Steps[T]) -> T:
    """All steps at once, for callers with time of their own."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
